"""What can go wrong in a way that its user can mend.

Every error of ours is a `KontextError`: its text is a whole message (what happened, where, what is
allowed, what to do), and the command line prints it without a traceback.
"""


class KontextError(Exception):
    """Base of every error that is meant to be read by the user, not by a debugger."""


class SettingsError(KontextError):
    """A setting is missing or has a value that is not allowed. Nothing was sent."""


class ManifestError(KontextError):
    """A manifest can't be used. Carries every fault found, one line each. Nothing was sent."""

    def __init__(self, faults: list[str], *, more: int = 0) -> None:
        """`faults`: one line each, with file, row and column; `more`: how many were found beyond them."""
        self.faults = faults
        self.more = more
        tail = [f"... and {more:,} more"] if more else []
        super().__init__("\n".join([*faults, *tail]))


class LedgerError(KontextError):
    """The ledger can't be opened, or is of a version that this release doesn't know."""
