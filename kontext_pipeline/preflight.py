"""The check before a run: does the account accept the key, and does its balance pay for the plan?"""

import logging
from typing import Final

from kontext_pipeline.errors import KontextError
from kontext_pipeline.generation.ledger.balances import BalanceBook, account_of
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.money import micros
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.segmind.model import LIST_PRICE_USD
from kontext_pipeline.segmind.outcomes import Cause, Outcome
from kontext_pipeline.settings import Settings

log: Final = logging.getLogger(__name__)


class PreflightError(KontextError):
    """The account can't do what the plan asks for. Nothing that costs money was sent."""

    def __init__(self, message: str, *, cause: Cause, reachable: bool = True) -> None:
        """`reachable`: the API answered, so trying again later doesn't help by itself."""
        super().__init__(message)
        self.cause = cause
        self.reachable = reachable


def balance_book(database: Database, settings: Settings) -> BalanceBook:
    """Return the recorded balances of the account in the settings.

    Raises:
        SettingsError: there is no key.
    """
    account = account_of(settings.resolved_base_url, settings.key)
    return BalanceBook(database, backend=settings.backend, account=account)


def check_account(
    client: SegmindClient,
    pictures: int,
    *,
    balances: BalanceBook,
    remaining_budget: int | None,
    base_url: str,
    go_on_with_less: bool,
) -> str | None:
    """Ask the account for its balance, which is free, and record it. Return a warning for the user, if there is one.

    The balance need not pay for more than `remaining_budget` (millionths of a USD; None: no cap) allows.

    Raises:
        PreflightError: the key is refused, the API can't be reached, or the balance pays for fewer than `pictures`
            and `go_on_with_less` is False.
    """
    if remaining_budget is not None:
        pictures = min(pictures, max(0, remaining_budget) // micros(LIST_PRICE_USD))
    seen = balances.seen()
    balance = client.credits()
    if balance.outcome is Outcome.STOPPED:
        raise PreflightError(
            f"the API refuses the key: {balance.status_code} {balance.error or ''}. Check SEGMIND_API_KEY. "
            "Nothing was sent.",
            cause=balance.cause,
        )
    if balance.outcome is Outcome.UNREACHABLE:
        raise PreflightError(
            f"{base_url} can't be reached: {balance.error}. Nothing was sent.", cause=Cause.UNREACHABLE, reachable=False
        )
    if balance.total is None:
        log.info("The API doesn't say what the account's balance is.")
        return None
    balances.record(micros(balance.total), seen=seen)
    log.info("The account's balance is %.2f USD.", balance.total)
    affordable = max(0, micros(balance.total) // micros(LIST_PRICE_USD))
    if affordable >= pictures:
        return None
    shortage = (
        f"the account's balance of {balance.total:.2f} USD buys {affordable:,} of the {pictures:,} pictures "
        f"({pictures * LIST_PRICE_USD:.2f} USD)"
    )
    if affordable == 0 or not go_on_with_less:
        go_on = (
            ", or let the run go on to that point (--yes, or go_on_with_less_credit in Dagster)" if affordable else ""
        )
        raise PreflightError(f"{shortage}. Top it up{go_on}. Nothing was sent.", cause=Cause.INSUFFICIENT_CREDITS)
    return f"{shortage}; the run goes on to that point"
