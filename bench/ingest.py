"""`clipkit ingest` beside img2dataset: the same list from nginx on loopback, to the same size and quality.

    python bench/ingest.py [--scenario NAME|all] [--runs 5] [--urls 4000] [--hosts 64] [--peer-python PYTHON]

base     both sides on a list of which a tenth is dead; medians, and the median ratio of the pairs
https    as base, but over TLS; img2dataset takes longer with Python 3.11 and older, which read the trusted
         authorities anew for each URL
baseline as base, but of the baseline JPEGs alone: no progressive ones, no WebP, no PNG
threads  img2dataset with other numbers of connections: which is its best?
dead     clipkit with two fifths of the list dead, as many pictures as before
latency  clipkit with every answer 200 ms late, and its throughput by the number of connections
memory   clipkit's peak memory on lists of ten thousand and of ten million rows
single   what one picture costs in a worker, stage by stage, and how near to Lanczos its reduction is

Needs Debian's nginx and wallpaper packages; says which if they are missing. Pictures, an environment for
img2dataset and the datasets lie in build/bench. The sides are whole commands and take turns; their CPU
seconds are those of all their processes, nginx's not counted.
"""

import argparse
import compileall
import os
import signal
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from web.certificate import Authority
from web.corpus import baseline_jpegs, make_corpus
from web.lists import write_list, write_long_list
from web.server import serving
from web.sides import Run, clipkit_cost, clipkit_side, peer_python, peer_side
from web.single import likenesses, stage_seconds

PACKAGE = Path(__file__).parent.parent / "clipkit"
BUILD = Path(__file__).parent.parent / "build" / "bench"
CORPUS = BUILD / "corpus"
CONNECTIONS = 128  # of either side in all
LATENCY = 0.2  # seconds
MEMORY_SECONDS = 40
OURS, THEIRS = BUILD / "ours", BUILD / "theirs"

Sides = Mapping[str, Callable[[], Run]]


class Asked(NamedTuple):
    """What a scenario works with; `peer` is the Python that img2dataset gets."""

    pictures: Sequence[Path]
    urls: int
    runs: int
    hosts: int
    peer: str


def base(asked: Asked, authority: Authority | None = None) -> None:
    python = peer_python(BUILD, asked.peer)
    with serving(CORPUS, BUILD / "nginx", asked.hosts, authority=authority) as site:
        path = write_list(BUILD / "base.tsv", asked.pictures, site, *shares(asked.urls))
        sides = {
            "clipkit": partial(clipkit_side, path, OURS, CONNECTIONS),
            "img2dataset": partial(peer_side, path, THEIRS, CONNECTIONS, python),
        }
        done = in_turn(sides, asked.runs)
    show(done)
    for run in (run for side in done.values() for run in side):
        assert (run.urls, run.samples) == (asked.urls, shares(asked.urls)[0]), f"not the same work: {run}"
    pairs = list(zip(done["clipkit"], done["img2dataset"], strict=True))
    for what in ("wall", "cpu"):
        ratio = statistics.median(getattr(b.cost, what) / getattr(a.cost, what) for a, b in pairs)
        print(f"{what}: img2dataset's / clipkit's, median of the pairs: {ratio:.2f}\n")


def https(asked: Asked) -> None:
    authority = Authority(BUILD / "authority")
    os.environ["SSL_CERT_FILE"] = str(authority.bundle)  # both sides ask there whom to trust
    base(asked, authority)


def baseline(asked: Asked) -> None:
    base(asked._replace(pictures=baseline_jpegs(asked.pictures)))


def threads(asked: Asked) -> None:
    python = peer_python(BUILD, asked.peer)
    with serving(CORPUS, BUILD / "nginx", asked.hosts) as site:
        path = write_list(BUILD / "base.tsv", asked.pictures, site, *shares(asked.urls))
        sides = {
            f"img2dataset, {count} connections": partial(peer_side, path, THEIRS, count, python)
            for count in (16, 32, 64, 128, 256)
        }
        show(in_turn(sides, asked.runs))


def dead(asked: Asked) -> None:
    live, few = shares(asked.urls)
    with serving(CORPUS, BUILD / "nginx", asked.hosts) as site:
        lists = {
            "10% dead": write_list(BUILD / "few.tsv", asked.pictures, site, live, few),
            "40% dead": write_list(BUILD / "many.tsv", asked.pictures, site, live, live * 2 // 3),
        }
        tell_rise(lists, asked.runs)


def latency(asked: Asked) -> None:
    late = f"{LATENCY * 1000:.0f} ms late"
    with (
        serving(CORPUS, BUILD / "nginx", asked.hosts) as site,
        serving(CORPUS, BUILD / "nginx-late", asked.hosts, latency=LATENCY) as late_site,
    ):
        lists = {
            "at once": write_list(BUILD / "base.tsv", asked.pictures, site, *shares(asked.urls)),
            late: write_list(BUILD / "late.tsv", asked.pictures, late_site, *shares(asked.urls)),
        }
        tell_rise(lists, asked.runs)
        sides = {
            f"{late}, {count} connections, at most {count / LATENCY:,.0f} URLs/s": partial(
                clipkit_side, lists[late], OURS, count
            )
            for count in (16, 64, 256)
        }
        show(in_turn(sides, 1))


def memory(asked: Asked) -> None:
    print("| rows | whole command with --limit 1 | proportional | private |\n|---|---|---|---|")
    with serving(CORPUS, BUILD / "nginx", asked.hosts) as site:
        for rows in (10_000, 10_000_000):
            path = write_long_list(BUILD / "long.tsv", asked.pictures, site, rows)
            begun = clipkit_cost(path, OURS, CONNECTIONS, options=("--limit", "1"))
            run = clipkit_cost(path, OURS, CONNECTIONS, memory=True, seconds=begun.wall + MEMORY_SECONDS)
            megabytes = f"{run.proportional / 1e6:,.0f} MB | {run.private / 1e6:,.0f} MB"
            assert begun.status == 0 and run.status in (0, 130), f"see {OURS}.log: {begun}, {run}"
            print(f"| {rows:,} | {begun.wall:.1f} s | {megabytes} |", flush=True)
            path.unlink()


def single(asked: Asked) -> None:
    print("| stage | CPU a picture |\n|---|---|")
    for name, seconds in stage_seconds(asked.pictures[::3]).items():
        print(f"| {name} | {1000 * seconds:.2f} ms |")
    found = [each for picture in asked.pictures[::2] if (each := likenesses(picture))]
    print(f"\n| {len(found)} JPEGs, to Lanczos | PSNR, mean | 5th percentile | SSIM, mean | 5th percentile |")
    print("|---|---|---|---|---|")
    for name in found[0]:
        psnr, ssim = np.array([each[name] for each in found]).T
        print(
            f"| {name} | {psnr.mean():.1f} dB | {np.percentile(psnr, 5):.1f} dB "
            f"| {ssim.mean():.4f} | {np.percentile(ssim, 5):.4f} |"
        )


def shares(urls: int) -> tuple[int, int]:
    """How many of the URLs are live and how many dead: a tenth."""
    return urls - urls // 10, urls // 10


def tell_rise(lists: Mapping[str, Path], runs: int) -> None:
    """Say how much more CPU time a sample takes from the second list than from the first."""
    sides = {name: partial(clipkit_side, path, OURS, CONNECTIONS) for name, path in lists.items()}
    done = in_turn(sides, runs)
    show(done)
    pairs = zip(*done.values(), strict=True)
    rise = statistics.median((b.cost.cpu / b.samples) / (a.cost.cpu / a.samples) for a, b in pairs)
    print(f"CPU time a sample, second / first, median of the pairs: {rise:.2f}\n")


def in_turn(sides: Sides, runs: int) -> dict[str, list[Run]]:
    done: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, side in sides.items():
            done[name].append(side())
            cost = done[name][-1].cost
            print(f"  {name}: {cost.wall:.2f} s, {cost.cpu:.2f} CPU-s", file=sys.stderr, flush=True)
    return done


def show(done: Mapping[str, Sequence[Run]]) -> None:
    print("| medians | wall | URLs/s | CPU | samples/CPU-s | CPU a sample |\n|---|---|---|---|---|---|")
    for name, runs in done.items():
        wall = statistics.median(run.cost.wall for run in runs)
        cpu = statistics.median(run.cost.cpu for run in runs)
        urls, samples = runs[0].urls, runs[0].samples
        print(
            f"| {name} | {wall:.2f} s | {urls / wall:,.0f} | {cpu:.2f} s | {samples / cpu:,.0f} "
            f"| {1000 * cpu / samples:.2f} ms |"
        )
    print(flush=True)


SCENARIOS = {each.__name__: each for each in (base, https, baseline, threads, dead, latency, memory, single)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="base")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--urls", type=int, default=4000)
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # nginx is ended then too
    compileall.compile_dir(PACKAGE, quiet=1)  # as pip has compiled img2dataset
    pictures = make_corpus(CORPUS)
    mean = statistics.mean(picture.stat().st_size for picture in pictures)
    print(f"{len(pictures):,} pictures of {mean / 1000:.0f} kB mean; lists of {options.urls:,} URLs\n")
    asked = Asked(pictures, options.urls, options.runs, options.hosts, options.peer_python)
    for name, scenario in SCENARIOS.items():
        if options.scenario in (name, "all"):
            print(f"### {name}\n", flush=True)
            scenario(asked)


if __name__ == "__main__":
    main()
