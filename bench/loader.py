"""The training stream beside its peers: the same shards, the same two workers, the same batches.

    python bench/loader.py [--scenario speed|quality|resume|memory|all] [--runs 5] [--batches 40]

speed    samples a second of clipkit, OpenCLIP 3.3.0's get_wds_dataset, webdataset, and MosaicML streaming
quality  our decoded, cropped and resized pictures against torchvision's of the same box
resume   the time to the first batch at any point of ten million samples, in 10,000 shards
memory   private memory of each worker over 20 epochs

The pictures are cut out of Debian's wallpaper packages; says which if they are missing. They, the shards and
the peers' environments lie in build/bench. The sides take turns; CPU time is of all a side's
processes.
"""

import argparse
import io
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torchvision.transforms.functional as vision
from PIL import Image
from stream.peers import Cost, measured, said, side_python
from stream.shards import make_many, make_shards
from stream.sides import WARM_UP, WORKERS
from web.corpus import make_corpus

from clipkit.model.augment import Draws, crop_box
from clipkit.model.preprocess import TrainTransform
from clipkit.shards.shard_set import ShardSet

BUILD = Path(__file__).parent.parent / "build" / "bench"
SIDES = ("clipkit", "open_clip", "webdataset", "streaming")
SIZE = 224


def speed(pictures: Sequence[Path], runs: int, batches: int) -> None:
    dataset = make_shards(BUILD / "shards", pictures)
    pythons = {side: python for side in SIDES if (python := side_python(side, BUILD))}
    done: dict[str, list[Cost]] = {side: [] for side in pythons}
    for _ in range(runs):
        for side, python in pythons.items():
            done[side].append(measured(python, side, dataset, batches))
            cost = done[side][-1]
            print(f"  {side}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU-s", file=sys.stderr, flush=True)
    print("| medians | samples/s | CPU a sample | clipkit's speed: wall | CPU |\n|---|---|---|---|---|")
    for side, costs in done.items():
        wall = statistics.median(cost.wall / cost.samples for cost in costs)
        cpu = statistics.median(cost.cpu / cost.samples for cost in costs)
        pairs = list(zip(costs, done["clipkit"], strict=True))
        ratios = [
            statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs)
            for what in ("wall", "cpu")
        ]
        print(f"| {side} | {1 / wall:,.0f} | {1000 * cpu:.2f} ms | × {ratios[0]:.2f} | × {ratios[1]:.2f} |")


def quality(pictures: Sequence[Path], runs: int, batches: int) -> None:
    shards = ShardSet(make_shards(BUILD / "shards", pictures))
    sets = {
        "256 px shards": [shards.read(0, row).image for row in range(0, 1000, 2)],
        "JPEGs of 256 to 2,400 px": [path.read_bytes() for path in pictures[::4] if path.suffix == ".jpg"],
    }
    print("| to Pillow's bicubic | pictures | PSNR, median | 5th percentile | least |\n|---|---|---|---|---|")
    for name, images in sets.items():
        found = [_psnr(image, key) for key, image in enumerate(images)]
        shown = " | ".join(f"{np.percentile(found, share):.1f} dB" for share in (50, 5, 0))
        print(f"| {name} | {len(found)} | {shown} |", flush=True)


def resume(pictures: Sequence[Path], runs: int, batches: int) -> None:
    many = make_many(BUILD / "ten-million", make_shards(BUILD / "shards", pictures), 10_000)
    print("| position | workers | dataset opened | first batch after it |\n|---|---|---|---|")
    for workers in (0, WORKERS):
        for thousandths in (0, 500, 999, 1000, 31_337):
            found = said("first", many, thousandths, workers)
            times = f"{found['open']:.2f} s | {found['first']:.2f} s"
            print(f"| {found['position']:,} | {workers} | {times} |", flush=True)


def memory(pictures: Sequence[Path], runs: int, batches: int) -> None:
    begun, *later = said("memory", make_shards(BUILD / "shards", pictures), 20)
    print("| private memory of a worker, MB | at its first batch | after an epoch | largest | last |")
    print("|---|---|---|---|---|")
    for number, sizes in enumerate(zip(*later, strict=True)):
        shown = (begun[number], sizes[1], max(sizes[1:]), sizes[-1])
        print(f"| worker {number} | {' | '.join(f'{size / 1e6:.0f}' for size in shown)} |")


def _psnr(image: bytes, key: int) -> float:
    transform = TrainTransform(SIZE)
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    left, top, width, height = crop_box(*picture.size, transform.scale, transform.ratio, Draws(key))
    bicubic = vision.InterpolationMode.BICUBIC
    theirs = vision.resized_crop(picture, top, left, height, width, [SIZE, SIZE], bicubic)
    error = ((transform(image, key).astype(float) - np.asarray(theirs).transpose(2, 0, 1)) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-3)))


SCENARIOS = {each.__name__: each for each in (speed, quality, resume, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=40)
    options = parser.parse_args()
    if options.batches <= WARM_UP:
        parser.error(
            f"--batches: expected more than the {WARM_UP} that are not counted, found {options.batches}"
        )
    pictures = make_corpus(BUILD / "corpus")
    for name, scenario in SCENARIOS.items():
        if options.scenario in (name, "all"):
            print(f"### {name}\n", flush=True)
            scenario(pictures, options.runs, options.batches)
            print(flush=True)


if __name__ == "__main__":
    main()
