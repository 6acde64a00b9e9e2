"""Why an input picture can't be had, in words for the user and by cause for the books."""

from kontext_pipeline.segmind.outcomes import Cause


class InputProblem(Exception):
    """An input picture can't be had. The text says why, without the picture's address.

    `cause` is a cause whose name begins with `input_`. `transient`: another try may help. `retry_after_s`: seconds for
    which the server asked to be left alone; None where it did not ask.
    """

    def __init__(
        self, cause: Cause, reason: str, *, transient: bool = False, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.transient = transient
        self.retry_after_s = retry_after_s
