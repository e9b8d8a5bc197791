"""Zero-shot classification and retrieval beside OpenCLIP's evaluation and CLIP_benchmark: the same files.

    python bench/evaluate.py [--scenario same|retrieval|speed|prompts|first|memory|all] [--runs 3] [--quick]

same       predictions and accuracies of 5,250 pictures: clipkit, OpenCLIP, CLIP_benchmark
retrieval  recalls of 1,000 pictures, with a caption each and with three
speed      pictures a second and CPU time a picture, a small ViT, 2 loader processes
prompts    seconds for the classifier: a small text tower and RN50's
first      seconds from the start to the first count on a terminal (of prompts, before any accuracy)
memory     the largest sum over all processes, for 5,250 and 21,000 pictures

clipkit's sides are `clipkit evaluate` commands, but for the prompts; the peers' are their own functions in
their order (bench/evaluating/peers.py). float32 on the CPU. Pictures are crops of photographs in Debian's
wallpaper packages; they, the models and the peers' environment lie in build/bench. `--quick` takes fewer.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import NamedTuple

from evaluating.comparison import compare_predictions, compare_recalls
from evaluating.models import ModelFiles, fitted_model
from evaluating.pictures import LabelledSet, make_set, several_times
from evaluating.prompts import compare_prompts
from evaluating.sides import BUILD, Given, clipkit_command, peer_command
from evaluating.terminal import first_count
from training.cost import watched
from web.measured import measured

EACH_CLASS, QUICK_EACH_CLASS = 70, 8
PLACE = BUILD / "evaluate"


class Bench(NamedTuple):
    """What all scenarios work on."""

    made: LabelledSet
    model: ModelFiles
    runs: int
    quick: bool

    @property
    def given(self) -> Given:
        """What both sides are told."""
        return Given(self.model, self.made)


def same(bench: Bench) -> None:
    compare_predictions(bench.given, PLACE)


def retrieval(bench: Bench) -> None:
    compare_recalls(bench.given, PLACE, pictures=200 if bench.quick else 1000)


class Speed(NamedTuple):
    """Of a picture: wall and CPU seconds. Of the whole command: the same."""

    wall: float
    cpu: float
    whole_wall: float
    whole_cpu: float


def speed(bench: Bench) -> None:
    done: dict[str, list[Speed]] = {"clipkit": [], "OpenCLIP": []}
    marks = {"clipkit": ("prompts in", "images in"), "OpenCLIP": ("images begin", "images end")}
    for _ in range(bench.runs):
        for side, costs in done.items():
            command = (
                clipkit_command(bench.given) if side == "clipkit" else peer_command("open_clip", bench.given)
            )
            cost = watched(command, PLACE / "printed.txt")
            begun, ended = map(cost.first, marks[side])
            pictures = bench.made.pictures
            cpu = cost.cpu_until(ended) - cost.cpu_until(begun)
            costs.append(Speed((ended - begun) / pictures, cpu / pictures, cost.wall, cost.cpu[-1]))
            print(f"  {side}: {costs[-1]}", file=sys.stderr, flush=True)
    print("| medians | pictures/s | CPU a picture | whole command | its CPU | clipkit's speed: wall | CPU |")
    print("|---|---|---|---|---|---|---|")
    for side, costs in done.items():
        wall, cpu, whole_wall, whole_cpu = (statistics.median(each) for each in zip(*costs, strict=True))
        pairs = list(zip(costs, done["clipkit"], strict=True))
        ratios = [
            statistics.median(theirs[place] / ours[place] for theirs, ours in pairs) for place in (0, 1)
        ]
        print(
            f"| {side} | {1 / wall:,.0f} | {1000 * cpu:.2f} ms | {whole_wall:.1f} s | {whole_cpu:.1f} s "
            f"| × {ratios[0]:.2f} | × {ratios[1]:.2f} |"
        )


def prompts(bench: Bench) -> None:
    compare_prompts(PLACE, bench.runs, quick=bench.quick)


def first(bench: Bench) -> None:
    print("| run | first picture of the display | first count of prompts or pictures | command |")
    print("|---|---|---|---|")
    for run in range(bench.runs):
        seen = first_count(clipkit_command(bench.given))
        print(f"| {run + 1} | {seen.display:.2f} s | {seen.counted:.2f} s | {seen.end:.2f} s |", flush=True)


def memory(bench: Bench) -> None:
    many = several_times(bench.made, PLACE / f"{bench.made.folder.parent.name}-4", 4)
    print("| pictures | proportional | private | wall |\n|---|---|---|---|")
    for made in (bench.made, many):
        output = PLACE / "printed.txt"
        cost = measured(clipkit_command(Given(bench.model, made)), output, memory=True)
        if cost.status:
            raise SystemExit(output.read_text()[-2000:])
        sizes = " | ".join(f"{size / 1e6:,.0f} MB" for size in (cost.proportional, cost.private))
        print(f"| {made.pictures:,} | {sizes} | {cost.wall:.1f} s |", flush=True)


SCENARIOS: dict[str, Callable[[Bench], None]] = {
    each.__name__: each for each in (same, retrieval, speed, prompts, first, memory)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    each_class = QUICK_EACH_CLASS if options.quick else EACH_CLASS
    PLACE.mkdir(parents=True, exist_ok=True)
    made = make_set(PLACE / f"pictures-{each_class}", each_class)
    model = fitted_model(made, PLACE / f"models-{each_class}")
    bytes_each = sum(path.stat().st_size for path in made.folder.glob("*/*")) / made.pictures
    print(
        f"{made.pictures:,} pictures of {len(made.names)} classes, {bytes_each / 1000:.0f} kB in the mean\n"
    )
    faults: list[str] = []
    for name, scenario in SCENARIOS.items():
        if options.scenario in (name, "all"):
            print(f"### {name}\n", flush=True)
            try:
                scenario(Bench(made, model, options.runs, options.quick))
            except SystemExit as fault:  # the others are worth knowing
                faults.append(f"{name}: {fault}")
            print(flush=True)
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    main()
