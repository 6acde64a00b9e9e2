"""The ledger: the durable record of attempts and generations, and the only truth about money."""

from kontext_pipeline.generation.ledger.ledger import Ledger
from kontext_pipeline.generation.ledger.records import (
    AlreadySettled,
    ClaimedElsewhere,
    Orphan,
    OverBudget,
    ReservationTerms,
    Reserved,
    ReserveResult,
    RetryLater,
    SettledImage,
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
    "ReservationTerms",
    "ReserveResult",
    "Reserved",
    "RetryLater",
    "SettledImage",
    "Settlement",
    "Status",
    "Stored",
]
