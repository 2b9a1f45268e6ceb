"""One file for each vendor; what is told of their APIs is from the vendors' own references."""
