"""`clipkit shards dedup`: its search for near-equal hashes beside faiss and pybktree, and the whole command.

    python bench/dedup.py [--rows 10000000] [--fewer 1000000] [--fewest 20000] [--near 4]
                          [--scenario search|command|all] [--folder DIR]

command  `clipkit shards dedup --near --list` as a process, on a dataset of so many rows, hashes as below, of
         which 1% also have the bytes of others: manifests as long as usual ones and an index; its tars are
         not there, as nothing is copied. With --folder it is made there, or used if it is there.
search   the search alone, beside faiss's indexes of bits and pybktree

Of the rows 1% are others with one to four bits flipped, 5% are white or nearly so (they tell nothing and
are left to their bytes), 5% have a quarter of their bits the same (a part of the picture is plain), and 1%
are the same hash. The others only find pairs; clipkit also says which stay. Faiss (IndexBinaryMultiHash, the
same method, three bands with one bit flipped: for 4 bits it finds all; IndexBinaryFlat compares all) and
pybktree run on fewer rows, without the white ones and with each hash once: they have no defence against them.

The other sides need packages of their own in build/bench/dedup:

    python -m venv build/bench/dedup && build/bench/dedup/bin/pip install faiss-cpu pybktree numpy
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from made.manifests import make_manifests

PEERS = Path(__file__).parent.parent / "build" / "bench" / "dedup" / "bin" / "python"
PEER = """
import resource, sys, time
import numpy as np
hashes, near = np.load(sys.argv[2]), int(sys.argv[3])
begun, cpu = time.monotonic(), time.process_time()
if sys.argv[1] == "pybktree":
    import pybktree
    tree = pybktree.BKTree(lambda a, b: (a ^ b).bit_count(), hashes.tolist())
    pairs = sum(len(tree.find(each, near)) - 1 for each in hashes.tolist()) // 2
else:
    import faiss
    faiss.omp_set_num_threads(1)
    rows = hashes.view(np.uint8).reshape(-1, 8)
    if sys.argv[1] == "multihash":
        index = faiss.IndexBinaryMultiHash(64, 3, 21)
        index.nflip = 1
    else:
        index = faiss.IndexBinaryFlat(64)
    index.add(rows)
    pairs = 0
    for first in range(0, len(rows), 10_000):
        limits, _, _ = index.range_search(rows[first : first + 10_000], near + 1)
        pairs += int(limits[-1])
    pairs = (pairs - len(rows)) // 2
status = open("/proc/self/status").read()
peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
seconds = f"wall {time.monotonic() - begun:.1f} s, CPU {time.process_time() - cpu:.1f} s"
print(f"{pairs:,} pairs: {seconds}, {peak:,.0f} MB")
"""


def synthetic(rows: int) -> np.ndarray:
    draws = np.random.default_rng(0)
    hashes = draws.integers(0, 2**64, rows, dtype=np.uint64)
    part = rows // 100
    planted = hashes[-part:]
    planted[:] = hashes[:part]
    for count in range(4):
        flipped = draws.random(part) < 1 - count / 4
        planted[flipped] ^= np.uint64(1) << draws.integers(0, 64, int(flipped.sum()), dtype=np.uint64)
    white = hashes[-6 * part : -part]
    white[: 3 * part] = 0
    white[3 * part :] = np.uint64(1) << draws.integers(0, 64, 2 * part, dtype=np.uint64)
    hashes[-11 * part : -6 * part] &= np.uint64(0xFFFFFFFFFFFF)
    hashes[-12 * part : -11 * part] = hashes[-12 * part]
    return draws.permutation(hashes)


def measure(hashes: np.ndarray, near: int) -> None:
    """Print what clipkit takes for these hashes, all of pictures with bytes of their own."""
    from clipkit.shards.resemblance import Pictures, within

    draws = np.random.default_rng(1)
    sha256 = draws.integers(0, 2**64, (len(hashes), 2), dtype=np.uint64)
    pixels = draws.integers(64, 4000, len(hashes)) ** 2
    pictures = Pictures("bench", "", sha256, hashes, pixels, str)
    begun, cpu = time.monotonic(), time.process_time()
    gone = int((within(pictures, near) != np.arange(len(hashes))).sum())
    seconds = f"wall {time.monotonic() - begun:.1f} s, CPU {time.process_time() - cpu:.1f} s"
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    print(f"{gone:,} left out: {seconds}, {peak:,.0f} MB")


def command(directory: Path, rows: int, near: int) -> None:
    """Print what the command takes, and what it finds, on a dataset that is made for it."""
    if not (directory / "dataset.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        make_manifests(directory, rows, synthetic(rows), repeated=rows // 100)
    size = sum(path.stat().st_size for path in directory.glob("[0-9]*.parquet")) / 1e6
    print(f"{rows:,} rows, {size:,.0f} MB of manifests, the command: ", end="", flush=True)
    words = [
        sys.executable,
        "-m",
        "clipkit",
        "shards",
        "dedup",
        str(directory),
        "--near",
        str(near),
        "--json",
    ]
    with tempfile.TemporaryDirectory() as name, (Path(name) / "found.json").open("w+b") as found:
        begun = time.monotonic()
        words += ["--near", str(near), "--list", str(Path(name) / "list.parquet")]
        process = subprocess.Popen(words, stdout=found, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"clipkit ended with {process.returncode}")
        wall = time.monotonic() - begun
        found.seek(0)
        counts = json.load(found)
    print(f"{counts['exact']:,} of equal bytes, {counts['near']:,} near ones to leave out: ", end="")
    cpu, peak = used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6
    print(f"wall {wall:.1f} s, CPU {cpu:.1f} s, {peak:,.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--fewer", type=int, default=1_000_000)
    parser.add_argument("--fewest", type=int, default=20_000)
    parser.add_argument("--near", type=int, default=4)
    parser.add_argument("--scenario", choices=["search", "command", "all"], default="all")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        measure(np.load(options.run), options.near)
        return
    if options.scenario != "search":
        with tempfile.TemporaryDirectory() as name:
            command(options.folder or Path(name), options.rows, options.near)
    if options.scenario != "command":
        search(options)


def search(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "hashes.npy"
        np.save(file, synthetic(options.rows))
        ours = [sys.executable, __file__, "--near", str(options.near), "--run", str(file)]
        print(f"{options.rows:,} rows, clipkit: ", end="", flush=True)
        subprocess.run(ours, check=True)
        for rows, peers in {options.fewer: ["multihash"], options.fewest: ["flat", "pybktree"]}.items():
            hashes = np.unique(synthetic(rows))
            bits = np.bitwise_count(hashes)
            np.save(file, np.random.default_rng(2).permutation(hashes[(bits >= 8) & (bits <= 56)]))
            print(f"{rows:,} rows, clipkit: ", end="", flush=True)
            subprocess.run(ours, check=True)
            for peer in peers if PEERS.exists() else []:
                print(f"{rows:,} rows, {peer}: ", end="", flush=True)
                subprocess.run([PEERS, "-c", PEER, peer, file, str(options.near)], check=True)
    if not PEERS.exists():
        sys.exit(f"the other sides were not run: expected {PEERS}, see --help")


if __name__ == "__main__":
    main()
