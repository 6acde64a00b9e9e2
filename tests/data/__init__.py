"""Tests of what is shipped in `data/`."""
