"""One table follows another: ``sql.sync``."""
