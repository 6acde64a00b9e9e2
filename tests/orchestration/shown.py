"""Test support: what Dagster's pages show of a batch, asked over GraphQL without a webserver."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dagster import DagsterInstance
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceRequestContext
from dagster_graphql.test.utils import execute_dagster_graphql

STALE = """
query ($asset: AssetKeyInput!, $key: String!) { assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    staleStatus(partition: $key) staleCauses(partition: $key) { reason key { path } } } } }"""
STATUSES = """
query ($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    assetPartitionStatuses { ... on DefaultPartitionStatuses {
        materializedPartitions failedPartitions unmaterializedPartitions materializingPartitions } } } } }"""
CHECKS = """
query ($asset: AssetKeyInput!) { assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization {
        status evaluation { success severity description partition } } } } } } } }"""


@dataclass
class Shown:
    """The pages of one code location, as they are at one moment."""

    context: WorkspaceRequestContext

    def _ask(self, query: str, asset: str, **variables: Any) -> Any:
        result = execute_dagster_graphql(self.context, query, {"asset": {"path": asset.split("/")}, **variables})
        assert not result.errors, result.errors
        return result.data["assetNodeOrError"]

    def stale(self, asset: str, key: str) -> str:
        return str(self._ask(STALE, asset, key=key)["staleStatus"])

    def causes(self, asset: str, key: str) -> list[tuple[str, str]]:
        causes = self._ask(STALE, asset, key=key)["staleCauses"]
        return [("/".join(cause["key"]["path"]), cause["reason"]) for cause in causes]

    def partitions(self, asset: str) -> Mapping[str, list[str]]:
        found = self._ask(STATUSES, asset)["assetPartitionStatuses"]
        return {name.removesuffix("Partitions"): keys for name, keys in found.items()}

    @cached_property
    def checks(self) -> dict[str, Any]:
        checks = self._ask(CHECKS, "metadata")["assetChecksOrError"]["checks"]
        return {check["name"]: check["executionForLatestMaterialization"] for check in checks}


@contextmanager
def shown(instance: DagsterInstance) -> Iterator[Shown]:
    """Yield what a page shows that is loaded now."""
    origin = LoadableTargetOrigin(executable_path=sys.executable, module_name="kontext_pipeline.definitions")
    with in_process_test_workspace(instance, origin) as context:
        yield Shown(context)
