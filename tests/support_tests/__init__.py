"""Tests of the test support itself: a harness that finds nothing must be known to look."""
