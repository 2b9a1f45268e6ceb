"""One module per platform, written from the platform's API reference."""
