"""The architecture as a test: who may import whom, what stays unloaded, what the command line offers."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "clipkit"
ROOT_MODULES = {
    "agreement",
    "clock",
    "cpus",
    "differences",
    "digests",
    "downloads",
    "gcs",
    "errors",
    "atomic",
    "progress",
    "tables",
    "processes",
    "run_folder",
    "signals",
    "jpeg",
    "json_values",
    "launched",
    "lines",
    "metadata",
    "locations",
    "locks",
    "remote",
    "remote_path",
    "scratch",
    "answers",
    "stores",
    "threads",
    "page",
    "pictures",
    "splitmix",
    "units",
    "_version",
}
MAY_IMPORT = {
    "ingest": {"shards"},
    "shards": set(),
    "model": set(),
    "train": {"shards", "model"},
    "evaluate": {"shards", "model"},
    "finetune": {"shards", "model", "train", "evaluate"},
}
TORCH = {"torch", "torchvision"}
HEAVY = TORCH | {"pandas", "pyarrow", "matplotlib", "numpy", "cv2", "PIL", "pycurl", "pydantic", "duckdb"}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def modules(stage: str) -> list[Path]:
    return sorted((PACKAGE / stage).rglob("*.py"))


@pytest.mark.parametrize("stage", MAY_IMPORT)
def test_stages_import_what_the_table_allows(stage: str) -> None:
    allowed = MAY_IMPORT[stage] | {stage} | ROOT_MODULES
    assert modules(stage)
    for path in modules(stage):
        parts = {tuple(name.split(".")) for name in imported(path)}
        inner = {name[1] for name in parts if name[0] == "clipkit" and len(name) > 1}
        assert inner <= allowed, f"{path}: {inner - allowed}"


def test_root_modules_import_no_stage() -> None:
    for name in ROOT_MODULES:
        inner = {module.split(".")[1] for module in imported(PACKAGE / f"{name}.py") if "clipkit." in module}
        assert inner <= ROOT_MODULES, name


def test_torch_stays_where_it_belongs() -> None:
    for stage, files in {"ingest": set[str](), "shards": {"loader.py"}}.items():
        users = {
            path.name for path in modules(stage) if {name.split(".")[0] for name in imported(path)} & TORCH
        }
        assert users == files


def test_every_folder_is_known() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(MAY_IMPORT)


def test_files_stay_readable() -> None:
    lengths = {str(path): len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > 300} == {}


@pytest.mark.parametrize(
    "program", ["import clipkit", "import clipkit.cli, clipkit.cli_shards, clipkit.cli_ingest"]
)
def test_nothing_heavy_loads_before_a_command(program: str) -> None:
    listing = f"{program}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) & HEAVY == set()


def described(command: Any, path: str) -> Iterator[str]:
    """One line a parameter: what a script may rely on."""
    assert command.help, f"{path} has no help"
    if hasattr(command, "commands"):
        context = typer.Context(command)
        for name in sorted(command.list_commands(context)):
            yield from described(command.get_command(context, name), f"{path} {name}")
        return
    for parameter in command.params:
        if parameter.name == "help":
            continue
        assert getattr(parameter, "help", None), f"{path} {parameter.name} has no help"
        names = "/".join(parameter.opts + parameter.secondary_opts)
        shown = names if names.startswith("-") else names.upper()
        many = "…" if parameter.nargs == -1 or parameter.multiple else ""
        default = "" if parameter.default is None or parameter.required else f" = {parameter.default}"
        yield f"{path} {shown}{many}{default}"


def test_every_command_has_help_and_the_options_are_frozen() -> None:
    """A new option is a decision: it shows in the diff of tests/options.txt."""
    from clipkit.cli import app

    frozen = ROOT / "tests" / "options.txt"
    lines = "\n".join(described(typer.main.get_command(app), "clipkit")) + "\n"
    assert lines == frozen.read_text()
