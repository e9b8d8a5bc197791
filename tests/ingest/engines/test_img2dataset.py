"""img2dataset itself, in the environment of its own that `make test-all` makes: it wants older packages."""

import os
import signal
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.datasets import contents
from tests.ingest.engines.commands import assert_told, finished, make_list
from tests.processes import client_of
from tests.serving import Server, answer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[3]
CLIPKIT = (str(ROOT / ".venv-img2dataset" / "bin" / "python"), "-m", "clipkit")
RECORDS = 3900


@pytest.fixture
def listed(server: Server, tmp_path: Path) -> Path:
    return make_list(server, tmp_path, RECORDS)


def run(path: Path, out: Path, cwd: Path, engine: str = "img2dataset") -> tuple[int, str, str]:
    return finished(engine, path, out, cwd, CLIPKIT, PYTHONPATH=str(ROOT))


def test_the_same_samples_and_failures_as_with_our_own_requests(listed: Path, tmp_path: Path) -> None:
    code, stdout, stderr = run(listed, tmp_path / "dataset", tmp_path)
    assert code == 0 and stdout.startswith("{"), stderr
    code, _, stderr = run(listed, tmp_path / "local", tmp_path, "local")
    assert code == 0, stderr
    shards = [
        {name: data for name, data in contents(out).items() if name[0].isdigit() or name == "sizes.json"}
        for out in (tmp_path / "dataset", tmp_path / "local")
    ]
    assert shards[0] == shards[1] and "000002.tar" in shards[0]
    columns = ["source_row", "url", "caption", "reason", "attempts", "retryable"]
    failures, ours = (
        pq.read_table(out / "failures", columns=columns).to_pylist()
        for out in (tmp_path / "dataset", tmp_path / "local")
    )
    assert failures == ours and {row["reason"] for row in ours} == {
        "bad_row", "scheme", "http_4xx", "not_an_image", "opted_out",
    }  # fmt: skip


def test_a_killed_worker_s_chunk_is_tried_again(server: Server, listed: Path, tmp_path: Path) -> None:
    usual, killed = server.routes["/1500.jpg"], list[int]()

    def deadly(request: BaseHTTPRequestHandler) -> None:
        if killed:
            usual(request)
            return
        killed.append(client_of(request))
        os.kill(killed[0], signal.SIGKILL)

    server.add("/1500.jpg", deadly)
    code, _, stderr = run(listed, tmp_path / "dataset", tmp_path)
    assert code == 0, stderr
    server.add("/1500.jpg", usual)
    assert run(listed, tmp_path / "again", tmp_path)[0] == 0
    assert contents(tmp_path / "dataset") == contents(tmp_path / "again")
    assert len(killed) == 1


def test_it_says_who_asks(server: Server, tmp_path: Path) -> None:
    agents = []

    def noting(request: BaseHTTPRequestHandler) -> None:
        agents.append(request.headers["User-Agent"])
        answer(b"", 404)(request)

    (tmp_path / "list.tsv").write_text(f"a caption\t{server.add('/', noting)}\n")
    code, _, stderr = run(tmp_path / "list.tsv", tmp_path / "dataset", tmp_path)
    assert code == 1
    assert_told(stderr, "none of 1 URLs gave a sample")
    assert agents and all("compatible; clipkit;" in agent for agent in agents)


def test_a_broken_installation_is_told(listed: Path, tmp_path: Path) -> None:
    (tmp_path / "albumentations.py").write_text("raise AttributeError('made for another numpy')")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    out = tmp_path / "dataset"
    code, stdout, stderr = finished("img2dataset", listed, out, tmp_path, CLIPKIT, PYTHONPATH=path)
    assert (code, stdout) == (1, "")
    assert_told(stderr, "--engine img2dataset: expected the extra to load", "made for another numpy")
