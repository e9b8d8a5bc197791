"""Lists behind addresses: a real S3 server and a web server, both on loopback, beside the same files here."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import pytest

from clipkit.errors import DatasetError, SourceError, StorageError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.sources import Source
from clipkit.ingest.table_files import table_files
from clipkit.ingest.yfcc import yfcc
from clipkit.locations import location
from tests.datasets import contents
from tests.ingest.test_table_files import PAIRS, WRITERS
from tests.ingest.test_yfcc import subset_line, write_sqlite, write_subset, write_text
from tests.object_store import BUCKET, ObjectStore
from tests.serving import Server, Web, answer, encoded, photo

Open = Callable[[Sequence[Path]], Source]
LINES = list(range(20))


def _cc(folder: Path) -> list[Path]:
    first = folder / "train_a.tsv"
    first.write_text("a cat\thttp://h/1\na dog\thttp://h/2\nragged\n")
    second = folder / "train_b.tsv.gz"
    second.write_bytes(gzip.compress(b"http://h/3\ta cow\nhttp://h/4\ta hen\n"))
    return [first, second]


def _table(ending: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        path = folder / f"list.{ending}"
        path.write_bytes(WRITERS[ending](PAIRS))
        return [path]

    return write


def _yfcc(name: str) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        subset = write_subset(folder / "subset.tsv", [subset_line(line) for line in (7, 3, 3, 12)])
        write_metadata = write_sqlite if name.endswith(".sql") else write_text
        return [subset, write_metadata(folder / name, LINES)]

    return write


KINDS: dict[str, tuple[Callable[[Path], list[Path]], Open]] = {
    "cc": (_cc, conceptual_captions),
    **{ending: (_table(ending), lambda paths: table_files(paths)) for ending in WRITERS},
    **{
        name: (_yfcc(name), lambda paths: yfcc(paths[0], paths[1]))
        for name in ("yfcc100m_dataset", "yfcc100m_dataset.bz2", "yfcc100m_dataset.sql")
    },
}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


def in_bucket(store: ObjectStore, name: str, content: bytes) -> Path:
    store.fs.pipe_file(f"{BUCKET}/{name}", content)
    return location(f"s3://{BUCKET}/{name}")


@pytest.fixture
def web(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    with Web(here).running() as web:
        yield web


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_in_a_bucket_is_read_as_one_of_this_machine(
    kind: str, store: ObjectStore, here: Path, tmp_path: Path
) -> None:
    write, opened = KINDS[kind]
    files = write(here)
    there = [in_bucket(store, f"{tmp_path.name}/{file.name}", file.read_bytes()) for file in files]
    local, remote = opened(files), opened(there)
    assert list(remote) == list(local) == list(remote) and local.records == remote.records == len(list(local))
    assert (remote.files, remote.reading, remote.kept) == (local.files, local.reading, local.kept)
    assert remote.stem == local.stem
    gets = [path for method, path in store.requests if method == "GET" and tmp_path.name in path]
    assert len(gets) == len(files), "each is fetched once, however often it is read"


@pytest.mark.parametrize("fault", ["busy", "short"])
def test_a_list_of_a_web_server_is_asked_for_again_and_read(fault: str, web: Web, here: Path) -> None:
    (path,) = _table("csv.gz")(here)
    getattr(web, fault)["/list.csv.gz"] = 1
    remote = table_files([location(f"{web.address}/list.csv.gz")])
    assert list(remote) == list(table_files([path])) and web.got["/list.csv.gz"] >= 2


def test_a_list_that_a_server_would_pack_on_its_way_is_sent_as_it_is(server: Server, here: Path) -> None:
    (path,) = _table("csv.gz")(here)
    stored = path.read_bytes()
    plain, packed = answer(stored), answer(gzip.compress(stored), headers={"Content-Encoding": "gzip"})

    def route(request: BaseHTTPRequestHandler) -> None:
        (packed if "gzip" in request.headers.get("Accept-Encoding", "") else plain)(request)

    remote = table_files([location(server.add("/list.csv.gz", route))])
    assert list(remote) == list(table_files([path]))


def test_a_list_without_a_version_is_fetched_once_by_each_command(server: Server, here: Path) -> None:
    (path,) = _table("csv")(here)
    address = location(server.add("/list.csv", answer(path.read_bytes())))
    for count in (1, 2):
        remote = table_files([address])
        assert list(remote) == list(table_files([path])) == list(remote)
        assert server.hits["/list.csv"] == 2 * count, "once to ask for its size, as HEAD is refused"


def test_a_long_name_of_long_characters_is_one(store: ObjectStore, tmp_path: Path) -> None:
    name = "\N{GRINNING FACE}" * 75 + ".csv"
    source = table_files([in_bucket(store, f"{tmp_path.name}/{name}", WRITERS["csv"](PAIRS))])
    assert source.records == len(list(source)) == 3 and source.files[0].name == name


def test_a_signature_is_no_part_of_the_name(web: Web, here: Path) -> None:
    (path,) = _table("csv.gz")(here)
    signed = [location(f"{web.address}/list.csv.gz?X-Amz-Signature={sign}/1.0") for sign in "ab"]
    sources = [table_files([one]) for one in signed]
    assert [source.files for source in sources] == [table_files([path]).files] * 2
    assert list(sources[0]) == list(table_files([path]))
    with pytest.raises(SourceError, match="found some alike"):
        table_files(signed)


def test_a_password_is_no_part_of_the_name(web: Web, here: Path) -> None:
    _table("csv.gz")(here)
    (here / "more").mkdir()
    _table("csv.gz")(here / "more")
    server = web.address.removeprefix("http://")
    source = table_files([location(f"http://me:secret@{server}{name}/list.csv.gz") for name in ("", "/more")])
    assert [file.name for file in source.files] == [f"{server}/list.csv.gz", "more/list.csv.gz"]


def test_a_folder_in_a_bucket_stands_for_its_tables(store: ObjectStore, tmp_path: Path) -> None:
    for number, ending in enumerate(WRITERS):
        in_bucket(store, f"{tmp_path.name}/{number}.{ending}", WRITERS[ending](PAIRS))
    in_bucket(store, f"{tmp_path.name}/README.md", b"no table")
    source = table_files([location(f"s3://{BUCKET}/{tmp_path.name}/")])
    assert [file.name for file in source.files] == [f"{at}.{ending}" for at, ending in enumerate(WRITERS)]
    assert source.records == len(WRITERS) * 3 == len(list(source))


def test_a_whole_command_makes_the_same_bytes_and_goes_on(
    store: ObjectStore, server: Server, here: Path, tmp_path: Path
) -> None:
    urls = [server.add(f"/{seed}.jpg", answer(encoded(photo(40, 50, seed)))) for seed in range(30)]
    path = here / "cc.tsv"
    path.write_text("".join(f"picture {url[-6:]}\t{url}\n" for url in urls))
    there = in_bucket(store, f"{tmp_path.name}/cc.tsv", path.read_bytes())
    ingest(path, tmp_path / "local")
    assert ingest(there, tmp_path / "remote", "--limit", "10")["samples"] == 10
    store.requests.clear()
    assert ingest(there, tmp_path / "remote", "--limit", "30")["samples"] == 30
    assert not [path for method, path in store.requests if method == "GET" and path.endswith(".tsv")]
    ingest(path, tmp_path / "local2", "--limit", "10")
    ingest(path, tmp_path / "local2", "--limit", "30")
    assert contents(tmp_path / "remote") == contents(tmp_path / "local2")
    changed = path.read_bytes().replace(b"picture", b"another")
    in_bucket(store, f"{tmp_path.name}/cc.tsv", changed)
    before = contents(tmp_path / "remote")
    assert "cc.tsv" in refused(there, tmp_path / "remote", "--limit", "30")
    assert contents(tmp_path / "remote") == before


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("absent.tsv", "found no such file"),
        ("", "found a folder"),
        ("empty.tsv", "found an empty file"),
    ],
)
def test_what_is_no_list_is_told(place: str, found: str, store: ObjectStore, tmp_path: Path) -> None:
    in_bucket(store, f"{tmp_path.name}/empty.tsv", b"")
    address = f"s3://{BUCKET}/{tmp_path.name}/{place}".rstrip("/")
    line = refused(location(address), tmp_path / "out")
    assert address in line and found in line and not (tmp_path / "out").exists()


def test_refusals_and_absent_buckets_are_told(store: ObjectStore, tmp_path: Path) -> None:
    path = in_bucket(store, f"{tmp_path.name}/list.csv", b"url,caption\nhttp://h/1,a\n")
    assert "s3://absent/list.csv" in refused(location("s3://absent/list.csv"), tmp_path / "out")
    store.fault = lambda method, path: "403" if path.endswith("list.csv") else None
    assert "not now, not you" in refused(path, tmp_path / "out") or "403" in refused(path, tmp_path / "out")


def test_a_server_that_tells_no_size_is_told(here: Path) -> None:
    _cc(here)
    with (
        Web(here, sizeless=True).running() as web,
        pytest.raises(SourceError, match="does not tell its size; download it first"),
    ):
        conceptual_captions([location(f"{web.address}/train_a.tsv")])


def test_a_list_larger_than_the_cache_is_told(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_bucket(store, f"{tmp_path.name}/list.csv", WRITERS["csv"](PAIRS))
    monkeypatch.setenv("CLIPKIT_CACHE_BYTES", "10")
    with pytest.raises(StorageError, match="CLIPKIT_CACHE_BYTES"):
        table_files([path])


def test_a_list_that_has_left_the_cache_is_had_again_but_no_other_one(
    store: ObjectStore, tmp_path: Path
) -> None:
    content = WRITERS["csv"](PAIRS)
    source = table_files([in_bucket(store, f"{tmp_path.name}/list.csv", content)])
    rows = list(source)
    _empty(tmp_path / "cache")
    assert list(source) == rows
    _empty(tmp_path / "cache")
    in_bucket(store, f"{tmp_path.name}/list.csv", content.replace(b"//h/1", b"//h/7"))
    with pytest.raises(DatasetError, match=r"expected .* bytes of SHA-256"):
        list(source)


def _empty(cache: Path) -> None:
    copies = [path for path in (cache / "files").iterdir() if path.name[0] != "."]
    assert copies
    for path in copies:
        path.unlink()


def command(path: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    settings = ("--out", str(out), "--image-size", "32", "--workers", "1", "--allow-private-hosts", "--json")
    words = [sys.executable, "-m", "clipkit", "ingest", "cc", str(path), *settings, *options]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def ingest(path: Path, out: Path, *options: str) -> dict[str, Any]:
    done = command(path, out, *options)
    assert done.returncode == 0, done.stderr
    return cast("dict[str, Any]", json.loads(done.stdout))


def refused(path: Path, out: Path, *options: str) -> str:
    done = command(path, out, *options)
    assert done.returncode == 1 and done.stdout == "" and "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines()[-1]
