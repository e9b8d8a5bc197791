"""Lines of results.jsonl as `clipkit evaluate` writes them, for the tests of what reads them."""

import json
from pathlib import Path
from typing import Any

V2 = "imagenetv2-matched-frequency"


def result(set_name: str, top1: float, samples: int | None = 1_000_000, **changed: Any) -> dict[str, Any]:
    """A result of one of ImageNet's sets; a change to None leaves the field out."""
    images = 50_000 if set_name == "imagenet" else 10_000
    line: dict[str, Any] = {
        "kind": "zero-shot",
        "model": "RN50",
        "checkpoint": f"/runs/a/checkpoints/step_{samples}.pt",
        "checkpoint_sha256": f"hash of {samples}",
        "samples": samples,
        "set": set_name,
        "path": f"/data/{set_name}",
        "files_sha256": f"files of {set_name}",
        "images": images,
        "unreadable": [],
        "partial": False,
        "classes": 1000,
        "names_sha256": "names",
        "templates": 80,
        "templates_sha256": "templates",
        "chance": 0.001,
        "top1": top1,
    }
    return {name: value for name, value in (line | changed).items() if value is not None}


def both(imagenet: float, v2: float, samples: int | None = 1_000_000, **changed: Any) -> list[dict[str, Any]]:
    return [result("imagenet", imagenet, samples, **changed), result(V2, v2, samples, **changed)]


def write_results(folder: Path, lines: list[dict[str, Any]]) -> Path:
    """Write a run directory with these results."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
