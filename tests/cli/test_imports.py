"""What a paid run imports: nothing of the sandbox."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.cli.provider import Provider


def test_a_paid_run_imports_nothing_of_the_sandbox(
    environment: dict[str, str], provider: Provider, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    manifest([{"prompt": "one"}])
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kontext_pipeline.cli", "run", "rows.csv", "--yes"],
        cwd=tmp_path,
        env={**environment, "KONTEXT_BACKEND": "segmind", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert len(provider.billed) == 1
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line]
    assert "kontext_pipeline.pipeline" in imported
    assert [name for name in imported if "sandbox" in name] == []
    assert [name for name in imported if name.partition(".")[0] in ("dagster", "starlette", "uvicorn")] == []
