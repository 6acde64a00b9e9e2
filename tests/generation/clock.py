"""A clock that tests turn: stages that take a `clock` never sleep in a test."""


class FakeClock:
    """Monotonic seconds that stand still until `forward` is called."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += seconds
