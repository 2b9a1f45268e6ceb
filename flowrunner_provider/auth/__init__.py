"""Connection health checks and expiry dates of credentials. Authentication itself belongs to each connection."""
