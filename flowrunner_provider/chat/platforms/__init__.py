"""One file for each platform; what is told of their APIs is from the platforms' own references."""
