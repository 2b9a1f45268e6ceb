"""Versioned scripts, each run once: ``sql.migrate``."""
