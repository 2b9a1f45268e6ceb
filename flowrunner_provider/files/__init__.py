"""Files: every store behind one engine. A store is one file in :mod:`flowrunner_provider.files.stores`."""
