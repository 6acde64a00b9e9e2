"""What `kontext reconcile` does: settles attempts of unknown cost by a usage file or by the balance, and lists the rest."""

import contextlib
from pathlib import Path

from kontext_pipeline import console
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.exits import Exit
from kontext_pipeline.generation.ledger import reconciliation
from kontext_pipeline.generation.ledger.balances import Settled
from kontext_pipeline.generation.ledger.database import Database
from kontext_pipeline.generation.ledger.money import micros
from kontext_pipeline.preflight import balance_book
from kontext_pipeline.segmind.client import SegmindClient
from kontext_pipeline.settings import Settings


def run(settings: Settings, usage: Path | None) -> Exit:
    """Settle what the usage file names, or what the balance leaves no doubt about. Return the exit status.

    Raises:
        LedgerError: there is no ledger, or it can't be used.
        UsageError: the file can't be used. Nothing was changed.
    """
    usages = None if usage is None else reconciliation.read_usage(usage)
    with contextlib.closing(Database(settings.resolved_ledger_url, make=False)) as database:
        done = _settle_by_balance(settings, database) if usages is None else reconciliation.reconcile(database, usages)
        left = reconciliation.questionable(database)
    console.show_reconciliation(done, left)
    return Exit.SOME_FAILED if left else Exit.DONE


def _settle_by_balance(settings: Settings, database: Database) -> reconciliation.Reconciled | None:
    """Ask the API for the balance and settle by it. Say what the balance says, and return what was changed."""
    backend = settings.backend
    if not any(one.backend == backend and one.state == "unknown" for one in reconciliation.questionable(database)):
        return None
    try:
        key = settings.key
    except SettingsError:
        console.say("The account's balance can't be asked for: SEGMIND_API_KEY is not set.")
        return None
    settled = _ask(settings, key, database)
    if isinstance(settled, str):
        console.say(f"The account's balance can't be asked for: {settled}.")
        return None
    for sentence in settled.sentences:
        console.say(sentence)
    done = settled.done
    return done if done.charged or done.released else None


def _ask(settings: Settings, key: str, database: Database) -> Settled | str:
    """Return what the balance has settled, or why there is none."""
    book, base_url = balance_book(database, settings), settings.resolved_base_url
    with SegmindClient(
        api_key=key, base_url=base_url, connect_timeout_s=settings.connect_timeout_s, pool_size=1
    ) as client:
        seen = book.seen()
        balance = client.credits()
    if balance.total is None:
        return f"{base_url} answered {balance.status_code or 'nothing'} ({balance.error or 'no balance'})"
    return book.settle(micros(balance.total), seen=seen)
