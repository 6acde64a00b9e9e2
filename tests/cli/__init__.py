"""The kontext command, run as a user runs it."""
