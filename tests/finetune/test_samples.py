"""Labelled pictures as the trainer's stream, and the share of them that is held out."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.evaluate.images import LabelledImages, read_folder
from clipkit.evaluate.pictures import FolderPictures
from clipkit.finetune.samples import LabelledSet, held_out, labels_of
from clipkit.model.preprocess import TrainTransform
from clipkit.shards.loader import batches
from clipkit.shards.shard_files import SampleError
from tests.finetune.pictures import COLOURS, draw


def listed(counts: list[int]) -> LabelledImages:
    places = [(label, number) for label, count in enumerate(counts) for number in range(count)]
    root = Path("/pictures")
    pictures = FolderPictures(root, [f"{label}/{number}.png" for label, number in places])
    return LabelledImages("pictures", root, pictures, tuple(label for label, _ in places))


def names(images: LabelledImages) -> list[str]:
    samples = LabelledSet(images)
    return [samples.key(0, row) for row in range(len(samples))]


@settings(deadline=None)  # a busy machine
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.floats(0.01, 0.99))
def test_what_is_held_out_is_a_share_of_each_class_and_the_rest_stays(
    counts: list[int], share: float
) -> None:
    images = listed(counts)
    kept, out = held_out(images, share)
    assert sorted([*names(kept), *names(out)]) == sorted(names(images))
    labels = dict(zip(names(images), images.labels, strict=True))
    for part in (kept, out):
        assert [labels[name] for name in names(part)] == [*part.labels]
    of_kept, of_out = Counter(kept.labels), Counter(out.labels)
    for label, count in enumerate(counts):
        assert of_kept[label] >= 1
        assert of_out[label] == (0 if count == 1 else min(max(1, round(share * count)), count - 1))


def test_a_larger_share_holds_a_smaller_one() -> None:
    images = listed([50, 7])
    outs = [set(names(held_out(images, share)[1])) for share in (0.05, 0.1, 0.5)]
    assert outs[0] < outs[1] < outs[2]


def test_each_picture_comes_once_an_epoch_with_its_label(tmp_path: Path) -> None:
    images = read_folder(draw(tmp_path / "train", 5, seed=0), COLOURS, name="train")
    samples = pickle.loads(pickle.dumps(LabelledSet(images)))
    stream = batches(samples, batch_size=5, stop=15, transform=TrainTransform(32), tokenize=labels_of)
    seen = []
    for batch in stream:
        assert batch.tokens_BL.shape == (5, 1)
        brightest = batch.images_BCHW.float().mean((2, 3)).argmax(1)
        assert brightest.tolist() == batch.tokens_BL[:, 0].tolist()
        seen += batch.tokens_BL[:, 0].tolist()
    assert Counter(seen) == {0: 5, 1: 5, 2: 5}


def test_thousands_are_shards_of_a_thousand() -> None:
    samples = LabelledSet(listed([1500, 1001]))
    assert samples.sizes.tolist() == [1000, 1000, 501] and len(samples) == 2501
    assert samples.key(1, 500) == "1/0.png" and samples.key(2, 500) == "1/1000.png"
    with pytest.raises(SampleError, match="No such file"):
        samples.read(0, 0)


def test_its_fingerprint_is_that_of_paths_and_labels() -> None:
    one, other, same = (LabelledSet(listed(counts)).fingerprint for counts in ([3, 2], [2, 3], [3, 2]))
    assert one == same != other


def test_labels_stand_for_captions() -> None:
    assert np.array_equal(labels_of(["7", "0"]), [[7], [0]])
