"""Engines by name: those of the command line, and what it says where an extra is missing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.cli_ingest import EngineName
from clipkit.errors import EngineError
from clipkit.ingest import engines
from clipkit.ingest.engines.extras import expect_extra
from clipkit.ingest.engines.names import ENGINES

WITHOUT = """
import sys
sys.modules[sys.argv.pop(1)] = None  # whether it is installed or not
from clipkit.cli import main
main()
"""
PACKAGES = {"ray": "ray", "spark": "pyspark", "img2dataset": "img2dataset"}


def test_the_command_line_knows_them_all() -> None:
    assert {name.value for name in EngineName} == set(ENGINES) == {"local", *PACKAGES}


@pytest.mark.parametrize("engine", PACKAGES)
def test_an_engine_is_a_thin_adapter(engine: str) -> None:
    text = (Path(engines.__path__[0]) / f"{engine}.py").read_text()
    defined = [each for each in ast.parse(text).body if isinstance(each, ast.FunctionDef | ast.ClassDef)]
    code = [line for each in defined for line in (ast.get_source_segment(text, each) or "").splitlines()]
    assert 0 < sum(bool(line.strip()) for line in code) <= 40


@pytest.mark.parametrize("engine", PACKAGES)
def test_a_missing_extra_is_one_line(engine: str, tmp_path: Path) -> None:
    (tmp_path / "list.tsv").write_text("a caption\thttp://127.0.0.1:9/\n")
    words = [PACKAGES[engine], "ingest", "cc", "list.tsv", "--out", "dataset", "--engine", engine]
    command = [sys.executable, "-c", WITHOUT, *words, "--allow-private-hosts"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stdout) == (1, "")
    line = finished.stderr.splitlines()[-1]
    assert line == (
        f"clipkit: --engine {engine}: expected the extra {engine}, found no package {PACKAGES[engine]}; "
        f"pip install '.[{engine}]' in a checkout of clipkit"
    )
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "dataset").exists(), "nothing was begun"


def test_a_folder_of_that_name_is_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not_installed").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match=r"expected the extra ray, found no package not_installed"):
        expect_extra("not_installed", "ray")
