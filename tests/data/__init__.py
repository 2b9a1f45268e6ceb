"""Tests of flowrunner_provider.data."""
