"""Repairs of a real dataset: what is lost is told, what is there is kept, and no tar is touched."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.errors import DatasetError
from clipkit.ingest.conceptual_captions import conceptual_captions
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.run import ingest
from clipkit.shards.dataset import Pass, Totals, exclusive_use, open_for_writing, read_dataset
from clipkit.shards.failure_files import urls_to_retry, write_failures
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.index import Index, read_index
from clipkit.shards.repair import repair
from clipkit.shards.seal import write_sealed
from clipkit.shards.shard_set import ShardSet
from clipkit.shards.verify import verify
from clipkit.shards.writing import write_shard, write_sizes
from tests.datasets import contents
from tests.ingest.interrupting import Moment, ended, started
from tests.serving import Server, answer, encoded, photo

SHARD = "000001.tar"


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset of three shards, to be damaged."""
    return shutil.copytree(small_dataset, tmp_path / "dataset")


def tars(directory: Path) -> dict[str, tuple[bytes, int, int]]:
    stats = {path.name: path.stat() for path in directory.glob("*.tar")}
    return {
        name: ((directory / name).read_bytes(), found.st_mtime_ns, found.st_ino)
        for name, found in stats.items()
    }


def test_nothing_at_fault_nothing_written(dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()}
    result = repair(dataset)
    assert result.ok and result.remade == []
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["000001.tar", "000001.parquet", "index.parquet", "dataset.json"])
def test_what_may_not_be_opened_is_not_given_up(dataset: Path, name: str) -> None:
    before = contents(dataset)
    (dataset / name).rename(dataset.parent / name)
    (dataset / name).symlink_to(name)  # fails to open for anybody, as a file without permission does for most
    with pytest.raises(OSError, match="symbolic links"):
        repair(dataset)
    (dataset.parent / name).replace(dataset / name)
    assert contents(dataset) == before
    assert repair(dataset).remade == []


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(dataset: Path) -> None:
    for name in ("index.parquet", "sizes.json"):
        (dataset / name).unlink()
        os.mkfifo(dataset / name)
        assert repair(dataset).remade == [name] and verify(dataset).ok


def test_the_report_is_of_what_is_left(dataset: Path) -> None:
    (dataset / "report.html").write_text("2,160 samples")
    (dataset / SHARD).unlink()
    repair(dataset)
    assert "<b>1,160</b>" in (dataset / "report.html").read_text()


def test_a_folder_whose_name_is_no_utf_8(dataset: Path, tmp_path: Path) -> None:
    odd = dataset.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    (odd / SHARD).unlink()
    assert repair(odd).lost == 1000
    assert "<title>caf\ufffd" in (odd / "report.html").read_text()


@pytest.mark.parametrize("other", [{}, {"samples": 7, "sha256": "0" * 64}])
def test_what_the_index_lists_twice_counts_once(dataset: Path, other: dict[str, Any]) -> None:
    before, index = contents(dataset), read_index(dataset)
    twice = [entry._replace(**other) for entry in (index.shards[1], index.failure_files[0])]
    Index([*twice, *index.entries], index.progress).write(dataset)
    assert not verify(dataset).ok
    assert repair(dataset).remade == ["index.parquet"]
    assert contents(dataset) == before


def swap(dataset: Path) -> None:
    one, other = dataset / "000000.parquet", dataset / "000001.parquet"
    one.rename(dataset / "x")
    other.rename(one)
    (dataset / "x").rename(other)


def swap_without_index(dataset: Path) -> None:
    swap(dataset)
    (dataset / "index.parquet").unlink()


def spoil(name: str) -> Callable[[Path], object]:
    return lambda dataset: (dataset / name).write_bytes(b"PAR1 and then something else")


def remove(*names: str) -> Callable[[Path], None]:
    def removed(dataset: Path) -> None:
        for name in names:
            (dataset / name).unlink()

    return removed


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def edited(dataset: Path) -> None:
        content = json.loads((dataset / name).read_text())
        (dataset / name).write_text(json.dumps(content | changes))

    return edited


def longer(dataset: Path) -> None:
    path = dataset / "000001.parquet"
    table = pq.read_table(path)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)


def other_places(dataset: Path) -> None:
    """The captions and sizes of a manifest are not its tar's."""
    path = dataset / "000001.parquet"
    table = pq.read_table(path)
    for column, values in (("caption", ["x"] * 1000), ("width", [7] * 1000)):
        place = table.schema.get_field_index(column)
        table = table.set_column(
            place, table.schema.field(place), pa.array(values, table.schema.field(place).type)
        )
    pq.write_table(table, path)


@pytest.mark.parametrize(
    "damage",
    [
        remove("index.parquet"),
        spoil("index.parquet"),
        remove("index.parquet", "sizes.json"),
        remove("sizes.json"),
        edit("sizes.json", x=3),
        edit("dataset.json", totals={"records": 1, "samples": 1, "failures": 0, "shards": 1}),
        swap,
        longer,
        other_places,
        swap_without_index,
    ],
    ids=["no index", "index", "no index or sizes", "no sizes", "sizes", "totals", "swapped manifests",
         "a row too many", "captions and sizes", "swapped manifests and no index"],
)  # fmt: skip
def test_what_follows_from_the_rest_is_as_it_was(
    dataset: Path, small_dataset: Path, damage: Callable[[Path], object]
) -> None:
    damage(dataset)
    before = tars(dataset)
    assert not verify(dataset).ok
    assert repair(dataset).ok
    assert tars(dataset) == before
    assert verify(dataset, decode=True).ok
    assert read_index(dataset).fingerprint() == read_index(small_dataset).fingerprint()
    for name in ("000000.parquet", "000001.parquet", "000002.parquet", "failures/000000.parquet"):
        assert pq.read_table(dataset / name).equals(pq.read_table(small_dataset / name)), name
    for name in ("dataset.json", "sizes.json"):
        assert json.loads((dataset / name).read_text()) == json.loads((small_dataset / name).read_text())
    assert not repair(dataset).remade


@pytest.mark.parametrize(
    "damage", [remove("000001.parquet"), spoil("000001.parquet")], ids=["missing", "broken"]
)
def test_a_lost_manifest_is_made_of_its_tar(
    dataset: Path, small_dataset: Path, damage: Callable[[Path], object]
) -> None:
    damage(dataset)
    result = repair(dataset)
    assert (result.unknown, result.lost, result.unnamed) == (1000, 0, 0)
    assert not result.ok and "000001.parquet: made without the URLs" in result.doubtful[0]
    assert result.remade == ["000001.parquet", "index.parquet"]
    verified = verify(dataset, decode=True)
    assert verified.ok and verified.unknown == 1000
    made, was = (pq.read_table(each / "000001.parquet") for each in (dataset, small_dataset))
    assert made.schema.equals(was.schema)
    for name in ("key", "caption", "ext", "width", "height", "image_offset", "caption_offset", "image_bytes"):
        assert made[name].equals(was[name]), name
    assert made["source_row"].null_count == made["dhash"].null_count == made["sha256"].null_count == 1000
    assert set(made["url"].to_pylist()) == {""}
    assert ShardSet(dataset).read(1, 5) == ShardSet(small_dataset).read(1, 5)


def test_checksums_that_were_damaged_are_made_anew(dataset: Path) -> None:
    manifest = dataset / "000001.parquet"
    before = manifest.read_bytes()
    place = before.index(b"clipkit.image_crc32") + 40
    for wrong, pictures in ((b"\0", 0), (b"00000" * 4, 4)):
        manifest.write_bytes(before[:place] + wrong + before[place + len(wrong) :])
        assert abs(verify(dataset, decode=True).counts.get("picture", 0) - pictures) <= 1
        assert repair(dataset).remade == ["000001.parquet"]
        assert manifest.read_bytes() == before
        assert verify(dataset, decode=True).ok


def test_a_manifest_that_cannot_be_read_is_kept(dataset: Path) -> None:
    path, kept = dataset / "000001.parquet", dataset / "000001.parquet.broken"
    spoil(path.name)(dataset)
    was = path.read_bytes()
    (why,) = repair(dataset).doubtful
    assert why.endswith("; what was there is kept as 000001.parquet.broken")
    assert kept.read_bytes() == was and verify(dataset).ok and repair(dataset).remade == []


def assert_accounted(dataset: Path) -> None:
    """Each of the 2,400 records stands in exactly one place."""
    index = read_index(dataset)
    files = [name.name.replace(".tar", ".parquet") for name in index.entries]
    rows = [row for name in files for row in pq.read_table(dataset / name)["source_row"].to_pylist()]
    assert sorted(rows) == list(range(2400))


def truncate(dataset: Path) -> None:
    os.truncate(dataset / SHARD, 100_000)


def flip(dataset: Path) -> None:
    with (dataset / SHARD).open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)[0]
        file.seek(1_000_000)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("damage", [truncate, flip, remove(SHARD)], ids=["truncated", "flipped", "missing"])
@pytest.mark.parametrize("manifest", [True, False])
def test_the_samples_of_a_broken_tar_become_failures(
    dataset: Path, damage: Callable[[Path], object], manifest: bool
) -> None:
    damage(dataset)
    if not manifest:
        (dataset / "000001.parquet").unlink()
    before = tars(dataset)
    result = repair(dataset)
    assert not result.ok and (result.lost, result.unnamed) == (1000, 0)
    assert [line for line in result.left_out if line.startswith(SHARD)] == result.left_out != []
    assert tars(dataset) == before
    assert [shard.name for shard in read_index(dataset).shards] == ["000000.tar", "000002.tar"]
    assert_accounted(dataset)
    lost = pq.read_table(dataset / "failures" / "000001.parquet")
    assert set(lost["reason"].to_pylist()) == {"lost"} and set(lost["retryable"].to_pylist()) == {True}
    assert (lost["url"].null_count == 0) is manifest
    assert len(list(urls_to_retry(dataset))) == 1000 * manifest
    assert {fault.cause for fault in verify(dataset).faults} <= {"unlisted"}
    with pytest.raises(DatasetError, match="1,000 samples are lost"):
        result.check()
    for path in dataset.glob("000001.*"):
        path.rename(dataset.parent / path.name)
    assert verify(dataset).ok and repair(dataset).remade == []
    assert len(ShardSet(dataset)) == 1160
    assert ShardSet(dataset).read(1, 0).key == "000002000"


def test_several_lost_at_once(dataset: Path) -> None:
    truncate(dataset)
    for name in ("index.parquet", "000002.parquet", "sizes.json", "dataset.json"):
        (dataset / name).unlink()
    result = repair(dataset)
    assert (result.lost, result.unknown, result.unnamed) == (1000, 160, 0)
    assert any("what the dataset was made of is lost" in why for why in result.left_out)
    assert len(ShardSet(dataset)) == 1160
    (dataset / "failures" / "000000.parquet").unlink()
    assert repair(dataset).unnamed == 240
    assert {fault.cause for fault in verify(dataset).faults} == {"unlisted"}


def test_a_description_that_cannot_be_read_is_kept(dataset: Path) -> None:
    path, kept = dataset / "dataset.json", dataset / "dataset.json.broken"
    damaged = path.read_text().replace('"totals": {', '"totals": {,')
    path.write_text(damaged)
    (why,) = repair(dataset).left_out
    assert "or mend dataset.json.broken, which has what was there" in why
    assert kept.read_text() == damaged and verify(dataset).ok
    path.write_text("{")
    repair(dataset)
    assert kept.read_text() == damaged, "what was kept first has more in it"
    path.write_text(damaged.replace("{,", "{"))
    assert verify(dataset).ok and repair(dataset).remade == []


def test_decoding_tells_what_no_index_vouches_for(dataset: Path) -> None:
    table = pq.read_table(dataset / "000001.parquet")
    with (dataset / SHARD).open("r+b") as file:
        file.seek(table["image_offset"][5].as_py())
        file.write(b"XXXX")
    (dataset / "index.parquet").unlink()
    result = repair(dataset, decode=True)
    assert result.lost == 1000 and "000001005.jpg" in result.left_out[0]


def test_other_files_are_left_alone_and_said(dataset: Path) -> None:
    shutil.copy(dataset / SHARD, dataset / "000007.tar")
    (dataset / "README.md").write_text("mine")
    result = repair(dataset)
    assert result.unlisted == ["000007.tar"] and not result.ok
    assert "does not count: 000007.tar" in result.lines()
    assert (dataset / "000007.tar").exists() and (dataset / "README.md").read_text() == "mine"


def test_an_unfinished_ingest_is_refused(dataset: Path) -> None:
    with open_for_writing(dataset, read_dataset(dataset).description) as opened:
        opened.begin(Pass(kind="list", first=2400, records=1000))
    before = contents(dataset)
    with pytest.raises(DatasetError, match="interrupted"):
        repair(dataset)
    assert contents(dataset) == before


def clipkit(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "clipkit", "shards", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_two_at_once_and_what_the_command_says(dataset: Path) -> None:
    (dataset / "sizes.json").unlink()
    with exclusive_use(dataset):
        second = clipkit("verify", dataset, "--repair")
        assert second.returncode == 1 and "another process is writing it" in second.stderr
        assert clipkit("verify", dataset).returncode == 1, "who only reads need not wait"
    found = clipkit("verify", dataset, "--json")
    assert found.returncode == 1 and json.loads(found.stdout)["counts"] == {"missing": 1}
    last = found.stderr.splitlines()[-1]
    assert "expected no faults, found 1 (missing 1)" in last and "`--repair` makes all but the tars" in last
    mended = clipkit("verify", dataset, "--repair")
    assert mended.returncode == 0 and "made anew" in mended.stdout and "sizes.json" in mended.stdout
    assert clipkit("verify", dataset, "--json").returncode == 0


@pytest.mark.parametrize(("given", "left"), [(SHARD, "000000.tar"), (None, "000000.tar")])
def test_tars_of_other_names_are_not_given_up(dataset: Path, given: str | None, left: str) -> None:
    (dataset / SHARD).rename(dataset / "x.tar")
    (dataset / left).rename(dataset / SHARD)
    if given:
        (dataset / "x.tar").rename(dataset / left)
    before = contents(dataset)
    with pytest.raises(DatasetError, match=rf"{SHARD if not given else left}: .* found that it is 00000"):
        repair(dataset)
    assert contents(dataset) == before


@pytest.mark.parametrize("lost", [[], ["000000.parquet"]])
def test_a_tar_that_became_a_copy_of_another_is_given_up(lost: list[str], dataset: Path) -> None:
    shutil.copyfile(dataset / "000000.tar", dataset / SHARD)
    for name in lost:
        (dataset / name).unlink()
    assert "found those of shard 000000" in repair(dataset).left_out[0]


def damaged(dataset: Path) -> None:
    swap(dataset)
    (dataset / "index.parquet").unlink()
    (dataset / "sizes.json").unlink()
    truncate_last(dataset)


def truncate_last(dataset: Path) -> None:
    os.truncate(dataset / "000002.tar", 10_000)


WORDS = ["-m", "clipkit", "shards", "verify", "--repair"]


@pytest.mark.parametrize("step", [19, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_moment(dataset: Path, tmp_path: Path, step: int) -> None:
    damaged(dataset)
    command = [sys.executable, "-m", "tests.shards.killed_repair", str(dataset), str(tmp_path), str(step)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280).stdout
    *killed, last = map(json.loads, told.splitlines())
    assert last == {"left": None, "as_expected": True}
    assert len(killed) > 30 // step and all(each["as_expected"] for each in killed)
    left = {tuple(each["left"]) for each in killed}
    # Before anything was there, while the new files were made, while they were moved.
    assert step > 1 or () in left
    assert len([names for names in left if ".repair/ready.json" in names]) > 3 // step
    assert [names for names in left if names and ".repair/ready.json" not in names]


def test_a_full_disk_leaves_what_was(dataset: Path, tiny_disk: Path, tmp_path: Path) -> None:
    damaged(dataset)
    (dataset / "000001.tar").unlink()  # there is no room for three
    here = shutil.copytree(dataset, tiny_disk / "dataset")
    before = contents(here)
    blocker = tiny_disk / "blocker"
    repair(dataset)
    failed = 0
    for free in (0, 12_288, 40_960, 400_000):
        space = os.statvfs(tiny_disk)
        blocker.write_bytes(bytes(max(0, space.f_bavail * space.f_frsize - free)))
        code, _, errors = ended(started([*WORDS, str(here)], tmp_path))
        blocker.unlink()
        assert code == 1, errors
        if "No space left on device" not in errors:
            break
        assert contents(here) == before
        failed += 1
    assert failed >= 2
    assert contents(here) == contents(dataset)


def test_what_a_kill_left_is_not_put_over_later_work(dataset: Path, tmp_path: Path) -> None:
    (dataset / "sizes.json").unlink()
    moment = Moment("replace", r"\.repair/sizes\.json")
    code, _, errors = ended(started([*WORDS, str(dataset)], tmp_path, moment))
    assert code == -9 and (dataset / ".repair" / "ready.json").exists(), errors
    assert "unfinished" in verify(dataset).counts
    described = json.loads((dataset / "dataset.json").read_text())
    write_sealed(dataset / "dataset.json", described | {"clipkit": "later"})
    (dataset / "sizes.json").write_text('{"000000.tar": 1000, "000001.tar": 1000, "000002.tar": 160}')
    mine = (dataset / "sizes.json").read_bytes()
    assert repair(dataset).remade == []
    assert (dataset / "sizes.json").read_bytes() == mine and not (dataset / ".repair").exists()


def test_what_was_lost_is_fetched_again(server: Server, tmp_path: Path) -> None:
    url = server.add("/x", answer(encoded(photo(40, 40))))
    (tmp_path / "list.tsv").write_text("".join(f"picture {number}\t{url}\n" for number in range(2100)))
    source = conceptual_captions([tmp_path / "list.tsv"])
    config = IngestConfig(image_size=32, allow_private_hosts=True, workers=1)
    dataset = ingest(source, tmp_path / "dataset", config).out
    flip(dataset)
    before = {name: content for name, content in tars(dataset).items() if name != SHARD}
    assert repair(dataset).lost == 1000
    again = ingest(source, dataset, config, retry_failed=True)
    assert (again.samples, again.failures) == (2100, {})
    assert {name: tars(dataset)[name] for name in before} == before, "no sealed shard is ever written to"
    assert [shard.name for shard in read_index(dataset).shards] == ["000000.tar", "000002.tar", "000003.tar"]
    assert verify(dataset, decode=True).ok
    assert len(ShardSet(dataset)) == 2100 and ShardSet(dataset).read(2, 999).key == "000003999"


def test_a_broken_derived_dataset_is_left_as_it_is(dataset: Path, tmp_path: Path) -> None:
    derived = tmp_path / "derived"
    filter_dataset(dataset, derived, FilterConfig(where="source_row < 2000"))
    (derived / "000000.parquet").unlink()
    repair(derived)
    assert verify(derived).ok, "what follows from the rest is made"
    truncate(derived)
    before = contents(derived)
    with pytest.raises(DatasetError, match=r"derive the dataset from dataset again, or leave what is broken"):
        repair(derived)
    assert contents(derived) == before


def test_a_manifest_replaced_by_another_shards_is_told(dataset: Path) -> None:
    shutil.copy(dataset / "000000.parquet", dataset / "000001.parquet")
    result = repair(dataset)
    assert result.unknown == 1000
    assert not result.ok and "000001.parquet: made without the URLs" in result.doubtful[0]


def in_two_files(dataset: Path) -> pa.Table:
    """Divide the failures among two files; return the second one's."""
    failures, index = pq.read_table(dataset / "failures" / "000000.parquet"), read_index(dataset)
    halves = failures.slice(0, 100), failures.slice(100)
    made = [write_failures(dataset, number, half) for number, half in enumerate(halves)]
    Index([*index.shards, *made], index.progress).write(dataset)
    assert verify(dataset).ok
    return halves[1]


def test_failures_replaced_by_another_files_cost_none_of_those(dataset: Path) -> None:
    second = in_two_files(dataset)
    shutil.copy(dataset / "failures" / "000001.parquet", dataset / "failures" / "000000.parquet")
    result = repair(dataset)
    assert not result.ok and (result.lost, result.unnamed) == (100, 0)
    assert pq.read_table(dataset / "failures" / "000001.parquet").equals(second)
    assert_accounted(dataset)
    assert {fault.cause for fault in verify(dataset).faults} == {"unlisted"}


def test_records_lost_beside_an_index_are_known_by_the_passes(dataset: Path) -> None:
    in_two_files(dataset)
    (dataset / "failures" / "000000.parquet").unlink()
    (dataset / "index.parquet").unlink()
    assert repair(dataset).lost == 100
    assert_accounted(dataset)
    assert verify(dataset).ok


def test_how_many_passes_there_were_is_lost_with_the_description(dataset: Path) -> None:
    manifest, tar = pq.read_table(dataset / "000002.parquet"), (dataset / "000002.tar").read_bytes()
    images = [tar[row["image_offset"] :][: row["image_bytes"]] for row in manifest.to_pylist()]
    rows = pa.array(range(2400, 2560), pa.int64())
    following = manifest.set_column(4, manifest.schema.field(4), rows)
    index, made = read_index(dataset), read_dataset(dataset)
    made.begin(Pass(kind="list", first=2400, records=160))
    Index([*index.entries, write_shard(dataset, 3, following, images)], index.progress).write(dataset)
    write_sizes(dataset, read_index(dataset))
    made.finish(Totals(records=2560, samples=2320, failures=240, shards=4))
    assert verify(dataset).ok
    (dataset / "dataset.json").unlink()
    assert verify(dataset).counts == {"dataset": 1}
    repair(dataset)
    assert verify(dataset).ok
