"""The order of five billion samples, planned as the last of 1,024 ranks plans it.

    python bench/plan.py [--shards 5000000] [--json]

The plan is begun in the middle of the run, at a batch that runs from one epoch into the next, so that both
are planned; then a hundred batches of 32 samples a rank are placed. The memory is that of the whole process.
"""

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from clipkit.shards.plan import ShardPlan

RANKS = 1024
SHARE = 32
BATCH_SIZE = RANKS * SHARE
SHARD_SAMPLES = 1000
BATCHES = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--shards", type=int, default=5_000_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = np.full(options.shards, SHARD_SAMPLES, np.int64)
    begun = time.perf_counter(), time.process_time()
    plan = ShardPlan(sizes, seed=1)
    batch = 3 * plan.samples // BATCH_SIZE
    place(plan, batch)
    first = time.perf_counter() - begun[0], time.process_time() - begun[1]
    for number in range(BATCHES):
        place(plan, batch + 1 + number)
    rest = time.process_time() - begun[1] - first[1]
    # Not getrusage's figure, which begins at that of the process that began this one.
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    memory = 1024 * int(peak)
    figures = {"samples": plan.samples, "first_batch_seconds": first[0], "first_batch_cpu_seconds": first[1]}
    figures |= {"batch_cpu_seconds": rest / BATCHES, "peak_bytes": memory}
    if options.json:
        print(json.dumps(figures))
        return
    print(
        f"{plan.samples:,} samples in {options.shards:,} shards, rank {RANKS - 1} of {RANKS}, {SHARE} samples"
    )
    print(f"first batch, two epochs planned: {first[0]:.2f} s, {first[1]:.2f} CPU-s")
    print(
        f"each batch after it: {1000 * rest / BATCHES:.2f} ms; memory of the process: {memory / 1e6:.0f} MB"
    )


def place(plan: ShardPlan, batch: int) -> None:
    positions = plan.positions(batch * BATCH_SIZE, (batch + 1) * BATCH_SIZE)[(RANKS - 1) * SHARE :]
    shards, rows = plan.locate(positions)
    assert len(shards) == SHARE and rows.max() < SHARD_SAMPLES


if __name__ == "__main__":
    main()
