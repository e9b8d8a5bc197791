"""A power cut leaves what was forced onto the disk, perhaps some of the rest, and ingest goes on from it."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.engines.engine import Outcomes
from clipkit.ingest.rows import Chunk
from clipkit.ingest.run import ingest
from clipkit.ingest.worker import PartMaker
from clipkit.shards.index import read_index
from tests.datasets import contents
from tests.ingest.interrupting import CONFIG, Pictures, ended, program, started
from tests.serving import Server

RECORDS = 1150  # one whole shard and another one
Change = dict[str, Any]
Entries = dict[str, tuple[int, bool]]
"""What is in a folder: name → inode, and whether it is a folder."""
Tree = dict[str, str]
"""A dataset that is left: path → the copy of the file that has its content, or a word for a folder."""


class Disk:
    """What is surely on it after the first lines of a record, and the changes that may be on it or not."""

    def __init__(self) -> None:
        self._folders: dict[str, Entries] = {}
        self._copies: dict[int, str] = {}
        self._scanned: dict[str, list[Change]] = {}
        self.pending: list[Change] = []

    def take(self, line: Change) -> None:
        if line["call"] == "scandir":
            self._scanned[line["path"]] = [each for each in self.pending if folder_of(each) == line["path"]]
        elif line["call"] != "fsync":
            self.pending.append(line)
        elif "entries" not in line:
            self._copies[line["inode"]] = line["copy"]
        else:
            entries = {name: (inode, is_folder) for name, (inode, is_folder) in line["entries"].items()}
            self._folders[line["path"]] = entries
            seen = self._scanned[line["path"]]
            self.pending = [change for change in self.pending if change not in seen]

    def left(self, folder: str, survived: list[Change]) -> Tree:
        """Return what is left of `folder` with these of the pending changes."""
        folders = dict(self._folders)
        for change in survived:
            within = folder_of(change)
            folders[within] = changed(folders.get(within, {}), change)
        return dict(self._tree(folders, folder, ""))

    def _tree(self, folders: dict[str, Entries], folder: str, below: str) -> Iterator[tuple[str, str]]:
        for name, (inode, is_folder) in folders.get(folder, {}).items():
            if is_folder:
                yield below + name, "folder"
                yield from self._tree(folders, f"{folder}/{name}", f"{below}{name}/")
            else:
                yield below + name, self._copies.get(inode, "empty")


def folder_of(change: Change) -> str:
    return str(Path(change["path"]).parent)


def changed(entries: Entries, change: Change) -> Entries:
    """A folder's entries after the change."""
    name = Path(change["path"]).name
    others = {each: value for each, value in entries.items() if each != name}
    if change["call"] in ("replace", "rename"):
        return others | {Path(change["target"]).name: (change["inode"], False)}
    return others | {name: (0, True)} if change["call"] == "mkdir" else others


def choices(pending: list[Change], chance: random.Random) -> Iterator[list[Change]]:
    """None of the changes, all of them, each of them alone, and all but each; of very many only some."""
    yield from ([], pending)
    for change in pending if len(pending) <= 6 else chance.sample(pending, 3):
        yield from ([change], [other for other in pending if other is not change])


class Record:
    """An unbroken ingest and all that power cuts may leave of it."""

    def __init__(self, folder: Path, server: Server):
        self._list = Pictures(server).listed(folder / "list.tsv", RECORDS)
        self._copies = folder / "record"
        self._copies.mkdir()
        (folder / "disk").mkdir()
        code, _, errors = ended(
            started(program(self._list, folder / "disk" / "out"), folder, record=self._copies)
        )
        assert code == 0, errors
        self.expected = contents(folder / "disk" / "out")
        self.lines = [json.loads(line) for line in (self._copies / "log").read_text().splitlines()]
        self.root = str(folder / "disk")
        self.trees = list(self._trees())

    def _trees(self) -> Iterator[Tree]:
        disk, chance = Disk(), random.Random(0)
        known: set[frozenset[tuple[str, str]]] = set()
        for line in self.lines:
            disk.take(line)
            for survived in choices(disk.pending, chance):
                tree = disk.left(self.root, survived)
                if frozenset(tree.items()) not in known:
                    known.add(frozenset(tree.items()))
                    yield tree

    def written(self, tree: Tree, target: Path) -> Path:
        """Write what is left into a new folder; return the dataset's."""
        target.mkdir()
        for path, copy in tree.items():
            if copy == "folder":
                (target / path).mkdir()
            else:
                (target / path).write_bytes((self._copies / copy).read_bytes() if copy != "empty" else b"")
        return target / "out"

    def check(self, tree: Tree, target: Path) -> None:
        """Go on from what is left, and compare."""
        out = self.written(tree, target)
        ingest(conceptual_captions([self._list]), out, CONFIG, engine=inline)
        assert contents(out) == self.expected, tree


def inline(make_part: PartMaker, chunks: Iterator[Chunk], workers: int, window: int) -> Outcomes:
    """An engine without processes."""
    for chunk in chunks:
        yield make_part(chunk)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    with Server().running() as server:
        yield Record(tmp_path_factory.mktemp("power"), server)


def test_what_is_finished_is_on_the_disk(record: Record, tmp_path: Path) -> None:
    disk = Disk()
    for line in record.lines:
        disk.take(line)
        if "entries" in line:
            there = line["path"].removeprefix(record.root).removeprefix("/")
            tree = disk.left(record.root, [])
            assert {f"{there}/{name}".removeprefix("/") for name in line["entries"]} <= tree.keys()
    left = contents(record.written(tree, tmp_path / "left"))
    left.pop(".lock")  # which locks nothing
    assert left == record.expected


def test_no_power_cut_leaves_half_of_anything(record: Record, tmp_path: Path) -> None:
    listed: dict[str, list[str]] = {}
    for number, tree in enumerate(record.trees):
        if copy := tree.get("out/index.parquet"):
            if copy not in listed:
                out = record.written({"out": "folder", "out/index.parquet": copy}, tmp_path / str(number))
                index = read_index(out)
                manifests = [shard.name.replace(".tar", ".parquet") for shard in index.shards]
                listed[copy] = [
                    f"out/{name}" for name in (*manifests, *(each.name for each in index.entries))
                ]
            assert set(listed[copy]) <= tree.keys(), "the index lists what is not there"
        else:
            parts = {name.partition(".")[0] for name in tree if name.startswith("out/parts/0")}
            assert {
                part for part in parts if f"{part}.parquet" in tree and f"{part}.tar" not in tree
            } == set()
        assert "empty" not in {copy for path, copy in tree.items() if path != "out/.lock"}
    assert len(listed) == 2


def test_after_a_power_cut_it_comes_to_the_same_bytes(record: Record, tmp_path: Path) -> None:
    assert len(record.trees) > 200
    for number, tree in enumerate(random.Random(0).sample(record.trees, 10)):
        record.check(tree, tmp_path / str(number))


@pytest.mark.slow
def test_after_any_power_cut_it_comes_to_the_same_bytes(record: Record, tmp_path: Path) -> None:
    for number, tree in enumerate(record.trees):
        record.check(tree, tmp_path / str(number))
