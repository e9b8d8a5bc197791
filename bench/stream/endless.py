"""A stream at length, in a process of its own, printing what `bench/loader.py` asks for as JSON.

python endless.py first DATASET POSITION WORKERS    seconds from opening the dataset to the first batch
python endless.py memory DATASET EPOCHS             private bytes of each worker, epoch by epoch
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stream.sides import BATCH_SIZE, SIZE, WORKERS

from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.loader import batches, prepare_workers
from clipkit.shards.shard_set import ShardSet

_BUILDING = 10  # seconds


def made(shard_set: ShardSet, **settings: Any) -> Iterator[Any]:
    transform, tokenize = TrainTransform(SIZE), Tokenizer()
    return batches(shard_set, batch_size=BATCH_SIZE, transform=transform, tokenize=tokenize, **settings)


def first(dataset: str, position: str, workers: str) -> None:
    Tokenizer()([""])  # reads its tables, as the trainer has done when it builds the model
    if int(workers):  # begun before, as training does, which builds its model meanwhile
        prepare_workers(TrainTransform, Tokenizer)
        time.sleep(_BUILDING)
    begun = time.perf_counter()
    shard_set = ShardSet(dataset)
    opened = time.perf_counter()
    begin = int(position) * len(shard_set) // 1000 // BATCH_SIZE * BATCH_SIZE
    stream = made(shard_set, position=begin, workers=int(workers))
    assert next(stream).images_BCHW.shape == (BATCH_SIZE, 3, SIZE, SIZE)
    print(json.dumps({"open": opened - begun, "first": time.perf_counter() - opened, "position": begin}))


def memory(dataset: str, epochs: str) -> None:
    shard_set = ShardSet(dataset)
    steps = len(shard_set) // BATCH_SIZE
    figures: list[list[int]] = []
    for number, _ in enumerate(made(shard_set, workers=WORKERS, stop=int(epochs) * steps * BATCH_SIZE)):
        if number == 0 or number % steps == steps // 2:
            figures.append([_private(worker) for worker in _workers()])
    print(json.dumps(figures))


def _workers() -> list[int]:
    return [worker for server in _children(os.getpid()) for worker in _children(server)]


def _children(process: int) -> list[int]:
    threads = list(Path(f"/proc/{process}/task").iterdir())
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def _private(process: int) -> int:
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return sum(1024 * int(size) for size in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))


if __name__ == "__main__":
    programs: dict[str, Callable[..., None]] = {"first": first, "memory": memory}
    programs[sys.argv[1]](*sys.argv[2:])
