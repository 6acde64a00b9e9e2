"""Faults: what goes wrong, when, and how often, as data that a run can be repeated with.

A fault is a row of a TOML file (the named profiles are such files, shipped in `profiles/`). Whether it
strikes is decided by the sandbox's seed, the fault's place in the list, the endpoint, what was asked for
and how many times that was asked for before: never by the clock or by the order in which concurrent
requests happen to arrive. `after`, `until` and `burst` alone count requests in order of arrival.
"""

import hashlib
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kontext_pipeline.errors import SettingsError

Endpoint = Literal["v1", "submit", "status", "result", "output", "credits", "upload"]
"""The two POSTs of the model, the three GETs of a v2 job, the credits and the uploads."""
Kind = Literal[
    "status",
    "rate-limit",
    "reset",
    "bill-then-reset",
    "cut-body",
    "garbage",
    "wrong-content-type",
    "json-image",
    "no-headers",
    "slow",
    "hang",
    "failed",
    "expired",
]
JsonForm = Literal["image-base64", "image-url", "output-url", "images-url", "image_url", "data-uri", "no-image"]
Cause = Literal["content-type", "credits", "team-limit", "parameter"]

GENERATE: Final[tuple[Endpoint, ...]] = ("v1", "submit")
EVERYWHERE: Final[tuple[Endpoint, ...]] = get_args(Endpoint)
# Where each kind can strike; the second is where it does unless `on` says otherwise.
_PLACES: Final[dict[Kind, tuple[tuple[Endpoint, ...], tuple[Endpoint, ...]]]] = {
    "status": (EVERYWHERE, GENERATE),
    "rate-limit": (EVERYWHERE, GENERATE),
    "reset": (EVERYWHERE, GENERATE),
    "bill-then-reset": (GENERATE, GENERATE),
    "cut-body": (("v1", "output"), ("v1", "output")),
    "garbage": (("v1", "output"), ("v1", "output")),
    "wrong-content-type": (("v1", "output"), ("v1", "output")),
    "json-image": (("v1",), ("v1",)),
    "no-headers": (("v1", "result"), ("v1", "result")),
    "slow": (EVERYWHERE, GENERATE),
    "hang": (GENERATE, GENERATE),
    "failed": (("submit",), ("submit",)),
    "expired": (("status", "result", "output"), ("status",)),
}
FRONT_KINDS: Final[frozenset[Kind]] = frozenset({"status", "rate-limit", "reset"})
"""Kinds that answer for the gateway before the request is looked at: nothing runs, nothing is billed."""


class Fault(BaseModel):
    """One thing that goes wrong.

    kind                what happens:
        status              answered with `status` (and `message`, or the words of `cause` for a 406); nothing runs
        rate-limit          429 with the reset header `seconds` from now, for `burst` requests in a row
        reset               the connection is reset before any answer; nothing runs
        bill-then-reset     the job runs and is billed, the connection is reset instead of an answer
        cut-body            billed; half of the picture arrives, then the connection is reset
        garbage             billed; 200 and an image content type, but the bytes are no picture
        wrong-content-type  billed; the picture arrives as application/octet-stream
        json-image          billed; JSON that carries the picture (`form`) instead of its bytes
        no-headers          billed; no accounting headers (v1), no metrics (v2)
        slow                takes `factor` times as long, and `seconds` more
        hang                never ends: v1 doesn't answer for `seconds`, then 504; a v2 job stays PROCESSING
        failed              the v2 job ends FAILED and isn't billed
        expired             the v2 record (or output file) is gone before its time
    on                  the endpoints it strikes
    share               part of the requests it strikes, 0 to 1
    times               strikes the same request (for the GETs of a job: the same job) at most so often
    after, until        strikes only from POST number `after` + 1 to POST number `until`
    prompt              strikes only prompts that contain these words, whatever their case
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    on: tuple[Endpoint, ...] = ()
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    times: Annotated[int, Field(ge=1)] | None = None
    after: Annotated[int, Field(ge=0)] = 0
    until: Annotated[int, Field(ge=1)] | None = None
    prompt: str | None = None
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    cause: Cause | None = None
    message: str | None = None
    html: bool = False
    factor: Annotated[float, Field(ge=0)] = 1.0
    seconds: Annotated[float, Field(ge=0)] = 0.0
    burst: Annotated[int, Field(ge=1)] = 1
    form: JsonForm = "image-base64"

    @model_validator(mode="after")
    def _check(self) -> "Fault":
        if self.kind == "status" and self.status is None:
            raise ValueError("a fault of kind 'status' needs a status")
        possible, usual = _PLACES[self.kind]
        wrong = [place for place in self.on if place not in possible]
        if wrong:
            raise ValueError(f"{self.kind!r} can't strike {', '.join(wrong)}; allowed: {', '.join(possible)}")
        if not self.on:
            # The model is frozen for its users; a default that depends on another field is set here.
            object.__setattr__(self, "on", usual)
        return self

    def describe(self) -> str:
        """Return one line for people: what, where and how often."""
        what = f"{self.kind} {self.status}" if self.status else self.kind
        often = "always" if self.share == 1 else f"{self.share:.0%}"
        bounds = [f"after {self.after}"] if self.after else []
        bounds += [f"until {self.until}"] if self.until else []
        bounds += [f"at most {self.times}x"] if self.times else []
        bounds += [f"prompt has {self.prompt!r}"] if self.prompt else []
        return ", ".join([f"{what} on {'/'.join(self.on)}", often, *bounds])


class AccountSettings(BaseModel):
    """What a fault file may say of the account: the names and meanings of `SandboxConfig`'s fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    balance: Annotated[float, Field(ge=0)] | None = None
    team_spend_limit: Annotated[float, Field(ge=0)] | None = None
    rpm: Annotated[int, Field(ge=1)] | None = None
    rate_window_s: Annotated[float, Field(gt=0)] | None = None
    latency_s: Annotated[float, Field(ge=0)] | None = None
    latency_spread: Annotated[float, Field(ge=0)] | None = None


class FaultFile(BaseModel):
    """A fault file: `about`, an optional `seed`, an `[account]` table and any number of `[[fault]]` tables."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    about: str = ""
    seed: int | None = None
    account: AccountSettings = AccountSettings()
    fault: tuple[Fault, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return the `SandboxConfig` fields that this file sets."""
        fields = self.account.model_dump(exclude_none=True)
        return fields if self.seed is None else {**fields, "seed": self.seed}


def profile_names() -> list[str]:
    """Return the names of the shipped profiles, sorted."""
    shipped = resources.files("kontext_pipeline.sandbox").joinpath("profiles")
    return sorted(entry.name.removesuffix(".toml") for entry in shipped.iterdir() if entry.name.endswith(".toml"))


def load_profile(name: str) -> FaultFile:
    """Return the shipped profile `name`. Raises SettingsError for an unknown one."""
    names = profile_names()
    if name not in names:
        raise SettingsError(f"No fault profile is called {name!r}; there are {', '.join(names)}.")
    text = resources.files("kontext_pipeline.sandbox").joinpath("profiles", f"{name}.toml").read_text("utf-8")
    return _parse(text, f"profile {name}")


def load_fault_file(path: Path) -> FaultFile:
    """Return the fault file at `path`. Raises SettingsError if it can't be read or says what isn't allowed."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The fault file {path} can't be read: {error}.") from error
    return _parse(text, str(path))


def _parse(text: str, source: str) -> FaultFile:
    try:
        return FaultFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source} is not valid TOML: {error}.") from error
    except ValidationError as error:
        lines = [f"{source}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise SettingsError("\n".join(lines)) from error


def chance(*parts: object) -> float:
    """Return a number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.sha256("|".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:7], "big") / (1 << 56)


@dataclass(frozen=True, slots=True)
class _Asked:
    endpoint: Endpoint
    identity: str
    prompt: str
    posts: int
    occurrence: int


class FaultPlan:
    """The faults in force and what they've done so far."""

    def __init__(self, faults: Sequence[Fault], seed: int) -> None:
        self.faults = tuple(faults)
        self.struck: Counter[int] = Counter()
        self._seed = seed
        self._asked: Counter[tuple[Endpoint, str]] = Counter()
        self._hits: Counter[tuple[int, Endpoint, str]] = Counter()
        self._burst_left: Counter[int] = Counter()
        self._targets = {place for fault in self.faults for place in fault.on}

    def strike(self, endpoint: Endpoint, identity: str, *, prompt: str, posts: int) -> list[Fault]:
        """Return the faults that strike this request: any number of `slow` ones and at most one other, last.

        `identity` names what is asked for, equally in every run; `posts` is the number of POSTs to the
        model received so far, this one included.
        """
        if endpoint not in self._targets:
            return []
        occurrence = self._asked[endpoint, identity]
        self._asked[endpoint, identity] += 1
        asked = _Asked(endpoint, identity, prompt, posts, occurrence)
        slow: list[Fault] = []
        for index, fault in enumerate(self.faults):
            if not self._strikes(index, asked):
                continue
            self.struck[index] += 1
            self._hits[index, endpoint, identity] += 1
            if fault.kind != "slow":
                return [*slow, fault]
            slow.append(fault)
        return slow

    def _strikes(self, index: int, asked: _Asked) -> bool:
        fault = self.faults[index]
        if asked.endpoint not in fault.on:
            return False
        if self._burst_left[index]:
            self._burst_left[index] -= 1
            return True
        # `after` 0 is from the very start: also for what is asked before the first POST.
        if 0 < fault.after >= asked.posts or (fault.until is not None and asked.posts > fault.until):
            return False
        if fault.prompt is not None and fault.prompt.casefold() not in asked.prompt.casefold():
            return False
        if fault.times is not None and self._hits[index, asked.endpoint, asked.identity] >= fault.times:
            return False
        if chance(self._seed, index, asked.endpoint, asked.identity, asked.occurrence) >= fault.share:
            return False
        self._burst_left[index] = fault.burst - 1
        return True
