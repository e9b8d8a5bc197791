"""Repairs of datasets in a bucket of a real S3 server: what comes out is what one on a disk becomes."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from clipkit.errors import DatasetError
from clipkit.locations import location
from clipkit.remote import RemoteError
from clipkit.shards.dataset import open_for_writing, read_dataset
from clipkit.shards.filter import FilterConfig, filter_dataset
from clipkit.shards.repair import repair
from clipkit.shards.verify import verify
from tests.datasets import contents
from tests.object_store import BUCKET, ObjectStore
from tests.shards.test_repair import damaged, edit, remove, spoil, swap, truncate_last

Damage = Callable[[Path], object]


@pytest.fixture
def dataset(small_dataset: Path, tmp_path: Path) -> Path:
    """A copy of a dataset of three shards, to be damaged, and then mended on its disk."""
    return shutil.copytree(small_dataset, tmp_path / "dataset")


def uploaded(store: ObjectStore, dataset: Path) -> Path:
    name = f"{BUCKET}/{dataset.parent.name}"
    store.fs.put(str(dataset), name, recursive=True)
    return location(f"s3://{name}")


def content(store: ObjectStore, address: Path) -> dict[str, bytes]:
    """The files of a dataset there by name; not the report, which bears its address."""
    store.fs.invalidate_cache()
    prefix = str(address).removeprefix("s3://")
    names = (name.removeprefix(f"{prefix}/") for name in store.fs.find(prefix))
    return {name: store.fs.cat(f"{prefix}/{name}") for name in names if name != "report.html"}


def gets(store: ObjectStore, name: str) -> list[str]:
    return [path for method, path in store.requests if method == "GET" and name in path]


DAMAGES: dict[str, Damage] = {
    "much": damaged,
    "failures": spoil("failures/000000.parquet"),
}
OTHERS: dict[str, Damage] = {
    "no index or description": remove("index.parquet", "dataset.json"),
    "a cut tar": truncate_last,
    "no tar": remove("000001.tar"),
    "manifest": spoil("000001.parquet"),
    "description": spoil("dataset.json"),
    "totals": edit("dataset.json", totals={"records": 1, "samples": 1, "failures": 0, "shards": 1}),
}


@pytest.mark.parametrize(
    "damage",
    [
        *(pytest.param(damage, id=name) for name, damage in DAMAGES.items()),
        *(pytest.param(damage, id=name, marks=pytest.mark.slow) for name, damage in OTHERS.items()),
    ],
)
def test_it_becomes_what_one_on_a_disk_does(store: ObjectStore, dataset: Path, damage: Damage) -> None:
    damage(dataset)
    address = uploaded(store, dataset)
    one, other = repair(dataset), repair(address)
    assert other._replace(directory=dataset) == one and one.remade
    assert content(store, address) == contents(dataset)
    assert verify(address).counts == verify(dataset).counts
    assert repair(address).remade == []


def test_nothing_at_fault_nothing_written(store: ObjectStore, dataset: Path) -> None:
    address = uploaded(store, dataset)
    assert repair(address).ok
    assert {method for method, _ in store.requests} <= {"GET", "HEAD"}


ASKED_FOR = ["000001.tar", "000001.parquet", "index.parquet", "dataset.json", "failures/"]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        pytest.param(fault, name, marks=[pytest.mark.slow] * ((fault, name) != ("403", "000001.tar")))
        for fault in ("403", "500")
        for name in ASKED_FOR
    ],
)
def test_what_cannot_be_had_now_is_not_given_up(
    store: ObjectStore, dataset: Path, name: str, fault: str
) -> None:
    swap(dataset)
    truncate_last(dataset)
    address = uploaded(store, dataset)
    before = content(store, address)
    store.fault = lambda method, path: fault if name in path and "?" not in path else None
    with pytest.raises(RemoteError, match=name):
        repair(address)
    assert content(store, address) == before


@pytest.mark.slow
def test_what_may_not_be_written_stays_as_it_was(store: ObjectStore, dataset: Path) -> None:
    damaged(dataset)
    address = uploaded(store, dataset)
    before = content(store, address)
    store.fault = lambda method, path: "403" if method == "PUT" else None
    command = [sys.executable, "-m", "clipkit", "shards", "verify", "--repair", str(address)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "expected to write it, found: " in done.stderr.splitlines()[-1], done
    assert content(store, address) == before


def test_a_tar_that_is_replaced_after_it_was_verified_gets_no_manifest(
    store: ObjectStore, dataset: Path
) -> None:
    (dataset / "000001.parquet").unlink()
    address = uploaded(store, dataset)
    before = content(store, address)
    tar = bytearray(before["000001.tar"])
    tar[2000] ^= 1

    def fault(method: str, path: str) -> None:
        if len(gets(store, "000001.tar")) == 2:
            store.fs.pipe(f"{address}/000001.tar", bytes(tar))

    store.fault = fault
    with pytest.raises(DatasetError, match=r"000001\.tar: expected the bytes that were verified"):
        repair(address)
    assert content(store, address) == before | {"000001.tar": bytes(tar)}


def test_a_tar_that_is_damaged_on_its_way_is_not_lost(
    store: ObjectStore, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_RESPONSE_CHECKSUM_VALIDATION", "when_required")  # not all stores have checksums
    address = uploaded(store, dataset)
    before = content(store, address)
    store.fault = lambda method, path: (
        "changed" if "000001.tar" in path and len(gets(store, "000001.tar")) <= 2 else None
    )
    with pytest.raises(DatasetError, match=r"000001\.tar: expected the bytes that were verified"):
        repair(address)
    assert content(store, address) == before


@pytest.mark.slow
def test_a_tar_for_which_this_machine_has_no_room_is_not_lost(store: ObjectStore, dataset: Path) -> None:
    address = uploaded(store, dataset)
    before = content(store, address)
    command = f"ulimit -f 1000; exec {sys.executable} -m clipkit shards verify --repair {address}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == "", done
    assert "expected to read the tar, found: File too large" in done.stderr.splitlines()[-1], done
    assert content(store, address) == before


@pytest.mark.parametrize(
    "moment",
    [pytest.param(("GET", "000000.tar"), marks=pytest.mark.slow), ("PUT", ".repair/sizes.json")],
)
def test_what_another_process_does_meanwhile_is_not_undone(
    store: ObjectStore, dataset: Path, moment: tuple[str, str]
) -> None:
    damaged(dataset)
    address = uploaded(store, dataset)
    after = None

    def fault(method: str, path: str) -> None:
        nonlocal after
        if (method, moment[1] in path) == (moment[0], True) and after is None:
            store.fs.pipe(f"{address}/index.parquet", b"another's")
            after = {name: data for name, data in content(store, address).items() if ".repair" not in name}

    store.fault = fault
    with pytest.raises(DatasetError, match="another process changed it meanwhile"):
        repair(address)
    assert content(store, address) == after


@pytest.mark.parametrize("moments", [[13], pytest.param(range(1, 1000), marks=pytest.mark.slow)])
def test_killed_at_any_change_it_is_finished_by_the_next(
    store: ObjectStore, dataset: Path, moments: Iterable[int]
) -> None:
    damaged(dataset)
    address = uploaded(store, dataset)
    before = content(store, address)
    repair(dataset)
    command = [sys.executable, "-m", "clipkit", "shards", "verify", "--repair", str(address)]
    states = set()
    left = 0
    process: subprocess.Popen[str]

    def fault(method: str, path: str) -> None:
        nonlocal left
        left -= method in ("PUT", "POST", "DELETE")
        if left == 0:
            process.kill()

    for left in moments:
        store.fault = lambda method, path: None
        store.fs.rm(str(address), recursive=True)
        store.fs.pipe({f"{address}/{name}": data for name, data in before.items()})
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        store.fault = fault
        _, errors = process.communicate(timeout=120)
        if process.returncode != -9:
            assert process.returncode == 1 and left > 0, errors  # for what was lost
            break
        store.fault = lambda method, path: None
        found = content(store, address)
        states.add((".repair/ready.json" in found, any(".repair" in name for name in found)))
        repair(address)
        assert content(store, address) == contents(dataset)
    assert content(store, address) == contents(dataset)
    assert (True, True) in states
    assert moments == [13] or len(states) == 3


def test_what_fails_in_the_midst_is_told_and_not_built_upon(store: ObjectStore, dataset: Path) -> None:
    damaged(dataset)
    address = uploaded(store, dataset)
    repair(dataset)
    index = f"/{BUCKET}/{dataset.parent.name}/index.parquet"
    store.fault = lambda method, path: "403" if method == "PUT" and index in path else None
    with pytest.raises(RemoteError, match=r"index\.parquet: .* half done, and the same command finishes it"):
        repair(address)
    store.fault = lambda method, path: None
    description = read_dataset(dataset).description
    with (
        pytest.raises(DatasetError, match="finish it first with `clipkit shards verify --repair`"),
        open_for_writing(address, description),
    ):
        pass
    with pytest.raises(DatasetError, match="expected a whole dataset, found a repair of it"):
        filter_dataset(address, dataset.parent / "whole", FilterConfig(skip_broken=True))
    repair(address)
    assert content(store, address) == contents(dataset)


def test_what_may_not_be_removed_is_told_apart_from_what_is_done(store: ObjectStore, dataset: Path) -> None:
    damaged(dataset)
    address = uploaded(store, dataset)
    repair(dataset)
    store.fault = lambda method, path: "403" if method == "DELETE" else None
    with pytest.raises(
        RemoteError, match=r"ready\.json: expected to remove it, .*; all else of the repair is done"
    ):
        repair(address)
    store.fault = lambda method, path: None
    found = content(store, address)
    assert {name: data for name, data in found.items() if ".repair" not in name} == contents(dataset)
    assert repair(address).remade == []
    assert content(store, address) == contents(dataset)


def test_a_web_server_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected a disk or a bucket, found a web server"):
        repair(location("https://127.0.0.1:1/dataset"))
