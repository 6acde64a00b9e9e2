"""The account: the keys, the balance, the limits. Money is in whole micro-dollars, so that sums are exact."""

import time
from datetime import UTC, datetime

from kontext_pipeline.sandbox.config import SandboxConfig

MICRO = 1_000_000


def to_micro(usd: float) -> int:
    """Return USD as whole micro-dollars."""
    return round(usd * MICRO)


def to_usd(micro: int) -> float:
    """Return micro-dollars as the nearest float of USD."""
    return micro / MICRO


class Account:
    """One account, shared by all keys: balance, holds of jobs in flight, spend and rate-limit windows."""

    def __init__(self, config: SandboxConfig) -> None:
        self._config = config
        self.price = to_micro(config.price)
        self.balance = to_micro(config.balance)
        self.free_credits = config.free_credits
        self.team_spend_limit = None if config.team_spend_limit is None else to_micro(config.team_spend_limit)
        self.rpm = config.rpm
        self.held = 0
        self.spent = 0
        self._windows: dict[str, tuple[float, int]] = {}

    def over_rate(self, key: str) -> datetime | None:
        """Count one generation in the window of `key`. If the window is full, return when it ends."""
        if self.rpm is None:
            return None
        ends, used = self._windows.get(key, (0.0, 0))
        if time.time() >= ends:
            ends, used = time.time() + self._config.window_s, 0
        if used >= self.rpm:
            return datetime.fromtimestamp(ends, UTC)
        self._windows[key] = (ends, used + 1)
        return None

    def can_pay(self) -> bool:
        """Return whether the balance pays for one more generation, besides those in flight."""
        return self.balance - self.held >= self.price

    def within_team_limit(self) -> bool:
        """Return whether one more generation, besides those in flight, is within the team's spend limit."""
        limit = self.team_spend_limit
        return limit is None or self.spent + self.held + self.price <= limit

    def hold(self) -> int:
        """Hold the price of one generation and return it."""
        self.held += self.price
        return self.price

    def release(self, held: int) -> None:
        """Release what was held for a generation that is not billed."""
        self.held -= held

    def charge(self, held: int) -> None:
        """Charge what was held for a finished generation."""
        self.held -= held
        self.balance -= held
        self.spent += held

    @property
    def remaining(self) -> float:
        """Credits left, USD."""
        return to_usd(self.balance)
