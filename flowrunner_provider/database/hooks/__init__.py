"""The hooks of SQL databases: one file for each connection type. The registry names them."""
