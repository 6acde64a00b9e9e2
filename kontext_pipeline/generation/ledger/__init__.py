"""The ledger: the durable record of attempts and generations, and the only truth about money."""

from kontext_pipeline.generation.ledger.ledger import (
    AlreadySettled,
    ClaimedElsewhere,
    Ledger,
    Orphan,
    OverBudget,
    Reserved,
    ReserveResult,
    RetryLater,
    Settlement,
    Status,
    Stored,
)

__all__ = [
    "AlreadySettled",
    "ClaimedElsewhere",
    "Ledger",
    "Orphan",
    "OverBudget",
    "ReserveResult",
    "Reserved",
    "RetryLater",
    "Settlement",
    "Status",
    "Stored",
]
