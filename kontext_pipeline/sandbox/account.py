"""The account: the balance and the limits."""

import time
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, PrivateAttr

MICRO: Final = 1_000_000
Usd = Annotated[
    int,
    BeforeValidator(lambda usd: round(usd * MICRO)),
    PlainSerializer(lambda micro: micro / MICRO, return_type=float),
]
"""Money: USD in the configuration and in JSON, whole micro-dollars inside, so that sums are exact."""


class Account(BaseModel):
    """One account, shared by all keys; money in USD. `held` is for jobs in flight."""

    model_config = ConfigDict(from_attributes=True)

    balance: Usd
    held: Usd = 0
    spent: Usd = 0
    price: Usd
    rpm: int | None
    team_spend_limit: Usd | None
    _windows: dict[str, tuple[float, int]] = PrivateAttr(default_factory=dict)

    def over_rate(self, key: str, window_s: float) -> datetime | None:
        """Count one generation in the window of `key`. If the window is full, return when it ends."""
        if self.rpm is None:
            return None
        ends, used = self._windows.get(key, (0.0, 0))
        if time.time() >= ends:
            ends, used = time.time() + window_s, 0
        if used >= self.rpm:
            return datetime.fromtimestamp(ends, UTC)
        self._windows[key] = (ends, used + 1)
        return None

    def obstacle(self) -> Literal["team-limit", "credits"] | None:
        """Return why one more generation, besides those in flight, can't be paid."""
        needed = self.held + self.price
        if self.team_spend_limit is not None and self.spent + needed > self.team_spend_limit:
            return "team-limit"
        return "credits" if needed > self.balance else None

    def hold(self) -> None:
        """Hold the price of one generation."""
        self.held += self.price

    def settle(self, *, billed: bool) -> None:
        """Release the price of one generation, and charge it if it is billed."""
        self.held -= self.price
        if billed:
            self.balance -= self.price
            self.spent += self.price
