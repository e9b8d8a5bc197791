"""A validation set from disk to figures, against OpenCLIP's own evaluation of the same weights and files."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from open_clip.loss import ClipLoss
from open_clip_train.train import evaluate
from PIL import Image
from torch.nn import functional

from clipkit.errors import DatasetError, EvaluationError
from clipkit.evaluate import validation as module
from clipkit.evaluate.pairs import EmbeddedPairs, embedded_pairs
from clipkit.evaluate.ranks import ALONE, Ranks
from clipkit.evaluate.validation import contrastive_loss, validation_evaluator
from clipkit.model.clip import Clip
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.shard_set import ShardSet
from tests.conftest import picture
from tests.evaluate.simulated import Thread, in_each_rank
from tests.evaluate.spread import spread_model
from tests.tars import write_tar
from tests.threads import one_thread as one_thread

COUNT = 53
WORDS = ["red", "house", "the", "great", "white", "shark", "cups", "fire", "on", "table", "in", "snow"]
LOSS_BATCH = 16  # the last batch has five pairs


@pytest.fixture(scope="module")
def model() -> Clip:
    return spread_model()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validation")
    lines = ["filepath\ttitle"]
    random = np.random.default_rng(0)
    for number in range(COUNT):
        (folder / f"{number}.jpg").write_bytes(picture(number, 30 + number, 80 - number))
        words = " ".join(random.choice(WORDS, 1 + number % 7))
        lines.append(f"{folder}/{number}.jpg\t{words} {number}")
    (folder / "val.csv").write_text("\n".join(lines) + "\n")
    return folder / "val.csv"


def peer_of(model: Clip) -> torch.nn.Module:
    vision = open_clip.CLIPVisionCfg(layers=2, width=64, head_width=64, patch_size=16, image_size=32)
    text = open_clip.CLIPTextCfg(width=64, heads=1, layers=2)
    peer = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True, output_dict=True)
    peer.load_state_dict(model.state_dict())
    module: torch.nn.Module = peer
    return module


class Batches(list[Any]):
    """What OpenCLIP takes for a loader."""

    num_samples = COUNT


def test_figures_are_those_of_open_clips_own_evaluation(model: Clip, table: Path) -> None:
    transform, tokenize = open_clip.image_transform(32, is_train=False), open_clip.SimpleTokenizer()
    records = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    images = torch.stack([transform(Image.open(path)) for path, _ in records])
    texts = tokenize([caption for _, caption in records])
    batches = list(zip(*(torch.split(each, LOSS_BATCH) for each in (images, texts)), strict=True))
    data = argparse.Namespace(dataloader=Batches(batches))
    settings = argparse.Namespace(
        rank=0, device="cpu", precision="fp32", val_frequency=1, epochs=1, distributed=False, save_logs=False,
        wandb=False, zeroshot_frequency=0, horovod=False, batch_size=LOSS_BATCH,
    )  # fmt: skip
    theirs = evaluate(peer_of(model), {"val": data}, 1, settings)
    ours = dict(validation_evaluator(CsvSet(table), LOSS_BATCH, batch_size=7, workers=0)(model, ALONE))
    assert set(ours) == set(theirs) - {"epoch"}
    assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-5)
    assert 1.5 < ours["text_to_image_mean_rank"] < COUNT - 1


def test_shards_and_tars_of_other_tools_are_read_in_their_order(
    model: Clip, table: Path, tmp_path: Path, tiny_dataset: Path
) -> None:
    listed = CsvSet(table)
    samples = [listed.read(0, row) for row in range(COUNT)]
    members = [{"__key__": each.key, "jpg": each.image, "txt": each.caption} for each in samples]
    for number, part in enumerate((members[:20], members[20:21], members[21:])):
        write_tar(tmp_path / f"{number}.tar", part)
    expected = embedded_pairs(model, listed, batch_size=8, workers=0)
    for workers in (0, 1):
        tars = ShardSet(tmp_path / "{0..2}.tar")
        assert_same(embedded_pairs(model, tars, batch_size=8, workers=workers), expected)
    found = embedded_pairs(model, ShardSet(tiny_dataset), workers=0)
    assert len(found.images.features_ND) == 64 and found.unreadable == ()


def assert_same(found: EmbeddedPairs, expected: EmbeddedPairs) -> None:
    assert found.unreadable == expected.unreadable
    for ours, theirs in ((found.images, expected.images), (found.texts, expected.texts)):
        assert torch.equal(ours.features_ND, theirs.features_ND)
        assert np.array_equal(ours.digests_NW, theirs.digests_NW)


@pytest.mark.parametrize("size", [2, 3, 60])
def test_ranks_share_the_pairs_and_get_all(model: Clip, table: Path, size: int) -> None:
    """Also where some have none to read."""
    alone = embedded_pairs(model, CsvSet(table), batch_size=4, workers=0)
    data = CsvSet(table)

    def work(ranks: Ranks) -> EmbeddedPairs:
        return embedded_pairs(model, data, batch_size=4, workers=0, ranks=ranks)

    for found in in_each_rank(size, work):
        assert_same(found, alone)


def test_equal_inputs_have_equal_digests(model: Clip, tmp_path: Path) -> None:
    lines = ["filepath\ttitle"]
    for number, (seed, caption) in enumerate([(1, "a"), (2, "b"), (1, "c"), (3, "a")]):
        (tmp_path / f"{number}.jpg").write_bytes(picture(seed))
        lines.append(f"{number}.jpg\t{caption}")
    (tmp_path / "val.csv").write_text("\n".join(lines) + "\n")
    found = embedded_pairs(model, CsvSet(tmp_path / "val.csv"), workers=0)
    images, texts = ([each.tobytes() for each in some.digests_NW] for some in (found.images, found.texts))
    assert [images.index(each) for each in images] == [0, 1, 0, 3]
    assert [texts.index(each) for each in texts] == [0, 1, 2, 0]


@pytest.fixture
def broken(table: Path, tmp_path: Path) -> Callable[[int], CsvSet]:
    """The table with so many of its first pictures missing, or no pictures."""

    def make(count: int) -> CsvSet:
        lines = table.read_text().splitlines()
        for number in range(1, count + 1):
            path = tmp_path / f"none{number}.jpg"
            lines[number] = f"{path}\tcaption"
            if number % 2:
                path.write_bytes(b"no picture")
        (tmp_path / "val.csv").write_text("\n".join(lines) + "\n")
        return CsvSet(tmp_path / "val.csv")

    return make


@pytest.mark.parametrize("size", [1, 2])
def test_what_cannot_be_read_is_named_once_and_left_out(
    model: Clip, broken: Callable[[int], CsvSet], size: int
) -> None:
    data = broken(10)
    lines = Path(data.source).read_text().splitlines()
    rest = Path(data.source).with_name("rest.csv")
    rest.write_text("\n".join([lines[0], *lines[11:]]) + "\n")
    expected = dict(validation_evaluator(CsvSet(rest), LOSS_BATCH, workers=0)(model, ALONE))

    def work(ranks: Ranks) -> tuple[dict[str, float], list[str]]:
        assert isinstance(ranks, Thread)
        measure = validation_evaluator(data, LOSS_BATCH, batch_size=4, workers=0)
        first, second = dict(measure(model, ranks)), dict(measure(model, ranks))
        assert first == second
        return first, ranks.said

    for figures, said in in_each_rank(size, work):
        assert figures == pytest.approx(expected, rel=1e-5)
        assert len(said) == 10
        assert said[0].startswith(f"left out of the validation: {data.source}: sample 000000000: ")
        assert said[0].endswith("not a picture of a known format: leave it out")
        assert said[1].endswith("none2.jpg cannot be read: No such file or directory")


@pytest.mark.parametrize("size", [1, 2])
def test_too_many_that_cannot_be_read_are_one_line(
    model: Clip, broken: Callable[[int], CsvSet], size: int
) -> None:
    data = broken(11)

    def work(ranks: Ranks) -> str:
        with pytest.raises(EvaluationError, match="at most 10 of 53 samples that cannot be read") as caught:
            embedded_pairs(model, data, batch_size=4, workers=0, ranks=ranks)
        return str(caught.value)

    told = in_each_rank(size, work)
    assert set(told) == {told[0]}
    assert told[0].startswith(f"{data.source}: ") and "found 11: " in told[0] and "\n" not in told[0]


def test_a_damaged_shard_is_an_error_of_its_own(model: Clip, tmp_path: Path) -> None:
    tar = write_tar(
        tmp_path / "a.tar", [{"__key__": f"{n}", "jpg": picture(n), "txt": "a"} for n in range(3)]
    )
    data = ShardSet(tar)
    tar.write_bytes(tar.read_bytes()[:3000])
    for workers in (0, 1):
        with pytest.raises(DatasetError, match=r"a\.tar: expected the tar as it was"):
            embedded_pairs(model, data, workers=workers)


@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_the_loss_is_open_clips(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    images, texts = (functional.normalize(torch.randn(COUNT, 16, generator=generator), dim=1) for _ in "ab")
    batches = zip(*(torch.split(each, LOSS_BATCH) for each in (images, texts)), strict=True)
    theirs = [(len(one), ClipLoss()(one, other, torch.tensor(20.0)).item()) for one, other in batches]
    expected = sum(count * loss for count, loss in theirs) / COUNT
    assert contrastive_loss(images, texts, 20.0, LOSS_BATCH) == pytest.approx(expected, rel=1e-6)
    found = in_each_rank(3, lambda ranks: contrastive_loss(images, texts, 20.0, LOSS_BATCH, ranks=ranks))
    assert found == [contrastive_loss(images, texts, 20.0, LOSS_BATCH)] * 3
