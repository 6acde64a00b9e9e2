"""Errors that the user can correct.

Each is a `KontextError`. Its text is a complete message: what happened, where, what is allowed, what to do. The
command line prints the text without a traceback.
"""


class KontextError(Exception):
    """Base of all errors whose text is for the user."""


class SettingsError(KontextError):
    """A setting is missing or has a value that is not allowed. Nothing was sent."""


class ManifestError(KontextError):
    """A manifest can't be used. Nothing was sent.

    Attributes:
        problems: The first problems, a line each, with file, row and column.
        more: How many other problems there are.
    """

    def __init__(self, problems: list[str], *, more: int = 0) -> None:
        self.problems = problems
        self.more = more
        tail = [f"... and {more:,} more"] if more else []
        super().__init__("\n".join([*problems, *tail]))


class PlanError(KontextError):
    """There is no plan, or it can't be read or made. Nothing was sent."""


class LedgerError(KontextError):
    """The ledger can't be opened, or was written by a release that this one doesn't know."""
