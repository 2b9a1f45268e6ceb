"""New files as asset events: ``files.arrived``."""
