"""The configuration of a sandbox: its account, its clock, its limits and its faults."""

from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.sandbox.faults import (
    AccountSettings,
    AtLeastOne,
    Fault,
    NotNegative,
    Positive,
    describe,
    load_fault_file,
    load_profile,
)
from kontext_pipeline.segmind.model import LIST_PRICE_USD

KEY_FORM: Final = r"SG_[0-9a-f]{16}"
"""The form of the provider's keys, by the documentation of its SDK."""

Bytes = Annotated[int, Field(ge=1024)]
Key = Annotated[str, Field(pattern=r"\S")]


class SandboxConfig(AccountSettings):
    """Everything that decides how a sandbox behaves: the account's settings, and these. Frozen.

    `SandboxConfig.create` also takes the names of fault profiles and fault files.
    """

    keys: tuple[Key, ...] = ()
    """API keys that are accepted. Empty: every key of the form `SG_` and 16 hex digits."""
    forbidden_keys: tuple[Key, ...] = ()
    """Keys that are known but may not use the model: they are answered 403."""
    price: NotNegative = LIST_PRICE_USD
    """USD that a finished generation costs."""
    speed: Positive = 1.0
    """How many times faster than in reality time passes for generations and rate-limit windows."""
    seed: int = 0
    """Seeds the latencies and the faults."""
    draw: bool = True
    """False: answer with plain pictures of the right size, which take next to no time."""
    fetch_inputs: bool = False
    """Whether public http(s) input images are fetched. False: a drawn picture stands in for each."""
    trusted_input_hosts: tuple[str, ...] = ()
    """`host` or `host:port` that may be fetched from although its address is private or loopback."""
    enforce_safety_note: bool = False
    """Whether a safety_tolerance above 2 with an input image is refused (406), as the source document's note
    says and its own sample ignores."""
    record_ttl_s: Positive = 3600.0
    """Seconds after its end (real time) for which a v2 request record can be requested."""
    file_ttl_s: Positive = 7 * 24 * 3600.0
    """Seconds for which uploads and outputs are served (real time)."""
    max_body_bytes: Bytes = 32 * 1024 * 1024
    """Largest request body. A larger one is answered 413."""
    stranger_s: Positive = 10.0
    """Seconds in which the body of a request without an accepted key must arrive."""
    hosts: tuple[str, ...] = ()
    """Names by which the sandbox may be asked for, besides those of loopback and the address that it listens on."""
    max_input_bytes: Bytes = 20 * 1024 * 1024
    """Largest input image, as a file."""
    max_input_pixels: AtLeastOne = 60_000_000
    """Largest input image, in pixels."""
    store_bytes: Bytes = 2 * 1024**3
    """Disk for uploads and fetched inputs. The oldest are dropped beyond it."""
    faults: tuple[Fault, ...] = ()
    """The faults, in order: see `faults`."""
    fault_sources: tuple[str, ...] = ()
    """Names of the profiles and files that `faults` came from. They are only displayed."""

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
        """Return a config with the faults of named profiles, of fault files and of `faults`, in this order.

        `fields` are this class's fields. They take precedence over what a profile or a file says.

        Raises:
            SettingsError: a name, a file or a value is not allowed.
        """
        parts = [*map(load_profile, profiles), *(load_fault_file(Path(file)) for file in fault_files)]
        merged: dict[str, Any] = {
            "faults": (*(fault for part in parts for fault in part.fault), *faults),
            "fault_sources": (*profiles, *(Path(file).name for file in fault_files)),
        }
        for part in parts:
            merged |= part.account.model_dump(exclude_unset=True) | part.model_dump(include={"seed"}, exclude_none=True)
        try:
            return cls(**{**merged, **fields})
        except ValidationError as error:
            raise SettingsError("\n".join(["The sandbox can't be set up:", *describe(error)])) from error
