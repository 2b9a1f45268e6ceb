"""The health of connections and the expiry of credentials. Credentials themselves are a matter of each connection."""
