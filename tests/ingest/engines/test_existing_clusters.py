"""Clusters that are there already, with nodes of their own on this machine: used, left alone, lost, unfit."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from importlib.util import find_spec
from pathlib import Path

import pytest

from clipkit.shards.dataset import is_unfinished
from tests.datasets import contents
from tests.ingest.engines.commands import CLIPKIT, assert_told, finished, make_list
from tests.processes import client_of, living, until, wait_until_gone
from tests.serving import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RECORDS = 3900


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Cluster:
    """A head without a CPU, and nodes: each a session of processes of its own."""

    engine: str
    folder: Path
    environment: dict[str, str]
    head: tuple[list[str], str]  # the command, and what it says when it is ready
    node: tuple[list[str], str]
    sessions: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start_head(self) -> int:
        return self._start(*self.head)

    def start_node(self, *prefix: str, **environment: str) -> int:
        """Start a node by the words of `prefix`, if any; return its session when it has joined."""
        command, ready = self.node
        return self._start([*prefix, *command], ready, **environment)

    def _start(self, command: list[str], ready: str, **environment: str) -> int:
        log = self.folder / "log"
        with log.open("wb") as stream:
            started = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
                env=os.environ | self.environment | environment,
            )
        self.sessions[started.pid] = started
        until(lambda: ready in log.read_text() or started.poll() is not None, "it has started")
        assert started.poll() is None, log.read_text()
        return started.pid

    def kill(self, session: int) -> None:
        for pid in living(session):
            os.kill(pid, signal.SIGKILL)
        self.sessions[session].wait(60)
        wait_until_gone(session)

    def run(self, path: Path, out: Path, cwd: Path, clipkit: Sequence[str] = CLIPKIT) -> tuple[int, str, str]:
        return finished(self.engine, path, out, cwd, clipkit, **self.environment)


def _ray(folder: Path) -> Cluster:
    at = f"127.0.0.1:{free_port()}"
    environment = {"RAY_ADDRESS": at, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment["RAY_USAGE_STATS_ENABLED"] = "0"
    start = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1"]
    head = [*start, "--head", f"--port={at.partition(':')[2]}", "--num-cpus=0", "--include-dashboard=false"]
    node = [*start, f"--address={at}", "--num-cpus=1"]
    ready = "This command will now block"
    return Cluster("ray", folder, environment, (head, ready), (node, ready))


def _spark(folder: Path) -> Cluster:
    spec = find_spec("pyspark")
    assert spec and spec.origin
    run = str(Path(spec.origin).parent / "bin" / "spark-class")
    here = ["--host", "127.0.0.1", "--webui-port", "0"]
    port = str(free_port())
    environment = {"MASTER": f"spark://127.0.0.1:{port}", "SPARK_LOCAL_IP": "127.0.0.1"}
    master = [run, "org.apache.spark.deploy.master.Master", *here, "--port", port]
    worker = [run, "org.apache.spark.deploy.worker.Worker", *here, "--cores", "1", "--memory", "1g"]
    worker += ["--work-dir", str(folder / "work"), environment["MASTER"]]
    ready = "Successfully registered with master"
    return Cluster("spark", folder, environment, (master, "elected leader"), (worker, ready))


MAKERS: dict[str, Callable[[Path], Cluster]] = {"ray": _ray, "spark": _spark}


@pytest.fixture(scope="module", params=MAKERS)
def headed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = MAKERS[request.param](tmp_path_factory.mktemp("cluster"))
    head = cluster.start_head()
    yield cluster
    cluster.kill(head)


@pytest.fixture
def cluster(headed: Cluster) -> Iterator[Cluster]:
    """A cluster whose nodes the test starts."""
    head, *_ = headed.sessions
    yield headed
    assert living(head), "it is left running"
    for node in [session for session in headed.sessions if session != head]:
        headed.kill(node)
        del headed.sessions[node]


@pytest.fixture
def listed(server: Server, tmp_path: Path) -> Path:
    return make_list(server, tmp_path, RECORDS)


def test_a_cluster_is_used_and_left_running_and_a_lost_node_s_chunks_are_made_elsewhere(
    cluster: Cluster, server: Server, listed: Path, tmp_path: Path
) -> None:
    code, _, stderr = finished("local", listed, tmp_path / "local", tmp_path)
    assert code == 0, stderr
    nodes = {cluster.start_node(), cluster.start_node()}
    code, _, stderr = cluster.run(listed, tmp_path / "dataset", tmp_path)
    assert code == 0, stderr
    assert contents(tmp_path / "dataset") == contents(tmp_path / "local")
    assert all(living(node) for node in nodes)

    usual, lost = server.routes["/1500.jpg"], set[int]()

    def losing(request: BaseHTTPRequestHandler) -> None:
        if lost:
            usual(request)
            return
        lost.add(os.getsid(client_of(request)))
        cluster.kill(*lost)

    server.add("/1500.jpg", losing)
    code, _, stderr = cluster.run(listed, tmp_path / "again", tmp_path)
    assert code == 0, stderr
    assert contents(tmp_path / "again") == contents(tmp_path / "local")
    assert lost < nodes, "of two nodes one was lost"


def test_nodes_that_do_not_share_the_directory_are_told(
    cluster: Cluster, listed: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    hiding = ("unshare", "-m", "sh", "-c", f'mount -t tmpfs none {shared} && exec "$@"', "sh")
    if subprocess.run([*hiding, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a node with a file system of its own cannot be made here")
    cluster.start_node(*hiding)
    code, stdout, stderr = cluster.run(listed, shared / "dataset", tmp_path)
    assert (code, stdout) == (1, "")
    assert_told(stderr, "expected a directory that all nodes of the cluster share")
    left = {str(path.relative_to(shared / "dataset")) for path in (shared / "dataset").rglob("*")}
    assert left == {"dataset.json", "parts", "parts/0000"}
    assert is_unfinished(shared / "dataset")


def test_nodes_without_clipkit_are_told(cluster: Cluster, listed: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "without"
    hidden.mkdir()
    (hidden / "clipkit.py").write_text("raise ModuleNotFoundError('clipkit is not installed here')")
    cluster.start_node(PYTHONPATH=str(hidden))
    code, stdout, stderr = cluster.run(listed, tmp_path / "dataset", tmp_path)
    assert (code, stdout) == (1, "")
    assert_told(
        stderr, f"--engine {cluster.engine}: expected nodes with clipkit", "clipkit is not installed here"
    )
    assert is_unfinished(tmp_path / "dataset") and not (tmp_path / "dataset" / "failures").exists()


IMPATIENT = """
from clipkit.cli import main
from clipkit.ingest.engines import cluster
cluster.PATIENCE_SECONDS = 6.0
main()
"""


def test_a_cluster_without_nodes_is_told(cluster: Cluster, listed: Path, tmp_path: Path) -> None:
    impatient = (sys.executable, "-c", IMPATIENT)
    code, stdout, stderr = cluster.run(listed, tmp_path / "dataset", tmp_path, impatient)
    assert (code, stdout) == (1, "")
    assert_told(stderr, "expected nodes to run on, found none")
    assert is_unfinished(tmp_path / "dataset")
