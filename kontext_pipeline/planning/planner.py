"""Making the plan of several manifests and writing it into the data directory."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from kontext_pipeline.errors import ManifestError, PlanError
from kontext_pipeline.files import AnyPath, is_local
from kontext_pipeline.planning import input_files
from kontext_pipeline.planning.batches import MOST_BATCHES
from kontext_pipeline.planning.default_ratios import ORIGIN, DefaultRatio
from kontext_pipeline.planning.input_addresses import LocalFolders, private_inputs
from kontext_pipeline.planning.input_files import InputFile
from kontext_pipeline.planning.manifest_options import ManifestOptions
from kontext_pipeline.planning.manifests import read_rows
from kontext_pipeline.planning.plan import Plan
from kontext_pipeline.planning.plan_builder import PlanBuilder
from kontext_pipeline.planning.plan_file import FORMAT, Origin, PlanFile
from kontext_pipeline.planning.rows import release_memory
from kontext_pipeline.planning.sources import Manifest

_LOCK_WAIT_S: Final = 600


def make_plan(
    manifests: Sequence[Manifest],
    *,
    data_dir: AnyPath,
    backend: str,
    seed: int,
    batch_size: int,
    clamp_safety_tolerance: bool,
    options: ManifestOptions | None = None,
    default_ratio: DefaultRatio | None = None,
) -> Plan:
    """Plan the manifests together, write the plan into the data directory, and return it.

    A plan that was made from the same files and settings is returned as it is. Otherwise rows keep their batches, as
    `batches.assign` describes.

    `seed` is the project's (`KONTEXT_SEED`), `batch_size` the most requested pictures of a new batch; the variants of a
    row stay together. `clamp_safety_tolerance` lowers the tolerance of rows with an input image to the most that the
    provider allows for them. `options` say how manifests are read; pictures in them are kept in `data_dir`.
    `default_ratio` is for rows that edit a picture and name no aspect ratio.

    Raises:
        ManifestError: The manifests have problems. The earlier plan is untouched.
        PlanError: The plan can't be made or written. The earlier plan of each manifest is untouched or replaced.
    """
    if batch_size < 1:
        raise PlanError(f"a batch size of {batch_size} is not allowed; it must be 1 or more")
    options = replace(options or ManifestOptions(), data_dir=data_dir)
    default_ratio = default_ratio or DefaultRatio()
    pairs = sorted((manifest.name, manifest.digest) for manifest in manifests)
    together = hashlib.sha256(json.dumps(pairs).encode()).hexdigest()
    origins: dict[str, Origin] = {
        manifest.name: {
            "format": FORMAT,
            "digest": manifest.digest,
            "size": manifest.size,
            "source": manifest.source,
            "together": together,
            "backend": backend,
            "seed": seed,
            "clamp_safety_tolerance": clamp_safety_tolerance,
            # Plans of versions that mapped no columns have no such member.
            **({"columns": options.mapping} if options.columns else {}),
            **({ORIGIN: default_ratio.ratio} if default_ratio.ratio else {}),
        }
        for manifest in manifests
    }
    folder = data_dir / "plan"
    paths = {manifest.name: folder / f"{manifest.name}.parquet" for manifest in manifests}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Other planners of the data directory wait. Remote file systems have no locks.
        with FileLock(str(folder / ".lock"), timeout=_LOCK_WAIT_S) if is_local(folder) else contextlib.nullcontext():
            earlier = {name: PlanFile(name, path) for name, path in paths.items() if path.is_file()}
            if _is_current(manifests, origins, earlier, folder, options):
                return Plan(list(earlier.values()))
            _plan_again(
                manifests, origins, earlier, folder, options, default_ratio=default_ratio, batch_size=batch_size
            )
            earlier.clear()
            release_memory()
            return Plan([PlanFile(name, path) for name, path in paths.items()])
    except Timeout:
        raise PlanError(
            f"another process has been planning in {folder} for {_LOCK_WAIT_S // 60} minutes; try again when it is done"
        ) from None
    except OSError as error:
        raise PlanError(f"the plan can't be written to {folder}: {error.strerror or error}") from error


def _is_current(
    manifests: Sequence[Manifest],
    origins: Mapping[str, Origin],
    earlier: Mapping[str, PlanFile],
    folder: AnyPath,
    options: ManifestOptions,
) -> bool:
    """Return whether the plans were made from the same files, input pictures and settings, and may still be used."""
    for manifest in manifests:
        plan = earlier.get(manifest.name)
        if plan is None or plan.footer.origin != origins[manifest.name]:
            return False
        files = input_files.read_cache(folder, manifest.name).values()
        is_same = input_files.digest_of(files) == plan.footer.pictures_digest
        if not is_same or not all(file.is_unchanged() for file in files):
            return False
        if not _are_allowed(plan, files, manifest, options):
            return False
    return True


def _are_allowed(plan: PlanFile, files: Iterable[InputFile], manifest: Manifest, options: ManifestOptions) -> bool:
    """Return whether the settings allow the inputs of a plan. What they refuse is planned again, and then a problem.

    So the settings needn't be a part of the plan's origin: a change that refuses nothing leaves the plan as it is.
    """
    folders = LocalFolders.of(manifest.path, options)
    if not all(file.mtime_ns == input_files.KEPT_MTIME_NS or folders.allow(file.path) for file in files):
        return False
    if options.private_inputs:
        return True
    if plan.footer.private_inputs is not None:
        return plan.footer.private_inputs == 0
    return not any(pc.any(private_inputs(images)).as_py() for images in plan.input_images())


def _plan_again(
    manifests: Sequence[Manifest],
    origins: Mapping[str, Origin],
    earlier: Mapping[str, PlanFile],
    folder: AnyPath,
    options: ManifestOptions,
    *,
    default_ratio: DefaultRatio,
    batch_size: int,
) -> None:
    caches = [input_files.read_cache(folder, manifest.name) for manifest in manifests]
    found = read_rows(manifests, {path: file for cache in caches for path, file in cache.items()}, options)
    release_memory()
    builders = []
    batches = 0
    while found:
        rows = found.pop(0)
        if rows.manifest.has_changed():
            raise ManifestError([f"{rows.manifest.shown}: was changed while it was read; try again"])
        name = rows.manifest.name
        builder = PlanBuilder(rows, origins[name], earlier.get(name), batch_size, default_ratio)
        batches += len(np.unique(builder.batches))
        builders.append(builder)
    if batches > MOST_BATCHES:
        raise PlanError(
            f"the plan has {batches:,} batches, and Dagster can't show more than {MOST_BATCHES:,} partitions; "
            f"make the batch size (KONTEXT_BATCH_SIZE, now {batch_size:,}) larger"
        )
    for builder in builders:
        builder.write(folder)
