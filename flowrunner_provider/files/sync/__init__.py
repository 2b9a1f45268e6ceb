"""One tree follows another: ``files.sync``."""
