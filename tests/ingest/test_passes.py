"""Further passes over a finished dataset: more of its list, and what failed before."""

import random
import subprocess
import sys
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError, NetworkError
from clipkit.ingest.engines.engine import Crashed, Outcomes
from clipkit.ingest.engines.local import local
from clipkit.ingest.rows import Chunk, ChunkOutcome, UrlRow
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files
from clipkit.ingest.worker import PartMaker
from clipkit.progress import Progress
from clipkit.shards.dataset import read_dataset
from clipkit.shards.failure_files import write_failures
from clipkit.shards.index import Index, read_index
from clipkit.shards.parts import PartWriter
from clipkit.shards.passes import Retried
from clipkit.shards.schemas import FAILURE_SCHEMA
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.summary import summarize
from tests.datasets import contents
from tests.ingest.again import BUSY, CONFIG, LATE, RECORDS, Illness, check_accounts, run
from tests.serving import Server, answer, encoded, photo


def test_only_what_may_pass_is_tried_again(
    listed: Path, server: Server, illness: Illness, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    first = run(listed, out)
    assert first.failures == {"http_5xx": 260, "http_4xx": 130}
    assert first.retryable == 260
    assert "260: --retry-failed tries them again" in first.lines()
    sealed = {path.name: path.read_bytes() for path in out.glob("0*")}
    server.hits.clear()

    illness.level = 1
    second = run(listed, out, retry_failed=True)
    assert server.hits == {f"/{row}.jpg": 1 for row in range(RECORDS) if row % 10 in (BUSY, LATE)}
    assert second.failures == {"http_4xx": 130, "http_5xx": 130}
    assert (second.records, second.samples, second.fetched) == (RECORDS, 1040, 260)
    check_accounts(out, RECORDS, 1040)
    assert [shard.samples for shard in read_index(out).shards] == [910, 130], "appended, none changed"
    assert all((out / name).read_bytes() == content for name, content in sealed.items())
    assert "260 failures tried again" in (out / "report.html").read_text()

    illness.level = 0
    assert run(listed, out).was_complete, "without the option nothing is tried again"
    third = run(listed, out, retry_failed=True)
    assert (third.samples, third.failures) == (1170, {"http_4xx": 130})
    check_accounts(out, RECORDS, 1170)
    assert [each.records for each in read_dataset(out).passes] == [RECORDS, 260, 130]
    server.hits.clear()
    assert run(listed, out, retry_failed=True).was_complete, "nothing that may pass is left"
    assert not server.hits
    assert summarize(out).finished


def test_a_larger_limit_appends(listed: Path, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    run(listed, out, limit=150)
    check_accounts(out, 150, 105)
    first = (out / "000000.tar").read_bytes()
    server.hits.clear()
    run(listed, out, limit=400)
    assert server.hits == {f"/{row}.jpg": 1 for row in range(150, 400)}
    check_accounts(out, 400, 280)
    run(listed, out)
    check_accounts(out, RECORDS, 910)
    assert [shard.samples for shard in read_index(out).shards] == [105, 175, 630]
    assert (out / "000000.tar").read_bytes() == first
    with pytest.raises(DatasetError, match="at least the 1,300 records that it was made of, found 400"):
        run(listed, out, limit=400)


def test_an_unfinished_pass_is_finished_before_the_next(
    listed: Path, illness: Illness, tmp_path: Path
) -> None:
    def stopping(make: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
        for number, outcome in enumerate(local(make, chunks, workers, window)):
            yield outcome
            if isinstance(outcome, ChunkOutcome) and number:
                raise KeyboardInterrupt

    source = table_files([listed], keep=["twice"])
    out = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        ingest(source, out, CONFIG.model_copy(update={"limit": 500}), engine=stopping)
    with pytest.raises(DatasetError, match="at least the 500 records"):
        run(listed, out, limit=400)
    run(listed, out, retry_failed=True)
    assert [each.records for each in read_dataset(out).passes] == [500, 800, 260]
    straight = tmp_path / "straight"
    run(listed, straight, limit=500)
    run(listed, straight)
    run(listed, straight, retry_failed=True)
    assert contents(out) == contents(straight)


def crashing(make: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    for chunk in chunks:
        yield Crashed(chunk, "a test")


def test_what_was_no_url_before_a_crash_is_none_afterwards(server: Server, tmp_path: Path) -> None:
    good = server.add("/good.jpg", answer(encoded(photo())))
    path = tmp_path / "list.csv"
    path.write_text(f"url,caption\n{good},x\n{good}\n{good},y\n")
    with pytest.raises(DatasetError, match="complete but for 2 URLs"):
        ingest(table_files([path]), tmp_path / "dataset", CONFIG, engine=crashing)
    result = ingest(table_files([path]), tmp_path / "dataset", CONFIG, retry_failed=True)
    assert (result.samples, result.failures, server.hits) == (2, {"bad_row": 1}, {"/good.jpg": 2})
    unbroken = ingest(table_files([path]), tmp_path / "unbroken", CONFIG)
    assert unbroken.failures == result.failures


def test_a_pass_that_a_larger_limit_adds_is_retried_too(
    listed: Path, illness: Illness, tmp_path: Path
) -> None:
    out = tmp_path / "dataset"
    run(listed, out, limit=500)

    def stopping(make: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
        yield from ()
        raise KeyboardInterrupt

    source = table_files([listed], keep=["twice"])
    with pytest.raises(KeyboardInterrupt):
        config = CONFIG.model_copy(update={"limit": 500})
        ingest(source, out, config, engine=stopping, retry_failed=True)
    run(listed, out, retry_failed=True)
    assert [each.records for each in read_dataset(out).passes] == [500, 100, 800, 260]
    check_accounts(out, RECORDS, 910)


def test_a_retry_of_many_sources(tmp_path: Path) -> None:
    """The records to retry are told from others whatever the number of files and of batches."""
    rng = random.Random(0)
    records = sorted({(rng.randrange(400), rng.randrange(100_000)) for _ in range(150_000)})
    names, rows = zip(*((f"{source}.tar", row) for source, row in records), strict=True)
    pq.write_table(pa.table({"source": names, "source_row": rows}), tmp_path / "retried.parquet")
    retried = Retried(tmp_path)
    known = set(records)
    for _ in range(100_000):
        record = (rng.randrange(401), rng.randrange(100_100))
        assert ((f"{record[0]}.tar", record[1]) in retried) == (record in known)
    assert all((f"{source}.tar", row) in retried for source, row in records)


def test_a_retry_does_not_wait_for_the_rest_of_the_list(
    listed: Path, illness: Illness, tmp_path: Path
) -> None:
    run(listed, tmp_path / "dataset", limit=50)
    illness.level = 0
    source = table_files([listed], keep=["twice"])

    def read() -> Generator[UrlRow]:
        for row in source.read():
            assert row.source_row <= 40 + LATE, "which may be tens of gigabytes"
            yield row

    config = CONFIG.model_copy(update={"limit": 50})
    result = ingest(replace(source, read=read), tmp_path / "dataset", config, retry_failed=True)
    assert (result.records, result.failures) == (50, {"http_4xx": 5})


def test_a_retry_without_a_network_leaves_the_dataset_as_it_was(
    listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "dataset"
    run(listed, out)
    before = contents(out)
    with pytest.raises(NetworkError):
        run(listed, out, retry_failed=True, proxy="http://127.0.0.1:9")
    assert contents(out) == before
    assert read_dataset(out).complete


def test_a_writer_of_an_earlier_pass_leaves_nothing_in_a_later_one(listed: Path, tmp_path: Path) -> None:
    """As a task that a cluster took for lost, and that goes on where nobody waits for it."""
    source, out, started = table_files([listed], keep=["twice"]), tmp_path / "dataset", []
    row = {"source": "list.csv", "source_row": 0, "url": "u", "caption": "of pass 0", "ext": "jpg"}

    def lost(make: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
        started.append(PartWriter(make.parts, 0, make.kept))
        started[0].__enter__().success(row | {"twice": "0"}, b"of pass 0")
        yield from local(make, chunks, workers, window)

    ingest(source, out, CONFIG.model_copy(update={"limit": 150}), engine=lost)

    def found(make: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
        with pytest.raises(FileNotFoundError):
            started[0].__exit__(None, None, None)
        with pytest.raises(FileNotFoundError):  # nor does it begin another part
            replace(make, pass_number=0)(next(chunks))
        assert [path.name for path in (out / "parts").iterdir()] == [make.parts.name]
        assert not list(make.parts.iterdir())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(source, out, CONFIG, engine=found)
    late = out / "parts" / "0000"  # as if it had begun to write while its folder was removed
    late.mkdir()
    with PartWriter(late, 0, [pa.field("twice", pa.string())]) as part:
        part.success(row | {"twice": "0"}, b"of pass 0")
    run(listed, out)
    check_accounts(out, RECORDS, 910)


@pytest.mark.parametrize(("damage", "told"), [("cut", "of SHA-256"), ("gone", "found: no such file")])
def test_a_retry_that_cannot_read_the_failures_leaves_the_dataset_as_it_was(
    listed: Path, tmp_path: Path, damage: str, told: str
) -> None:
    out = tmp_path / "dataset"
    run(listed, out, limit=150)
    run(listed, out)
    second = out / read_index(out).failure_files[1].name
    whole = second.read_bytes()

    def damaging(title: str, total: int | None, unit: str) -> Progress:
        # They have been counted by then, and are still to be taken out of their files.
        second.write_bytes(whole[: len(whole) // 2]) if damage == "cut" else second.unlink()
        return Progress(title, total, unit)

    before = contents(out)
    with pytest.raises(DatasetError, match=rf"failures/000001\.parquet: expected a failure file, {told}"):
        ingest(table_files([listed], keep=["twice"]), out, CONFIG, retry_failed=True, progress=damaging)
    second.write_bytes(whole)
    assert contents(out) == before and not (out / "parts").exists()
    assert read_dataset(out).complete and len(ShardSet(out)) == 910
    run(listed, out, retry_failed=True)
    check_accounts(out, RECORDS, 910)


MEASURED = """
import resource, sys
from pathlib import Path
from clipkit.shards.failure_files import count_retryable
from clipkit.shards.parts import parts_folder
from clipkit.shards.passes import Retried, prepare_pass

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

before, out = peak(), Path(sys.argv[1])
count = count_retryable(out)
prepare_pass(out, 1, retry=True).write(out)
assert ("list", 2 * count - 2) in Retried(parts_folder(out, 1))
print(peak() - before)
"""


def test_what_a_retry_takes_out_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    def bytes_of(files: int, rows: int = 20_000) -> int:
        out, index = tmp_path / str(files), Index()
        for number in range(files):
            places = range(number * rows, (number + 1) * rows)
            columns = {
                "source": "list",
                "url": f"http://h/{'x' * 300}",
                "reason": "timeout",
                "detail": "late",
            }
            table = pa.table(
                {name: [value] * rows for name, value in columns.items()}
                | {"source_row": places, "caption": [f"{row} {'y' * 300}" for row in places]}
                | {"retryable": [row % 2 == 0 for row in places], "attempts": [1] * rows}
                | {"http_status": pa.nulls(rows)}
            )
            table = table.select(FAILURE_SCHEMA.names).cast(FAILURE_SCHEMA)
            index.entries.append(write_failures(out, number, table))
        index.write(out)
        command = [sys.executable, "-c", MEASURED, str(out)]
        return int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    few, many = bytes_of(2), bytes_of(20)  # 25 and 250 megabytes
    assert many - few < 40_000_000, (few, many)


def test_without_its_list_of_records_a_retry_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected the records to try again, found: no such file; restore"):
        Retried(tmp_path)
    (tmp_path / "retried.parquet").write_bytes(b"PAR1 no, it is not")
    with pytest.raises(DatasetError, match="expected the records to try again, found: "):
        Retried(tmp_path)
