"""Against open_clip's own classifier and networks, with the same weights and files."""

from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import ClassSet, imagenet_classes
from clipkit.evaluate.images import LabelledImages, read_folder
from clipkit.evaluate.predictions import hits
from clipkit.evaluate.ranks import ALONE, Ranks
from clipkit.evaluate.zero_shot import (
    ZeroShotResult,
    build_classifier,
    classify,
    exact_steps,
    image_features,
    wilson_interval,
)
from clipkit.model.clip import Clip, build
from clipkit.model.config import ResNetConfig, named_config
from clipkit.model.preprocess import EvalTransform
from clipkit.model.tokenizer import Tokenizer
from tests.evaluate.listed import listed
from tests.evaluate.simulated import in_each_rank
from tests.evaluate.spread import spread_model
from tests.threads import one_thread as one_thread

MICRO = named_config("ViT-Micro/16@32px")
NAMES = (
    "tench",
    "great white shark",
    "fire salamander",
    "cup",
    "toilet tissue",
    "sea snake",
    "ox",
    "a b c d e f",
)
CLASSES = ClassSet(
    "things",
    tuple(f"c{label}" for label in range(len(NAMES))),
    tuple((name,) for name in NAMES),
    imagenet_classes().templates[:7],
)
PICTURES = 96


@pytest.fixture(scope="module")
def model() -> Clip:
    return spread_model()


@pytest.fixture(scope="module")
def peer(model: Clip) -> torch.nn.Module:
    vision = open_clip.CLIPVisionCfg(layers=2, width=64, head_width=64, patch_size=16, image_size=32)
    text = open_clip.CLIPTextCfg(width=64, heads=1, layers=2)
    peer = open_clip.CLIP(embed_dim=64, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    peer.load_state_dict(model.state_dict())
    module: torch.nn.Module = peer.eval()
    return module


@pytest.fixture(scope="module")
def peer_weights(peer: torch.nn.Module) -> torch.Tensor:
    weights: torch.Tensor = open_clip.build_zero_shot_classifier(
        peer,
        tokenizer=open_clip.SimpleTokenizer(),
        classnames=NAMES,
        templates=[template.replace("{}", "{0}") for template in CLASSES.templates],
    )
    return weights


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for seed in range(PICTURES):
        random = np.random.default_rng(seed)
        small = random.integers(0, 256, (2 + seed % 7, 2 + seed % 5, 3), dtype=np.uint8)
        path = folder / f"{seed:03}.{'jpg' if seed % 2 else 'png'}"
        Image.fromarray(small).resize((30 + seed, 50 + seed % 40), Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths


@pytest.fixture(scope="module")
def peer_features(peer: torch.nn.Module, files: list[Path]) -> torch.Tensor:
    transform = open_clip.image_transform(32, is_train=False)
    images = torch.stack([transform(Image.open(path)) for path in files])
    with torch.no_grad():
        features: torch.Tensor = peer.encode_image(images, normalize=True)  # type: ignore[operator]
    return features


def labelled(files: list[Path], labels: list[int]) -> LabelledImages:
    return LabelledImages("things", Path("/"), listed(files), tuple(labels))


@pytest.mark.parametrize("batch_size", [1, 5, 1024])
def test_classifier_is_open_clips(model: Clip, peer_weights: torch.Tensor, batch_size: int) -> None:
    weights = build_classifier(model, Tokenizer(), CLASSES, batch_size=batch_size)
    assert weights.shape == (64, len(NAMES))
    torch.testing.assert_close(weights, peer_weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(weights.norm(dim=0), torch.ones(len(NAMES)))


def test_several_names_a_class_are_one_mean(model: Clip) -> None:
    several = ClassSet("x", ("a", "b"), (("cat", "kitten"), ("dog",)), ("a {}.", "the {}!"))
    weights = build_classifier(model, Tokenizer(), several)
    prompts = ["a cat.", "the cat!", "a kitten.", "the kitten!"]
    with torch.no_grad():
        features = model.encode_text(torch.from_numpy(Tokenizer()(prompts)))
    mean = functional.normalize(functional.normalize(features, dim=1).mean(0), dim=0)
    torch.testing.assert_close(weights[:, 0], mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 0), (64, 2)])
def test_predictions_are_open_clips(
    model: Clip,
    peer_weights: torch.Tensor,
    peer_features: torch.Tensor,
    files: list[Path],
    batch_size: int,
    workers: int,
) -> None:
    logits = 100 * peer_features @ peer_weights
    margins = logits.topk(2).values.diff(dim=1).abs()
    assert margins.min() > 1e-5
    predictions = logits.argmax(1)
    assert len(set(predictions.tolist())) >= 4, (
        "the pictures must be told apart for this test to say anything"
    )
    random = np.random.default_rng(0)
    labels = [int(p) if random.random() < 0.6 else int(random.integers(len(NAMES))) for p in predictions]
    top5 = logits.topk(5).indices
    right = [int(label == guess) for label, guess in zip(labels, predictions.tolist(), strict=True)]

    weights = build_classifier(model, Tokenizer(), CLASSES)
    seen: list[int] = []
    result = classify(
        model, weights, labelled(files, labels), batch_size=batch_size, workers=workers, report=seen.append
    )
    assert result.top1_correct == sum(right)
    assert result.top5_correct == sum(label in row.tolist() for label, row in zip(labels, top5, strict=True))
    assert (result.top1, result.top5) == (result.top1_correct / PICTURES, result.top5_correct / PICTURES)
    recalls = [
        np.mean([r for r, own in zip(right, labels, strict=True) if own == label]) for label in set(labels)
    ]
    assert result.mean_per_class_recall == pytest.approx(np.mean(recalls))
    assert (result.images, result.classes, result.classes_with_images) == (
        PICTURES,
        len(NAMES),
        len(set(labels)),
    )
    assert result.top1_interval[0] < result.top1 < result.top1_interval[1]
    assert seen[-1] == PICTURES


def test_features_are_open_clips(model: Clip, peer_features: torch.Tensor, files: list[Path]) -> None:
    pixels = np.stack([EvalTransform(32)(path.read_bytes()) for path in files])
    torch.testing.assert_close(
        image_features(model, torch.from_numpy(pixels)), peer_features, rtol=0, atol=1e-5
    )


@given(
    logits=st.lists(
        st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    label=st.integers(0, 5),
    k=st.integers(1, 6),
)
def test_hits_are_the_mean_over_all_orders_of_tied_classes(
    logits: list[list[float]], label: int, k: int
) -> None:
    found = hits(torch.tensor(logits), torch.full((len(logits),), label), k)
    for row, hit in zip(logits, found.tolist(), strict=True):
        above = sum(value > row[label] for value in row)
        tied = sum(value == row[label] for value in row)
        places = [
            above + place for place in range(tied)
        ]  # the places that the label takes, equally often each
        assert hit == pytest.approx(np.mean([place < k for place in places]))


def test_a_model_that_cannot_tell_scores_chance_and_nan_scores_nothing() -> None:
    labels = torch.arange(8)
    assert hits(torch.ones(8, 8), labels, 1).tolist() == [1 / 8] * 8
    assert hits(torch.ones(8, 8), labels, 5).tolist() == [5 / 8] * 8
    assert hits(torch.full((8, 8), float("nan")), labels, 5).tolist() == [0] * 8
    one_nan = torch.tensor([[3.0, float("nan"), 1.0]])
    assert hits(one_nan, torch.tensor([0]), 1).tolist() == [0]


def test_fewer_than_five_classes_are_all_in_the_top_five() -> None:
    assert hits(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([0]), 5).tolist() == [1]


def test_one_unreadable_of_a_thousand_is_named_and_two_stop(
    model: Clip, files: list[Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff no picture")
    weights = build_classifier(model, Tokenizer(), CLASSES)
    many = [files[number % PICTURES] for number in range(999)]
    result = classify(model, weights, labelled([*many, broken], [0] * 1000))
    assert (result.images, result.unreadable) == (999, (str(broken),))
    assert result.top1 == result.top1_correct / 999
    with pytest.raises(
        EvaluationError, match=r"more than 0\.1% of 1,000 pictures cannot be read: .*broken\.jpg"
    ):
        classify(model, weights, labelled([broken, *many[:-1], broken], [0] * 1000))


def test_the_model_and_the_random_state_are_left_as_they_were(files: list[Path]) -> None:
    model = build(MICRO, seed=1).train()
    model.visual.eval()
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    classify(model, build_classifier(model, Tokenizer(), CLASSES), labelled(files, [0] * PICTURES))
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_a_training_model_is_evaluated_in_evaluation_mode(files: list[Path]) -> None:
    # Batch normalisation is what tells the modes apart: its running means must be used, and not be changed.
    vision = ResNetConfig(layers=(1, 1, 1, 1), width=32, image_size=32)
    config = MICRO.model_copy(update={"vision": vision, "name": "tiny RN"})
    pixels = torch.from_numpy(np.stack([EvalTransform(32)(path.read_bytes()) for path in files[:6]]))
    model = build(config, seed=2)
    expected = image_features(model.eval(), pixels)
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    torch.testing.assert_close(image_features(model.train(), pixels), expected)
    assert all(torch.equal(value, statistics[name]) for name, value in model.named_buffers())


def test_labels_follow_the_class_file_not_the_folder_order(
    model: Clip, peer_features: torch.Tensor, peer_weights: torch.Tensor, files: list[Path], tmp_path: Path
) -> None:
    # Every picture lies in the folder of the class that open_clip sees in it: the accuracy must be 1.
    for path, guess in zip(files, (peer_features @ peer_weights).argmax(1).tolist(), strict=True):
        folder = tmp_path / f"{(7 * guess + 3) % 8}"
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    labels = {f"{(7 * label + 3) % 8}": label for label in range(8)}
    images = read_folder(tmp_path, labels, name="things", allow_subset=True)
    result = classify(model, build_classifier(model, Tokenizer(), CLASSES), images)
    assert result.top1 == result.mean_per_class_recall == 1
    assert result.partial == (result.classes_with_images < 8)


@pytest.mark.parametrize(
    ("correct", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962), (81, 263, 0.2553, 0.3662)],
)
def test_wilson_interval_as_published(correct: int, count: int, low: float, high: float) -> None:
    # 81 of 263 is Newcombe's example (Statistics in Medicine 17, 1998, table I).
    assert wilson_interval(correct, count) == pytest.approx((low, high), abs=5e-5)


def test_ranks_share_prompts_and_pictures_and_get_the_same(
    model: Clip, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"none")
    images = labelled([*files, *[tmp_path / "broken.jpg"], *files * 10], [0] * (11 * PICTURES + 1))

    def work(ranks: Ranks) -> tuple[torch.Tensor, ZeroShotResult]:
        weights = build_classifier(model, Tokenizer(), CLASSES, batch_size=5, ranks=ranks)
        return weights, classify(model, weights, images, batch_size=7, workers=0, ranks=ranks)

    weights, result = work(ALONE)
    assert (result.images, result.unreadable) == (11 * PICTURES, (str(tmp_path / "broken.jpg"),))
    for found_weights, found in in_each_rank(3, work):
        assert torch.equal(found_weights, weights)
        assert found == result
        for name, values in vars(result.predictions).items():
            np.testing.assert_array_equal(getattr(found.predictions, name), values)


def test_too_many_unreadable_pictures_are_the_same_error_in_each_rank(
    model: Clip, files: list[Path], tmp_path: Path
) -> None:
    """One in each of two parts: alone, each part has as many as are allowed."""
    paths = files * 12
    for place in (3, 12):
        paths[place] = tmp_path / f"{place}.jpg"
    weights = build_classifier(model, Tokenizer(), CLASSES)

    def work(ranks: Ranks) -> str:
        with pytest.raises(EvaluationError) as caught:
            classify(model, weights, labelled(paths, [0] * len(paths)), batch_size=8, workers=0, ranks=ranks)
        return str(caught.value)

    first, second = in_each_rank(2, work)
    assert first == second
    assert f"'{tmp_path}/3.jpg', '{tmp_path}/12.jpg' (No such file or directory)" in first


def test_sums_of_exact_steps_do_not_depend_on_the_order() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(8_000, generator=generator).float().clamp(-1, 1).double()
    values *= 10.0 ** -torch.randint(0, 9, (8_000,), generator=generator)
    steps = exact_steps(values)
    assert (steps - values).abs().max() <= 2.0**-41
    orders = [torch.randperm(8_000, generator=generator) for _ in range(20)]
    # One after the other: `sum` makes up for its rounding from Python 3.12 on.
    plain, exact = ({reduce(add, each[order].tolist()) for order in orders} for each in (values, steps))
    assert len(plain) > 1, "else this test would say nothing"
    assert len(exact) == 1
