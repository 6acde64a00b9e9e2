"""The check of the account before a run: refused keys, silence, and a balance that is too small."""

from typing import Any

import pytest

from kontext_pipeline.preflight import PreflightError, check_account
from kontext_pipeline.segmind.answers import Credits
from kontext_pipeline.segmind.outcomes import Outcome


class Account:
    """Stands in for a client: it answers with these credits."""

    def __init__(self, **answer: Any) -> None:
        self.answer = Credits(**answer)

    def credits(self) -> Credits:
        return self.answer


class Balances:
    """Stands in for the record of balances."""

    def seen(self) -> int:
        return 7

    def record(self, balance: int, *, seen: int) -> None:
        assert (balance > 0, seen) == (True, 7)


def check(account: Account, pictures: int = 6, *, budget: int | None = None, less: bool = False) -> str | None:
    return check_account(
        account,  # type: ignore[arg-type]
        pictures,
        balances=Balances(),  # type: ignore[arg-type]
        remaining_budget=budget,
        base_url="http://127.0.0.1:9",
        go_on_with_less=less,
    )


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key(status: int) -> None:
    account = Account(outcome=Outcome.STOPPED, status_code=status, error="Invalid API key")
    with pytest.raises(PreflightError, match=f"refuses the key: {status} Invalid API key") as caught:
        check(account)
    assert caught.value.reachable


def test_an_api_that_is_out_of_reach() -> None:
    with pytest.raises(PreflightError, match=r"http://127\.0\.0\.1:9 can't be reached: refused") as caught:
        check(Account(outcome=Outcome.UNREACHABLE, error="refused"))
    assert not caught.value.reachable


def test_an_unknown_balance_is_no_obstacle() -> None:
    assert check(Account(outcome=Outcome.UNSUPPORTED)) is None


def test_a_balance_that_is_enough() -> None:
    assert check(Account(outcome=Outcome.SUCCEEDED, credits=0.5, free_credits=0.1)) is None


def test_a_balance_that_is_too_small() -> None:
    account = Account(outcome=Outcome.SUCCEEDED, credits=0.35)
    with pytest.raises(PreflightError, match=r"0\.35 USD buys 3 of the 6 pictures"):
        check(account)
    warning = check(account, less=True)
    assert warning is not None
    assert "buys 3 of the 6" in warning


def test_a_balance_for_nothing_is_refused_even_with_consent() -> None:
    with pytest.raises(PreflightError, match="buys 0 of the 6"):
        check(Account(outcome=Outcome.SUCCEEDED, credits=0.05), less=True)


@pytest.mark.parametrize("budget", [300_000, 0, -100_000])
def test_a_budget_within_the_balance_needs_no_consent(budget: int) -> None:
    assert check(Account(outcome=Outcome.SUCCEEDED, credits=0.35), budget=budget) is None
