"""Whole training runs on one GPU, data included, beside `open_clip_train.main` on the same shards.

    python bench/train_gpu.py [--models RN50,ViT-B/32,ViT-B/16,RN50x4] [--batch-size 1024] [--samples 81920]
                              [--workers N] [--runs 1] [--eager] [--loader] [--largest] [--no-gpu]

Both sides: one process on one GPU, bf16, a compiled network, the same batch size, crops and loader processes;
OpenCLIP also with --local-loss and --gather-with-grad. Samples a second are the median over the lines of a
run's log, one every 5 steps, behind the first third, in which networks are compiled and loaders start. The
share of time that training waited for data is each side's own word. The GPU's memory is what it reports,
looked at twice a second. Utilisation is what the network needs (three times its forward pass, by the
operations that clipkit counts) of --tflops: `published` for texts of 77 tokens, `done` for texts as long as
the longest of each batch, which is what clipkit computes without --compile.

--eager is clipkit without --compile; OpenCLIP's is compiled in any case. --loader also measures the loader
alone, --largest looks for the largest batch that fits, by doubling.
--no-gpu runs the same on the CPU in float32, to see that the script works; its figures are of no use.

Shards (20,000 samples of 256 pixels, for RN50x4 of 320), runs and OpenCLIP's environment lie in build/bench;
the pictures are those of bench/loader.py. Without a network, pip finds OpenCLIP's packages where
PIP_FIND_LINKS says.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from stream.shards import make_shards
from training.cost import watched
from training.sides import SIDES, Training, command, data_waits, log
from web.corpus import make_corpus

from clipkit.model.config import named_config
from clipkit.model.profile import figures, flops_done
from clipkit.model.tokenizer import Tokenizer
from clipkit.pictures import Pixels
from clipkit.shards.loader import batches
from clipkit.shards.shard_set import ShardSet

BUILD = Path(__file__).parent.parent / "build" / "bench"
SHARDS, LOG_EVERY, LOOK_SECONDS = 20, 5, 0.5
_LARGER_PICTURES = 320  # of models that take more than 256 pixels
_LENGTHS_OF = 20  # batches
_MOST_DOUBLINGS = 6


class Outcome(NamedTuple):
    """Of one run: samples a second, the share of time spent waiting for data, the GPU's memory in MiB."""

    samples_per_second: float
    waiting: float
    memory: float


class GpuMemory:
    """The most memory that the GPU had in use while this is open, as nvidia-smi tells."""

    def __init__(self, on_gpu: bool):
        self._on_gpu = on_gpu
        self._ended = threading.Event()
        self._looking = threading.Thread(target=self._look)
        self.most = 0.0

    def __enter__(self) -> Self:
        if self._on_gpu:
            self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        if self._on_gpu:
            self._looking.join()

    def _look(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self._ended.wait(LOOK_SECONDS):
            found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
            self.most = max(self.most, float(found))


def run(side: str, training: Training) -> Outcome:
    folder = BUILD / "train_gpu" / side
    shutil.rmtree(folder, ignore_errors=True)
    with GpuMemory(training.on_gpu) as memory:
        watched(command(side, training, folder, BUILD), folder / "printed.txt")
    stamps, waits = log(side, folder), data_waits(side, folder)
    first = len(stamps) // 3
    rates = [
        (after.step - before.step) * training.batch_size / (after.time - before.time)
        for before, after in zip(stamps[first:-1], stamps[first + 1 :], strict=True)
    ]
    return Outcome(statistics.median(rates), statistics.mean(waits[first + 1 :]), memory.most)


def largest_batch(side: str, training: Training) -> int:
    """The largest batch size that a run of a few steps ends well with: doubled from the one given."""
    fits = 0
    for doubling in range(_MOST_DOUBLINGS):
        size = training.batch_size << doubling
        count = max(4, training.workers)
        try:
            run(side, replace(training, batch_size=size, batches=count, log_every=1))
        except SystemExit as error:
            if "out of memory" not in str(error).lower():
                raise
            return fits
        fits = size
    return fits


def text_length(dataset: Path, batch_size: int) -> float:
    """The mean over batches of the longest text's tokens."""
    stream = batches(
        ShardSet(dataset),
        batch_size=batch_size,
        stop=_LENGTHS_OF * batch_size,
        transform=_no_pixels,
        tokenize=Tokenizer(),
    )
    return statistics.mean(int((batch.tokens_BL.argmax(1) + 1).max()) for batch in stream)


def _no_pixels(image: bytes, key: int) -> Pixels:
    return np.zeros((3, 1, 1), np.uint8)


def compare(name: str, options: argparse.Namespace, dataset: Path) -> None:
    config = named_config(name)
    count = options.samples // options.batch_size
    training = Training(
        config,
        dataset,
        batches=count - count % max(1, options.workers),
        batch_size=options.batch_size,
        workers=options.workers,
        log_every=LOG_EVERY,
        on_gpu=not options.no_gpu,
        eager=options.eager,
    )
    done: dict[str, list[Outcome]] = {side: [] for side in SIDES}
    for _ in range(options.runs):
        for side, outcomes in done.items():
            outcomes.append(run(side, training))
            print(f"  {name}, {side}: {outcomes[-1]}", file=sys.stderr, flush=True)
    length = text_length(dataset, options.batch_size)
    of_model = {"published": figures(config).gflops, "done": flops_done(config, round(length)) / 1e9}
    print(
        f"{name}: batches of {options.batch_size}, longest text of a batch {length:.1f} tokens in the mean\n"
    )
    print("| | samples/s | published utilisation | done | waiting for data | GPU memory | clipkit's speed |")
    print("|---|---|---|---|---|---|---|")
    medians = {side: Outcome(*map(statistics.median, zip(*each, strict=True))) for side, each in done.items()}
    for side, outcome in medians.items():
        used = [
            3 * gflops * outcome.samples_per_second / options.tflops / 1e3 for gflops in of_model.values()
        ]
        ratio = medians["clipkit"].samples_per_second / outcome.samples_per_second
        print(
            f"| {side} | {outcome.samples_per_second:,.0f} | {used[0]:.1%} | {used[1]:.1%} "
            f"| {outcome.waiting:.1%} | {outcome.memory:,.0f} MiB | × {ratio:.2f} |",
            flush=True,
        )
    for side in SIDES if options.largest else ():
        print(f"largest batch, {side}: {largest_batch(side, training):,}", flush=True)
    print(flush=True)


def loader(options: argparse.Namespace, dataset: Path) -> None:
    """Samples a second of the loader alone."""
    words = ["shards", "bench", str(dataset), "--workers", str(options.workers), "--json"]
    words += ["--batch-size", str(options.batch_size), "--steps", str(options.samples // options.batch_size)]
    found = subprocess.run(
        [sys.executable, "-m", "clipkit", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    print(f"loader alone, {options.workers} workers: {json.loads(found.stdout)}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default="RN50,ViT-B/32,ViT-B/16,RN50x4")
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=81_920)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--tflops", type=float, default=790, help="that the GPU can do in bf16")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--loader", action="store_true")
    parser.add_argument("--largest", action="store_true")
    parser.add_argument("--no-gpu", action="store_true")
    options = parser.parse_args()
    if not options.no_gpu and not torch.cuda.is_available():
        print("expected a GPU, found none: nothing was measured", file=sys.stderr)
        return
    pictures = make_corpus(BUILD / "corpus")
    for name in options.models.split(","):
        size = 256 if named_config(name).image_size <= 256 else _LARGER_PICTURES
        dataset = make_shards(BUILD / f"shards-{SHARDS}-{size}", pictures, SHARDS, size)
        if options.loader:
            loader(options, dataset)
        compare(name, options, dataset)


if __name__ == "__main__":
    main()
