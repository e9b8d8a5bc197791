"""The two commands under comparison: the same list, the same pictures asked for, each side's own best way."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from web.measured import Cost, measured

PROCESSES = 2
_PEER = ("img2dataset==1.47.0", "pandas<3", "webdataset<0.3")  # newer ones of the others do not work with it


class Run(NamedTuple):
    """One run of one side: its cost, and how many of the list's URLs became samples."""

    cost: Cost
    urls: int
    samples: int


def clipkit_side(urls: Path, out: Path, connections: int) -> Run:
    """Run `clipkit ingest` with so many connections in all."""
    cost = clipkit_cost(urls, out, connections)
    log = _log(out).read_text()
    if cost.status:
        raise SystemExit(f"clipkit ended with exit status {cost.status}:\n{log[-2000:]}")
    result = json.loads(log.splitlines()[-1])
    return Run(cost, result["records"], result["samples"])


def clipkit_cost(
    urls: Path,
    out: Path,
    connections: int,
    *,
    options: tuple[str, ...] = (),
    memory: bool = False,
    seconds: float | None = None,
) -> Cost:
    """Run it likewise, however it ends; stopped after `seconds`."""
    shutil.rmtree(out, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "clipkit", "ingest", "table", str(urls), "--out", str(out), "--json"),
        *("--workers", str(PROCESSES), "--connections", str(connections // PROCESSES)),
        *("--allow-private-hosts", *options),
    ]
    return measured(command, _log(out), memory=memory, seconds=seconds)


def peer_side(urls: Path, out: Path, connections: int, python: Path) -> Run:
    """Run img2dataset with so many connections in all: a thread is one."""
    shutil.rmtree(out, ignore_errors=True)
    settings = {
        "url_list": urls,
        "output_folder": out,
        "input_format": "tsv",
        "url_col": "url",
        "caption_col": "caption",
        "output_format": "webdataset",
        "number_sample_per_shard": 1000,
        "processes_count": PROCESSES,
        "thread_count": connections // PROCESSES,
        "image_size": 256,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "encode_quality": 95,
        "extract_exif": False,  # clipkit keeps none either, and it takes time
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    cost = measured([python.with_name("img2dataset"), *options], _log(out))
    if cost.status:
        raise SystemExit(f"img2dataset ended with exit status {cost.status}; see {_log(out)}")
    stats = [json.loads(path.read_text()) for path in out.glob("*_stats.json")]
    return Run(cost, sum(each["count"] for each in stats), sum(each["successes"] for each in stats))


def peer_python(build: Path, base: str) -> Path:
    """Return the Python of a virtual environment with img2dataset, made with `base` if it is not there."""
    asked = [base, "-c", "import sys; print('{}.{}'.format(*sys.version_info))"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    folder = build / f"img2dataset-{version}"
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *_PEER], check=True)
        (folder / "made").touch()
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would look for a newer version of itself on the network
    return python


def _log(out: Path) -> Path:
    return out.with_suffix(".log")
