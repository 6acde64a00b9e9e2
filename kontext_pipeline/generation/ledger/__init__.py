"""The ledger: the durable record of attempts and generations, and the only truth about money."""

from kontext_pipeline.generation.ledger.dataset_link import DatasetLink
from kontext_pipeline.generation.ledger.ledger import Ledger
from kontext_pipeline.generation.ledger.records import (
    AlreadySettled,
    AskAgain,
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
    WithoutPicture,
)

__all__ = [
    "AlreadySettled",
    "AskAgain",
    "ClaimedElsewhere",
    "DatasetLink",
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
    "WithoutPicture",
]
