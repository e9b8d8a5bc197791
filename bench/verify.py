"""`clipkit shards verify` beside the two readers that one would write such a check with, on the same shards.

    python bench/verify.py [--samples 8000] [--bytes 25000] [--runs 5] [--scenario base|decode|all]

base    clipkit compares every byte that is not picture with the manifests, and the SHA-256 of tars and
        manifests with the index; the others hash each tar, read its members by tarfile or webdataset, and
        compare the captions with the manifests; no headers, byte ranges or hashes of manifests
decode  clipkit with --decode on pictures of 341 x 256 pixels

All in this process, as one worker works, with the files in the page cache; the sides take turns. Figures are
MB of tar per second of CPU time.
"""

import argparse
import hashlib
import io
import random
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from clipkit.shards.dataset import DatasetDescription, Pass, Totals, open_for_writing
from clipkit.shards.index import read_index
from clipkit.shards.packing import Packer
from clipkit.shards.parts import PartWriter, make_parts_folder
from clipkit.shards.verify_shard import How, Listed, verify_shard

CHUNK = 1000


def make_dataset(directory: Path, samples: int, pictures: list[bytes]) -> None:
    with open_for_writing(directory, DatasetDescription(sources=(), image={})) as dataset:
        dataset.begin(Pass(kind="list", records=samples))
        packer = Packer(directory)
        for chunk, first in enumerate(range(0, samples, CHUNK)):
            with PartWriter(make_parts_folder(directory, 0), chunk) as part:
                for row in range(first, min(first + CHUNK, samples)):
                    data = pictures[row % len(pictures)]
                    known = {"source": "bench", "source_row": row, "url": f"http://example.com/{row}"}
                    known |= {
                        "ext": "jpg",
                        "width": 341,
                        "height": 256,
                        "sha256": f"{row:064x}",
                        "dhash": row,
                    }
                    part.success(known | {"caption": f"a picture of something, number {row}"}, data)
            packer.add(chunk)
        shards = len(packer.finish(-(-samples // CHUNK)).shards)
        dataset.finish(Totals(records=samples, samples=samples, failures=0, shards=shards))


def ours(directory: Path) -> None:
    for entry in read_index(directory).shards:
        verdict = verify_shard(directory, Listed(entry.name, entry), How())
        assert not len(verdict.faults), verdict.faults.listed


def by_tarfile(directory: Path) -> None:
    for path in sorted(directory.glob("*.tar")):
        captions = pq.read_table(path.with_suffix(".parquet"), columns=["caption"])["caption"].to_pylist()
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        found = []
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                data = content.read()
                if member.name.endswith(".txt"):
                    found.append(data.decode())
        assert found == captions


def by_webdataset(directory: Path) -> None:
    for path in sorted(directory.glob("*.tar")):
        captions = pq.read_table(path.with_suffix(".parquet"), columns=["caption"])["caption"].to_pylist()
        with path.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        samples = webdataset.WebDataset(str(path), shardshuffle=False)
        assert [sample["txt"].decode() for sample in samples] == captions


def cpu_seconds(side: Callable[[Path], None], directory: Path) -> float:
    start = time.process_time()
    side(directory)
    return time.process_time() - start


def photos(count: int) -> list[bytes]:
    """JPEGs of 341 × 256 pixels, smooth with some noise, about 25 kB each."""
    made = []
    for seed in range(count):
        noise = np.random.default_rng(seed)
        small = Image.fromarray(noise.integers(0, 256, (16, 20, 3), dtype=np.uint8))
        pixels = np.asarray(small.resize((341, 256), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(pixels + noise.integers(-9, 10, pixels.shape), 0, 255)
        data = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(data, "JPEG", quality=90)
        made.append(data.getvalue())
    return made


def base(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pictures = [random.Random(seed).randbytes(options.bytes) for seed in range(97)]
        make_dataset(Path(folder) / "dataset", options.samples, pictures)
        directory = Path(folder) / "dataset"
        megabytes = sum(path.stat().st_size for path in directory.glob("*.tar")) / 1e6
        sides = {"clipkit shards verify": ours, "tarfile": by_tarfile, "webdataset": by_webdataset}
        runs = [
            {name: cpu_seconds(side, directory) for name, side in sides.items()} for _ in range(options.runs)
        ]
    for name in sides:
        median = statistics.median(run[name] for run in runs)
        print(f"{name:22} median {median:.3f} CPU-s, {megabytes / median:,.0f} MB/s of a core")
        if name != "clipkit shards verify":
            ratio = statistics.median(run[name] / run["clipkit shards verify"] for run in runs)
            print(f"{'':22} ratio of CPU times, median of the pairs: {ratio:.2f}")


def decode(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "dataset"
        make_dataset(directory, min(options.samples, 2000), photos(97))
        names = sorted(path.name for path in directory.glob("*.tar"))
        megabytes = sum((directory / name).stat().st_size for name in names) / 1e6
        times = []
        for _ in range(options.runs):
            start = time.process_time()
            assert not any(
                len(verify_shard(directory, Listed(name, None), How(decode=True)).faults) for name in names
            )
            times.append(time.process_time() - start)
    median = statistics.median(times)
    pictures = min(options.samples, 2000) / median
    print(f"{'with --decode':22} median {median:.3f} CPU-s, {megabytes / median:,.0f} MB/s of a core")
    print(f"{'':22} {pictures:,.0f} pictures/s of a core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--samples", type=int, default=8000)
    parser.add_argument("--bytes", type=int, default=25_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scenario", choices=["base", "decode", "all"], default="all")
    options = parser.parse_args()
    for name, scenario in (("base", base), ("decode", decode)):
        if options.scenario in (name, "all"):
            scenario(options)


if __name__ == "__main__":
    main()
