"""Retrieval with several captions a picture, against its definition one query at a time."""

import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from clipkit.evaluate import captions as module
from clipkit.evaluate.captions import CaptionsResult, captions_retrieval
from clipkit.evaluate.ranks import ALONE, Ranks
from clipkit.evaluate.retrieval import RECALLS, Embedded, retrieval
from tests.evaluate.simulated import in_each_rank

PICTURES, DIM = 40, 16


def embedded(features_ND: Tensor, inputs: list[int]) -> Embedded:
    numbers = np.array(inputs)
    return Embedded(features_ND.float(), np.stack([numbers, 5 * numbers + 1], axis=1).astype(np.int64))


def by_hand(scores: Tensor, owners: list[list[int]]) -> tuple[list[float], float, float]:
    """The mean over all orders of what ties; `owners[q]` are the columns that are right for query q."""
    recalls: dict[int, list[float]] = {k: [] for k in RECALLS}
    ranks = []
    for row, own in zip(scores.tolist(), owners, strict=True):
        best = max(row[column] for column in own)
        above = sum(value > best for value in row)
        tied = sum(value == best for value in row)
        right = sum(row[column] == best for column in own)
        for k in RECALLS:
            room = min(max(k - above, 0), tied)
            recalls[k].append(1 - comb(tied - right, room) / comb(tied, room))
        places = range(1, tied + 1)
        first = [Fraction(comb(tied - place, right - 1), comb(tied, right)) for place in places]
        ranks.append(float(above + sum(place * chance for place, chance in zip(places, first, strict=True))))
    means = [float(np.mean(recalls[k])) for k in RECALLS]
    return means, float(np.mean(ranks)), float(np.floor(np.median(ranks)))


def assert_by_hand(found: CaptionsResult, images: Tensor, texts: Tensor, owner: list[int]) -> None:
    """`images` are the different pictures, `texts` all captions, `owner[n]` the picture of caption n."""
    owned = [[n for n, own in enumerate(owner) if own == picture] for picture in range(len(images))]
    scores = images.double() @ texts.double().T
    for result, expected in (
        (found.image_to_text, by_hand(scores, owned)),
        (found.text_to_image, by_hand(scores.T, [[own] for own in owner])),
    ):
        assert result.recalls == pytest.approx(expected[0], abs=1e-12)
        assert (result.mean_rank, result.median_rank) == pytest.approx(expected[1:])


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor, list[int]]:
    """40 pictures, with one to five captions each that lie near them, in no order."""
    generator = torch.Generator().manual_seed(0)
    images = functional.normalize(torch.randn(PICTURES, DIM, generator=generator), dim=1)
    owner = [picture for picture in range(PICTURES) for _ in range(1 + picture % 5)]
    owner = [owner[place] for place in torch.randperm(len(owner), generator=generator).tolist()]
    noise = torch.randn(len(owner), DIM, generator=generator) * 1.8 / math.sqrt(DIM)
    return images, functional.normalize(images[owner] + noise, dim=1), owner


def measured(drawn: tuple[Tensor, Tensor, list[int]], ranks: Ranks = ALONE) -> CaptionsResult:
    images, texts, owner = drawn
    captions = embedded(texts, list(range(len(owner))))
    return captions_retrieval(embedded(images[owner], owner), captions, ranks=ranks)


@pytest.mark.parametrize("scores", [1, 300, 1 << 23])
def test_figures_are_those_of_the_definition(
    drawn: tuple[Tensor, Tensor, list[int]], scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES", scores)
    found = measured(drawn)
    assert_by_hand(found, *drawn)
    assert (found.images, found.captions) == (PICTURES, len(drawn[2]))
    assert 0.2 < found.image_to_text.recalls[0] < 0.95
    assert [name for name, _ in found.figures()] == [
        *(f"text_retrieval_recall@{k}" for k in (1, 5, 10)),
        *(f"image_retrieval_recall@{k}" for k in (1, 5, 10)),
    ]
    assert dict(found.figures())["image_retrieval_recall@5"] == found.text_to_image.recalls[1]


def test_any_caption_is_more_than_ones_own(drawn: tuple[Tensor, Tensor, list[int]]) -> None:
    images, texts, owner = drawn
    captions = embedded(texts, list(range(len(owner))))
    pairs = retrieval(embedded(images[owner], owner), captions)
    assert measured(drawn).image_to_text.recalls[0] > pairs.image_to_text.recalls[0] + 0.1


@given(
    owner=st.lists(st.integers(0, 4), min_size=1, max_size=14),
    data=st.data(),
)
def test_ties_share_their_places(owner: list[int], data: st.DataObject) -> None:
    """Five pictures and five captions with scores in steps, equal captions within and across pictures."""
    owner = [sorted(set(owner)).index(picture) for picture in owner]
    captions = data.draw(st.lists(st.integers(0, 4), min_size=len(owner), max_size=len(owner)))
    grid = torch.tensor([[1.0, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [1, 1, 0, 1], [0, 1, 1, 1]])
    images, texts = grid[: max(owner) + 1], grid[captions]
    found = captions_retrieval(embedded(images[owner], owner), embedded(texts, captions))
    assert_by_hand(found, images, texts, owner)


def test_with_one_caption_each_it_is_the_pairs_retrieval(drawn: tuple[Tensor, Tensor, list[int]]) -> None:
    images = drawn[0]
    texts = functional.normalize(images + 0.4 * torch.roll(images, 1, 0), dim=1)
    numbers = list(range(PICTURES))
    pairs = retrieval(embedded(images, numbers), embedded(texts, numbers))
    found = captions_retrieval(embedded(images, numbers), embedded(texts, numbers))
    assert (found.image_to_text, found.text_to_image) == (pairs.image_to_text, pairs.text_to_image)


def test_a_model_that_cannot_tell_scores_chance_and_nan_scores_nothing() -> None:
    owner = [picture for picture in range(20) for _ in range(5)]
    for value, recall in ((1.0, 1 - comb(95, 10) / comb(100, 10)), (math.nan, 0.0)):
        same = torch.full((100, 4), value)
        found = captions_retrieval(embedded(same, owner), embedded(same, list(range(100))))
        assert found.image_to_text.recalls[2] == pytest.approx(recall)
    assert found.image_to_text.mean_rank == 100


def test_a_caption_that_is_not_a_number_leaves_the_others_theirs(
    drawn: tuple[Tensor, Tensor, list[int]],
) -> None:
    images, texts, owner = drawn
    several = owner.index(4)  # picture 4 has five captions
    broken = texts.clone()
    broken[several] = math.nan
    found = measured((images, broken, owner))
    assert not math.isnan(found.image_to_text.mean_rank)
    rest = [n for n in range(len(owner)) if n != several]
    without = measured((images, texts[rest], [owner[n] for n in rest]))
    assert found.image_to_text.recalls[2] <= without.image_to_text.recalls[2]
    assert found.image_to_text.recalls[2] > 0.5


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_queries(
    drawn: tuple[Tensor, Tensor, list[int]], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SCORES", 1000)
    alone = measured(drawn)
    assert in_each_rank(size, lambda ranks: measured(drawn, ranks)) == [alone] * size
