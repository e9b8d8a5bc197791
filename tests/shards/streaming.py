"""A program that reads a stream as a trainer would: for tests that kill it, or count what it holds.

python -m tests.shards.streaming WORDS, or torchrun -m … for `ranks`. The words:
    lines DATASET SETTINGS        one line a batch: the position behind it, and each sample's content
    killed DATASET                for each line of input, a list of settings: what processes made until killed
    stops DATASET                 streams begun and left; what the process holds before and after
    holds DATASET SOFT HARD       how many of 60 batches are held with these limits of files, or why not
    forks DATASET                 a stream's content, and that which a process forked after it reads
    lets_go DATASET               whether a batch stays, and how many follow, when a process forked lets go
    keeps DATASET                 whether a batch stays in a process forked, when its parent lets go
    grows DATASET EPOCHS          the private bytes of a worker, at its start and after each epoch
    ranks DATASET SETTINGS OUT    what each of the processes gathered from all
"""

import gc
import hashlib
import json
import multiprocessing
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from clipkit.errors import DatasetError
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.loader import Batch, batches
from clipkit.shards.shard_set import ShardSet
from tests.processes import workers_of
from tests.shards import functions

SIDE = 32


def stream(dataset: str | Path, **settings: Any) -> Iterator[Batch]:
    """The stream that all of this is about: every random choice of the transform is on."""
    transform = TrainTransform(
        SIDE, scale=(0.5, 1.0), flip=True, color_jitter=(0.4, 0.4, 0.4, 0.1), gray_scale_probability=0.2
    )
    return batches(ShardSet(dataset), transform=transform, tokenize=Tokenizer(), **settings)


def content(batch: Batch) -> str:
    """The SHA-256 of all that a batch holds."""
    held = hashlib.sha256()
    for each in batch:
        held.update(each.contiguous().numpy().tobytes())
    return held.hexdigest()


def samples(batch: Batch) -> list[str]:
    """The beginning of the SHA-256 of all that a batch holds of each sample."""
    held = (b"".join(part.numpy().tobytes() for part in parts) for parts in zip(*batch, strict=True))
    return [hashlib.sha256(each).hexdigest()[:16] for each in held]


def lines(dataset: str, settings: str) -> None:
    given = json.loads(settings)
    position = given["position"]
    for batch in stream(dataset, **given):
        position += given["batch_size"]
        print(position, *samples(batch), flush=True)


def killed(dataset: str) -> None:
    shard_set = ShardSet(dataset)
    for shard in range(len(shard_set.names)):
        shard_set.read(shard, 0)  # so that not each of hundreds of processes reads the manifests
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps([until_killed(shard_set, **each) for each in json.loads(line)]), flush=True)


def until_killed(shard_set: ShardSet, made: int, **settings: Any) -> list[Any]:
    """So many batches, read by a process that is killed while it makes those after them.

    Of each sample, in order, caption number, position and pixels.
    """
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.close(told)
        with os.fdopen(tell, "w") as out:
            for batch in batches(
                shard_set, transform=functions.transform, tokenize=functions.tokenize, **settings
            ):
                columns = batch.tokens_BL, batch.positions_B[:, None], batch.images_BCHW.flatten(1)
                print(json.dumps(torch.cat(columns, 1).tolist()), file=out, flush=True)
    os.close(tell)
    with os.fdopen(told) as lines:
        found = [json.loads(line) for line in islice(lines, made)]
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return found


def stops(dataset: str) -> None:
    begin_and_leave(dataset)  # what is made once and stays: the server that workers are forked from
    before = settled()
    for _ in range(3):
        begin_and_leave(dataset)
    print(json.dumps([before, settled()]))


def holds(dataset: str, soft: str, hard: str) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(soft), int(hard)))
    try:
        print(json.dumps(len(list(stream(dataset, batch_size=4, workers=1, stop=240)))))
    except DatasetError as error:
        print(json.dumps(str(error)))


def forks(dataset: str) -> None:
    context = multiprocessing.get_context("fork")
    told = context.SimpleQueue()

    def read() -> None:
        told.put([content(batch) for batch in stream(dataset, batch_size=4, workers=1, stop=8)])

    read()
    process = context.Process(target=read)
    process.start()
    process.join()
    print(json.dumps([told.get(), process.exitcode or told.get()]))


def lets_go(dataset: str) -> None:
    made = stream(dataset, batch_size=24, workers=1, stop=24 * 12)
    first = next(made)
    before = content(first)
    child = os.fork()
    if not child:
        del first
        made.close()  # type: ignore[attr-defined]
        os._exit(0)
    os.waitpid(child, 0)
    print(json.dumps([len(list(made)), content(first) == before]))


def keeps(dataset: str) -> None:
    made = stream(dataset, batch_size=24, workers=1, stop=24 * 12)
    first = next(made)
    before = content(first)
    told, tell = os.pipe()
    child = os.fork()
    if not child:
        os.read(told, 1)
        os._exit(content(first) != before)
    del first
    followed = len(list(made))
    os.write(tell, b"read")
    print(json.dumps([followed, os.waitpid(child, 0)[1] == 0]))


def begin_and_leave(dataset: str) -> None:
    made = stream(dataset, batch_size=24, workers=2)
    next(made)
    next(made)
    made.close()  # type: ignore[attr-defined]


def settled() -> dict[str, int]:
    """What is held once that has not changed for a second: processes and threads end a while later."""
    found: list[dict[str, int]] = []
    while len(found) < 5 or any(each != found[-1] for each in found[-5:]):
        time.sleep(0.25)
        found.append(held())
    return found[-1]


def held() -> dict[str, int]:
    deadline = time.monotonic() + 30
    while workers_of(os.getpid()) and time.monotonic() < deadline:
        time.sleep(0.02)
    gc.collect()
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "shared": len(list(Path("/dev/shm").glob(f"torch_{os.getpid()}_*"))),
        "maps": Path("/proc/self/maps").read_text().count("/dev/shm/"),
        "workers": len(workers_of(os.getpid())),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }


def grows(dataset: str, epochs: str) -> None:
    samples = len(ShardSet(dataset))
    made = batches(
        ShardSet(dataset),
        batch_size=samples // 10,
        workers=1,
        stop=int(epochs) * samples,
        transform=TrainTransform(SIDE),
        tokenize=Tokenizer(),
    )
    sizes = []
    for number, _ in enumerate(made):
        if number == 0 or number % 10 == 5:
            (worker,) = workers_of(os.getpid())
            sizes.append(private(worker))
    print(json.dumps(sizes))


def private(process: int) -> int:
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(1024 * int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))


def ranks(dataset: str, settings: str, out: str) -> None:
    torch.distributed.init_process_group("gloo")
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    gathered = []
    for batch in stream(dataset, **json.loads(settings), rank=rank, world_size=size):
        columns = []
        for each in batch:
            parts = [torch.empty_like(each) for _ in range(size)]
            torch.distributed.all_gather(parts, each)
            columns.append(torch.cat(parts))
        gathered.append(content(Batch(*columns)))
    Path(out, f"{rank}.json").write_text(json.dumps(gathered))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    programs: dict[str, Callable[..., None]] = {
        each.__name__: each for each in (lines, killed, stops, holds, forks, lets_go, keeps, grows, ranks)
    }
    programs[sys.argv[1]](*sys.argv[2:])
