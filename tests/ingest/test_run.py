"""Whole ingests: hundreds of URLs, good and bad, over many chunks; repeated, killed, and continued."""

import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset as wds

from clipkit.errors import DatasetError, SourceError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.result import IngestResult
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files
from clipkit.progress import Progress
from clipkit.shards.dataset import read_dataset
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.summary import summarize
from tests.datasets import contents
from tests.processes import living, until, wait_until_gone
from tests.serving import Present, Route, Server, answer, encoded, kill_workers, photo, raw

RECORDS = 1400
CONFIG = IngestConfig(
    allow_private_hosts=True, image_size=32, workers=2, chunk_rows=100, backoff=0.01, retries=1, timeout=30
)
FAILURES: dict[int, tuple[str, Callable[[bytes], Route]]] = {
    # row modulo 20 → reason, answer
    3: ("http_4xx", lambda picture: answer(b"gone", 404)),
    6: ("not_an_image", lambda picture: answer(b"<html>sorry</html>")),
    9: ("broken_image", lambda picture: answer(picture[: len(picture) // 2])),
    12: ("opted_out", lambda picture: answer(picture, 200, {"X-Robots-Tag": "noai"})),
    15: ("truncated", lambda picture: raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", picture)),
}
ELSEWHERE = {
    # row → record, reason
    17: ("a record without a URL", "bad_row"),
    117: ("local\tfile:///etc/passwd", "scheme"),
    217: ("nobody\thttp://127.0.0.1:9/", "connect"),
    317: ("\udcff\udcfe\thttp://[/", "bad_url"),
}


@pytest.fixture
def listed(server: Server, tmp_path: Path) -> Path:
    """A list of RECORDS records; the server answers each as the tables above say."""
    pictures = [encoded(photo(40 + seed, 50, seed)) for seed in range(40)]
    lines = []
    for row in range(RECORDS):
        picture = pictures[row % 40]
        _, route = FAILURES.get(row % 20, ("", answer))
        url = server.add(f"/{row}.jpg", route(picture))
        lines.append(ELSEWHERE[row][0] if row in ELSEWHERE else f"picture «{row}»\t{url}")
    path = tmp_path / "list.tsv"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    return path


def expected_reasons() -> Counter[str]:
    reasons = Counter(FAILURES[row % 20][0] for row in range(RECORDS) if row % 20 in FAILURES)
    return reasons + Counter(reason for _, reason in ELSEWHERE.values())


def run(path: Path, out: Path, **settings: object) -> IngestResult:
    return ingest(conceptual_captions([path]), out, CONFIG.model_copy(update=settings))


def test_every_record_is_a_sample_or_a_failure(listed: Path, server: Server, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    result = run(listed, out)
    reasons = expected_reasons()
    assert result.failures == reasons
    assert (result.records, result.samples) == (RECORDS, RECORDS - reasons.total())
    assert (result.shards, result.fetched, result.was_complete) == (2, RECORDS, False)
    assert "complete" not in result.lines()
    assert {path.name for path in out.iterdir()} == {
        "000000.tar", "000000.parquet", "000001.tar", "000001.parquet", "failures", "index.parquet",
        "dataset.json", "sizes.json", "report.html",
    }  # fmt: skip

    manifests = [pq.read_table(out / f"{shard:06d}.parquet").to_pylist() for shard in (0, 1)]
    assert len(manifests[0]) == 1000
    failures = pq.read_table(out / "failures").to_pylist()
    rows = [row["source_row"] for row in (*manifests[0], *manifests[1], *failures)]
    assert sorted(rows) == list(range(RECORDS))
    samples = [*manifests[0], *manifests[1]]
    assert [row["source_row"] for row in samples] == sorted(row["source_row"] for row in samples)
    assert all(row["caption"] == f"picture «{row['source_row']}»" for row in samples)
    by_row = {row["source_row"]: row for row in failures}
    assert {row: by_row[row]["reason"] for row in ELSEWHERE} == {
        row: why for row, (_, why) in ELSEWHERE.items()
    }
    assert by_row[317]["caption"] == "\ufffd\ufffd"
    assert (by_row[3]["http_status"], by_row[3]["attempts"], by_row[3]["retryable"]) == (404, 1, False)
    assert (by_row[15]["attempts"], by_row[15]["retryable"]) == (2, True)


def test_other_readers_see_the_same_samples(listed: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    run(listed, out)
    ours = ShardSet(out)
    tars = [str(path) for path in sorted(out.glob("*.tar"))]
    with warnings.catch_warnings(action="ignore"):  # it leaves closing its files to the garbage collector
        theirs = list(wds.WebDataset(tars, shardshuffle=False))
        gc.collect()
    assert len(theirs) == len(ours) > 1000
    for number in (0, 999, 1000, len(ours) - 1):
        sample = ours.read(*divmod(number, 1000))
        other = theirs[number]
        assert (other["__key__"], other["jpg"], other["txt"].decode()) == (
            sample.key,
            sample.image,
            sample.caption,
        )


def test_the_same_answers_give_the_same_bytes(listed: Path, tmp_path: Path) -> None:
    run(listed, tmp_path / "two")
    run(listed, tmp_path / "one", workers=1, connections=1)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_complete_dataset_is_left_alone(listed: Path, server: Server, tmp_path: Path) -> None:
    first = run(listed, tmp_path / "dataset", limit=150)
    before = contents(tmp_path / "dataset")
    hits = server.hits.copy()
    again = run(listed, tmp_path / "dataset", limit=150)
    assert again.was_complete
    assert again._replace(was_complete=False, seconds=0) == first._replace(seconds=0, fetched=0, bytes=0)
    assert "complete already" in again.lines()
    assert (contents(tmp_path / "dataset"), server.hits) == (before, hits)
    assert first.records == 150


def test_other_settings_are_refused(listed: Path, tmp_path: Path) -> None:
    run(listed, tmp_path / "dataset", limit=100)
    with pytest.raises(DatasetError, match="image_size was 32, now 64"):
        run(listed, tmp_path / "dataset", limit=100, image_size=64)
    with pytest.raises(DatasetError, match="ignore_robots_tag was None, now True"):
        run(listed, tmp_path / "dataset", limit=100, ignore_robots_tag=True)
    listed.write_bytes(listed.read_bytes() + b"\none more\thttp://127.0.0.1/")
    with pytest.raises(DatasetError, match=r"sha256 of list\.tsv was '\w+', now '\w+'"):
        run(listed, tmp_path / "dataset", limit=100)
    assert "opted_out" not in run(listed, tmp_path / "taken", limit=100, ignore_robots_tag=True).failures


def test_a_list_without_one_good_url_ends_well(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(f"gone\t{server.url('/missing')}\n" * 3)
    with pytest.raises(DatasetError, match=r"none of 3 URLs .*, 3 of them ended as http_4xx \(HTTP 404\); "):
        run(path, tmp_path / "dataset")
    summary = summarize(tmp_path / "dataset")
    assert (summary.records, summary.samples, summary.shards) == (3, 0, 0)
    assert summary.reasons == {"http_4xx": 3} and summary.finished


def test_a_list_of_nothing_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("url\tcaption\n")
    with pytest.raises(SourceError, match=r"list\.tsv: expected records to make samples of, found none"):
        ingest(table_files([path]), tmp_path / "dataset", CONFIG)
    assert [each.name for each in tmp_path.iterdir()] == ["list.tsv"]


def test_urls_that_kill_their_workers_are_kept_and_told(server: Server, tmp_path: Path) -> None:
    good, deadly = server.add("/good", answer(encoded(photo()))), server.add("/deadly", kill_workers)
    path = tmp_path / "list.tsv"
    path.write_text("".join(f"x\t{deadly if row == 7 else good}\n" for row in range(15)))
    with pytest.raises(DatasetError, match="complete but for 5 URLs"):
        run(path, tmp_path / "dataset", workers=1, chunk_rows=5)
    with pytest.raises(DatasetError, match="complete but for 5 URLs"):
        run(path, tmp_path / "dataset", workers=1, chunk_rows=5)
    summary = summarize(tmp_path / "dataset")
    assert (summary.samples, summary.reasons) == (10, {"worker_crashed": 5})


def test_a_list_that_changes_while_it_is_read_is_told(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text(f"x\t{server.url('/missing')}\n" * 30)
    source = conceptual_captions([path])
    path.write_text(f"x\t{server.url('/missing')}\n" * 20)
    with pytest.raises(SourceError, match="30 records at first, then 20"):
        ingest(source, tmp_path / "dataset", CONFIG)
    assert not read_dataset(tmp_path / "dataset").complete


def test_a_host_that_limits_the_speed_is_named_once(server: Server, tmp_path: Path) -> None:
    said: list[str] = []
    told = threading.Event()

    class Recorder(Progress):
        def say(self, line: str) -> None:
            if "--per-host" in line:
                said.append(line)
                told.set()

    def patient(request: BaseHTTPRequestHandler) -> None:
        if server.hits.total() > 2:  # a host that has not answered yet would not with more connections
            told.wait(30)
        answer(encoded(photo(40, 40)))(request)

    path = tmp_path / "list.tsv"
    path.write_text("".join(f"x\t{server.add(f'/{number}', patient)}\n" for number in range(12)))
    config = CONFIG.model_copy(update={"per_host": 2, "connections": 4, "chunk_rows": 6})
    ingest(conceptual_captions([path]), tmp_path / "dataset", config, progress=Recorder)
    (line,) = said
    assert line.startswith(
        "ingest: URLs of 127.0.0.1 wait, as it gets no more than 2 connections, while others are"
    )


def test_a_host_gets_no_more_than_its_connections_of_all_workers(server: Server, tmp_path: Path) -> None:
    present, both_are_at_work = Present(), threading.Event()

    def route(request: BaseHTTPRequestHandler) -> None:
        with present:
            if present.now > 3:  # more than one worker's share
                both_are_at_work.set()
            both_are_at_work.wait(30)
            server.stopping.wait(0.1)
        answer(encoded(photo(40, 40)))(request)

    path = tmp_path / "list.tsv"
    path.write_text("".join(f"x\t{server.add(f'/{number}', route)}\n" for number in range(60)))
    assert run(path, tmp_path / "dataset", workers=2, per_host=6, chunk_rows=10).samples == 60
    assert 3 < present.most <= 6


PROGRAM = """
import sys
from pathlib import Path
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.run import ingest
from clipkit.ingest.conceptual_captions import conceptual_captions
config = IngestConfig.model_validate_json(sys.argv[3])
ingest(conceptual_captions([Path(sys.argv[1])]), Path(sys.argv[2]), config)
"""


def started(path: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [*(sys.executable, "-X", "faulthandler", "-c", PROGRAM), str(path), str(out)]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen([*command, CONFIG.model_dump_json()], start_new_session=True, stderr=log)


def ended(process: subprocess.Popen[bytes], out: Path) -> int:
    """Its exit code; of one that hangs, where it does."""
    try:
        return process.wait(60)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait()
        raise AssertionError(out.with_suffix(".log").read_text()) from None


def complete_chunks(out: Path) -> list[int]:
    return [int(path.stem) for path in (out / "parts" / "0000").glob("*.parquet")]


def halted(server: Server) -> tuple[threading.Event, threading.Event]:
    """Halt at a URL in chunk 10: set the first event when it is asked for, answer when the second is set."""
    reached, go_on = threading.Event(), threading.Event()
    usual = server.routes["/1050.jpg"]

    def halting(request: BaseHTTPRequestHandler) -> None:
        reached.set()
        go_on.wait(60)
        usual(request)

    server.add("/1050.jpg", halting)
    return reached, go_on


KILLS: dict[str, Callable[[int], None]] = {
    "everything at once": lambda pid: os.killpg(pid, signal.SIGKILL),
    "the parent alone": lambda pid: os.kill(pid, signal.SIGKILL),
    "Ctrl-C": lambda pid: os.killpg(pid, signal.SIGINT),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "everything at once")) for name in KILLS]
)
def test_a_killed_ingest_goes_on(name: str, listed: Path, server: Server, tmp_path: Path) -> None:
    reached, go_on = halted(server)
    process = started(listed, tmp_path / "killed")
    assert reached.wait(60)
    until(
        lambda: len(complete_chunks(tmp_path / "killed")) >= 3, "chunks before and after the halted one end"
    )
    KILLS[name](process.pid)
    assert ended(process, tmp_path / "killed") != 0
    wait_until_gone(process.pid)
    go_on.set()

    complete = complete_chunks(tmp_path / "killed")
    run(listed, tmp_path / "killed")
    good = [f"/{row}.jpg" for chunk in complete for row in range(100 * chunk + 20, 100 * chunk + 80, 20)]
    assert all(server.hits[path] == 1 for path in good), "done work was done again"
    run(listed, tmp_path / "unbroken")
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken")


def test_the_workers_leave_ctrl_c_to_the_parent(listed: Path, server: Server, tmp_path: Path) -> None:
    reached, go_on = halted(server)
    process = started(listed, tmp_path / "dataset")
    assert reached.wait(60)
    for worker in set(living(process.pid)) - {process.pid}:
        os.kill(worker, signal.SIGINT)
    go_on.set()
    assert ended(process, tmp_path / "dataset") == 0
    assert server.hits["/1050.jpg"] == 1


@pytest.mark.slow
def test_ingests_killed_at_random_moments_end_in_the_same_bytes(listed: Path, tmp_path: Path) -> None:
    begun = time.monotonic()
    run(listed, tmp_path / "unbroken")
    whole = time.monotonic() - begun
    moments = random.Random(0)
    kills = attempts = 0
    while kills < 25:
        killed = tmp_path / f"killed{attempts}"
        attempts += 1
        finished = False
        patience = whole
        while not finished:
            process = started(listed, killed)
            try:
                assert process.wait(patience * moments.uniform(0.2, 1.4)) == 0
                finished = True
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                patience *= 1.2  # the machine may have more to do now than when the unbroken one ran
            wait_until_gone(process.pid)
        assert contents(killed) == contents(tmp_path / "unbroken")
    assert attempts > 1, "every run was killed before it could do anything"
