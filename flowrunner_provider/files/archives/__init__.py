"""Archives packed and unpacked: ``files.archive`` and ``files.extract``."""
