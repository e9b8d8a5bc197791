"""One whole ingest, as a user runs it, of a server that does everything a server should not."""

import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.shards.schemas import REASONS
from tests.chromium import chromium
from tests.ingest.hostile import MISDEEDS, PICTURE, RETRIES, TIMEOUT, limited_once
from tests.serving import Server, answer

DEADLINE = 8
WORKER_BYTES = 500_000_000
MARKUP = "<img src=x onerror=\"window.ran = 'a caption'\"><script>window.ran = 1</script>"
CAPTIONS = {
    # as it stands in the list → as it must stand in the dataset
    ("å" * 100_000).encode(): "å" * 100_000,
    b"nul \0 bell \a escape \x1b[31m": "nul \0 bell \a escape \x1b[31m",
    "\u202e right to left שלום \u202c".encode(): "\u202e right to left שלום \u202c",
    b"lone \xed\xa0\x80 and \xed\xbf\xbf": "lone \ufffd\ufffd\ufffd and \ufffd\ufffd\ufffd",
    b"cut off \xf0\x9f\x98": "cut off \ufffd",
    b"no UTF-8 \xff\xfe": "no UTF-8 \ufffd\ufffd",
    b"": "",
    b"  blanks\rand returns \r": "  blanks\rand returns \r",
    "e\u0301\u0301 👩\u200d👧 \U0010ffff".encode(): "e\u0301\u0301 👩\u200d👧 \U0010ffff",
    MARKUP.encode(): MARKUP,
}
UNREQUESTED = {
    # record of the list → reason, attempts
    b"link-local\thttp://169.254.169.254/latest/meta-data/": ("address", 1),
    b"link-local in disguise\thttp://[::ffff:a9fe:a9fe]/": ("address", 1),
    b"multicast\thttp://224.0.0.1/": ("address", 1),
    b"local\tfile:///etc/passwd": ("scheme", 0),
    b"script\tjavascript:window.ran=1//": ("scheme", 0),
    b"nul\thttp://127.0.0.1/\0": ("bad_url", 0),
    b"surrogate\thttp://\xed\xa0\x80/": ("bad_url", 0),
    b"long\thttp://127.0.0.1/" + b"x" * 100_000: ("bad_url", 0),
    b"no URL": ("bad_row", 0),
    b"too\tmany\tcolumns": ("bad_row", 0),
    b"\xff" * 2_000_000: ("bad_row", 0),
}


class Ended(NamedTuple):
    """How the command ended, what it left, and what was asked of the servers."""

    out: Path
    result: dict[str, Any]
    errors: str
    samples: list[dict[str, Any]]
    failures: dict[int, dict[str, Any]]
    worker_bytes: int
    server: Server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server().running() as served:
        yield served


def peak_bytes(session: int, ended: threading.Event) -> int:
    """The most memory that one process of a session has had at a time, watched until it has ended."""
    most = 0
    while not ended.wait(0.05):
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rpartition(")")[2].split()[3]) == session:
                    lines = stat.with_name("status").read_text().splitlines()
                    most = max(most, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
            except (FileNotFoundError, ProcessLookupError, TypeError):
                continue  # it is gone, or is going
    return most * 1024


@pytest.fixture(scope="module")
def ended(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp("hostile")
    good = server.add("/good", answer(PICTURE))
    lines = [caption + f"\t{good}".encode() for caption in CAPTIONS]
    lines += [
        f"{name}\t{server.add(quote(f'/{name}'), each.route)}".encode() for name, each in MISDEEDS.items()
    ]
    lines += UNREQUESTED
    # Other spellings of the address are other hosts, so that only their own URLs wait.
    limited = server.add("/limited", limited_once("1")).replace("127.0.0.1", "127.1")
    limited_long = server.add("/limited-long", limited_once("3600")).replace("127.0.0.1", "127.0.1")
    lines += [f"limited\t{limited}".encode(), f"limited for long\t{limited_long}".encode()]
    (folder / "list.tsv").write_bytes(b"\n".join(lines))
    out = folder / "dataset"
    command = [sys.executable, "-m", "clipkit", "ingest", "cc", str(folder / "list.tsv"), "--out", str(out)]
    command += ["--allow-private-hosts", "--json", "--timeout", str(TIMEOUT), "--retries", str(RETRIES)]
    command += ["--deadline", str(DEADLINE), "--workers", "1"]
    watched = threading.Event()
    peak: list[int] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=dict(os.environ)
    ) as process:
        watcher = threading.Thread(target=lambda: peak.append(peak_bytes(process.pid, watched)))
        watcher.start()
        try:
            output, errors = process.communicate(timeout=60)  # it must end by itself
        finally:
            process.kill()
            watched.set()
            watcher.join()
    assert process.returncode == 0, errors.decode()
    return Ended(
        out=out,
        result=json.loads(output),
        errors=errors.decode(),
        samples=pq.read_table(out / "000000.parquet").to_pylist(),
        failures={row["source_row"]: row for row in pq.read_table(out / "failures").to_pylist()},
        worker_bytes=peak[0],
        server=server,
    )


def test_every_record_is_a_sample_or_a_failure(ended: Ended) -> None:
    records = len(CAPTIONS) + len(MISDEEDS) + len(UNREQUESTED) + 2
    assert ended.result["records"] == records
    assert ended.result["samples"] == len(CAPTIONS) + 1 == len(ended.samples)
    assert sum(ended.result["failures"].values()) == len(ended.failures) == records - len(ended.samples)
    rows = [row["source_row"] for row in ended.samples] + list(ended.failures)
    assert sorted(rows) == list(range(records))
    assert "Traceback" not in ended.errors


@pytest.mark.parametrize("name", MISDEEDS)
def test_each_misdeed_ends_in_a_row_with_its_reason(ended: Ended, name: str) -> None:
    expected = MISDEEDS[name]
    row = ended.failures[len(CAPTIONS) + list(MISDEEDS).index(name)]
    assert row["caption"] == name
    assert (row["reason"], row["http_status"], row["attempts"]) == expected[:3], row
    assert row["retryable"] == REASONS[expected.reason]
    assert row["detail"] and expected.detail in row["detail"]
    assert ended.server.hits[quote(f"/{name}")] >= expected.attempts


def test_what_is_no_url_or_may_not_be_asked_for_is_not(ended: Ended) -> None:
    first = len(CAPTIONS) + len(MISDEEDS)
    rows = [ended.failures[first + number] for number in range(len(UNREQUESTED))]
    assert [(row["reason"], row["attempts"]) for row in rows] == list(UNREQUESTED.values())
    assert all(row["detail"] and row["http_status"] is None for row in rows)


def test_a_host_that_asks_to_wait_is_asked_again_or_not_at_all(ended: Ended) -> None:
    limited, long = max(ended.failures) - 1, max(ended.failures)
    assert ended.samples[-1]["source_row"] == limited and limited not in ended.failures
    assert ended.server.hits["/limited"] == 2
    row = ended.failures[long]
    assert (row["reason"], row["http_status"], row["attempts"]) == ("rate_limited", 429, 1)
    assert ended.server.hits["/limited-long"] == 1


def test_captions_are_kept_to_the_letter(ended: Ended) -> None:
    expected = [*CAPTIONS.values(), "limited"]
    assert [row["caption"] for row in ended.samples] == expected
    with tarfile.open(ended.out / "000000.tar") as tar:
        texts = [member for member in tar.getmembers() if member.name.endswith(".txt")]
        written = [stream.read() for member in texts if (stream := tar.extractfile(member))]
    assert written == [caption.encode() for caption in expected]


@pytest.mark.slow
def test_the_report_shows_what_strangers_wrote_and_does_nothing_of_it(ended: Ended, tmp_path: Path) -> None:
    report = ended.out / "report.html"
    text = report.read_text()
    bare = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&#x27;", "'")
    (tmp_path / "bare.html").write_text(bare)
    start, end = bare.index("<meta http-equiv"), bare.index("<meta name")
    (tmp_path / "free.html").write_text(bare[:start] + bare[end:])
    with chromium(tmp_path / "profile") as page:
        for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
            page.open(report, width, 900, dark=dark)
            asked = [each["request"]["url"] for each in page.reported("Network.requestWillBeSent")]
            assert {url for url in asked if not url.startswith("data:image/jpeg;base64,")} == {
                report.as_uri()
            }
            complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
            assert page.reported(*complaints, "Network.loadingFailed") == []
            assert page.value("window.ran") is None
            assert page.value("document.documentElement.scrollWidth") <= width, "nothing is off the screen"
            words = page.value("document.body.innerText")
            for heading in ("Why URLs gave no sample", "Hosts", "Short side as", "Caption length, char"):
                assert f"\n{heading}" in words
            shown = page.value("[...document.images].filter(each => each.naturalWidth).length")
            assert shown == len(ended.samples)
            assert MARKUP in page.value("document.body.innerText").replace("\n", " ")
            page.picture(tmp_path / f"{width}{dark}.png")
        pictures = [Image.open(path) for path in sorted(tmp_path.glob("*.png"))]
        corners = [picture.convert("L").tobytes()[0] for picture in pictures]
        assert [corner > 128 for corner in corners] == [True, False, True, False], "light, and dark"
        # Were a text ever not escaped, the page's own policy would still keep it from doing anything.
        page.open(tmp_path / "bare.html", 1280, 900)
        assert page.value("window.ran") is None and page.reported("Log.entryAdded")
        page.open(tmp_path / "free.html", 1280, 900)
        assert page.value("window.ran"), "without either, it would do it"


def test_bombs_do_not_explode(ended: Ended) -> None:
    assert 0 < ended.worker_bytes < WORKER_BYTES, f"{ended.worker_bytes:,}"
