"""Measures the pictures of a batch that were not measured yet, and writes the batch's quality table."""

import json
import logging
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final, TypeVar

from upath import UPath

from kontext_pipeline.dataset.quality.decoding import UnreadablePicture, read_picture
from kontext_pipeline.dataset.quality.measures import MEASURES, Measure
from kontext_pipeline.dataset.quality.neighbours import NEIGHBOURS_VERSION, layouts_agree
from kontext_pipeline.dataset.quality.perceptual_hash import distance
from kontext_pipeline.dataset.quality.picture_pair import WORKING_PX, InputPicture, PicturePair
from kontext_pipeline.dataset.quality.plug_ins import PlugIn, Sample, words_of
from kontext_pipeline.dataset.quality.quality_tables import (
    Row,
    exclusive,
    measured_batches,
    read_footer,
    read_rows,
    read_table,
    write_rows,
)
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.dataset.storage import origin_of, read_batch

T = TypeVar("T")
log: Final = logging.getLogger(__name__)

SAVED_AFTER: Final = 500
"""Pictures after which a table is written: a run that is killed loses no more."""
AT_ONCE: Final = 8
"""Pictures for each worker between two looks whether to stop."""
INPUTS_HELD: Final = 8
"""Input pictures that stay in memory, because several pictures of a batch are made from one."""
FULL_INPUTS_HELD: Final = 2
"""The same where plug-ins need the pictures at their full size."""


@dataclass(slots=True)
class _Job:
    """A picture to measure: its metadata row, what is known of the picture, and what is to be measured."""

    metadata: Mapping[str, Any]
    row: Row
    measures: list[Measure]
    plug_ins: list[PlugIn]
    versions: dict[str, Any]
    errors: list[str] = field(default_factory=list)
    sample: Sample | None = None


class BatchMeasuring:
    """Measures batches of one data directory. One thread uses it at a time."""

    def __init__(
        self, data_dir: UPath, thresholds: Thresholds, *, plug_ins: Sequence[PlugIn] = (), workers: int = 1
    ) -> None:
        """`workers`: threads that decode and measure."""
        self._data_dir = data_dir
        self._thresholds = thresholds
        self._plug_ins = list(plug_ins)
        self._workers = workers
        self._batch_of: dict[str, str] | None = None
        self._inputs = _Inputs(data_dir, full_size=bool(plug_ins))

    def is_current(self, key: str) -> bool:
        """Return whether everything in a batch is measured, with these versions and thresholds, and its metadata is."""
        footer = read_footer(self._data_dir, key)
        return footer == self._footer(key, origin_of(self._data_dir, key), complete=True) | {
            "neighbours": NEIGHBOURS_VERSION
        }

    def measure(self, key: str, *, stopped: Callable[[], bool] = bool) -> int:
        """Measure the pictures of a batch that lack a number, and write the batch's table. Return how many these are.

        What can't be measured is noted in the table's `errors`, and tried again by the next call. `stopped` is asked
        between pictures; what was measured until then is written.

        Raises:
            DatasetError: The metadata table of the batch can't be read. Without one there is nothing to measure.
            OSError: The quality table can't be written.
        """
        source = origin_of(self._data_dir, key)
        if source is None or self.is_current(key):
            return 0
        metadata = read_batch(self._data_dir, key).to_pylist()
        wanted: dict[str, Mapping[str, Any]] = {}
        for one in metadata:
            if one["image_path"] is not None:
                wanted.setdefault(one["fingerprint"], one)
        known = read_rows(self._data_dir, key)
        # A picture that costs nothing here may be one that another batch has paid for.
        copied = self._of_others({name for name, one in wanted.items() if name not in known and not one["cost_usd"]})
        known |= copied
        jobs = [job for name, one in wanted.items() if (job := self._job(one, known.get(name)))]
        # Pictures of one input after another, so that each input is decoded once.
        jobs.sort(key=lambda job: job.metadata.get("input_path") or "")
        done: dict[str, Row] = {}
        with ThreadPoolExecutor(self._workers, thread_name_prefix="quality") as pool:
            chunk = max([AT_ONCE * self._workers, *(one.batch_size for one in self._plug_ins)])
            saved = 0
            for some in _slices(jobs, chunk):
                if stopped():
                    break
                list(pool.map(self._measure, some))
                self._ask_plug_ins(some)
                done.update((job.metadata["fingerprint"], _finished(job)) for job in some)
                if len(done) - saved >= SAVED_AFTER:
                    self._save(key, source, metadata, wanted, done, complete=False)
                    saved = len(done)
        if self._batch_of is not None:
            self._batch_of.update(dict.fromkeys(done, key))
        to_measure = {job.metadata["fingerprint"] for job in jobs}
        done.update((name, row) for name, row in copied.items() if name not in to_measure)
        complete = (
            to_measure <= done.keys()
            and not any(row["errors"] for row in done.values())
            and all(one.usable for one in self._plug_ins)
        )
        self._save(key, source, metadata, wanted, done, complete=complete)
        return len(to_measure & done.keys())

    def _of_others(self, names: Set[str]) -> dict[str, Row]:
        """Return the rows of these pictures in the tables of batches that were measured before."""
        if not names:
            return {}
        if self._batch_of is None:
            self._batch_of = {}
            for key in measured_batches(self._data_dir):
                if (table := read_table(self._data_dir, key, ["fingerprint"])) is not None:
                    self._batch_of.update(dict.fromkeys(table["fingerprint"].to_pylist(), key))
        keys = {self._batch_of[name] for name in names if name in self._batch_of}
        return {
            name: row for key in sorted(keys) for name, row in read_rows(self._data_dir, key).items() if name in names
        }

    def _footer(self, key: str, source: str | None, *, complete: bool) -> dict[str, Any]:
        versions = {one.name: one.version for one in MEASURES} | {one.name: one.version for one in self._plug_ins}
        return {
            "batch": key,
            "metadata": source,
            "versions": versions,
            "thresholds": self._thresholds.digest,
            "complete": complete,
        }

    def _job(self, metadata: Mapping[str, Any], row: Row | None) -> _Job | None:
        """Return what is to be measured of a picture; None where nothing is."""
        if row is None or row["measured_image_sha256"] != metadata["image_sha256"]:
            row = {"fingerprint": metadata["fingerprint"]}
        versions = json.loads(row.get("versions") or "{}")
        if row.get("measured_input_sha256") != metadata.get("input_kept_sha256"):
            # Plug-ins are given the input too.
            compare = {one.name for one in MEASURES if one.compares}
            own = {one.name for one in MEASURES}
            versions = {name: version for name, version in versions.items() if name in own - compare}
        measures = [one for one in MEASURES if versions.get(one.name) != one.version]
        plug_ins = [one for one in self._plug_ins if one.usable and versions.get(one.name) != one.version]
        if not measures and not plug_ins:
            return None
        row["measured_image_sha256"] = metadata["image_sha256"]
        row["measured_input_sha256"] = metadata.get("input_kept_sha256")
        return _Job(metadata, row, measures, plug_ins, versions)

    def _measure(self, job: _Job) -> None:
        """Measure a picture, and note the pictures where a plug-in needs them."""
        path = job.metadata.get("input_path")
        source: InputPicture | None = None
        unusable: str | None = None
        try:
            output = read_picture(self._data_dir / job.metadata["image_path"])
        except UnreadablePicture as error:
            job.errors.append(f"picture: {error}")
            return
        if path is not None:
            try:
                source = self._inputs.get(path)
            except UnreadablePicture as error:
                unusable = f"input: {error}"
                job.errors.append(unusable)
        pair = PicturePair(output, source, asked_ratio=job.metadata["aspect_ratio"])
        for measure in job.measures:
            if measure.compares and unusable:
                continue
            try:
                job.row[measure.name] = measure.compute(pair)
                job.versions[measure.name] = measure.version
            except Exception as error:
                log.warning(
                    "%s of picture %s can't be measured", measure.name, job.row["fingerprint"][:12], exc_info=error
                )
                job.errors.append(f"{measure.name}: {words_of(error)}")
        if job.plug_ins and not unusable:
            job.sample = Sample(source.image if source else None, output, job.metadata)

    def _ask_plug_ins(self, jobs: Sequence[_Job]) -> None:
        for plug_in in self._plug_ins:
            asking = [(job, job.sample) for job in jobs if job.sample is not None and plug_in in job.plug_ins]
            for some in _slices(asking, plug_in.batch_size):
                outcomes = plug_in.measure([sample for _, sample in some])
                for (job, _), outcome in zip(some, outcomes, strict=True):
                    if outcome.error is None:
                        job.row.update(outcome.numbers)
                        job.versions[plug_in.name] = plug_in.version
                    else:
                        job.errors.append(outcome.error)
        for job in jobs:
            job.sample = None

    def _save(
        self,
        key: str,
        source: str | None,
        metadata: Sequence[Mapping[str, Any]],
        wanted: Mapping[str, Mapping[str, Any]],
        done: dict[str, Row],
        *,
        complete: bool,
    ) -> None:
        with exclusive(self._data_dir):
            # Another run may have measured pictures meanwhile.
            before = read_rows(self._data_dir, key)
            known = before | done
            rows = {name: dict(known[name]) for name in wanted if name in known}
            note_variants(rows, metadata)
            note_issues(rows.values(), wanted, self._thresholds)
            footer = self._footer(key, source, complete=complete)
            # A picture that can't be measured is tried by every run, and mostly changes nothing.
            if rows != before or read_footer(self._data_dir, key) != footer | {"neighbours": NEIGHBOURS_VERSION}:
                write_rows(self._data_dir, key, rows.values(), footer)


def note_variants(rows: Mapping[str, Row], metadata: Iterable[Mapping[str, Any]]) -> None:
    """Set `variant_distance` of each row of a quality table: the least distance to another variant of its manifest row."""
    variants: defaultdict[tuple[str, int], dict[str, None]] = defaultdict(dict)
    for one in metadata:
        variants[one["manifest"], one["row"]][one["fingerprint"]] = None
    for row in rows.values():
        row["variant_distance"] = None
    for names in variants.values():
        hashed = [rows[name] for name in names if name in rows and rows[name].get("perceptual_hash")]
        for one, other in combinations(hashed, 2):
            if layouts_agree(one["color_layout"], other["color_layout"]):
                near = float(distance(int(one["perceptual_hash"], 16), int(other["perceptual_hash"], 16)))
                for row in (one, other):
                    row["variant_distance"] = (
                        near if row["variant_distance"] is None else min(near, row["variant_distance"])
                    )


def note_issues(rows: Iterable[Row], metadata: Mapping[str, Mapping[str, Any]], thresholds: Thresholds) -> None:
    """Set `issues` of each row of a quality table. `metadata`: the metadata row of each fingerprint."""
    for row in rows:
        row["issues"] = thresholds.issues(row, metadata.get(row["fingerprint"], {}))


def _slices(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _finished(job: _Job) -> Row:
    return job.row | {"versions": json.dumps(job.versions, sort_keys=True), "errors": job.errors}


class _Inputs:
    """The input pictures that were used last. Thread-safe."""

    def __init__(self, data_dir: UPath, *, full_size: bool) -> None:
        self._data_dir = data_dir
        self._least_px = None if full_size else 2 * WORKING_PX
        self._lock = threading.Lock()
        self._held: OrderedDict[str, InputPicture] = OrderedDict()

    def get(self, path: str) -> InputPicture:
        """Return an input picture.

        Raises:
            UnreadablePicture: The file is missing or damaged.
        """
        with self._lock:
            if path in self._held:
                self._held.move_to_end(path)
                return self._held[path]
        picture = InputPicture(read_picture(self._data_dir / path, least_px=self._least_px))
        with self._lock:
            self._held[path] = picture
            while len(self._held) > (INPUTS_HELD if self._least_px else FULL_INPUTS_HELD):
                self._held.popitem(last=False)
        return picture
