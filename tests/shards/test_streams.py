"""The stream through real processes: killed, left, resumed, shared out among ranks; all the same samples."""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.shards.loader import Batch, batches
from clipkit.shards.shard_set import ShardSet
from tests.conftest import WriteDataset
from tests.processes import living, until, wait_until_gone
from tests.shards.functions import tokenize, transform
from tests.shards.streaming import content, samples, stream

SCRIPT = "tests.shards.streaming"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def program(*words: Any, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", SCRIPT, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT, **options)


def said(*words: Any) -> Any:
    """What a program prints in the end, as JSON."""
    with program(*words) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def plain(shard_set: ShardSet, count: int, **settings: Any) -> list[Batch]:
    """The first batches of a stream that goes on, and is left."""
    with closing(batches(shard_set, transform=transform, tokenize=tokenize, **settings)) as made:
        return list(islice(made, count))


def rows_of(made: list[Batch]) -> list[tuple[int, ...]]:
    """Caption number, position and pixels of each sample, in order."""
    joined = [torch.cat([each[column].flatten(1) for each in made]) for column in (0, 1)]
    positions = torch.cat([each.positions_B for each in made])
    return [tuple(map(int, row)) for row in torch.cat([joined[1], positions[:, None], joined[0]], 1)]


@pytest.mark.parametrize("seed", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 16))])
def test_200_interrupted_runs_of_changing_ranks_see_what_the_unbroken_run_sees(
    small_dataset: Path, seed: int
) -> None:
    """16 × 13 sequences. A sitting is left after any batch; those made ahead by then are lost, and so are
    those trained on since the last checkpoint. Of each 13, one has loader processes.
    """
    chance = random.Random(seed)
    shard_set = ShardSet(small_dataset)
    for number in range(13):
        batch_size = chance.choice([12, 24, 36, 60, 120])
        steps = chance.randint(2, 14)
        first = chance.randrange(0, 5 * len(shard_set) // batch_size)
        common = {"batch_size": batch_size, "seed": chance.randrange(2**63)}
        common |= {"streams": chance.choice([1, 5, 64]), "block": chance.choice([7, 100, 4000])}
        begin = first * batch_size
        unbroken = rows_of(plain(shard_set, steps, **common, position=begin))
        seen: list[Batch] = []
        while len(seen) < steps:
            world = chance.choice([size for size in (1, 2, 3, 4, 6, 12) if batch_size % size == 0])
            made = chance.randint(1, steps - len(seen))
            trained = chance.randint(0, made)  # of those made, at the last checkpoint
            position = begin + len(seen) * batch_size
            workers = 0 if number else chance.randint(1, 3)
            settings: dict[str, Any] = {**common, "position": position, "workers": workers}
            settings["world_size"] = world = min(world, 3) if workers else world
            ranks = [plain(shard_set, made, **settings, rank=rank) for rank in range(world)]
            whole = [Batch(*map(torch.cat, zip(*each, strict=True))) for each in zip(*ranks, strict=True)]
            seen += whole[:trained]
        assert rows_of(seen) == unbroken
        assert len({row[1] for row in unbroken}) == len(unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_200_killed_runs_of_changing_ranks_see_what_the_unbroken_run_sees(
    small_dataset: Path, seed: int
) -> None:
    """10 × 20 sequences. Every sitting of every rank is a process that is killed while it reads on."""
    chance = random.Random(seed)
    shard_set = ShardSet(small_dataset)
    with program("killed", small_dataset, stdin=subprocess.PIPE) as killer:
        assert killer.stdin is not None and killer.stdout is not None
        for _ in range(20):
            batch_size = chance.choice([12, 24, 36, 60, 120])
            steps = chance.randint(2, 6)
            begin = chance.randrange(0, 5 * len(shard_set) // batch_size) * batch_size
            common = {"batch_size": batch_size, "seed": chance.randrange(2**63)}
            common |= {"streams": chance.choice([1, 5, 64]), "block": chance.choice([7, 100, 4000])}
            unbroken = [rows_of([each]) for each in plain(shard_set, steps, **common, position=begin)]
            seen: list[list[tuple[int, ...]]] = []
            while len(seen) < steps:
                world = chance.choice([1, 2, 3, 4])
                made = chance.randint(1, steps - len(seen))
                at = {"position": begin + len(seen) * batch_size, "world_size": world, "made": made}
                asked = [{**common, **at, "rank": rank} for rank in range(world)]
                print(json.dumps(asked), file=killer.stdin, flush=True)
                ranks = json.loads(killer.stdout.readline())
                whole = [list(map(tuple, chain(*each))) for each in zip(*ranks, strict=True)]
                seen += whole[: chance.randint(0, made)]  # as many as were trained at the last checkpoint
            assert seen == unbroken
        killer.stdin.close()
    assert killer.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(11))
def test_killed_programs_with_workers_see_what_the_unbroken_run_sees(small_dataset: Path, seed: int) -> None:
    """A sitting is of any number of ranks, each a program that is killed after its batches."""
    chance = random.Random(seed)
    batch_size = chance.choice([36, 60, 120]) if seed else 120
    steps = (2160 + 600) // batch_size
    common = {"batch_size": batch_size, "seed": seed, "stop": steps * batch_size}
    expected = [samples(batch) for batch in stream(small_dataset, **common)]
    found: list[list[str]] = []
    while len(found) < steps:
        settings = {**common, "position": batch_size * len(found), "workers": chance.randint(0, 3)}
        settings["world_size"] = world = chance.choice([1, 2, 3, 4]) if seed else 1
        made = chance.randint(1, min(2 * steps // 3, steps - len(found)))
        ranks = [killed_after(made, small_dataset, {**settings, "rank": rank}) for rank in range(world)]
        found += [list(chain(*each)) for each in zip(*ranks, strict=True)]
    assert found == expected


def killed_after(made: int, dataset: Path, settings: dict[str, Any]) -> list[list[str]]:
    """What each of the batches holds that a program reads until it is killed."""
    with program("lines", dataset, json.dumps(settings), start_new_session=True) as process:
        assert process.stdout is not None
        found = []
        for number, line in enumerate(islice(process.stdout, made), 1):
            position, *held = line.split()
            assert int(position) == settings["position"] + number * settings["batch_size"]
            found.append(held)
        process.kill()
    wait_until_gone(process.pid)
    return found


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_ranks_over_gloo_gather_the_batches_of_one_process(
    small_dataset: Path, tmp_path: Path, workers: int
) -> None:
    settings = {"batch_size": 120, "seed": 4, "position": 2040, "stop": 3000}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    given = json.dumps(settings | {"workers": workers})
    done = subprocess.run(
        [*launcher, "-m", SCRIPT, "ranks", small_dataset, given, tmp_path],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = [content(batch) for batch in stream(small_dataset, **settings)]
    assert len(expected) == 8
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected


@pytest.mark.parametrize(("samples", "workers"), [(5, 2), (64, 3)])
def test_fewer_shards_than_workers(
    write_dataset: WriteDataset, tmp_path: Path, samples: int, workers: int
) -> None:
    directory = write_dataset(tmp_path / "dataset", samples)
    settings = {"batch_size": 2, "seed": 1, "stop": 3 * samples}
    one, many = (list(stream(directory, **settings, workers=count)) for count in (0, workers))
    assert [content(batch) for batch in one] == [content(batch) for batch in many]
    assert len(one) == 3 * samples // 2


def test_a_batchs_memory_is_used_again_but_not_while_any_part_of_it_is_held(small_dataset: Path) -> None:
    settings = {"batch_size": 108, "seed": 2, "stop": 4320}
    expected = [batch.images_BCHW for batch in stream(small_dataset, **settings)]
    inodes, kept = set(), []
    size = expected[0].numel() + 1
    for number, batch in enumerate(stream(small_dataset, **settings, workers=1)):
        if number < 30:
            inodes |= {inode for inode, length in shared_memory() if length >= size}
        else:
            kept.append((number, batch.images_BCHW[5:7]))
    assert len(expected) == 40
    assert len(inodes) <= 8  # four that are used again, and few others
    for number, images_BCHW in kept:
        assert torch.equal(images_BCHW, expected[number][5:7])


def shared_memory() -> set[tuple[int, int]]:
    """Inode and size of each piece of shared memory that this process has mapped."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        words = line.split()
        if len(words) > 5 and words[5].startswith("/dev/shm/"):
            first, last = (int(each, 16) for each in words[0].split("-"))
            found.add((int(words[4]), last - first))
    return found


def test_a_stream_that_is_left_leaves_nothing(small_dataset: Path) -> None:
    before, after = said("stops", small_dataset)
    assert before == after
    assert after["workers"] == after["shared"] == after["maps"] == 0


@pytest.mark.slow
def test_batches_are_held_as_the_limit_of_open_files_allows(small_dataset: Path) -> None:
    assert said("holds", small_dataset, 100, 4000) == 60
    found = said("holds", small_dataset, 100, 100)
    assert found.startswith(
        "expected to open a further file (a batch that is held is three), found 100 of them"
    )


@pytest.mark.slow
def test_a_process_forked_from_a_program_that_reads_reads_too(small_dataset: Path) -> None:
    """It inherits the parent's server of workers, which is no child of its own."""
    parents, childs = said("forks", small_dataset)
    assert parents == childs and len(childs) == 2


@pytest.mark.slow
def test_a_process_forked_from_a_program_that_reads_takes_nothing_from_it(small_dataset: Path) -> None:
    assert said("lets_go", small_dataset) == [11, True]


@pytest.mark.slow
def test_a_process_forked_from_a_program_that_reads_keeps_what_it_holds(small_dataset: Path) -> None:
    """Its parent's loader processes do not write into it when the parent lets go."""
    assert said("keeps", small_dataset) == [11, True]


def test_workers_end_with_a_killed_parent(small_dataset: Path) -> None:
    settings = json.dumps({"batch_size": 120, "position": 0, "workers": 2})
    with program("lines", small_dataset, settings, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        until(lambda: len(living(process.pid)) >= 4, "parent, server and two workers live")
        process.send_signal(signal.SIGKILL)
        process.wait()
        wait_until_gone(process.pid)


@pytest.mark.slow
def test_a_workers_memory_stays_the_same_over_20_epochs(small_dataset: Path) -> None:
    first, *later = said("grows", small_dataset, 20)
    assert len(later) == 20
    settled = later[1]
    assert max(abs(size - settled) for size in later[1:]) <= 0.02 * settled
    assert later[-1] - first < 400e6
