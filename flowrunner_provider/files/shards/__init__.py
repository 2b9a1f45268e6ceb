"""One sync over many tasks: ``sync_task_group()``."""
