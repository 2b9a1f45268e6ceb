"""Creating and unpacking archives: ``files.archive`` and ``files.extract``."""
