"""Retrieval against a recomputation one query at a time, and against OpenCLIP's own figures."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip_train.train import get_clip_metrics
from torch.nn import functional

from clipkit.evaluate import retrieval as module
from clipkit.evaluate.retrieval import RECALLS, Embedded, Recalls, retrieval
from tests.evaluate.simulated import in_each_rank

COUNT, DIM = 137, 16


def embedded(features: torch.Tensor, inputs: list[int] | None = None) -> Embedded:
    """Features of these inputs, which are all different without any."""
    numbers = np.arange(len(features)) if inputs is None else np.array(inputs)
    return Embedded(features.float(), np.stack([numbers, 7 * numbers], axis=1).astype(np.int64))


def features(seed: int, count: int = COUNT, near: torch.Tensor | None = None) -> torch.Tensor:
    drawn = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed))
    return functional.normalize(drawn if near is None else near + 1.6 * drawn / math.sqrt(DIM), dim=1)


IMAGES = features(0)
TEXTS = features(1, near=IMAGES)


def by_hand(queries: torch.Tensor, targets: torch.Tensor) -> Recalls:
    """The mean over all orders of what ties, one query after the other."""
    found: dict[int, list[float]] = {k: [] for k in RECALLS}
    ranks = []
    for number, scores in enumerate(queries.double() @ targets.double().T):
        own = scores[number]
        above, tied = int((scores > own).sum()), int((scores == own).sum())
        places = [above + place for place in range(tied)]
        for k in RECALLS:
            found[k].append(float(np.mean([place < k for place in places])))
        ranks.append(1 + float(np.mean(places)))
    recalls = tuple(float(np.mean(each)) for each in found.values())
    return Recalls(recalls, float(np.mean(ranks)), float(np.floor(np.median(ranks))))


def assert_same(found: Recalls, expected: Recalls) -> None:
    assert found.recalls == pytest.approx(expected.recalls, abs=1e-12)
    assert (found.mean_rank, found.median_rank) == pytest.approx((expected.mean_rank, expected.median_rank))


def test_figures_are_open_clips() -> None:
    """On features without ties, the same names and numbers."""
    result = retrieval(embedded(IMAGES), embedded(TEXTS))
    theirs = get_clip_metrics(IMAGES, TEXTS, torch.tensor(100.0))
    assert dict(result.figures()) == pytest.approx(theirs)
    assert 0.2 < result.image_to_text.recalls[0] < 0.9
    assert (result.pairs, result.different_images, result.different_captions) == (COUNT, COUNT, COUNT)


@pytest.mark.parametrize("scores", [1, 500, 1 << 25])
def test_chunks_change_nothing(scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES", scores)
    result = retrieval(embedded(IMAGES), embedded(TEXTS))
    assert_same(result.image_to_text, by_hand(IMAGES, TEXTS))
    assert_same(result.text_to_image, by_hand(TEXTS, IMAGES))


@given(
    images=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    data=st.data(),
)
def test_equal_inputs_tie_and_share_their_places(images: list[int], data: st.DataObject) -> None:
    """Six different pictures and five captions with scores in steps, so that different ones tie too."""
    count = len(images)
    captions = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    grid = torch.tensor(
        [[1.0, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [1, 1, 0, 1], [0, 1, 1, 1], [2, 0, 1, 0]]
    )
    of_images, of_texts = grid[images], grid[captions]
    result = retrieval(embedded(of_images, images), embedded(of_texts, captions))
    assert_same(result.image_to_text, by_hand(of_images, of_texts))
    assert_same(result.text_to_image, by_hand(of_texts, of_images))
    assert (result.different_images, result.different_captions) == (len({*images}), len({*captions}))


def test_equal_captions_tie_though_their_features_differ_in_the_last_digit() -> None:
    texts, inputs = TEXTS.clone(), list(range(COUNT))
    texts[7] = texts[3] * (1 + 3e-7)  # as if encoded in another batch
    inputs[7] = 3
    assert not torch.equal(texts[7], texts[3])
    exact = TEXTS.clone()
    exact[7] = exact[3]
    assert_same(retrieval(embedded(IMAGES), embedded(texts, inputs)).image_to_text, by_hand(IMAGES, exact))


def test_a_model_that_cannot_tell_scores_chance() -> None:
    same = torch.ones(200, 4)
    result = retrieval(embedded(same), embedded(same))
    assert_same(result.image_to_text, Recalls((1 / 200, 5 / 200, 10 / 200), 100.5, 100.0))


def test_what_is_not_a_number_comes_last() -> None:
    texts = TEXTS.clone()
    texts[5] = math.nan
    clean = retrieval(embedded(IMAGES), embedded(TEXTS)).image_to_text
    result = retrieval(embedded(IMAGES), embedded(texts)).image_to_text
    assert all(found <= before for found, before in zip(result.recalls, clean.recalls, strict=True))
    nothing = torch.full((20, 4), math.nan)
    assert retrieval(embedded(nothing), embedded(nothing)).image_to_text == Recalls((0.0, 0.0, 0.0), 20, 20)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_share_the_queries_and_get_the_same_result(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCORES", 10 * COUNT)
    alone = retrieval(embedded(IMAGES), embedded(TEXTS))
    results = in_each_rank(size, lambda ranks: retrieval(embedded(IMAGES), embedded(TEXTS), ranks=ranks))
    assert results == [alone] * size


MANY = """
import resource, sys, torch, numpy as np
from torch.nn.functional import normalize
from clipkit.evaluate.captions import captions_retrieval
from clipkit.evaluate.retrieval import Embedded, retrieval

torch.set_num_threads(1)
count, per = int(sys.argv[1]), int(sys.argv[2])
numbers = np.arange(count)
digests = np.stack([numbers, numbers], axis=1)
images = Embedded(normalize(torch.randn(count, 32), dim=1), digests // per)
texts = Embedded(normalize(images.features_ND + 0.02 * torch.randn(count, 32), dim=1), digests)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measure = retrieval if per == 1 else captions_retrieval
print(dict(measure(images, texts).figures()))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)
"""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("per", [1, 5])
def test_memory_is_bounded_for_a_hundred_thousand_pairs(per: int) -> None:
    """All products at once would be 40 GB."""
    command = [sys.executable, "-c", MANY, "100000", str(per)]
    figures, grown_mb = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )[:2]
    assert float(grown_mb) < 250
    assert "nan" not in figures
