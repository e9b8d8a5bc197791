"""Whole training runs, data included, beside `open_clip_train.main` on the same shards.

    python bench/train.py [--scenario loader|pixels|small|rn50|all] [--runs 3]

loader  ViT-Micro/16@32px: making batches is nearly all of the work
pixels  a ViT of one layer for 224-pixel pictures: what is done to their pixels is half of the work
small   RN-Mini@64px
rn50    RN50

Each side is one command: 2 loader processes, float32, the same batch size, learning rate and crops. Samples a
second and CPU time a sample lie between two lines of a run's log, so that neither start nor end are in them;
the CPU time is of all a side's processes. The sides take turns. The shards, the runs and OpenCLIP's
environment lie in build/bench; the pictures are those of bench/loader.py.
"""

import argparse
import shutil
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

from stream.shards import make_shards
from training.cost import watched
from training.sides import SIDES, Training, command, log
from web.corpus import make_corpus

from clipkit.model.config import ClipConfig, TextConfig, ViTConfig, named_config

BUILD = Path(__file__).parent.parent / "build" / "bench"
TINY = ClipConfig(
    name="ViT-Tiny-56",
    embed_dim=64,
    vision=ViTConfig(layers=1, width=64, patch_size=56, image_size=224),
    text=TextConfig(width=64, heads=1, layers=1),
)


class Scenario(NamedTuple):
    """A model, the size and the number of its batches, and how many come before the counting begins."""

    model: ClipConfig
    batch_size: int
    batches: int
    before: int


SCENARIOS = {
    "loader": Scenario(named_config("ViT-Micro/16@32px"), 256, 44, 8),
    "pixels": Scenario(TINY, 256, 44, 8),
    "small": Scenario(named_config("RN-Mini@64px"), 256, 44, 8),
    "rn50": Scenario(named_config("RN50"), 16, 10, 4),
}


class Cost(NamedTuple):
    """Of a sample in the counted stretch: wall and CPU seconds; of the whole command: the same."""

    wall: float
    cpu: float
    whole_wall: float
    whole_cpu: float


def measured(side: str, scenario: Scenario, dataset: Path) -> Cost:
    folder = BUILD / "train" / side
    shutil.rmtree(folder, ignore_errors=True)
    training = Training(scenario.model, dataset, scenario.batches, scenario.batch_size, workers=2)
    costs = watched(command(side, training, folder, BUILD), folder / "printed.txt")
    first, last = log(side, folder)[scenario.before - 1], log(side, folder)[-1]
    samples = (last.step - first.step) * scenario.batch_size
    assert samples == (scenario.batches - scenario.before) * scenario.batch_size
    cpu = costs.cpu_until(last.time) - costs.cpu_until(first.time)
    return Cost((last.time - first.time) / samples, cpu / samples, costs.wall, costs.cpu[-1])


def compare(name: str, runs: int, dataset: Path) -> None:
    done: dict[str, list[Cost]] = {side: [] for side in SIDES}
    for _ in range(runs):
        for side, costs in done.items():
            costs.append(measured(side, SCENARIOS[name], dataset))
            shown = ", ".join(f"{value:.4g} s {what}" for what, value in costs[-1]._asdict().items())
            print(f"  {side}: {shown}", file=sys.stderr, flush=True)
    print("| medians | samples/s | CPU a sample | whole command | its CPU | clipkit's speed: wall | CPU |")
    print("|---|---|---|---|---|---|---|")
    for side, costs in done.items():
        wall, cpu, whole_wall, whole_cpu = (statistics.median(each) for each in zip(*costs, strict=True))
        pairs = list(zip(costs, done["clipkit"], strict=True))
        ratios = [statistics.median(a[place] / b[place] for a, b in pairs) for place in (0, 1)]
        print(
            f"| {side} | {1 / wall:,.1f} | {1000 * cpu:,.2f} ms | {whole_wall:,.1f} s | {whole_cpu:,.1f} s "
            f"| × {ratios[0]:.2f} | × {ratios[1]:.2f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    dataset = make_shards(BUILD / "shards", make_corpus(BUILD / "corpus"))
    for name in SCENARIOS:
        if options.scenario in (name, "all"):
            print(f"### {name}\n", flush=True)
            compare(name, options.runs, dataset)
            print(flush=True)


if __name__ == "__main__":
    main()
