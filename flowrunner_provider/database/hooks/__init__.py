"""Hooks for SQL databases, one module per connection type; the registry lists them."""
