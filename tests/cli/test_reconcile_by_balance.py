"""`kontext reconcile` against the balance of the sandbox's account, whose own bill says what is true."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kontext_pipeline.generation.ledger import balances
from tests.cli.conftest import Kontext
from tests.sandbox.running import TEST_KEY, Sandbox, running_sandbox

pytestmark = pytest.mark.long

Manifest = Callable[..., Path]
RUN = ("run", "rows.csv", "--yes")


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with running_sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def environment(environment: dict[str, str], sandbox: Sandbox) -> dict[str, str]:
    return {
        **environment,
        "SEGMIND_BASE_URL": sandbox.url,
        "SEGMIND_API_KEY": TEST_KEY,
        "KONTEXT_UNKNOWN_RETRIES": "0",
        "KONTEXT_SERVER_ERROR_RETRIES": "0",
    }


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sandbox bills at once."""
    monkeypatch.setattr(balances, "CHARGED_WITHIN_S", 0.0)
    monkeypatch.setattr(balances, "LOST_WITHIN_S", 0.0)


def rows(count: int) -> list[dict[str, object]]:
    return [{"id": f"row-{number}", "prompt": f"a fox {number}"} for number in range(count)]


def lose(kontext: Kontext, sandbox: Sandbox, manifest: Manifest, **lost: str) -> None:
    """Run eight rows, of which those in `lost` lose their answers by the kind of fault that is given."""
    kinds = {"billed": "bill-then-reset", "free": "reset"}
    faults = [{"kind": kinds[name], "prompt": f"fox {row}"} for name, listed in lost.items() for row in listed]
    sandbox.set_faults(*faults)
    manifest(rows(8))
    assert kontext(*RUN).returncode == 1
    sandbox.set_faults()


def bill(sandbox: Sandbox) -> str:
    return f"{float(sandbox.wait_idle()['totals']['cost']):.2f} USD"


def test_lost_answers_that_were_not_billed_are_released(kontext: Kontext, sandbox: Sandbox, manifest: Manifest) -> None:
    lose(kontext, sandbox, manifest, free="257")
    done = kontext("reconcile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the lost answers were not billed" in done.stdout
    assert "0 attempts charged 0.00 USD, 3 not billed" in done.stdout
    assert "The cost of every attempt is known." in done.stdout
    # The rows may be asked for again, and the ledger agrees with the bill.
    assert kontext(*RUN).returncode == 0
    assert bill(sandbox) in kontext("status").stdout


def test_lost_answers_that_were_billed_are_charged(kontext: Kontext, sandbox: Sandbox, manifest: Manifest) -> None:
    lose(kontext, sandbox, manifest, billed="35")
    sandbox.wait_idle()
    done = kontext("reconcile")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 attempts charged 0.20 USD, 0 not billed" in done.stdout
    shown = kontext("status").stdout
    assert bill(sandbox) == "0.80 USD"
    assert "0.80 USD" in shown
    assert "0.20 USD of it for answers without a picture" in shown
    assert "lost answer" not in shown


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (0.0, "0.10 USD more: some of the lost answers were billed"),
        (-0.5, "0.60 USD more, which is more than the lost answers may have cost"),
        (10.0, "9.90 USD less: the account was topped up"),
    ],
)
def test_a_mixture_a_stranger_and_a_top_up_settle_nothing(
    change: float, reason: str, kontext: Kontext, sandbox: Sandbox, manifest: Manifest
) -> None:
    lose(kontext, sandbox, manifest, billed="1", free="2")
    sandbox.set_account(balance=sandbox.wait_idle()["totals"]["balance"] + change)
    before = kontext("status", "--json").stdout
    done = kontext("reconcile")
    assert done.returncode == 1
    assert reason in done.stdout
    assert "Left as it is." in done.stdout
    assert "The cost of 2 attempts is not known" in done.stdout
    assert kontext("status", "--json").stdout == before


def test_the_next_runs_balance_bounds_the_time(kontext: Kontext, sandbox: Sandbox, manifest: Manifest) -> None:
    """A top-up after the next run's beginning leaves no doubt about the run before."""
    lose(kontext, sandbox, manifest, free="2")
    manifest(rows(10))
    assert kontext(*RUN).returncode == 1
    sandbox.set_account(balance=5000.0)
    done = kontext("reconcile")
    assert done.returncode == 0, done.stdout
    assert "1 not billed" in done.stdout


def test_without_a_key_or_an_answer_the_list_is_as_before(
    kontext: Kontext, sandbox: Sandbox, manifest: Manifest
) -> None:
    lose(kontext, sandbox, manifest, free="2")
    for changes, words in (
        ({"SEGMIND_API_KEY": ""}, "SEGMIND_API_KEY is not set"),
        ({"SEGMIND_BASE_URL": "http://127.0.0.1:9"}, "http://127.0.0.1:9 answered nothing"),
        ({"SEGMIND_API_KEY": "SG_"}, "answered 401"),
    ):
        done = kontext("reconcile", **changes)
        assert done.returncode == 1
        assert f"The account's balance can't be asked for: {words}" in done.stdout.replace(sandbox.url + " ", "")
        assert "The cost of 1 attempt is not known" in done.stdout


def test_a_balance_is_not_settled_by_too_early(
    kontext: Kontext, sandbox: Sandbox, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balances, "LOST_WITHIN_S", 900.0)
    lose(kontext, sandbox, manifest, free="2")
    done = kontext("reconcile")
    assert done.returncode == 1
    assert "the last lost answer may still be charged: ask again after" in done.stdout
