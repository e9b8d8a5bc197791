"""`clipkit shards filter` beside webdataset's reader and writer, and how it chooses among ten million rows.

    python bench/filter.py [--samples 16000] [--bytes 25000] [--rows 10000000] [--runs 5]
                           [--scenario copy|choose|all]

copy    half of the samples, and a tenth, into a new dataset; the other side reads the same tars by webdataset
        and writes those of the wanted keys by its ShardWriter: no manifests, no hashes, nothing flushed
choose  the condition alone, over manifests of so many rows (their tars are not needed for it)

Each run is a process of its own, with the files in the page cache; the sides take turns.
"""

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from made.manifests import make_manifests

from clipkit.progress import Progress
from clipkit.shards.filter import FilterConfig, _flags, filter_dataset
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.index import read_index
from clipkit.shards.original import Original

SHARES = {"half": 2, "a tenth": 10}
CHOOSE = "width >= 200 and length(caption) > 8 and not regexp_matches(caption, '(?i)stock photo')"


def clipkit(directory: Path, out: Path, every: int) -> None:
    filter_dataset(directory, out, FilterConfig(where=f"source_row % {every} = 0"))


def peer(directory: Path, out: Path, every: int) -> None:
    import webdataset

    out.mkdir()
    tars = [str(directory / shard.name) for shard in read_index(directory).shards]
    samples = webdataset.WebDataset(tars, shardshuffle=False)
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=SHARD_SAMPLES, verbose=0) as writer:
        for sample in samples:
            if int(sample["__key__"]) % every == 0:
                writer.write({name: sample[name] for name in ("__key__", "jpg", "txt")})


def choose(directory: Path, out: Path, every: int) -> None:
    original = Original(directory)
    flags = _flags(original, FilterConfig(where=CHOOSE, split=0.01), {}, Progress)
    print(f"{int((flags.meets & ~flags.validation).sum()):,} of {original.samples:,}", file=sys.stderr)


def measured(side: str, directory: Path, out: Path, every: int) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MB of a process of its own that runs a side."""
    words = [sys.executable, __file__, "--run", side, str(directory), str(out), str(every)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    print(done.stderr.strip().splitlines()[-1:], file=sys.stderr)
    wall, cpu, peak = map(float, done.stdout.split())
    return wall, cpu, peak


def run(side: str, directory: str, out: str, every: str) -> None:
    begun, cpu = time.monotonic(), time.process_time()
    {"clipkit": clipkit, "webdataset": peer, "choose": choose}[side](Path(directory), Path(out), int(every))
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(time.monotonic() - begun, time.process_time() - cpu, peak)


def copying(folder: Path, samples: int, size: int, runs: int) -> None:
    from verify import make_dataset  # which brings torch along

    draws = random.Random(0)
    pictures = [draws.randbytes(draws.randint(size // 2, size * 3 // 2)) for _ in range(1000)]
    make_dataset(folder / "old", samples, pictures)
    for share, every in SHARES.items():
        found: dict[str, list[tuple[float, float, float]]] = {"clipkit": [], "webdataset": []}
        written = 0.0
        for number in range(runs):
            for side, figures in found.items():
                out = folder / f"{side}-{every}-{number}"
                figures.append(measured(side, folder / "old", out, every))
                written = sum(tar.stat().st_size for tar in out.glob("*.tar")) / 1e6
        read = sum(tar.stat().st_size for tar in (folder / "old").glob("*.tar")) / 1e6
        print(f"{share}: {read:,.0f} MB read, {written:,.0f} MB written")
        for side, figures in found.items():
            wall, cpu, peak = (statistics.median(column) for column in zip(*figures, strict=True))
            rate = f"{read / cpu:,.0f} MB read a CPU-second"
            print(f"  {side:10}  wall {wall:.2f} s  CPU {cpu:.2f} s  {rate}  {peak:,.0f} MB peak")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=16_000)
    parser.add_argument("--bytes", type=int, default=25_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scenario", choices=["copy", "choose", "all"], default="all")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(*options.run)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.scenario != "choose":
            copying(folder, options.samples, options.bytes, options.runs)
        if options.scenario != "copy":
            (folder / "rows").mkdir()
            make_manifests(folder / "rows", options.rows)
            wall, cpu, peak = measured("choose", folder / "rows", folder / "none", 1)
            figures = f"wall {wall:.1f} s  CPU {cpu:.1f} s  {peak:,.0f} MB peak"
            print(f"choosing among {options.rows:,} rows: {figures}")


if __name__ == "__main__":
    main()
