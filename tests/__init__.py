"""Tests of the package; importable, so that killed child processes can find their targets by name."""
