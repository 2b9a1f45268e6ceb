"""One module per vendor, written from the vendor's API reference."""
