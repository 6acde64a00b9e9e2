"""Test support: a project that knows the package as its users do: as a wheel, in an environment of its own."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

import psutil

from tests.orchestration.conftest import REPOSITORY

PROGRAMS: Final = ("dg", "dagster", "dagster-daemon", "kontext")
PYPROJECT: Final = """\
[project]
name = "studio"
version = "0.1.0"

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "studio"
"""
DEFINITIONS: Final = """\
from pathlib import Path

from dagster import Definitions, definitions, load_from_defs_folder


@definitions
def defs() -> Definitions:
    return load_from_defs_folder(path_within_project=Path(__file__).parent)
"""
INSTANCE: Final = """\
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: QueuedRunCoordinator, config: {dequeue_interval_seconds: 1}}
"""


def build_wheel(folder: Path) -> Path:
    """Build the wheel with the build backend that `pyproject.toml` names."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    return wheel


@dataclass
class Stranger:
    """A project of `dg` in a folder, and a virtual environment with the wheel."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def programs(self) -> Path:
        return self.folder / "venv" / "bin"

    @property
    def project(self) -> Path:
        return self.folder / "studio"

    @property
    def defs(self) -> Path:
        return self.project / "src" / "studio" / "defs"

    @property
    def home(self) -> Path:
        return self.folder / "dagster-home"

    def set_up(self, wheel: Path, **environment: str) -> None:
        """Make the environment and an empty project. Nothing of it is on the path of the repository."""
        venv = self.folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
        [packages] = venv.glob("lib/python*/site-packages")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
        # What the wheel depends on. Python reads no .pth file of these folders, so none that leads to the repository.
        dependencies = dict.fromkeys(
            [sysconfig.get_paths()["purelib"], *(p for p in sys.path if p.endswith("-packages"))]
        )
        (packages / "dependencies.pth").write_text("\n".join(dependencies))
        scripts = {script.name: script for script in entry_points(group="console_scripts")}
        for name in PROGRAMS:
            module, _, function = scripts[name].value.partition(":")
            program = self.programs / name
            program.write_text(
                f"#!{self.programs / 'python'}\nimport sys\nfrom {module} import {function}\n"
                # Processes that it spawns import it.
                f"if __name__ == '__main__':\n    sys.exit({function}())\n"
            )
            program.chmod(0o755)
        self.defs.mkdir(parents=True)
        for package in (self.defs, self.defs.parent):
            (package / "__init__.py").touch()
        (self.project / "pyproject.toml").write_text(PYPROJECT)
        (self.defs.parent / "definitions.py").write_text(DEFINITIONS)
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text(INSTANCE)
        mine = ("KONTEXT_", "SEGMIND_", "DAGSTER_", "PYTHON", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
        self.environment = {
            **kept,
            "PATH": f"{self.programs}{os.pathsep}{kept.get('PATH', '')}",
            "VIRTUAL_ENV": str(venv),
            "PYTHONPATH": str(self.project / "src"),
            "DAGSTER_HOME": str(self.home),
            **environment,
        }

    def run(self, program: str, *arguments: str, check: bool = True) -> str:
        """Run a program in the project. Return all that it writes."""
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            cwd=self.project,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{program} {' '.join(arguments)}\n{done.stdout[-6000:]}"
        return done.stdout

    @contextmanager
    def daemon(self) -> Iterator[Path]:
        """Run the daemon, which starts a code server of its own. Yields its log."""
        log = self.folder / "daemon.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [str(self.programs / "dagster-daemon"), "run", "-m", "studio.definitions"],
                cwd=self.project,
                env=self.environment,
                stdout=file,
                stderr=file,
            )
        try:
            yield log
        finally:
            main = psutil.Process(process.pid)
            tree = [*main.children(recursive=True), main]
            for one in tree:
                one.terminate()
            for one in psutil.wait_procs(tree, timeout=20)[1]:
                one.kill()
            process.wait()
