"""What breaks a rule today. An entry goes with its cause: one that breaks no rule any more fails its test."""

from typing import Final

KNOWN: Final[dict[str, set[str]]] = {}
"""By rule of test_limits.py: what may break it."""
