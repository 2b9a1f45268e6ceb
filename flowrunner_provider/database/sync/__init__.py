"""Syncing a table from another one: ``sql.sync``."""
