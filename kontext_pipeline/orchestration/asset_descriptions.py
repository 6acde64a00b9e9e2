"""What all assets of a dataset have in common besides their work: owners, where they are kept, how fresh they must be."""

import re
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final

from dagster import AssetsDefinition, AssetSpec, FreshnessPolicy, map_asset_specs

KEPT_IN: Final = {
    "plan": "plan",
    "inputs": "inputs",
    "images": "images",
    "metadata": "metadata",
    "quality": "quality",
    "review": "review.csv",
    "spend": "spend.parquet",
}
"""Where an asset is in the data directory, by the last part of its key."""
FRESH: Final = ("plan", "images", "metadata")
"""The assets that `KONTEXT_FRESH_HOURS` is about."""


def described(
    assets: Iterable[AssetsDefinition | AssetSpec],
    *,
    data_dir: str,
    owners: Sequence[str],
    fresh_hours: float | None,
) -> Sequence[AssetsDefinition | AssetSpec]:
    """Return the assets of a dataset with owners, URIs and freshness policies.

    Args:
        assets: All assets of the dataset.
        data_dir: Its data directory, a path or an fsspec URL.
        owners: Email addresses and teams (`team:NAME`).
        fresh_hours: Hours within which `FRESH` must be materialized again; None: they need not be.
    """

    def describe(spec: AssetSpec) -> AssetSpec:
        name = spec.key.path[-1]
        kept_in = {"dagster/uri": uri_of(data_dir, KEPT_IN[name])} if name in KEPT_IN else {}
        policy = spec.freshness_policy
        if fresh_hours is not None and name in FRESH:
            policy = FreshnessPolicy.time_window(fail_window=timedelta(hours=fresh_hours))
        return spec.replace_attributes(
            owners=[*spec.owners, *owners], metadata={**spec.metadata, **kept_in}, freshness_policy=policy
        )

    return map_asset_specs(describe, assets)


def uri_of(data_dir: str, name: str) -> str:
    """Return the URI of a file or folder in a data directory, without a user name or password."""
    scheme, separator, rest = data_dir.partition("://")
    if not separator or scheme == "file":
        return (Path(rest or data_dir).expanduser().absolute() / name).as_uri()
    host, slash, path = re.split("[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}".rstrip("/") + f"/{name}"
