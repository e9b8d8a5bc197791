"""Zero-shot accuracy of many runs beside `open_clip_train.main`: the same data, model, settings and budget.

    python bench/seeds.py [--seeds 5] [--epochs 40] [--nice 0]

The emoji of examples/emoji: trained on one vendor's pictures, tested on the other's. Settings are the demo's
where OpenCLIP has them: RN-Mini@64px, batches of 128, 40 epochs of 15 batches, peak rate 1e-3, weight decay
0.2, a tenth of the steps for warm-up, cosine, crops of 0.6 to 1 of the area, one loader process, float32.
Each checkpoint is evaluated by `clipkit evaluate` and by OpenCLIP's own zero-shot code. Everything lies in
build/bench/seeds; finished runs are not repeated, so the same command goes on after an interruption.
"""

import argparse
import csv
import json
import math
import shutil
import statistics
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from training.cost import watched
from training.sides import SIDES, Training, command, last_checkpoint, log

from clipkit import atomic
from clipkit.model.config import named_config

ROOT = Path(__file__).parent.parent
EMOJI, BUILD = ROOT / "examples" / "emoji", ROOT / "build" / "bench"
PLACE = BUILD / "seeds"
BATCH_SIZE, BATCHES = 128, 15  # of an epoch: OpenCLIP's are of whole batches, 1,906 samples need 15
STEPS_OF_LOSS = 60


def dataset() -> Path:
    """The demo's pictures and captions as shards, made once."""
    folder, pictures = PLACE / "dataset", PLACE / "noto"
    if folder.exists():
        return folder
    begun = folder.with_name("begun")
    shutil.rmtree(begun, ignore_errors=True)
    with zipfile.ZipFile(EMOJI / "noto.zip") as archive:
        archive.extractall(pictures)
    with (EMOJI / "captions.tsv").open(encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    with (PLACE / "noto.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows(
            [("filepath", "title"), *((f"noto/{name}.webp", caption) for name, caption in rows)]
        )
    clipkit("ingest", "files", PLACE / "noto.csv", "--out", begun)
    begun.rename(folder)
    return folder


def test_pictures() -> Path:
    """The other vendor's pictures, a folder a class, unpacked once."""
    folder = PLACE / "twemoji"
    if not folder.exists():
        begun = PLACE / "twemoji.begun"
        with zipfile.ZipFile(EMOJI / "twemoji.zip") as archive:
            archive.extractall(begun)
        begun.rename(folder)
    return folder


def clipkit(*words: object) -> str:
    return _said(["-m", "clipkit", *words])


def _said(words: list[object]) -> str:
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}")
    return done.stdout


def accuracies(checkpoint: Path, training: Training, model: Path) -> dict[str, float]:
    """Top-1 and top-5 in 0…1, by either side's code."""
    classes, pictures = EMOJI / "classes.csv", test_pictures()
    words = ["--checkpoint", checkpoint, "--folder", pictures, "--classes", classes, "--json"]
    named = ["--model", training.model.name, "--templates", EMOJI / "templates.txt"]
    (ours,) = json.loads(clipkit("evaluate", *words, *named))["results"]
    program = Path(__file__).parent / "training" / "zero_shot.py"
    theirs = json.loads(_said([program, model, checkpoint, pictures, classes]))
    return {
        **{f"{name} by clipkit": ours[name] for name in ("top1", "top5")},
        **{f"{name} by OpenCLIP": theirs[name] for name in ("top1", "top5")},
    }


def result(side: str, seed: int, epochs: int, nice: int) -> dict[str, Any]:
    """Train and evaluate one side with one seed, or find what that came to before."""
    folder = PLACE / f"{side}-{epochs}-epochs-seed-{seed}"
    file = folder / "result.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    training = Training(
        named_config("RN-Mini@64px"),
        dataset(),
        BATCHES,
        BATCH_SIZE,
        workers=1,
        epochs=epochs,
        lr=1e-3,
        warmup=epochs * BATCHES // 10,
        seed=seed,
        crop_scale=(0.6, 1.0),
    )
    shutil.rmtree(folder, ignore_errors=True)
    costs = watched(command(side, training, folder, BUILD), PLACE / f"{side}.txt", nice=nice)
    losses = [stamp.loss for stamp in log(side, folder)]
    assert len(losses) == epochs * BATCHES
    found = accuracies(last_checkpoint(side, training, folder), training, next(folder.glob("*.json")))
    found |= {"loss": statistics.mean(losses[-STEPS_OF_LOSS:]), "cpu": costs.cpu[-1], "wall": costs.wall}
    atomic.write_json(file, found)
    print(f"  {side}, seed {seed}: {found}", file=sys.stderr, flush=True)
    return found


def show(results: dict[str, list[dict[str, Any]]]) -> None:
    """Print a table for each side, and how far apart their means are."""
    accuracies = [f"{top} by {code}" for top in ("top1", "top5") for code in ("clipkit", "OpenCLIP")]
    for side, rows in results.items():
        names = [*accuracies, f"loss of the last {STEPS_OF_LOSS} steps", "CPU"]
        print(f"| {side}, seed | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
        for seed, row in enumerate(rows):
            shown = [f"{row[name]:.2%}" for name in accuracies]
            print(f"| {seed} | {' | '.join(shown)} | {row['loss']:.3f} | {row['cpu']:.0f} s |")
        print()
    print("| mean ± standard error | clipkit | OpenCLIP | difference | in standard errors of it |")
    print("|---|---|---|---|---|")
    for name in accuracies:
        values = {side: [row[name] for row in rows] for side, rows in results.items()}
        means = [statistics.mean(values[side]) for side in SIDES]
        errors = [statistics.stdev(values[side]) / math.sqrt(len(values[side])) for side in SIDES]
        difference, error = means[0] - means[1], math.hypot(*errors)
        sides = " | ".join(f"{mean:.2%} ± {each:.2%}" for mean, each in zip(means, errors, strict=True))
        print(f"| {name} | {sides} | {difference:+.2%} | {difference / error:+.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--nice", type=int, default=0)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds: a standard error needs two at least")
    PLACE.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(options.seeds):
        for side, found in results.items():
            found.append(result(side, seed, options.epochs, options.nice))
    show(results)


if __name__ == "__main__":
    main()
