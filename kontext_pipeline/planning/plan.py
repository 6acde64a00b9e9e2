"""The plan: every picture that the manifests wish for, with its seed, fingerprint and batch, as a file.

One Parquet file a manifest, `<data dir>/plan/<name>.parquet`, one row group a batch, one row a picture wished
for. It is also the memory of which row is in which batch, so a manifest that grew or was edited is planned
against the file that is there. Nothing here touches the network.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kontext_pipeline.errors import KontextError, ManifestError
from kontext_pipeline.planning.batches import (
    COMFORTABLE_BATCHES,
    MOST_BATCHES,
    Assigned,
    Numbers,
    assign,
    batch_key,
)
from kontext_pipeline.planning.fingerprints import canonical_images, fingerprints
from kontext_pipeline.planning.hashing import Digests, all_different, count_different, hex_of, numbers_of
from kontext_pipeline.planning.manifest import Manifest, ManifestRows, give_back_memory, read_rows
from kontext_pipeline.planning.pictures import Picture, hashed, may_be_remembered
from kontext_pipeline.planning.problems import listed
from kontext_pipeline.planning.seeds import (
    SHORT_ID_DIGITS,
    identities_of_content,
    identity_of_id,
    seeds_of_variants,
)
from kontext_pipeline.segmind.model import MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE
from kontext_pipeline.segmind.request import GenerationRequest

if TYPE_CHECKING:
    from upath import UPath

PLAN_COLUMNS: Final = pa.schema(
    [
        ("manifest", pa.string()),
        ("row", pa.int64()),
        ("id", pa.string()),
        ("batch", pa.string()),
        ("variant", pa.int32()),
        ("prompt", pa.string()),
        ("input_image", pa.string()),
        ("input_path", pa.string()),
        ("input_sha256", pa.string()),
        ("aspect_ratio", pa.string()),
        ("output_format", pa.string()),
        ("safety_tolerance", pa.int32()),
        ("safety_tolerance_asked", pa.int32()),
        ("seed", pa.int64()),
        ("fingerprint", pa.string()),
    ]
)
"""The columns of a plan; the manifest's own ones follow."""
_FORMAT: Final = 1
_FOOTER_KEY: Final = b"kontext_plan"
_MOST_ROWS_NAMED: Final = 20
_BYTES_AT_ONCE: Final = 2 * 2**20
_LOCK_WAIT_S: Final = 600
_WITHOUT_DICTIONARY: Final = frozenset({"row", "id", "prompt", "input_image", "seed", "fingerprint"})


_Origin = dict[str, str | int | bool]


class PlanError(KontextError):
    """There is no plan, or it can't be read or made. Nothing was sent."""


@dataclass(frozen=True, slots=True)
class BatchInfo:
    """A batch: partition key, manifest's name, how many pictures it wishes for, place in the file."""

    key: str
    manifest: str
    rows: int
    row_group: int


@dataclass(frozen=True, slots=True)
class _RowNumbers:
    """The first row numbers of something worth a warning, and how many there are."""

    first: list[int]
    count: int

    @classmethod
    def of(cls, rows: ManifestRows, mask: Any) -> Self:
        indices = pc.indices_nonzero(mask)
        return cls(rows.numbers[indices[:_MOST_ROWS_NAMED].to_numpy()].tolist(), len(indices))


@dataclass(frozen=True, slots=True)
class _Footer:
    """What a plan file says about itself, as JSON in its key-value metadata.

    `origin` is all that the file follows from: when it is the same again, so is the plan.
    """

    origin: _Origin
    source: str
    shown: str
    pictures_digest: str
    numbers: list[int]
    sizes: list[int]
    next_number: int
    rows: int
    pictures: int
    text_to_image: int
    above_tolerance: dict[str, Any]
    match_without_image: dict[str, Any]
    notes: list[str]


class _PlanFile:
    """One manifest's plan, open for reading."""

    def __init__(self, name: str, path: "Path | UPath") -> None:
        self.name = name
        source = str(path) if isinstance(path, Path) else path.open("rb")
        try:
            self._file = pq.ParquetFile(source)
            footer = json.loads(self._file.metadata.metadata[_FOOTER_KEY])
            if footer["origin"]["format"] != _FORMAT:
                raise PlanError(
                    f"{path} was written by another version of kontext-pipeline, whose plans this one "
                    "doesn't know; use that version, or another data directory"
                )
            self.footer = _Footer(**footer)
        except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise PlanError(
                f"{path} is no plan that can be read ({type(error).__name__}: {error}); move it away and "
                "plan again: pictures that were generated are kept, but rows may come into other batches"
            ) from error

    def columns(self, names: list[str]) -> pa.Table:
        return self._file.read(columns=names)

    def row_group(self, index: int, names: list[str] | None = None) -> pa.Table:
        return self._file.read_row_group(index, columns=names).replace_schema_metadata(None)

    def assigned(self) -> Assigned:
        """Return which row is in which batch."""
        table = self.columns(["row", "id", "variant"])
        numbers = np.repeat(np.array(self.footer.numbers, np.int64), np.array(self.footer.sizes, np.int64))
        first = np.asarray(pc.equal(table["variant"], 1))
        rows = np.asarray(table["row"])[first]
        order = np.argsort(rows, kind="stable")
        ids = table["id"].filter(pa.array(first)).combine_chunks()
        return Assigned(ids.take(pa.array(order)), rows[order], numbers[first][order])

    def close(self) -> None:
        self._file.close(force=True)


class Plan:
    """What was planned, read from its files as it is asked for; the files may be replaced meanwhile.

    `manifests` are names; `rows` counts rows of manifests, `wishes` the pictures that they wish for,
    `pictures` the different ones among those (one fingerprint, one picture), `text_to_image` the rows
    without an input image. `warnings` are whole sentences. Safe to use from several threads.
    """

    def __init__(self, files: Sequence[_PlanFile]) -> None:
        """Take over open plan files; `make_plan` and `load_plan` make plans."""
        self._files = {file.name: file for file in files}
        self._lock = threading.Lock()
        self._pictures: int | None = files[0].footer.pictures if len(files) == 1 else None
        self.manifests = [file.name for file in files]
        self.batches = [
            BatchInfo(batch_key(file.name, number), file.name, size, group)
            for file in files
            for group, (number, size) in enumerate(zip(file.footer.numbers, file.footer.sizes, strict=True))
        ]
        self._batches = {batch.key: batch for batch in self.batches}
        self.rows = sum(file.footer.rows for file in files)
        self.requested = sum(batch.rows for batch in self.batches)
        self.text_to_image = sum(file.footer.text_to_image for file in files)
        self.backend = str(files[0].footer.origin["backend"])

    @property
    def batch_keys(self) -> list[str]:
        """The keys of the batches, in order."""
        return list(self._batches)

    @property
    def pictures(self) -> int:
        """How many different pictures there are to be, whether they are there already or not."""
        if self._pictures is None:
            with self._lock:
                chunks = [
                    chunk
                    for file in self._files.values()
                    for chunk in file.columns(["fingerprint"])["fingerprint"].chunks
                ]
            self._pictures = int(pc.count_distinct(pa.chunked_array(chunks)).as_py())
        return self._pictures

    @property
    def warnings(self) -> list[str]:
        """What the user should know before paying for it, a sentence each."""
        return _warnings(self, [file.footer for file in self._files.values()])

    def has_batch(self, key: str) -> bool:
        """Say whether there is a batch of this key."""
        return key in self._batches

    def batch_table(self, key: str) -> pa.Table:
        """Return a batch: `PLAN_COLUMNS` and the manifest's own columns, a row for each picture wished for.

        Raises `PlanError` when there is no such batch.
        """
        batch = self._batch(key)
        with self._lock:
            return self._files[batch.manifest].row_group(batch.row_group)

    def fingerprints(self) -> Iterator[tuple[str, pa.Array]]:
        """Yield each batch's key and fingerprints, in its rows' order, one batch in memory at a time."""
        for batch in self.batches:
            with self._lock:
                table = self._files[batch.manifest].row_group(batch.row_group, ["fingerprint"])
            yield batch.key, table["fingerprint"].combine_chunks()

    def close(self) -> None:
        """Close the files; the plan can't be read any more."""
        for file in self._files.values():
            file.close()

    def _batch(self, key: str) -> BatchInfo:
        try:
            return self._batches[key]
        except KeyError:
            raise PlanError(
                f"there is no batch {key} in the plan of {', '.join(self.manifests)}; it has "
                f"{len(self.batches):,}, from {self.batches[0].key} to {self.batches[-1].key}"
            ) from None


def load_plan(
    data_dir: "Path | UPath", names: Sequence[str] | None = None, *, backend: str | None = None
) -> Plan:
    """Open what was planned before, without reading a manifest: of the manifests `names`, or all there are.

    With `backend`, plans for another one are left out: their pictures are other pictures.

    Raises `PlanError` when there is nothing, or it can't be read.
    """
    folder = data_dir / "plan"
    try:
        found = sorted(path.stem for path in folder.glob("*.parquet")) if folder.is_dir() else []
        missing = [name for name in names or () if name not in found]
        if missing or not found:
            what = f"no plan of {', '.join(missing)}" if missing else "no plan"
            raise PlanError(f"there is {what} in {data_dir}; make one with: kontext plan MANIFEST...")
        files = [_PlanFile(name, folder / f"{name}.parquet") for name in names or found]
        mine = [file for file in files if backend in (None, file.footer.origin["backend"])]
        for other in files:
            if other not in mine:
                other.close()
        if not mine:
            raise PlanError(
                f"what is planned in {data_dir} is for another backend than {backend}, whose pictures are other "
                "pictures. Plan again, or set KONTEXT_BACKEND to the one that it was planned for. Nothing was sent."
            )
        return Plan(mine)
    except OSError as error:
        raise PlanError(f"the plan in {data_dir} can't be read: {error.strerror or error}") from error


def make_plan(
    manifests: Sequence[Manifest],
    *,
    data_dir: "Path | UPath",
    backend: str,
    seed: int,
    batch_size: int,
    clamp_safety_tolerance: bool,
) -> Plan:
    """Plan the manifests together, write the plan into the data directory, and return it.

    `seed` is the project's (`KONTEXT_SEED`), `batch_size` how many pictures a new batch wishes for at most,
    where a row's variants stay together. With `clamp_safety_tolerance`, rows with an input image are sent no
    more than what the provider allows beside one. What is planned already and follows from the same files and
    settings is taken as it is. Otherwise rows keep their batches as `batches.assign` says.

    Raises `ManifestError` with everything that is wrong in the manifests, `PlanError` when the plan can't be
    made or written. Either way the plan that was there stays.
    """
    if batch_size < 1:
        raise PlanError(f"a batch size of {batch_size} is not allowed; it must be 1 or more")
    together = _digest_of(sorted((manifest.name, manifest.digest) for manifest in manifests))
    origins: dict[str, _Origin] = {
        manifest.name: {
            "format": _FORMAT,
            "digest": manifest.digest,
            "size": manifest.size,
            "source": manifest.source,
            "together": together,
            "backend": backend,
            "seed": seed,
            "clamp_safety_tolerance": clamp_safety_tolerance,
        }
        for manifest in manifests
    }
    folder = data_dir / "plan"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _only_planner(folder):
            earlier = {
                manifest.name: _PlanFile(manifest.name, path)
                for manifest in manifests
                if (path := folder / f"{manifest.name}.parquet").is_file()
            }
            if _still_true(origins, earlier, folder):
                return Plan(list(earlier.values()))
            _replan(manifests, origins, earlier, folder, batch_size=batch_size)
            for file in earlier.values():
                file.close()
            give_back_memory()
            return Plan(
                [_PlanFile(manifest.name, folder / f"{manifest.name}.parquet") for manifest in manifests]
            )
    except OSError as error:
        raise PlanError(f"the plan can't be written to {folder}: {error.strerror or error}") from error


def requests_of(table: pa.Table) -> Iterator[tuple[str, GenerationRequest]]:
    """Yield the fingerprint and the request of each row of a batch's table; two rows may ask for the same.

    A local input image is given by its absolute path.
    """
    image = pc.coalesce(table["input_path"], table["input_image"])
    names = (
        "fingerprint",
        "prompt",
        "seed",
        "input_sha256",
        "aspect_ratio",
        "output_format",
        "safety_tolerance",
    )
    columns = [table[name].to_pylist() for name in names]
    for picture, prompt, seed, sha256, ratio, form, tolerance, uri in zip(
        *columns, image.to_pylist(), strict=True
    ):
        yield (
            picture,
            GenerationRequest(
                prompt=prompt,
                seed=seed,
                input_image=uri,
                input_sha256=sha256,
                aspect_ratio=ratio,
                output_format=form,
                safety_tolerance=tolerance,
            ),
        )


# ---- making a plan


@contextlib.contextmanager
def _only_planner(folder: "Path | UPath") -> Iterator[None]:
    """Keep other planners of a local data directory out; remote ones have no locks."""
    local = _local(folder)
    if local is None:
        yield
        return
    from filelock import FileLock, Timeout

    try:
        with FileLock(local / ".lock", timeout=_LOCK_WAIT_S):
            yield
    except Timeout:
        raise PlanError(
            f"another process has been planning in {folder} for {_LOCK_WAIT_S // 60} minutes; "
            "try again when it is done"
        ) from None


def _still_true(
    origins: Mapping[str, _Origin], earlier: Mapping[str, _PlanFile], folder: "Path | UPath"
) -> bool:
    """Say whether the plans that are there follow from the same files, pictures and settings."""
    for name, origin in origins.items():
        if name not in earlier or earlier[name].footer.origin != origin:
            return False
        pictures = _remembered_pictures(folder, name)
        if _pictures_digest(pictures) != earlier[name].footer.pictures_digest:
            return False
        for picture in pictures.values():
            try:
                now = os.stat(picture.path)  # noqa: PTH116
            except OSError:
                return False
            if (now.st_size, now.st_mtime_ns) != (picture.size, picture.mtime_ns):
                return False
    return True


def _replan(
    manifests: Sequence[Manifest],
    origins: Mapping[str, _Origin],
    earlier: Mapping[str, _PlanFile],
    folder: "Path | UPath",
    *,
    batch_size: int,
) -> None:
    known: dict[str, Picture] = {}
    for manifest in manifests:
        known |= _remembered_pictures(folder, manifest.name)
    everything = read_rows(manifests, known)
    give_back_memory()
    drafts = []
    count = 0
    while everything:
        # One manifest's columns go when they are no longer needed; together they may be large.
        rows = everything.pop(0)
        _check_unchanged(rows.manifest)
        draft = _Draft(rows, origins[rows.manifest.name])
        draft.assign(earlier.get(rows.manifest.name), batch_size)
        count += int(np.count_nonzero(np.bincount(draft.batches)))
        drafts.append(draft)
    if count > MOST_BATCHES:
        raise PlanError(
            f"the plan has {count:,} batches, and Dagster can't show more than {MOST_BATCHES:,} partitions; "
            f"make the batch size (KONTEXT_BATCH_SIZE, now {batch_size:,}) larger"
        )
    for draft in drafts:
        draft.write(folder)


class _Draft:
    """One manifest's plan in the making."""

    def __init__(self, rows: ManifestRows, origin: _Origin) -> None:
        self._rows = rows
        self._origin = origin
        self._pictures = self._hash_pictures()
        table = rows.table
        digests = pa.array([picture.sha256 for picture in self._pictures], pa.string())
        paths = pa.array([picture.path for picture in self._pictures], pa.string())
        self._sha256 = _taken(digests, pc.index_in(table["input_path"], value_set=paths))
        self._has_image = pc.is_valid(table["input_image"])
        limit = pa.scalar(MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE, pa.int32())
        self._above = pc.and_(self._has_image, pc.greater(table["safety_tolerance"], limit))
        clamped = pc.if_else(self._above, limit, table["safety_tolerance"])
        self._sent = clamped if origin["clamp_safety_tolerance"] else table["safety_tolerance"]

        self._sizes = np.asarray(table["variants"]).astype(np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._derive()
        give_back_memory()
        self.batches: Numbers = np.empty(0, np.int64)
        self._next_number = 0

    def _hash_pictures(self) -> list[Picture]:
        try:
            return hashed(self._rows.pictures.values())
        except OSError as error:
            shown = self._rows.manifest.shown
            text = f"{shown}: the input image {error.filename} can't be read: {error.strerror}"
            raise ManifestError([text]) from error

    def _derive(self) -> None:
        """Derive ids, seeds and fingerprints, some rows at a time: what it takes on the way stays small."""
        table = self._rows.table
        columns = pa.table(
            {
                "id": table["id"],
                "prompt": table["prompt"],
                "canonical_image": canonical_images(table["input_image"], self._sha256),
                "aspect_ratio": table["aspect_ratio"],
                "output_format": table["output_format"],
                "safety_tolerance": table["safety_tolerance"],
                "sent": self._sent,
                "seed": table["seed"],
                "variants": table["variants"],
            }
        )
        wishes = int(self._sizes.sum())
        at_once = max(
            1, _BYTES_AT_ONCE * columns.num_rows // max(1, columns.nbytes * wishes // columns.num_rows)
        )
        identities, variants, seeds, prints = [], [], [], []
        for start in range(0, columns.num_rows, at_once):
            piece = columns.slice(start, at_once)
            identity, variant, seed, fingerprint = self._derived(piece)
            identities.append(identity)
            variants.append(variant)
            seeds.append(seed)
            prints.append(fingerprint)
        self._ids = _unique_ids(table["id"].combine_chunks(), np.concatenate(identities))
        self._fingerprints = np.concatenate(prints)
        self._different = count_different(self._fingerprints)
        self._wishes = pa.table(
            {
                "variant": pa.array(np.concatenate(variants), pa.int32()),
                "seed": pa.array(np.concatenate(seeds)),
            }
        )

    def _derived(self, rows: pa.Table) -> tuple[Digests, Numbers, Numbers, Digests]:
        """Return the rows' identities (of their content), and their wishes' variants, seeds, fingerprints."""
        content = identities_of_content(rows)
        identities = pc.coalesce(
            pc.binary_join_element_wise(identity_of_id(""), rows["id"], ""), hex_of(content)
        )
        rows = rows.append_column("identity", identities)
        sizes = np.asarray(rows["variants"]).astype(np.int64)
        variant = np.ones(len(sizes), np.int64)
        if sizes.max() > 1:
            repeated = np.repeat(np.arange(len(sizes)), sizes)
            variant = np.arange(len(repeated)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
            rows = rows.take(pa.array(repeated))
        seeds = seeds_of_variants(
            given=rows["seed"],
            project_seed=int(self._origin["seed"]),
            identities=rows["identity"],
            variants=pa.chunked_array([variant]),
        )
        requests = rows.drop_columns(["seed", "safety_tolerance"]).rename_columns(
            {"sent": "safety_tolerance"}
        )
        prints = fingerprints(requests.append_column("seed", pa.array(seeds)), str(self._origin["backend"]))
        return content, variant, seeds, prints

    def assign(self, earlier: _PlanFile | None, batch_size: int) -> None:
        """Put each row into its batch."""
        before = earlier.assigned() if earlier else None
        self._next_number = earlier.footer.next_number if earlier else 0
        manifest = self._rows.manifest
        if earlier and before and earlier.footer.source != manifest.source:
            known = pc.any(pc.is_in(self._ids, value_set=before.ids)).as_py()
            if not known:
                raise PlanError(
                    f"{manifest.shown} has the same name ({manifest.name}) as {earlier.footer.source}, which "
                    "was planned in this data directory, and no row in common with it; rename it, or use "
                    "another data directory"
                )
        self.batches = assign(
            self._ids,
            self._rows.numbers,
            self._sizes,
            batch_size=batch_size,
            first_new=self._next_number,
            before=before,
        )
        self._next_number = max(self._next_number, int(self.batches.max()) + 1)

    def write(self, folder: "Path | UPath") -> None:
        """Write the plan, then what was seen of the pictures: only the plan has to get there."""
        name = self._rows.manifest.name
        remembered = [
            picture if may_be_remembered(picture) else Picture(picture.path, picture.size, -1, picture.sha256)
            for picture in self._pictures
        ]
        digest = _pictures_digest({picture.path: picture for picture in remembered})
        with _replacing(folder / f"{name}.parquet") as path:
            self._write(path, digest)
        cache = _pictures_path(folder, name)
        if remembered:
            cache.parent.mkdir(exist_ok=True)
            with _replacing(cache) as path:
                pq.write_table(pa.Table.from_pylist([asdict(picture) for picture in remembered]), path)
        elif cache.is_file():
            cache.unlink()

    def _write(self, path: Path, pictures_digest: str) -> None:
        rows = self._rows
        per_row = _Picker(
            pa.table(
                {
                    "row": pa.array(rows.numbers),
                    "id": self._ids,
                    "prompt": rows.table["prompt"],
                    "input_image": rows.table["input_image"],
                    "input_path": rows.table["input_path"],
                    "input_sha256": self._sha256,
                    "aspect_ratio": rows.table["aspect_ratio"],
                    "output_format": rows.table["output_format"],
                    "safety_tolerance": self._sent,
                    "safety_tolerance_asked": rows.table["safety_tolerance"],
                    **{name: rows.table[name] for name in rows.own_names},
                }
            )
        )
        per_wish = _Picker(self._wishes)
        own = [pa.field(name, rows.table[name].type) for name in rows.own_names]
        schema = pa.schema([*PLAN_COLUMNS, *own])
        order = np.argsort(self.batches, kind="stable")
        numbers, firsts = np.unique(self.batches[order], return_index=True)
        sizes = []
        with pq.ParquetWriter(
            path,
            schema,
            # Batches are many and small: to set zstd up for each column takes longer than to write it.
            compression="snappy",
            use_dictionary=[name for name in schema.names if name not in _WITHOUT_DICTIONARY],
            write_statistics=["row"],
        ) as writer:
            for number, members in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True):
                size = self._sizes[members]
                wishes = np.repeat(self._starts[members] - (np.cumsum(size) - size), size) + np.arange(
                    size.sum()
                )
                sizes.append(len(wishes))
                columns = {
                    "manifest": _repeated(rows.manifest.name, len(wishes)),
                    "batch": _repeated(batch_key(rows.manifest.name, number), len(wishes)),
                    **per_row.pick(np.repeat(members, size) if len(wishes) > len(members) else members),
                    **per_wish.pick(wishes),
                    "fingerprint": hex_of(self._fingerprints[wishes]),
                }
                batch = pa.table([columns[name] for name in schema.names], schema=schema)
                writer.write_table(batch, row_group_size=len(wishes))
            footer = self._footer(pictures_digest, numbers.tolist(), sizes)
            writer.add_key_value_metadata({_FOOTER_KEY: json.dumps(asdict(footer)).encode()})

    def _footer(self, pictures_digest: str, numbers: list[int], sizes: list[int]) -> _Footer:
        rows = self._rows
        without = pc.invert(self._has_image)
        matching = pc.and_(without, pc.equal(rows.table["aspect_ratio"], "match_input_image"))
        return _Footer(
            origin=self._origin,
            source=rows.manifest.source,
            shown=rows.manifest.shown,
            pictures_digest=pictures_digest,
            numbers=numbers,
            sizes=sizes,
            next_number=self._next_number,
            rows=len(rows.numbers),
            pictures=self._different,
            text_to_image=int(pc.sum(without).as_py() or 0),
            above_tolerance=asdict(_RowNumbers.of(rows, self._above)),
            match_without_image=asdict(_RowNumbers.of(rows, matching)),
            notes=rows.notes,
        )


class _Picker:
    """Picks rows of a table in any order, without copying what lies in a piece already."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._in_one_piece: pa.Table | None = None

    def pick(self, indices: Numbers) -> dict[str, pa.ChunkedArray]:
        first, last = int(indices.min()), int(indices.max())
        if last - first + 1 == len(indices) and (np.diff(indices) == 1).all():
            picked = self._table.slice(first, len(indices))
        elif last - first < 8 * len(indices):
            picked = (
                self._table.slice(first, last - first + 1).combine_chunks().take(pa.array(indices - first))
            )
        else:
            if self._in_one_piece is None:
                self._in_one_piece = self._table.combine_chunks()
            picked = self._in_one_piece.take(pa.array(indices))
        return dict(zip(picked.column_names, picked.columns, strict=True))


def _unique_ids(given: pa.Array, identities: Digests) -> pa.Array:
    """Return the given ids, and where there is none the beginning of the row's identity.

    Rows of one identity get `-2`, `-3`... from the second one on.
    """
    short = hex_of(identities, SHORT_ID_DIGITS)
    if given.null_count == len(given):
        ids = short
        beginnings = numbers_of(identities) >> np.uint64(64 - 4 * SHORT_ID_DIGITS)
        if all_different(beginnings):
            return ids
    else:
        ids = pc.coalesce(given, short)
        short = pc.if_else(pc.is_valid(given), pa.scalar(None, pa.string()), short)
        if pc.count_distinct(ids).as_py() == len(ids):
            return ids
    alike = given.filter(pc.match_substring_regex(given, rf"^[0-9a-f]{{{SHORT_ID_DIGITS}}}(-\d+)?$"))
    reserved = set(alike.to_pylist())
    counts = pc.value_counts(ids)
    repeated = counts.field(0).filter(pc.greater(counts.field(1), 1))
    is_short = pc.is_valid(short)
    indices = pc.indices_nonzero(pc.and_(is_short, pc.is_in(short, value_set=repeated))).to_numpy()
    times: dict[str, int] = {}
    names = []
    for base in short.take(pa.array(indices)).to_pylist():
        name = None
        while name is None or name in reserved:
            times[base] = times.get(base, 0) + 1
            name = base if times[base] == 1 else f"{base}-{times[base]}"
        names.append(name)
    mask = np.zeros(len(ids), bool)
    mask[indices] = True
    return pc.replace_with_mask(ids, pa.array(mask), pa.array(names, pa.string()))


def _check_unchanged(manifest: Manifest) -> None:
    if manifest.changed_since_found():
        raise ManifestError([f"{manifest.shown}: was changed while it was read; try again"])


def _repeated(value: str, length: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), length)


def _taken(values: pa.Array, indices: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([values.take(indices.combine_chunks())])


# ---- files


def _local(path: "Path | UPath") -> Path | None:
    """Return the path as one of this machine's, if it is."""
    if isinstance(path, Path):
        return path
    return Path(path.path) if path.protocol in {"", "file", "local"} else None


@contextlib.contextmanager
def _replacing(path: "Path | UPath") -> Iterator[Path]:
    """Give a local path to write to, whose file then takes the place of `path` at once and for good."""
    local = _local(path)
    if local is None:
        with tempfile.TemporaryDirectory(prefix="kontext-plan-") as folder:
            aside = Path(folder) / "file"
            yield aside
            path.fs.put_file(str(aside), path.path)  # type: ignore[union-attr]
        return
    aside = local.with_name(f".{local.name}.{os.getpid()}.tmp")
    try:
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(local)
        _sync_folder(local.parent)
    finally:
        aside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # A renamed file is on disk when its folder is; Windows can't open one, and needs not.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _pictures_path(folder: "Path | UPath", name: str) -> "Path | UPath":
    return folder / "pictures" / f"{name}.parquet"


def _remembered_pictures(folder: "Path | UPath", name: str) -> dict[str, Picture]:
    """Return the local input pictures as they were when they were hashed."""
    path = _pictures_path(folder, name)
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            rows = pq.ParquetFile(file).read().to_pylist()
        return {row["path"]: Picture(**row) for row in rows}
    except (pa.ArrowException, KeyError, TypeError):
        # It only saves hashing them again.
        return {}


def _pictures_digest(pictures: Mapping[str, Picture]) -> str:
    return _digest_of(sorted(list(asdict(picture).values()) for picture in pictures.values()))


def _digest_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


# ---- warnings


def _warnings(plan: Plan, footers: Sequence[_Footer]) -> list[str]:
    found = [note for footer in footers for note in footer.notes]
    above = _where(footers, "above_tolerance")
    if above:
        limit = MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE
        clamped = all(footer.origin["clamp_safety_tolerance"] for footer in footers)
        what = (
            f"it is sent as {limit}, and the table keeps both values"
            if clamped
            else "it is sent as it is, and such rows may be refused"
        )
        found.append(
            f"safety_tolerance is above {limit}, the most the provider allows beside an input image, in {above}; "
            + what
        )
    matching = _where(footers, "match_without_image")
    if matching:
        found.append(f"aspect_ratio is match_input_image without an input image in {matching}")
    if plan.text_to_image:
        rows = "1 row has" if plan.text_to_image == 1 else f"{plan.text_to_image:,} rows have"
        found.append(f"{rows} no input_image and will be text-to-image")
    joined = plan.requested - plan.pictures
    if joined:
        found.append(
            f"{plan.requested:,} pictures are wished for and {plan.pictures:,} of them differ; what is wished "
            "for twice is generated once"
        )
    if len(plan.batches) > COMFORTABLE_BATCHES:
        found.append(
            f"the plan has {len(plan.batches):,} batches; above {COMFORTABLE_BATCHES:,} Dagster's pages get "
            f"slow, above {MOST_BATCHES:,} it can't show them, so make the batch size (KONTEXT_BATCH_SIZE) larger"
        )
    return found


def _where(footers: Sequence[_Footer], field: str) -> str:
    places = []
    for footer in footers:
        numbers = _RowNumbers(**getattr(footer, field))
        if numbers.count:
            rows = "row" if numbers.count == 1 else "rows"
            places.append(f"{footer.shown} {rows} {listed(numbers.first, numbers.count)}")
    return "; ".join(places)
