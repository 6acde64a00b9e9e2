"""Owners, URIs and freshness of the assets, from settings and from what a project gives."""

import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from dagster import AssetKey, AssetSpec, FreshnessPolicy

from kontext_pipeline.definitions import defs
from kontext_pipeline.errors import SettingsError
from kontext_pipeline.orchestration.asset_descriptions import uri_of
from kontext_pipeline.orchestration.dataset_definitions import kontext_definitions


def specs(**given: Any) -> dict[str, AssetSpec]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        definitions = kontext_definitions(**given)
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}


def test_every_asset_has_the_owners_and_what_is_kept_has_a_uri(tmp_path: Path) -> None:
    made = specs(data_dir=tmp_path, owners=["ann@example.com", "team:vision"], fresh_hours=24)
    assert {tuple(spec.owners) for spec in made.values()} == {("ann@example.com", "team:vision")}
    uris = {name: spec.metadata.get("dagster/uri") for name, spec in made.items()}
    assert {name: uris[name] for name in ("plan", "inputs", "images", "metadata", "spend")} == {
        "plan": f"file://{tmp_path}/plan",
        "inputs": f"file://{tmp_path}/inputs",
        "images": f"file://{tmp_path}/images",
        "metadata": f"file://{tmp_path}/metadata",
        "spend": f"file://{tmp_path}/spend.parquet",
    }
    day = FreshnessPolicy.time_window(fail_window=timedelta(hours=24))
    assert {name for name, spec in made.items() if spec.freshness_policy == day} == {"plan", "images", "metadata"}


def test_the_environment_counts_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare = specs(name="birds")["birds/images"]
    assert (list(bare.owners), bare.freshness_policy) == ([], None)
    monkeypatch.setenv("KONTEXT_OWNERS", "team:vision ann@example.com")
    monkeypatch.setenv("KONTEXT_FRESH_HOURS", "1.5")
    monkeypatch.setenv("KONTEXT_DATA_DIR", "s3://bucket/birds/")
    shown = defs().resolve_asset_graph().get(AssetKey(["images"]))
    assert list(shown.owners) == ["team:vision", "ann@example.com"]
    assert shown.metadata["dagster/uri"] == "s3://bucket/birds/images"
    given = specs(data_dir=tmp_path, owners=["team:others"])["images"]
    assert (list(given.owners), given.metadata["dagster/uri"]) == (["team:others"], f"file://{tmp_path}/images")
    assert given.freshness_policy == FreshnessPolicy.time_window(fail_window=timedelta(hours=1.5))


def test_a_wrong_owner_is_refused_where_it_is_given_and_ends_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="owners"):
        kontext_definitions(owners=["ann"])
    monkeypatch.setenv("KONTEXT_OWNERS", "ann")
    assert list(defs().resolve_asset_graph().get(AssetKey(["images"])).owners) == []


@pytest.mark.parametrize(
    ("data_dir", "uri"),
    [
        ("s3://me:secret@bucket/a?token=secret", "s3://bucket/a/images"),
        ("ftp://me:secret@host:21/a/", "ftp://host:21/a/images"),
        ("memory://set", "memory://set/images"),
        ("file:///tmp/a b", "file:///tmp/a%20b/images"),
    ],
)
def test_a_uri_tells_no_secret(data_dir: str, uri: str) -> None:
    assert uri_of(data_dir, "images") == uri
