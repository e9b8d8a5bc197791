"""One sample with all that is known of it, and pages of samples, whatever strangers wrote into them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.errors import DatasetError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.run import ingest
from clipkit.shards.report import gather
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.show import ShownSample, show_random, show_sample
from tests.chromium import chromium
from tests.serving import Server, answer, encoded, photo
from tests.shards.test_report import HOSTILE, POLICY, Page

RIGHT_TO_LEFT = "שלום עולם: a cat \u202eand\u202c a dog"


@pytest.fixture
def hostile(server: Server, tmp_path: Path) -> Path:
    """Captions and URLs of markup, controls, right to left, and long; pictures of several shapes."""
    captions = [caption.replace("\n", " ") for caption in (*HOSTILE, RIGHT_TO_LEFT, "猫が屋根の上にいる")]
    lines = []
    for number, caption in enumerate(captions):
        shape = (400, 300), (300, 900), (1200, 280)
        url = server.add(f"/{number}", answer(encoded(photo(*shape[number % 3], number))))
        lines.append(f"{caption}\t{url}#<script>window.ran=1</script>")
    (tmp_path / "list.tsv").write_text("\n".join(lines))
    config = IngestConfig(allow_private_hosts=True, workers=1, retries=0)
    return ingest(conceptual_captions([tmp_path / "list.tsv"]), tmp_path / "<i>set", config).out


def test_a_sample_is_its_row_and_its_bytes(small_dataset: Path, tmp_path: Path) -> None:
    shown = show_sample(small_dataset, "000001007", tmp_path / "picture.jpg")
    assert shown.shard == "000001.tar"
    assert shown.row == pq.read_table(small_dataset / "000001.parquet").slice(7, 1).to_pylist()[0]
    expected = ShardSet(small_dataset).read(1, 7)
    assert (tmp_path / "picture.jpg").read_bytes() == expected.image
    assert expected.caption in shown.lines() and "http://example.com/" in shown.lines()
    assert json.loads(json.dumps(shown.as_json()))["key"] == "000001007"
    assert show_sample(small_dataset, "1007").row == shown.row, "leading zeros may be left out"


def test_numbers_that_json_does_not_have_are_words() -> None:
    values = {"score": 0.5, "loss": float("nan"), "most": float("inf")}
    plain = ShownSample("000000.tar", values, None).as_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == {
        "shard": "000000.tar", "score": 0.5, "loss": "nan", "most": "inf", "out": None,
    }  # fmt: skip


def test_a_page_of_a_folder_whose_name_is_no_utf_8(small_dataset: Path, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    odd.mkdir()
    for path in small_dataset.iterdir():
        (odd / path.name).symlink_to(path)
    page = show_random(odd, 2, tmp_path / os.fsdecode(b"\xe9.html"), seed=0).out
    assert "<h1>caf\ufffd</h1>" in page.read_text()


@pytest.mark.parametrize("key", ["000003000", "000002500", "cat", "-1", "1" * 10, "", "٣"])
def test_a_key_that_is_none(small_dataset: Path, key: str) -> None:
    with pytest.raises(DatasetError, match="expected a key"):
        show_sample(small_dataset, key)


def test_a_file_of_another_kind_is_not_replaced(small_dataset: Path, tmp_path: Path) -> None:
    mine = tmp_path / "thesis.txt"
    mine.write_text("mine")
    for attempt in (
        lambda: show_sample(small_dataset, "5", mine),
        lambda: show_random(small_dataset, 3, mine),
        lambda: show_random(small_dataset, 3, tmp_path),
    ):
        with pytest.raises(DatasetError, match="choose another --out"):
            attempt()
    assert mine.read_text() == "mine"
    for _ in range(2):
        show_sample(small_dataset, "5", tmp_path / "a.jpg")
        show_random(small_dataset, 3, tmp_path / "a.html")


def test_a_seed_chooses_and_all_are_as_likely(small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    first = show_random(small_dataset, 40, out, seed=1)
    page = out.read_bytes()
    assert show_random(small_dataset, 40, out, seed=1).keys == first.keys and out.read_bytes() == page
    assert show_random(small_dataset, 40, out, seed=2).keys != first.keys
    assert first.keys == sorted(set(first.keys)) and len(first.keys) == 40
    assert {key[:6] for key in first.keys} == {"000000", "000001", "000002"}
    unseeded = show_random(small_dataset, 5, out)
    assert show_random(small_dataset, 5, out, unseeded.seed).keys == unseeded.keys


def test_more_than_there_are(tiny_dataset: Path, tmp_path: Path) -> None:
    shown = show_random(tiny_dataset, 1000, tmp_path / "page.html")
    assert shown.keys == [f"{number:09d}" for number in range(64)]


def test_nothing_hostile_becomes_markup(hostile: Path, tmp_path: Path) -> None:
    shown = show_random(hostile, 100, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert len(shown.keys) == page.tags.count("img") == len(HOSTILE) + 2
    assert set(page.tags) <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "p", "div", "span", "bdi", "figure",
        "img", "figcaption",
    }  # fmt: skip
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "href"]
    assert all(
        value.startswith("data:image/jpeg;base64,") for name, value in page.attributes if name == "src"
    )
    assert POLICY in page.attributes
    assert "<script>alert(1)</script>" in page.text and "#<script>window.ran=1</script>" in page.text
    assert not {"\u202e", "\0", "\a"} & set(page.text)
    assert len(page.text) < 10_000
    for number in range(len(shown.keys)):
        lines = show_sample(hostile, str(number)).lines()
        assert all(character.isprintable() for character in lines.replace("\n", ""))


def test_what_cannot_be_read_is_shown_as_that(small_dataset: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(small_dataset, tmp_path / "dataset")
    (dataset / "000001.tar").unlink()
    with (dataset / "000000.tar").open("r+b") as file:
        file.write(b"\0" * 1_000_000)
    show_random(dataset, 200, tmp_path / "page.html", seed=0)
    page = Page((tmp_path / "page.html").read_text())
    assert 0 < page.tags.count("img") < 180
    assert page.text.count("cannot be shown") == 200 - page.tags.count("img")
    with pytest.raises(DatasetError, match=r"000001\.tar: expected the shard"):
        show_sample(dataset, "000001000", tmp_path / "x.jpg")
    assert show_sample(dataset, "000001000").row["key"] == "000001000", "what is known is shown all the same"


def test_a_manifest_that_is_not_the_indexs_is_told(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    manifest = dataset / "000000.parquet"
    table = pq.read_table(manifest)
    pq.write_table(table.set_column(2, "caption", table["caption"].take(list(range(63, -1, -1)))), manifest)
    shows: list[Callable[[], object]] = [
        lambda: show_sample(dataset, "000000005"),
        lambda: show_random(dataset, 3, tmp_path / "page.html"),
        lambda: gather(dataset),
    ]
    for show in shows:
        with pytest.raises(DatasetError, match=r"000000\.parquet: expected the shard's manifest, of SHA-256"):
            show()


def test_the_command(tiny_dataset: Path, tmp_path: Path) -> None:
    def clipkit(*words: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "clipkit", "shards", "show", str(tiny_dataset), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    for words, named in (
        ([], "either a KEY or --random"),
        (["5", "--random", "3"], "either a KEY or --random"),
        (["--random", "3"], "--out"),
        (["--random", "0"], "--random"),
    ):
        finished = clipkit(*words)
        assert finished.returncode == 2 and named in finished.stderr, finished
    finished = clipkit("5", "--out", tmp_path / "a.jpg", "--json")
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["caption"] == "caption of picture number 5"
    assert len(hashlib.sha256((tmp_path / "a.jpg").read_bytes()).hexdigest()) == 64
    finished = clipkit("99")
    assert finished.returncode == 1 and finished.stderr.count("\n") == 1 and "64 samples" in finished.stderr


@pytest.mark.slow
def test_the_page_in_a_browser(hostile: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    shown = show_random(hostile, 100, out, seed=1)
    with chromium(tmp_path / "profile") as page:
        for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
            page.open(out, width, 900, dark=dark)
            asked = [each["request"]["url"] for each in page.reported("Network.requestWillBeSent")]
            assert {url for url in asked if not url.startswith("data:image/jpeg;base64,")} == {out.as_uri()}
            complaints = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
            assert page.reported(*complaints, "Network.loadingFailed") == []
            assert page.value("window.ran") is None
            assert page.value("document.documentElement.scrollWidth") <= width, "nothing is off the screen"
            drawn = page.value("[...document.images].filter(each => each.naturalWidth).length")
            assert drawn == len(shown.keys)
            assert "שלום עולם" in page.value("document.body.innerText")
            page.picture(tmp_path / f"{width}{dark}.png")
    pictures = [Image.open(path) for path in sorted(tmp_path.glob("*.png"))]
    corners = [picture.convert("L").tobytes()[0] for picture in pictures]
    assert [corner > 128 for corner in corners] == [True, False, True, False], "light, and dark"


@pytest.mark.parametrize("name", ["picture.png", "picture.html"])
def test_a_picture_gets_no_name_of_another_format(small_dataset: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"{name}: expected a name ending in \.jpg for the picture"):
        show_sample(small_dataset, "000000007", tmp_path / name)
    with pytest.raises(DatasetError, match=r"page\.jpg: expected a name ending in \.html for a page"):
        show_random(small_dataset, 2, tmp_path / "page.jpg")
    assert not list(tmp_path.iterdir())
    for allowed in ("picture", "picture.JPEG"):
        assert show_sample(small_dataset, "000000007", tmp_path / allowed).out == tmp_path / allowed
