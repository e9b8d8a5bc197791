"""A trainer's memory over a long run, with its checkpoints written in the background."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: one that ran other tests has memory to spare.
PROGRAM = """
import resource, sys
from pathlib import Path
import torch
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory

def memory(model, ranks):
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    yield "resident", float(fields["VmRSS"].split()[0]) / 1024
    yield "peak", float(fields["VmHWM"].split()[0]) / 1024

if __name__ == "__main__":
    torch.set_num_threads(1)
    config = TrainConfig.model_validate_json(sys.argv[3])
    train(config, ShardSet(Path(sys.argv[1])), RunDirectory(Path(sys.argv[2])), [memory], device="cpu")
"""
CONFIG = {
    "model": "ViT-Micro/16@32px",
    "batch_size": 120,
    "epochs": 10,
    "workers": 2,
    "save_every": 700,
    "log_every": 1,
    "keep": 2,
    "flip": True,
}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", ["ViT-Micro/16@32px", "RN-Mini@64px"])
def test_ten_epochs_take_no_more_memory_than_two(model: str, small_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    words = map(str, (small_dataset, tmp_path / "run", json.dumps(CONFIG | {"model": model})))
    command = [sys.executable, str(tmp_path / "program.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    evaluations = [line for line in lines if "resident" in line]
    assert [round(line["epoch"]) for line in evaluations] == list(range(11))
    for name in ("resident", "peak"):
        megabytes = [line[name] for line in evaluations]
        assert max(megabytes) <= 1.03 * megabytes[2], megabytes
