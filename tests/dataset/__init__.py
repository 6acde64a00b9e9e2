"""Tests of the metadata table and what is shown of it."""
