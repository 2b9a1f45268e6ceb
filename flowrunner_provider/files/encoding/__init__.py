"""Text from one encoding to another: ``files.encoding``."""
