"""Building the plan of one manifest: seeds, fingerprints, ids and batches of its rows."""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kontext_pipeline.errors import ManifestError, PlanError
from kontext_pipeline.files import AnyPath, write_atomically
from kontext_pipeline.planning import input_files, seeds
from kontext_pipeline.planning.batches import Numbers, assign, batch_key
from kontext_pipeline.planning.default_ratios import DefaultRatio
from kontext_pipeline.planning.plan_file import Footer, Origin, PlanFile, write_plan_file
from kontext_pipeline.planning.rows import ManifestRows, release_memory
from kontext_pipeline.planning.seeds import DIGEST_BYTES, Digests, all_different, count_different, hex_of
from kontext_pipeline.segmind.model import DEFAULT_ASPECT_RATIO, MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE

_MOST_ROWS_NAMED: Final = 20
_BYTES_AT_ONCE: Final = 2 * 2**20
_ROWS_AT_ONCE: Final = 65_536


class PlanBuilder:
    """The plan of one manifest, before it is written. `batches` has the batch number of each row."""

    def __init__(
        self,
        rows: ManifestRows,
        origin: Origin,
        earlier: PlanFile | None,
        batch_size: int,
        default_ratio: DefaultRatio | None = None,
    ) -> None:
        """Hash new input pictures, derive seeds and fingerprints, and put each row into its batch.

        Raises:
            ManifestError: An input picture can't be read any more.
            PlanError: The earlier plan is of another manifest with the same name.
        """
        self._rows = rows
        self._origin = origin
        try:
            self._input_files = input_files.with_digests(rows.input_files.values())
        except OSError as error:
            text = f"{rows.manifest.shown}: the input image {error.filename} can't be read: {error.strerror}"
            raise ManifestError([text]) from error
        table = rows.table
        paths = pa.array([file.path for file in self._input_files], pa.string())
        digests = pa.array([file.sha256 for file in self._input_files], pa.string())
        sha256 = digests.take(pc.index_in(table["input_source"], value_set=paths).combine_chunks())
        limit = pa.scalar(MAX_SAFETY_TOLERANCE_WITH_INPUT_IMAGE, pa.int32())
        asked = table["safety_tolerance"]
        self._above = pc.and_(pc.is_valid(table["input_image"]), pc.greater(asked, limit))
        sent = pc.if_else(self._above, limit, asked) if origin["clamp_safety_tolerance"] else asked
        table = table.rename_columns({"safety_tolerance": "safety_tolerance_asked"})
        self._table = table.append_column("input_sha256", sha256).append_column("safety_tolerance", sent)
        self._sizes = np.asarray(table["variants"]).astype(np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._derive()
        self._set_ratios(default_ratio or DefaultRatio(), earlier)
        release_memory()
        self.batches = self._assigned(earlier, batch_size)
        self._next_number = max(earlier.footer.next_number if earlier else 0, int(self.batches.max()) + 1)

    def _derive(self, ratios: pa.Array | None = None) -> None:
        """Derive ids, seeds and fingerprints. `ratios` are sent in place of those that the rows are identified by."""
        rows, requests = len(self._sizes), int(self._sizes.sum())
        identities = np.empty((rows, DIGEST_BYTES), np.uint8)
        self._fingerprints = np.empty((requests, DIGEST_BYTES), np.uint8)
        variant, seed = np.empty(requests, np.int32), np.empty(requests, np.int64)
        columns = self._table.drop_columns(self._rows.own_names)
        columns = columns.rename_columns({"safety_tolerance_asked": "safety_tolerance", "safety_tolerance": "sent"})
        columns = columns.append_column("sent_ratio", columns["aspect_ratio"] if ratios is None else ratios)
        ends = np.append(self._starts, requests)
        # In pieces, because the texts that are hashed are larger than the columns.
        step = max(1, _BYTES_AT_ONCE * rows // max(1, columns.nbytes * requests // rows))
        for start in range(0, rows, step):
            piece = columns.slice(start, step)
            which = slice(ends[start], ends[start + len(piece)])
            derived = self._derived(piece)
            identities[start : start + step], variant[which], seed[which], self._fingerprints[which] = derived
        self._ids = _unique_ids(self._table["id"].combine_chunks(), identities)
        self._requests = pa.table({"variant": pa.array(variant), "seed": pa.array(seed)})

    def _set_ratios(self, default: DefaultRatio, earlier: PlanFile | None) -> None:
        """Give the rows without a ratio of their own the one that they are sent with. Ids and seeds stay as they are."""
        nobody = pa.array(np.zeros(len(self._sizes), bool))
        without = nobody if self._rows.without_ratio is None else self._rows.without_ratio
        ratios, self._kept_ratio = default.of_rows(self._ids, without, earlier)
        sent = pc.coalesce(ratios, self._table["aspect_ratio"].combine_chunks())
        self._at_default = pc.and_not(pc.and_(without, pc.equal(sent, DEFAULT_ASPECT_RATIO)), self._kept_ratio)
        if not pc.all(pc.equal(sent, self._table["aspect_ratio"].combine_chunks())).as_py():
            self._derive(sent)
            index = self._table.column_names.index("aspect_ratio")
            self._table = self._table.set_column(index, "aspect_ratio", sent)

    def _derived(self, rows: pa.Table) -> tuple[Digests, Numbers, Numbers, Digests]:
        """Return the rows' identities by content, and the variants, seeds and fingerprints of their requests."""
        # A relative path in a remote manifest is identified by the URL that it stands for.
        images = pc.coalesce(rows["input_source"], rows["input_image"])
        rows = rows.set_column(rows.column_names.index("input_image"), "input_image", images)
        sent_ratio = rows["sent_ratio"]
        rows = seeds.with_json_texts(rows.drop_columns(["input_source", "sent_ratio"]))
        content = seeds.identities_of_content(rows)
        rows = rows.set_column(rows.column_names.index("aspect_ratio"), "aspect_ratio", seeds.json_values(sent_ratio))
        rows = rows.append_column("identity", pc.coalesce(seeds.identities_of_ids(rows["id"]), hex_of(content)))
        sizes = np.asarray(rows["variants"]).astype(np.int64)
        variants = np.ones(len(sizes), np.int64)
        if sizes.max() > 1:
            repeated = np.repeat(np.arange(len(sizes)), sizes)
            variants = np.arange(len(repeated)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
            rows = rows.take(pa.array(repeated))
        sent_seeds = seeds.seeds_of_variants(
            given=rows["seed"],
            project_seed=int(self._origin["seed"]),
            identities=rows["identity"],
            variants=pa.chunked_array([variants]),
        )
        requests = rows.drop_columns(["seed", "safety_tolerance"]).rename_columns({"sent": "safety_tolerance"})
        requests = requests.append_column("seed", pa.chunked_array([sent_seeds]))
        return content, variants, sent_seeds, seeds.fingerprints(requests, str(self._origin["backend"]))

    def _assigned(self, earlier: PlanFile | None, batch_size: int) -> Numbers:
        before = earlier.assigned() if earlier else None
        manifest = self._rows.manifest
        if (
            earlier
            and before is not None
            and earlier.footer.source != manifest.source
            and not pc.any(pc.is_in(self._ids, value_set=before["id"])).as_py()
        ):
            raise PlanError(
                f"{manifest.shown} has the same name ({manifest.name}) as {earlier.footer.source}, which "
                "was planned in this data directory, and no row in common with it; rename it, or use "
                "another data directory"
            )
        return assign(
            self._ids,
            self._rows.numbers,
            self._sizes,
            batch_size=batch_size,
            first_new=earlier.footer.next_number if earlier else 0,
            before=before,
        )

    def write(self, folder: AnyPath) -> None:
        """Write the plan, then the input cache, into the plan folder. A plan without its cache is complete.

        Raises:
            OSError: A file can't be written.
        """
        name = self._rows.manifest.name
        files = input_files.cacheable(self._input_files)
        order = np.argsort(self.batches, kind="stable")
        numbers, starts = np.unique(self.batches[order], return_index=True)
        sizes = np.add.reduceat(self._sizes[order], starts)
        footer = self._footer(input_files.digest_of(files), numbers.tolist(), sizes.tolist())
        batches = self._batches(numbers.tolist(), np.split(order, starts[1:]))
        own = pa.schema([self._table.schema.field(own) for own in self._rows.own_names])
        write_atomically(folder / f"{name}.parquet", lambda path: write_plan_file(path, own, batches, footer))
        input_files.write_cache(folder, name, files)

    def _batches(self, numbers: list[int], members: list[Numbers]) -> Iterator[dict[str, pa.Array]]:
        """Yield the columns of each batch. `members` are the indices of its rows."""
        name = self._rows.manifest.name
        table = self._table.drop_columns(["id", "seed", "variants"])
        table = table.append_column("row", pa.array(self._rows.numbers)).append_column("id", self._ids)
        if sum(np.ptp(indices) for indices in members) > 8 * len(self._sizes):
            # To take scattered rows, Arrow copies all chunks between them into one: that is done once.
            table = table.combine_chunks()
        for number, indices in zip(numbers, members, strict=True):
            sizes = self._sizes[indices]
            count = int(sizes.sum())
            rows = _picked(table, indices)
            if count > len(indices):
                rows = rows.take(pa.array(np.repeat(np.arange(len(indices)), sizes)))
            which = np.repeat(self._starts[indices] - (np.cumsum(sizes) - sizes), sizes) + np.arange(count)
            requests = _picked(self._requests, which)
            yield {
                "manifest": pa.repeat(name, count),
                "batch": pa.repeat(batch_key(name, number), count),
                **dict(zip(rows.column_names, rows.columns, strict=True)),
                **dict(zip(requests.column_names, requests.columns, strict=True)),
                "fingerprint": hex_of(self._fingerprints[which]),
            }

    def _footer(self, pictures_digest: str, numbers: list[int], sizes: list[int]) -> Footer:
        rows = self._rows
        without = pc.is_null(self._table["input_image"])
        matching = pc.and_(without, pc.equal(self._table["aspect_ratio"], "match_input_image"))
        return Footer(
            origin=self._origin,
            source=rows.manifest.source,
            shown=rows.manifest.shown,
            pictures_digest=pictures_digest,
            numbers=numbers,
            sizes=sizes,
            next_number=self._next_number,
            rows=len(rows.numbers),
            pictures=count_different(self._fingerprints),
            text_to_image=int(pc.sum(without).as_py()),
            above_tolerance=self._rows_where(self._above),
            match_without_image=self._rows_where(matching),
            default_ratio=self._rows_where(self._at_default) | {"pictures": self._pictures_of(self._at_default)},
            kept_ratio=self._rows_where(self._kept_ratio) | {"pictures": self._pictures_of(self._kept_ratio)},
            same_edits=self._rows_where(self._same_edits()),
            notes=rows.notes,
            mapped=rows.mapped,
            private_inputs=rows.private_inputs,
        )

    def _pictures_of(self, mask: pa.Array) -> int:
        return int(self._sizes[np.asarray(mask)].sum())

    def _same_edits(self) -> pa.Array:
        """Return which rows edit the same picture by the same prompt as a row before them."""
        # Imported here: most of pandas is not needed, and nothing of it where no row edits a picture.
        from pandas.util import hash_array

        table = self._table.select(["input_sha256", "input_source", "input_image", "prompt"])
        hashes = np.zeros(len(table), np.uint64)
        # In pieces and as hashes, because the texts are as large as the manifest.
        for start in range(0, len(table), _ROWS_AT_ONCE):
            piece = table.slice(start, _ROWS_AT_ONCE)
            images = pc.coalesce(piece["input_sha256"], piece["input_source"], piece["input_image"])
            texts = pc.binary_join_element_wise(images, piece["prompt"], "\0").fill_null("")
            hashes[start : start + _ROWS_AT_ONCE] = hash_array(texts.to_numpy(), categorize=False)
        repeated = np.ones(len(table), bool)
        repeated[np.unique(hashes, return_index=True)[1]] = False
        return pc.and_(pa.array(repeated), pc.is_valid(table["input_image"]).combine_chunks())

    def _rows_where(self, mask: pa.ChunkedArray) -> dict[str, Any]:
        indices = pc.indices_nonzero(mask).to_numpy()
        return {"first": self._rows.numbers[indices[:_MOST_ROWS_NAMED]].tolist(), "count": len(indices)}


def _picked(table: pa.Table, indices: Numbers) -> pa.Table:
    """Return rows of a table by their ascending indices, without a copy where the rows are adjacent."""
    part = table.slice(int(indices[0]), int(np.ptp(indices)) + 1)
    return part if len(part) == len(indices) else part.take(pa.array(indices - indices[0]))


def _unique_ids(given: pa.Array, identities: Digests) -> pa.Array:
    """Return the given ids; rows without one get the start of their identity by content.

    The second row with the same identity gets `-2` appended, the third `-3`, and so on. An id that the manifest
    gives to another row is skipped.
    """
    short = hex_of(identities, seeds.SHORT_ID_DIGITS)
    if given.null_count == len(given) and all_different(identities, seeds.SHORT_ID_DIGITS):
        return short
    ids = pc.coalesce(given, short)
    if pc.count_distinct(ids).as_py() == len(ids):
        return ids
    alike = pc.match_substring_regex(given, rf"^[0-9a-f]{{{seeds.SHORT_ID_DIGITS}}}(-\d+)?$")
    reserved = set(given.filter(alike).to_pylist())
    counts = pc.value_counts(ids)
    repeated = counts.field(0).filter(pc.greater(counts.field(1), 1))
    mask = pc.and_(pc.is_null(given), pc.is_in(short, value_set=repeated))
    times: dict[str, int] = {}
    names = []
    for base in short.filter(mask).to_pylist():
        name = None
        while name is None or name in reserved:
            times[base] = times.get(base, 0) + 1
            name = base if times[base] == 1 else f"{base}-{times[base]}"
        names.append(name)
    return pc.replace_with_mask(ids, mask, pa.array(names, pa.string()))
