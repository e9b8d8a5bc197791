"""Ray and Spark themselves, begun by the command line on this machine: the same bytes, and what is told when
workers, nodes, disks or Ray and Spark as a whole die. `make test-all` installs both.
"""

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from clipkit.shards.summary import summarize
from tests.datasets import contents
from tests.ingest.engines.commands import CHUNK_ROWS, assert_told, finished, make_list, started
from tests.processes import client_of, living, until, wait_until_gone
from tests.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECORDS = 5900
ENGINES = ["ray", "spark"]
OWN_PROCESS = {"ray": "raylet", "spark": "java"}


@pytest.fixture
def listed(server: Server, tmp_path: Path) -> Path:
    return make_list(server, tmp_path, RECORDS)


@pytest.fixture
def expected(listed: Path, tmp_path: Path) -> dict[str, bytes]:
    """What the local engine makes of the list."""
    code, _, stderr = finished("local", listed, tmp_path / "local", tmp_path)
    assert code == 0, stderr
    return contents(tmp_path / "local")


def killing(server: Server, path: str, times: int) -> Callable[[], list[int]]:
    """Kill the process that asks for `path`, the first `times` times; the function tells which these were."""
    usual, killed = server.routes[path], list[int]()

    def deadly(request: BaseHTTPRequestHandler) -> None:
        if len(killed) == times:
            usual(request)
            return
        killed.append(client_of(request))
        os.kill(killed[-1], signal.SIGKILL)

    server.add(path, deadly)
    return lambda: killed


def halted(server: Server) -> tuple[threading.Event, threading.Event]:
    """Halt at a URL in chunk 4: set the first event when it is asked for, answer when the second is set."""
    reached, go_on = threading.Event(), threading.Event()
    usual = server.routes["/4321.jpg"]

    def halting(request: BaseHTTPRequestHandler) -> None:
        reached.set()
        go_on.wait(200)
        usual(request)

    server.add("/4321.jpg", halting)
    return reached, go_on


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_answers_give_the_same_bytes(
    engine: str, listed: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    code, stdout, stderr = finished(engine, listed, tmp_path / "dataset", tmp_path)
    assert code == 0, stderr
    assert contents(tmp_path / "dataset") == expected
    result = json.loads(stdout)
    assert (result["records"], result["fetched"]) == (RECORDS, RECORDS)
    figures = [json.loads(line) for line in stderr.splitlines()]
    assert figures[-1]["done"] == RECORDS, "and nothing but figures is said"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_worker_s_chunk_is_tried_again(
    engine: str, server: Server, listed: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    killed = killing(server, "/1500.jpg", times=1)
    code, stdout, stderr = finished(engine, listed, tmp_path / "dataset", tmp_path)
    assert code == 0, stderr
    assert len(killed()) == 1
    assert contents(tmp_path / "dataset") == expected
    assert json.loads(stdout)["records"] == RECORDS, "whatever Ray and Spark say is not said there"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_chunk_that_kills_every_worker_is_given_up(
    engine: str, server: Server, listed: Path, tmp_path: Path
) -> None:
    killed = killing(server, "/1500.jpg", times=9)
    code, stdout, stderr = finished(engine, listed, tmp_path / "dataset", tmp_path)
    assert (code, stdout) == (1, "")
    assert len(set(killed())) == len(killed()) == 2
    assert_told(stderr, "complete but for 1,000 URLs whose workers died twice")
    assert re.search(r"chunk 1 killed its worker twice \(.*(died|exited) unexpectedly", stderr)
    summary = summarize(tmp_path / "dataset")
    assert summary.finished and summary.reasons["worker_crashed"] == CHUNK_ROWS
    assert summary.records == RECORDS


@pytest.mark.parametrize("engine", ENGINES)
def test_without_a_network_on_the_nodes_nothing_is_marked(
    engine: str, listed: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    proxy = ("--proxy", "http://127.0.0.1:9")
    code, stdout, stderr = finished(engine, listed, tmp_path / "dataset", tmp_path, options=proxy)
    assert (code, stdout) == (1, "")
    assert_told(stderr, "clipkit: on ", "expected a proxy at 127.0.0.1:9", "nothing was marked as failed")
    code, _, stderr = finished(engine, listed, tmp_path / "dataset", tmp_path)
    assert code == 0, stderr
    assert contents(tmp_path / "dataset") == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_a_full_disk_is_told(engine: str, listed: Path, tiny_disk: Path, tmp_path: Path) -> None:
    code, stdout, stderr = finished(engine, listed, tiny_disk / "dataset", tmp_path)
    assert (code, stdout) == (1, "")
    assert_told(stderr, "No space left on device: mend this and run the same command again")


KILLS: dict[str, tuple[Callable[[int], None], int]] = {
    "everything at once": (lambda pid: os.killpg(pid, signal.SIGKILL), -9),
    "the command alone": (lambda pid: os.kill(pid, signal.SIGKILL), -9),
    "Ctrl-C": (lambda pid: os.killpg(pid, signal.SIGINT), 130),
    "SIGTERM": (lambda pid: os.kill(pid, signal.SIGTERM), 143),
}


@pytest.mark.parametrize("kill", KILLS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_killed_ingest_leaves_nothing_running_and_another_engine_goes_on(
    engine: str, kill: str, server: Server, listed: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    reached, go_on = halted(server)
    process = started(engine, listed, out, tmp_path)
    assert reached.wait(100)
    until(lambda: len(list((out / "parts" / "0000").glob("*.parquet"))) >= 3, "other chunks end")
    sending, code = KILLS[kill]
    sending(process.pid)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    wait_until_gone(process.pid, seconds=150)  # killed, Ray's own take a minute to notice
    go_on.set()
    code, _, stderr = finished("local", listed, out, tmp_path)
    assert code == 0 and "going on in" in stderr
    assert contents(out) == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_java_starts_leaves_none(
    number: signal.Signals, listed: Path, tmp_path: Path
) -> None:
    process = started("spark", listed, tmp_path / "dataset", tmp_path)

    def java_is_there() -> bool:
        with suppress(OSError):  # one that is gone meanwhile
            commands = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in living(process.pid)]
            return any(b"/java\0" in command and b".SparkSubmit\0" in command for command in commands)
        return False

    until(java_is_there, "Java starts")
    os.kill(process.pid, number)
    _, stderr = process.communicate(timeout=100)
    assert process.returncode == 128 + number, stderr
    wait_until_gone(process.pid)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_dies_as_a_whole_is_told(
    engine: str, server: Server, listed: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    reached, go_on = halted(server)
    process = started(engine, listed, tmp_path / "dataset", tmp_path)
    assert reached.wait(100)
    for pid in living(process.pid):
        if Path(f"/proc/{pid}/comm").read_text().strip() == OWN_PROCESS[engine]:
            os.kill(pid, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=200)
    assert (process.returncode, stdout) == (1, "")
    assert_told(stderr, f"--engine {engine}:", "is gone")
    wait_until_gone(process.pid)
    go_on.set()
    code, _, stderr = finished("local", listed, tmp_path / "dataset", tmp_path)
    assert code == 0, stderr
    assert contents(tmp_path / "dataset") == expected


def test_tasks_that_ray_kills_for_their_memory_are_told(listed: Path, tmp_path: Path) -> None:
    full = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "50"}
    code, stdout, stderr = finished("ray", listed, tmp_path / "dataset", tmp_path, **full)
    assert (code, stdout) == (1, "")
    assert_told(stderr, "workers died on 3 chunks one after the other", "running low on memory")
