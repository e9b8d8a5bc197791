"""Whether clipkit finds what the peers find: predictions picture by picture, and figures."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from evaluating.pictures import LabelledSet
from evaluating.sides import Given, answer, clipkit_command, evaluate_command, peer_command
from evaluating.ties import differing, mean_rank_slack
from PIL import Image

PEERS = ("open_clip", "clip_benchmark")
MARGIN = 1e-5
_ACCURACIES = {"top1": "acc1", "top5": "acc5", "mean_per_class_recall": "mean_per_class_recall"}


class Prediction(NamedTuple):
    """The class that a peer finds nearest, and how much nearer than the next it is, as a cosine."""

    label: int
    margin: float


def compare_predictions(given: Given, place: Path) -> None:
    """Print both sides' figures, and how many predictions differ. Ends the program where they should not."""
    own = place / "predictions.csv"
    (record,) = answer(clipkit_command(given, "--predictions", own, "--json"))["results"]
    with own.open(encoding="utf-8", newline="") as file:
        ours = {row["picture"]: int(row["predicted"]) for row in csv.DictReader(file)}
    names = list(_ACCURACIES)
    print(f"| side | {' | '.join(names)} | predictions that differ | of a margin of {MARGIN:g} or more |")
    print("|---|---|---|---|---|---|")
    print(f"| clipkit | {' | '.join(f'{record[name]:.4%}' for name in names)} | | |")
    faults = 0
    for peer in PEERS:
        output = place / f"{peer}.csv"
        found = answer(peer_command(peer, given._replace(files={"predictions": output})))
        theirs = dict(_read(output))
        assert len(ours) == len(theirs) == given.made.pictures
        differing = [path for path, prediction in theirs.items() if ours[path] != prediction.label]
        clear = [path for path in differing if theirs[path].margin >= MARGIN]
        faults += len(clear)
        close = sum(prediction.margin < MARGIN for prediction in theirs.values())
        values = [found.get(name, found.get(_ACCURACIES[name])) for name in names]
        shown = " | ".join("" if value is None else f"{value:.4%}" for value in values)
        print(
            f"| {peer} | {shown} | {len(differing)} ({close} have a smaller margin) | {len(clear)} |",
            flush=True,
        )
    if faults:
        raise SystemExit(f"{faults} predictions differ that should not")


def compare_recalls(given: Given, place: Path, *, pictures: int) -> None:
    """Print the recalls of both sides, a caption a picture and three. Ends the program where they differ."""
    for peer, captions in zip(PEERS, (1, 3), strict=True):
        table = place / f"captions-{captions}.csv"
        _write_captions(given.made, table, pictures, captions)
        (record,) = answer(evaluate_command(given, "--val-csv", table, "--json"))["results"]
        found = answer(peer_command(f"{peer}_retrieval", given._replace(files={"table": table})))
        names = [
            name for name in found if name in record and ("R@" in name or "rank" in name or "recall" in name)
        ]
        assert len(names) >= 6
        slack = mean_rank_slack(given.model.checkpoint, table)
        print(
            f"| {pictures:,} pictures, {captions} each | clipkit | {peer} | ties explain |\n|---|---|---|---|"
        )
        for name in names:
            explained = slack.get(name.removesuffix("_mean_rank"))
            shown = "" if explained is None else f"{explained:.6g}"
            print(f"| {name} | {record[name]:.6g} | {found[name]:.6g} | {shown} |")
        print(flush=True)
        different = differing(record, {name: found[name] for name in names}, slack)
        if different:
            raise SystemExit(f"{different} differ")


def _read(path: Path) -> Iterator[tuple[str, Prediction]]:
    with path.open(encoding="utf-8", newline="") as file:
        for picture, label, margin in csv.reader(file):
            yield picture, Prediction(int(label), float(margin))


def _write_captions(made: LabelledSet, table: Path, pictures: int, captions: int) -> None:
    """So many pictures from all classes, in turn; no two captions are the same."""
    in_turn = sorted(made.folder.glob("*/*.jpg"), key=lambda path: (path.name, path.parent.name))
    rows: list[tuple[Any, str]] = []
    for path in in_turn:
        with Image.open(path) as picture:
            if picture.mode != "RGB":  # OpenCLIP's table reader does not make them RGB first
                continue
        name = made.names[int(path.parent.name.rpartition("-")[2])]
        number = int(path.stem)
        texts = (
            f"picture {number} of a {name}",
            f"a {name}, seen the {number}th time",
            f"{number}: the {name}",
        )
        rows += [(path.absolute(), text) for text in texts[:captions]]
        if len(rows) == pictures * captions:
            break
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("filepath", "title"), *rows])
