"""Errors that the user can correct.

Each is a `KontextError`. Its text is a whole message: what happened, where, what is allowed, what to do. The command line
prints it without a traceback.
"""


class KontextError(Exception):
    """Base of all errors that are written for the user."""


class SettingsError(KontextError):
    """A setting is missing or has a value that is not allowed. Nothing was sent."""


class ManifestError(KontextError):
    """A manifest can't be used. Has one line for each problem. Nothing was sent."""

    def __init__(self, problems: list[str], *, more: int = 0) -> None:
        """`problems`: one line each, with file, row and column. `more`: number of further problems."""
        self.problems = problems
        self.more = more
        tail = [f"... and {more:,} more"] if more else []
        super().__init__("\n".join([*problems, *tail]))


class LedgerError(KontextError):
    """The ledger can't be opened, or has a version that this release doesn't know."""
