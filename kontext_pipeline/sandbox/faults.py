"""Faults: what goes wrong, when and how often, as data, so that a run can be repeated.

A fault is a row of a TOML file (the named profiles are such files, shipped in `profiles/`). Whether it strikes is
decided by the sandbox's seed, the fault's position in the list, the endpoint, the request and how often that
request was seen before. The clock and the order in which concurrent requests arrive have no influence, except on
`after`, `until` and `burst`, which count requests in order of arrival.
"""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kontext_pipeline.errors import SettingsError
from kontext_pipeline.segmind.model import TYPICAL_LATENCY_S

Endpoint = Literal["v1", "submit", "status", "result", "output", "credits", "upload"]
"""The two POSTs of the model, the three GETs of a v2 job, the credits and the uploads."""
JsonForm = Literal["image-base64", "data-uri", "image-url", "output-url", "images-url", "image_url", "no-image"]
Cause = Literal["content-type", "credits", "team-limit", "parameter"]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]

PROFILES: Final = Path(__file__).parent / "profiles"

_GENERATE: Final[tuple[Endpoint, ...]] = ("v1", "submit")
_ANY: Final[tuple[Endpoint, ...]] = get_args(Endpoint)
RefusalKind = Literal["status", "rate-limit", "reset"]
BodyKind = Literal["cut-body", "garbage", "wrong-content-type", "json-image", "no-headers"]
Kind = Literal[RefusalKind, BodyKind, "bill-then-reset", "drift", "slow", "hang", "failed", "expired"]
_ENDPOINTS: Final[dict[Kind, tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]]] = {
    **dict.fromkeys(get_args(RefusalKind), (_ANY, _GENERATE)),
    **dict.fromkeys(("cut-body", "garbage", "wrong-content-type"), (("v1", "output"), ("v1", "output"))),
    **dict.fromkeys(("bill-then-reset", "drift", "hang"), (_GENERATE, _GENERATE)),
    "json-image": (("v1",), ("v1",)),
    "no-headers": (("v1", "result"), ("v1", "result")),
    "slow": (_ANY, _GENERATE),
    "failed": (("submit",), ("submit",)),
    "expired": (("status", "result", "output"), ("status",)),
}
"""The endpoints that each kind can strike, and those that it strikes unless `on` names others."""


class Fault(BaseModel):
    """One thing that goes wrong. `docs/sandbox.md` says what each kind does."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    on: tuple[Endpoint, ...] = ()
    """The endpoints that it strikes."""
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """The share of the requests that it strikes."""
    times: AtLeastOne | None = None
    """How often it strikes the same request (for the GETs of a job: the same job) at most."""
    after: Annotated[int, Field(ge=0)] = 0
    until: AtLeastOne | None = None
    """It strikes only from POST number `after` + 1 to POST number `until`."""
    prompt: str | None = None
    """It strikes only prompts that contain these words, in upper or lower case."""
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    cause: Cause | None = None
    message: str | None = None
    html: bool = False
    factor: NotNegative = 1.0
    seconds: NotNegative = 0.0
    burst: AtLeastOne = 1
    form: JsonForm = "image-base64"

    @model_validator(mode="after")
    def _check(self) -> "Fault":
        if self.kind == "status" and self.status is None:
            raise ValueError("a fault of kind 'status' needs a status")
        possible, usual = _ENDPOINTS[self.kind]
        wrong = [endpoint for endpoint in self.on if endpoint not in possible]
        if wrong:
            raise ValueError(f"{self.kind!r} can't strike {', '.join(wrong)}; allowed: {', '.join(possible)}")
        if not self.on:
            # Frozen for users; a default that depends on another field is set here.
            object.__setattr__(self, "on", usual)
        return self

    @property
    def refuses(self) -> bool:
        """Whether it answers before the request is looked at: nothing runs and nothing is billed."""
        return self.kind in get_args(RefusalKind)

    def applies(self, prompt: str, posts: int) -> bool:
        """Return whether `prompt`, `after` and `until` let it strike at POST number `posts`."""
        # With `after` 0 it strikes from the start: also requests that precede the first POST.
        if 0 < self.after >= posts or (self.until is not None and posts > self.until):
            return False
        return self.prompt is None or self.prompt.casefold() in prompt.casefold()

    def describe(self) -> str:
        """Return one line for people: kind, endpoints and frequency."""
        parts = [f"{self.kind} {self.status or ''}".rstrip() + f" on {'/'.join(self.on)}"]
        parts += ["always" if self.share == 1 else f"{self.share:.0%}"]
        parts += [f"after {self.after}"] if self.after else []
        parts += [f"until {self.until}"] if self.until else []
        parts += [f"at most {self.times}x"] if self.times else []
        parts += [f"prompt has {self.prompt!r}"] if self.prompt else []
        return ", ".join(parts)


class AccountSettings(BaseModel):
    """The account's settings, which a fault file may change."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    balance: NotNegative = 1000.0
    """Credits (USD) on the account at the start. A job in flight holds its price, so it never goes below zero."""
    team_spend_limit: NotNegative | None = None
    """USD after which a POST is answered 406 for the team's spend limit. None: no limit."""
    rpm: AtLeastOne | None = None
    """Generations that a key may start in one rate-limit window. None: no limit."""
    rate_window_s: Positive | None = None
    """Seconds of a rate-limit window, in real time. None: a minute divided by `speed`."""
    latency_s: NotNegative = TYPICAL_LATENCY_S
    """Median seconds of a generation, before `speed`."""
    latency_spread: NotNegative = 0.15
    """Sigma of the log-normal distribution of latencies: with 0.15, 95 % are within about 30 % of the median."""


class FaultFile(BaseModel):
    """A fault file: `about`, an optional `seed`, an `[account]` table and any number of `[[fault]]` tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = ""
    seed: int | None = None
    account: AccountSettings = AccountSettings()
    fault: tuple[Fault, ...] = ()


def profile_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: str) -> FaultFile:
    """Return the shipped profile `name`.

    Raises:
        SettingsError: no profile has this name.
    """
    names = profile_names()
    if name not in names:
        raise SettingsError(f"No fault profile is called {name!r}. The profiles are {', '.join(names)}.")
    return load_fault_file(PROFILES / f"{name}.toml")


def load_fault_file(path: Path) -> FaultFile:
    """Return the fault file at `path`.

    Raises:
        SettingsError: the file can't be read, or has a value that is not allowed.
    """
    try:
        return FaultFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise SettingsError(f"The fault file {path} can't be read: {error}.") from error
    except ValidationError as error:
        raise SettingsError("\n".join(f"{path}: {line}" for line in describe(error))) from error
    except ValueError as error:
        raise SettingsError(f"{path} is not valid TOML: {error}.") from error


def describe(error: ValidationError) -> list[str]:
    """Return one line for every field that is wrong: its name and what is allowed."""
    lines = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return [line.replace("Value error, ", "").removeprefix(": ") for line in lines]


def _chance(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


class FaultPlan:
    """The faults in force, and what they have done so far."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.faults = tuple(faults)
        self.struck: Counter[int] = Counter()
        self._seed = seed
        self._seen: Counter[tuple[Endpoint, str]] = Counter()
        self._hits: Counter[tuple[int, Endpoint, str]] = Counter()
        self._burst_left: Counter[int] = Counter()
        self._targets = {endpoint for fault in self.faults for endpoint in fault.on}

    def strike(self, endpoint: Endpoint, identity: str, *, prompt: str, posts: int) -> tuple[list[Fault], Fault | None]:
        """Return what strikes this request: any number of `slow` faults, and at most one other.

        `identity` names the request, equally in every run. `posts` is the number of POSTs to the model that
        were received so far, this one included.
        """
        if endpoint not in self._targets:
            return [], None
        occurrence = self._seen[endpoint, identity]
        self._seen[endpoint, identity] += 1
        slow: list[Fault] = []
        for index, fault in enumerate(self.faults):
            hits = self._hits[index, endpoint, identity]
            if endpoint not in fault.on:
                continue
            if self._burst_left[index]:
                self._burst_left[index] -= 1
            elif (
                fault.applies(prompt, posts)
                and (fault.times is None or hits < fault.times)
                and _chance(self._seed, index, endpoint, identity, occurrence) < fault.share
            ):
                self._burst_left[index] = fault.burst - 1
            else:
                continue
            self.struck[index] += 1
            self._hits[index, endpoint, identity] += 1
            if fault.kind != "slow":
                return slow, fault
            slow.append(fault)
        return slow, None
