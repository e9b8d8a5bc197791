"""Evaluations during training, by one process and by two."""

from pathlib import Path
from typing import Any

import torch

from clipkit.train.run_directory import RunDirectory


def evaluated(out: Path, ranks: int) -> list[dict[str, Any]]:
    return [torch.load(out / f"evaluated_{rank}.pt", weights_only=True) for rank in range(ranks)]


def test_zero_shot_of_two_ranks_is_that_of_one_bit_for_bit(one: Path, two: Path) -> None:
    (whole,), halves = evaluated(one, 1), evaluated(two, 2)
    for half in halves:
        assert torch.equal(half["zero_shot"]["classifier"], whole["zero_shot"]["classifier"])
        assert half["zero_shot"]["result"] == whole["zero_shot"]["result"]
    result = whole["zero_shot"]["result"]
    assert (result["images"], len(result["unreadable"])) == (1001, 1)
    assert result["unreadable"][0].endswith("a/007.jpg")
    assert 0 < result["top1"] < 1


def test_each_rank_reads_its_share(one: Path, two: Path) -> None:
    (whole,), halves = evaluated(one, 1), evaluated(two, 2)
    told = [half["zero_shot"]["told"] for half in halves]
    assert sorted(told[0] + told[1]) == whole["zero_shot"]["told"]
    assert len(told[0]) - len(told[1]) in (0, 1)


def test_validation_of_two_ranks_is_that_of_one_bit_for_bit(one: Path, two: Path) -> None:
    (whole,), halves = evaluated(one, 1), evaluated(two, 2)
    assert all(half["validation"] == whole["validation"] for half in halves)
    assert set(whole["validation"]) >= {"clip_val_loss", "image_to_text_R@1", "text_to_image_median_rank"}


def test_an_evaluation_that_one_rank_must_leave_ends_in_all_and_is_made_again(one: Path, two: Path) -> None:
    for ranks, out in ((1, one), (2, two)):
        for rank in range(ranks):
            told = (out / "stopped" / f"told_{rank}").read_text()
            assert "stopped after step 6; " in told and "epoch_1.pt is written" in told
        found = [line for line in RunDirectory(out / "stopped").metrics.read() if "ranks" in line]
        assert [(line["step"], line["processes"], line["ranks"]) for line in found] == [
            (step, ranks, sum(range(1, ranks + 1))) for step in (0, 6, 11, 16)
        ]
