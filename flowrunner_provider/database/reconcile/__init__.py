"""Comparing two tables: ``sql.reconcile``."""
