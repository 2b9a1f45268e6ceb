"""Two tables compared: ``sql.reconcile``."""
