"""The page, read by a parser as a browser would: nothing that a stranger wrote may become markup."""

import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.ingest.run import ingest
from clipkit.ingest.tars import tars
from clipkit.shards.dataset import DatasetDescription
from clipkit.shards.dedup import DedupConfig, dedup
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.repair import repair
from clipkit.shards.report import Report, gather
from clipkit.shards.report_page import render
from tests.serving import Server, answer, encoded, photo
from tests.tars import write_tar

HOSTILE = [
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "</bdi></figcaption><iframe src=http://evil.example/>",
    "&lt;b&gt; stays as it is",
    "\u202egnirts desrever\u202c",
    "nul \0 and bell \a, 20",
    "long " * 20_000,
]  # fmt: skip

POLICY = (
    "content",
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'",
)


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def dataset(server: Server, tmp_path: Path) -> Path:
    good = server.add("/good", answer(encoded(photo())))
    records = [f"{caption}\t{good}" for caption in HOSTILE]
    records += [f"{caption}\t{server.url('/gone')}?<script>alert(2)</script>" for caption in HOSTILE]
    records += [f"x\tjavascript:alert(3)//<script>{'y' * 5000}", "<script>one column</script>"]
    path = tmp_path / "list <b>.tsv"
    path.write_text("\n".join(records))
    config = IngestConfig(allow_private_hosts=True, workers=1, retries=0)
    return ingest(conceptual_captions([path]), tmp_path / "<i>dataset", config).out


def test_nothing_hostile_becomes_markup(dataset: Path) -> None:
    page = Page((dataset / "report.html").read_text())
    assert set(page.tags) <= {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "div", "b", "span", "i",
        "section", "table", "tr", "td", "th", "code", "bdi", "figure", "img", "figcaption",
    }  # fmt: skip
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "href"]
    assert all(
        value.startswith("data:image/jpeg;base64,") for name, value in page.attributes if name == "src"
    )
    assert POLICY in page.attributes
    assert "<script>alert(1)</script>" in page.text, "it is shown, as text"
    assert "&lt;b&gt; stays as it is" in page.text
    assert not {"\u202e", "\0", "\a"} & set(page.text)
    assert len(page.text) < 30_000


def test_the_page_has_the_counts(dataset: Path) -> None:
    report = gather(dataset)
    assert (report.samples, report.failures, report.shards) == (7, 9, 1)
    assert report.reasons == {"http_4xx": 7, "scheme": 1, "bad_row": 1}
    assert report.repeated == 6
    assert report.formats == {"jpeg": 7}
    assert report.short_sides == {128: 7}
    assert report.caption_lengths == {1: 1, 20: 4, 40: 1, 300: 1}
    assert report.hosts_ok == {"127.0.0.1": 7}
    assert report.hosts_failed["127.0.0.1"] == 7
    assert len(report.pictures) == 7
    assert [example.reason for example in report.examples].count("http_4xx") == 3
    html = (dataset / "report.html").read_text()
    page = Page(html)
    assert page.tags.count("img") == 7
    assert "43.8%" in page.text
    assert "<td>20–39</td><td class=n>4</td>" in html and "<td>40–59</td><td class=n>1</td>" in html


def test_a_source_of_many_files_without_urls(tmp_path: Path) -> None:
    for number in range(23):
        sample = {"__key__": "k", "jpg": encoded(photo(seed=number)), "txt": "t"}
        write_tar(tmp_path / f"{number}.tar", [sample])
    out = ingest(tars([str(tmp_path / "*.tar")]), tmp_path / "dataset", IngestConfig(workers=1)).out
    assert gather(out).hosts_ok == {}
    page = Page((out / "report.html").read_text())
    assert page.text.count(".tar") == 20 and "and 3 more files" in page.text


def test_few_failures_of_a_large_host_are_seen() -> None:
    description = DatasetDescription(sources=(), image={})
    report = Report("x", description, (), shards=1, samples=100_000, failures=1, bytes=1)
    report.hosts_ok, report.hosts_failed = Counter({"a.example": 100_000, "b.example": 3}), Counter("c")
    report.hosts_failed["a.example"] = 1
    text = render(report)
    rows = re.findall(
        r"<bdi>(.*?)</bdi></td><td class=n>(.*?)</td><td class='n (.*?)'>(.*?)</td>(.*?)</tr>", text
    )
    assert [row[:4] for row in rows] == [
        ("a.example", "100,000", "bad", "1"),
        ("b.example", "3", "", "0"),
        ("c", "0", "bad", "1"),
    ]
    assert [re.findall(r'class="(\w+)"', bars) for *_, bars in rows] == [["good", "bad"], ["good"], ["bad"]]
    assert re.findall(r'<div class="split"><i class="good" .*?><i class="bad"', text)
    assert ".split i, td.bar i { min-width: 3px; }" in text


def test_a_derived_dataset_says_what_it_comes_from_and_what_was_left_out(
    small_dataset: Path, tmp_path: Path
) -> None:
    where = "length(caption) > 29 and url <> '<script>'"
    (first,) = filter_dataset(small_dataset, tmp_path / "first", FilterConfig(where=where)).written
    second = dedup(Path(first.out), DedupConfig(), out=tmp_path / "second", hash_folder=hash_folder).written
    assert second is not None and second.report == str(tmp_path / "second" / "report.html")
    page = Page(Path(first.report).read_text())
    assert where in page.text and "script" not in page.tags
    assert f"{first.left_out['where']:,}" in page.text and "Why samples were left out" in page.text
    assert f"{first.samples:,}samples ({100 * first.samples / 2160:.1f}%)" in page.text
    assert page.tags.count("img") == 48
    page = Page(Path(second.report).read_text())
    assert "made from first by dedup" in page.text and "by filter: where length(caption) > 29" in page.text
    (tmp_path / "first" / "report.html").unlink()
    filter_dataset(small_dataset, tmp_path / "first", FilterConfig(where=where))
    assert (tmp_path / "first" / "report.html").exists(), "a page is made for one that had none"


def test_what_a_repair_could_not_know_is_not_counted(tiny_dataset: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(tiny_dataset, tmp_path / "dataset")
    (dataset / "000000.parquet").unlink()
    repair(dataset)
    report = gather(dataset)
    assert (report.samples, report.repeated) == (64, 0)
    assert not report.short_sides and not report.formats and len(report.pictures) == 48
