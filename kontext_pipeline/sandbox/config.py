"""What a sandbox can be told: its account, its clock, its limits and its faults."""

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.faults import Fault, FaultFile, load_fault_file, load_profile
from kontext_pipeline.segmind.model import LIST_PRICE_USD, TYPICAL_LATENCY_S

KEY_FORM: Final = re.compile(r"SG_[0-9a-f]{16}")
"""How the provider's keys look, by its SDK's documentation."""

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class SandboxConfig(BaseModel):
    """Everything that decides how a sandbox behaves. Frozen; the same config behaves the same again.

    Use `SandboxConfig.create` to name fault profiles and files beside these fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[str, ...] = ()
    """API keys that are accepted; none named: any of the form `SG_` and 16 hex digits."""
    forbidden_keys: tuple[str, ...] = ()
    """Keys that are known but may not use the model: they're answered 403."""
    balance: NotNegative = 1000.0
    """Credits (USD) on the account at the start. It never goes below zero: a job in flight holds its price."""
    free_credits: NotNegative = 0.0
    """What `free-credits` of the credits answer says. Nothing is taken from it."""
    team_spend_limit: NotNegative | None = None
    """USD after which a POST is answered 406 for the team's spend limit; None: no limit."""
    price: NotNegative = LIST_PRICE_USD
    """USD a finished generation costs."""
    rpm: Annotated[int, Field(ge=1)] | None = None
    """Generations a key may ask for in one rate-limit window; None: no limit."""
    rate_window_s: Positive | None = None
    """Seconds of a rate-limit window, in real time; None: a minute divided by `speed`."""
    latency_s: NotNegative = TYPICAL_LATENCY_S
    """Median seconds of a generation, before `speed`; the source document says 24.34."""
    latency_spread: NotNegative = 0.15
    """Sigma of the log-normal distribution of latencies: 0.15 puts 95 % within about ±30 % of the median."""
    speed: Positive = 1.0
    """How many times faster than the real one time passes in here: generations and rate-limit windows."""
    seed: int = 0
    """Seeds the latencies and the faults."""
    draw: bool = True
    """False: answer with a plain picture of the right size, which costs next to nothing."""
    fetch_inputs: bool = False
    """Whether public http(s) input images are fetched; False: a photograph drawn from the URL stands in."""
    trusted_input_hosts: tuple[str, ...] = ()
    """`host` or `host:port` that may be fetched from although its address is private or loopback."""
    enforce_safety_note: bool = False
    """Whether a safety_tolerance above 2 beside an input image is refused (406), as the source's note says and
    its own sample ignores."""
    record_ttl_s: Positive = 3600.0
    """Seconds after its end (real time) for which a v2 request record can be asked for."""
    file_ttl_s: Positive = 7 * 24 * 3600.0
    """Seconds for which uploads and outputs are served (real time)."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Largest request body; above it the answer is 413."""
    max_input_bytes: Annotated[int, Field(ge=1024)] = 20 * 1024 * 1024
    """Largest input image, as a file."""
    max_input_pixels: Annotated[int, Field(ge=1)] = 60_000_000
    """Largest input image, in pixels."""
    store_bytes: Annotated[int, Field(ge=1024)] = 2 * 1024**3
    """Disk for uploads and fetched inputs; the oldest are dropped beyond it."""
    cache_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    """Memory for drawn pictures; the least recently used are dropped beyond it (and drawn again if asked for)."""
    faults: tuple[Fault, ...] = ()
    """What goes wrong, in order: see `faults`."""
    fault_sources: tuple[str, ...] = ()
    """Names of the profiles and files that `faults` came from, for display alone: `create` reads them."""

    @field_validator("keys", "forbidden_keys")
    @classmethod
    def _no_blank_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(not key.strip() for key in keys):
            raise ValueError("a key can't be blank")
        return keys

    @property
    def window_s(self) -> float:
        """Seconds of a rate-limit window, in real time."""
        return self.rate_window_s if self.rate_window_s is not None else 60.0 / self.speed

    @classmethod
    def create(
        cls,
        *,
        profiles: tuple[str, ...] = (),
        fault_files: tuple[str | Path, ...] = (),
        faults: tuple[Fault, ...] = (),
        **fields: Any,
    ) -> "SandboxConfig":
        """Return a config that mixes named profiles, fault files and faults, in this order.

        `fields` are this class's fields and win over what a profile or a file says of the account or
        the seed. Raises SettingsError where a name, a file or a value is wrong.
        """
        parts: list[FaultFile] = [load_profile(name) for name in profiles]
        parts += [load_fault_file(Path(file)) for file in fault_files]
        merged: dict[str, Any] = {}
        for part in parts:
            merged |= part.settings()
        every_fault = [fault for part in parts for fault in part.fault] + list(faults)
        named = (*profiles, *(Path(file).name for file in fault_files))
        try:
            return cls(**{**merged, **fields, "faults": tuple(every_fault), "fault_sources": named})
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise SettingsError("The sandbox can't be set up like this:\n" + "\n".join(lines)) from error
