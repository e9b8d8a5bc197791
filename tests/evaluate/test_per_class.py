"""The scores of single classes, and the tables of classes and pictures, from predictions to files."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipkit.evaluate.classes import ClassSet
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.per_class import class_scores, worst, worst_lines, worst_records
from clipkit.evaluate.predictions import Gathered, Predictions, hits
from clipkit.evaluate.ranks import ALONE
from clipkit.evaluate.sets import ZeroShotSet
from clipkit.evaluate.tables import CLASS_COLUMNS, PICTURE_COLUMNS, Tables
from clipkit.evaluate.zero_shot import ZeroShotResult
from tests.evaluate.listed import listed

N = 7
CLASSES = ClassSet(
    "things", tuple(f"f{n}" for n in range(N)), tuple((f"name {n}", f"n,{n}") for n in range(N)), ("{}",)
)


def gathered(labels: list[int], logits_KN: torch.Tensor, unreadable: list[int]) -> Predictions:
    found = Gathered(torch.tensor(labels), N)
    read = torch.tensor([place for place in range(len(labels)) if place not in unreadable])
    for part in torch.split(read, 3):
        found.add(part, logits_KN[part])
    return found.total(unreadable, ALONE)


@given(labels=st.lists(st.integers(0, N - 1), min_size=3, max_size=40), seed=st.integers(0, 99))
def test_scores_of_classes_are_those_of_their_pictures(labels: list[int], seed: int) -> None:
    logits = torch.rand(len(labels), N, generator=torch.Generator().manual_seed(seed))
    unreadable = [1]
    predictions = gathered(labels, logits, unreadable)
    scores = {score.label: score for score in class_scores(predictions)}
    read = [place for place in range(len(labels)) if place not in unreadable]
    assert list(scores) == sorted({labels[place] for place in read})
    assert sum(score.images for score in scores.values()) == len(read)
    for label, score in scores.items():
        own = [place for place in read if labels[place] == label]
        ranked = [logits[place].argsort(descending=True).tolist() for place in own]
        assert (score.images, score.top1_correct) == (len(own), sum(row[0] == label for row in ranked))
        assert score.top5_correct == sum(label in row[:5] for row in ranked)
        wrong = Counter(row[0] for row in ranked if row[0] != label)
        assert score.mistakes == tuple(sorted(wrong.items(), key=lambda each: (-each[1], each[0]))[:3])


def test_a_tie_is_a_part_of_a_hit_in_its_class() -> None:
    logits = torch.zeros(4, N)
    logits[2:, 3] = 1.0
    (score,) = class_scores(gathered([3, 3, 3, 3], logits, []))
    assert score.top1 == pytest.approx((1 / N + 1 / N + 1 + 1) / 4)
    assert float(hits(logits, torch.full((4,), 3), 1).sum()) == pytest.approx(score.top1_correct)


def result_of(predictions: Predictions, name: str) -> ZeroShotResult:
    scores = class_scores(predictions)
    return ZeroShotResult(
        name, 5, N, len(scores), False, 0.4, 0.8, 0.3, (0.1, 0.6), 2.0, 4.0, (), "", scores, predictions
    )


@pytest.fixture
def scored(tmp_path: Path) -> tuple[ZeroShotSet, ZeroShotResult]:
    """Five pictures of class 2, two of class 4 and one that cannot be read."""
    paths = tuple(tmp_path / f"{place}.jpg" for place in range(8))
    labels = [2, 2, 2, 2, 2, 4, 4, 4]
    logits = torch.full((8, N), 0.125) - torch.arange(N) / 64
    for place, nearest in enumerate((2, 6, 6, 1, 2, 4, 4, 0)):
        logits[place, nearest] = 0.5
    images = LabelledImages("things", tmp_path, listed(paths), tuple(labels))
    return ZeroShotSet(CLASSES, images), result_of(gathered(labels, logits, [7]), "things")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_hold_all_sets_so_far(scored: tuple[ZeroShotSet, ZeroShotResult], tmp_path: Path) -> None:
    config = EvaluateConfig(per_class=tmp_path / "c.csv", predictions=tmp_path / "p.csv")
    tables = Tables(config)
    tables.add(*scored)
    first, second = rows(tmp_path / "c.csv")
    assert tuple(first) == CLASS_COLUMNS
    assert [*first.values()] == [
        *("things", "2", "f2", "name 2|n,2", "5", "0.4", "1.0"),
        *("f6", "name 6|n,6", "0.4"),
    ]
    assert [*second.values()] == ["things", "4", "f4", "name 4|n,4", "2", "1.0", "1.0", "", "", "0.0"]
    pictures = rows(tmp_path / "p.csv")
    assert len(pictures) == 7, "the one that cannot be read has no prediction"
    assert [*pictures[1]] == [*PICTURE_COLUMNS]
    assert [*pictures[1].values()] == [
        *("things", str(tmp_path / "1.jpg"), "2", "f2", "6", "f6", "0.5", "0.09375", "6 0 1 2 3"),
    ]
    tables.add(scored[0], result_of(scored[1].predictions, "others"))
    assert [row["set"] for row in rows(tmp_path / "c.csv")] == ["things"] * 2 + ["others"] * 2
    assert len(rows(tmp_path / "p.csv")) == 14
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.csv", "p.csv"]


def test_a_name_that_is_no_utf_8_stands_as_it_is_on_disk(tmp_path: Path) -> None:
    name = b"caf\xe9.jpg".decode(errors="surrogateescape")
    images = LabelledImages("x", tmp_path, listed([tmp_path / name]), (0,))
    config = EvaluateConfig(predictions=tmp_path / "p.csv")
    Tables(config).add(ZeroShotSet(CLASSES, images), result_of(gathered([0], torch.eye(1, N), []), "x"))
    assert b"caf\xe9.jpg" in (tmp_path / "p.csv").read_bytes()


def test_the_worst_classes_come_first_and_perfect_ones_not_at_all(
    scored: tuple[ZeroShotSet, ZeroShotResult],
) -> None:
    scores = scored[1].class_scores
    assert [score.label for score in worst(scores)] == [2]
    assert worst_lines("things", scores, CLASSES) == [
        "worst of things: 'name 2' (f2), top-1 40.00% of 5 images, 2 taken for 'name 6'"
    ]
    (record,) = worst_records(scores, CLASSES)
    assert (record["folder"], record["images"], record["top1"]) == ("f2", 5, 0.4)
    assert [(each["folder"], each["images"]) for each in record["taken_for"]] == [("f6", 2), ("f1", 1)]
    many = class_scores(gathered([0, 1, 2, 3] * 2, torch.eye(8, N)[[0, 1, 3, 2, 0, 2, 3, 2]], []))
    assert [score.label for score in worst(many)] == [2, 3, 1]
    assert len(worst(many, 2)) == 2


def test_similarities_are_the_cosines_themselves() -> None:
    logits = torch.linspace(-0.3, 0.3, N)[None]
    found = gathered([1], logits, [])
    assert found.similarity_K[0] == np.float32(0.3)
    assert found.label_similarity_K[0] == logits[0, 1].item()
    assert found.top_KT.tolist() == [[6, 5, 4, 3, 2]]
