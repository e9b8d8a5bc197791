"""What Ray and Spark have in common, on threads: the window, tasks that are lost, nodes that are unfit."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from clipkit.errors import EngineError, NetworkError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.engines import cluster as cluster_module
from clipkit.ingest.engines.cluster import Answer, Task, map_chunks
from clipkit.ingest.engines.engine import Crashed
from clipkit.ingest.rows import Chunk, ChunkOutcome, UrlRow
from clipkit.ingest.worker import PartMaker, Underway
from clipkit.shards.dataset import DatasetDescription, open_for_writing
from clipkit.shards.parts import complete_parts, make_parts_folder
from tests.serving import Server

CONFIG = IngestConfig(image_size=32, workers=2)


class Threads:
    """A cluster of this process's threads. `losing` raises for a chunk whose task is to be lost."""

    def __init__(self, task: Task, losing: Callable[[int], object] = lambda number: None):
        self._task = task
        self._losing = losing
        self.nodes = True
        self.submitted = Counter[int]()
        self.threads = ThreadPoolExecutor(4)

    def submit(self, chunk: Chunk) -> "Future[Answer]":
        self.submitted[chunk.number] += 1
        return self.threads.submit(self._run, chunk)

    def _run(self, chunk: Chunk) -> Answer:
        self._losing(chunk.number)
        return self._task(chunk)

    def cause(self, error: BaseException) -> str:
        return str(error)

    def has_nodes(self) -> bool:
        return self.nodes

    def stop(self, underway: "Iterable[Future[Answer]]") -> None:
        self.stopped = list(underway)


def chunks(count: int) -> Iterator[Chunk]:
    return (Chunk(number, (UrlRow("list", number, "ftp://x/", ""),)) for number in range(count))


@pytest.fixture
def make_part(tmp_path: Path) -> Iterator[PartMaker]:
    with open_for_writing(tmp_path / "dataset", DatasetDescription(sources=(), image={})) as dataset:
        make_parts_folder(dataset.directory, 0)
        yield PartMaker(dataset.directory, 0, CONFIG)


def test_every_chunk_has_its_part(make_part: PartMaker) -> None:
    outcomes = list(map_chunks(Threads(Task.of(make_part)), chunks(9), 2, 4))
    made = [each for each in outcomes if isinstance(each, ChunkOutcome)]
    expected = [ChunkOutcome(number, 0, {"scheme": 1}, 0) for number in range(9)]
    assert sorted(made, key=lambda each: each.number) == expected
    assert list(complete_parts(make_part.parts)) == list(range(9))


def test_nothing_to_do_ends_at_once(make_part: PartMaker) -> None:
    assert list(map_chunks(Threads(Task.of(make_part)), chunks(0), 1, 1)) == []


def test_as_many_tasks_as_workers_and_none_beyond_the_window(make_part: PartMaker) -> None:
    release = threading.Event()
    taken: list[int] = []

    def taking() -> Iterator[Chunk]:
        for chunk in chunks(9):
            taken.append(chunk.number)
            yield chunk

    cluster = Threads(Task.of(make_part), lambda number: number or release.wait(60))
    done = []
    with closing(map_chunks(cluster, taking(), 2, 4)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome, ChunkOutcome):
                done.append(outcome.number)
                assert cluster.submitted.total() - len(done) < 2
            if len(done) == 3:
                assert max(taken) == 4, "one is held ready, the others are not read yet"
                threading.Timer(0.5, release.set).start()  # time enough for one who looked at no window
    assert sorted(done[:3]) == [1, 2, 3] and done[3] == 0
    assert sorted(done) == list(range(9))


def test_a_lost_task_is_tried_once_more(make_part: PartMaker) -> None:
    def losing(number: int) -> None:
        if (number == 1 and cluster.submitted[1] == 1) or number == 2:
            raise ConnectionError(f"node {number} is gone")

    cluster = Threads(Task.of(make_part), losing)
    made = [each for each in map_chunks(cluster, chunks(4), 1, 9) if not isinstance(each, Underway)]
    assert [each.number for each in made if isinstance(each, ChunkOutcome)] == [0, 1, 3]
    assert made[2] == Crashed(list(chunks(3))[2], "node 2 is gone")
    assert cluster.submitted == {0: 1, 1: 2, 2: 2, 3: 1}


TRIED = (UrlRow("list", 0, "http://example.com/", ""),)


def with_proxy(make_part: PartMaker, port: int) -> PartMaker:
    return replace(make_part, config=CONFIG.model_copy(update={"proxy": f"http://127.0.0.1:{port}"}))


def test_a_node_without_a_network_marks_nothing(make_part: PartMaker) -> None:
    cluster = Threads(Task.of(with_proxy(make_part, 9)))
    with pytest.raises(NetworkError, match=r"^on \S+: expected a proxy at 127\.0\.0\.1:9, found .* refused"):
        list(map_chunks(cluster, chunks(3), 2, 9, TRIED))
    assert cluster.submitted.total() == 1
    assert not list(complete_parts(make_part.parts))


@pytest.mark.parametrize("is_lost", [False, True])
def test_the_network_is_tried_once_and_before_all_else(
    make_part: PartMaker, server: Server, is_lost: bool
) -> None:
    underway = []

    def losing(number: int) -> None:
        if number < 0:
            underway.append(cluster.submitted.total())
            if is_lost:
                raise ConnectionError("its node is gone")

    port = int(server.url("").rpartition(":")[2])
    cluster = Threads(Task.of(with_proxy(make_part, port)), losing)
    made = [each for each in map_chunks(cluster, chunks(3), 2, 9, TRIED) if isinstance(each, ChunkOutcome)]
    assert sorted(each.number for each in made) == [0, 1, 2]
    assert cluster.submitted == {-1: 1, 0: 1, 1: 1, 2: 1} and underway == [1]


def test_what_a_part_raises_is_raised_here(make_part: PartMaker) -> None:
    task = Task.of(make_part)
    make_part.parts.rmdir()
    with pytest.raises(FileNotFoundError) as raised:
        list(map_chunks(Threads(task), chunks(1), 1, 1))
    assert "make_parts" in "".join(raised.value.__notes__), "the way there is told"


@pytest.mark.parametrize("change", ["other", "none"])
def test_a_node_that_sees_another_directory_writes_nothing(make_part: PartMaker, change: str) -> None:
    task = Task.of(make_part)
    path = make_part.directory / "dataset.json"
    path.write_text("{}") if change == "other" else path.unlink()
    with pytest.raises(EngineError, match=r"dataset: expected a directory that all nodes .* share"):
        list(map_chunks(Threads(task), chunks(1), 1, 1))
    assert not list(make_part.parts.iterdir())


def test_a_relative_directory_is_the_same_one_on_every_node(
    make_part: PartMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = Task.of(PartMaker(Path("dataset"), 0, CONFIG))
    monkeypatch.chdir("/")
    assert task(next(chunks(1))) == ChunkOutcome(0, 0, {"scheme": 1}, 0)


def test_a_cluster_without_nodes_is_given_up(make_part: PartMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "PATIENCE_SECONDS", 3.0)
    release = threading.Event()
    cluster = Threads(Task.of(make_part), lambda number: release.wait(60))
    cluster.nodes = False
    with pytest.raises(EngineError, match="expected nodes to run on, found none"):
        for outcome in map_chunks(cluster, chunks(1), 1, 1):
            assert outcome == Underway(()), "a display hears that time goes on"
    release.set()
    cluster.threads.shutdown()
