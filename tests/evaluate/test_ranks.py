"""What ranks that evaluate together tell each other: what to evaluate, and whether they all see the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.evaluate.classifier_cache import ClassifierCache
from clipkit.evaluate.config import EvaluateConfig
from clipkit.evaluate.ranks import Ranks, first_tensor, first_text
from clipkit.evaluate.run import evaluate, zero_shot_sets
from clipkit.evaluate.sets import evaluate_sets
from clipkit.lines import JsonLines
from clipkit.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import picture
from tests.evaluate.simulated import in_each_rank
from tests.evaluate.spread import MICRO, spread_model
from tests.threads import one_thread as one_thread

NAMES = ("cat", "dog", "eel")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "first" / "checkpoints" / "epoch_2.pt"
    path.parent.mkdir(parents=True)
    weights = spread_model().state_dict()
    save_checkpoint(path, Checkpoint(2, "first", weights, model_config=MICRO.model_dump()))
    return path


def pets(root: Path, pictures: int = 4) -> EvaluateConfig:
    for label, name in enumerate(NAMES):
        (root / "pets" / name).mkdir(parents=True)
        for number in range(pictures):
            (root / "pets" / name / f"{number}.jpg").write_bytes(picture(10 * label + number))
    (root / "classes.csv").write_text("folder,names\n" + "".join(f"{name},{name}\n" for name in NAMES))
    return EvaluateConfig(folder=root / "pets", classes=root / "classes.csv", workers=0, batch_size=4)


def test_the_first_ones_text_and_tensor_are_everyones() -> None:
    texts = in_each_rank(3, lambda ranks: first_text(f"{ranks.rank} \udce9 é", ranks))
    assert texts == ["0 \udce9 é"] * 3
    tensors = in_each_rank(3, lambda ranks: first_tensor(torch.tensor([5, ranks.rank]), ranks).tolist())
    assert tensors == [[5, 0]] * 3


def test_the_first_ones_checkpoint_counts_though_a_run_has_newer_ones(
    checkpoint: Path, tmp_path: Path
) -> None:
    config, newer = pets(tmp_path), checkpoint.with_name("epoch_3.pt")
    save_checkpoint(newer, replace(load_checkpoint(checkpoint), epoch=3))
    links = [checkpoint.with_name(f"latest{rank}") for rank in range(2)]
    for link, target in zip(links, (checkpoint, newer), strict=True):
        link.symlink_to(target.name)
    found = in_each_rank(2, lambda ranks: evaluate(links[ranks.rank], config, ranks=ranks))
    assert found[0].records == found[1].records
    (line,) = JsonLines(checkpoint.parent.parent / "results.jsonl").read()
    assert line["checkpoint"] == str(checkpoint) and line["epoch"] == 2


def test_the_first_ones_cache_serves_all(checkpoint: Path, tmp_path: Path) -> None:
    config = pets(tmp_path)
    sets, model = zero_shot_sets(config), spread_model()
    kept = torch.nn.functional.normalize(
        torch.randn(MICRO.embed_dim, 3, generator=torch.manual_seed(1)), dim=0
    )
    ClassifierCache(model, "0" * 64, tmp_path / "cache0").keep(sets[0].classes, kept)

    def measured(ranks: Ranks, folder: str) -> list[float]:
        cache = ClassifierCache(model, "0" * 64, tmp_path / folder)
        ((_, result),) = evaluate_sets(model, sets, batch_size=4, workers=0, ranks=ranks, cache=cache)
        return [float(each) for each in result.predictions.similarity_K]

    own = in_each_rank(1, lambda ranks: measured(ranks, "cache0"))
    assert in_each_rank(2, lambda ranks: measured(ranks, f"cache{ranks.rank}")) == own * 2
    assert not (tmp_path / "cache1").exists()
    assert in_each_rank(2, lambda ranks: measured(ranks, f"new{ranks.rank}")) != own * 2
    assert (tmp_path / "new0").exists() and not (tmp_path / "new1").exists()


def another_picture(root: Path, config: EvaluateConfig) -> EvaluateConfig:
    return pets(root, 5)


def other_names(root: Path, config: EvaluateConfig) -> EvaluateConfig:
    (root / "classes.csv").write_text("folder,names\ncat,kitten\ndog,dog\neel,eel\n")
    return config.model_copy(update={"classes": root / "classes.csv"})


def other_batches(root: Path, config: EvaluateConfig) -> EvaluateConfig:
    return config.model_copy(update={"batch_size": 5})


def a_table_too(root: Path, config: EvaluateConfig) -> EvaluateConfig:
    (root / "1.jpg").write_bytes(picture(1))
    (root / "table.csv").write_text("filepath,title\n1.jpg,one\n")
    return config.model_copy(update={"val_csv": root / "table.csv"})


@pytest.mark.parametrize(
    ("another", "names"),
    [
        (another_picture, "pictures"),
        (other_names, "classes"),
        (other_batches, "settings"),
        (a_table_too, "captions"),
    ],
)
def test_ranks_that_see_different_things_are_told_so(
    checkpoint: Path,
    tmp_path: Path,
    another: Callable[[Path, EvaluateConfig], EvaluateConfig],
    names: str,
) -> None:
    (tmp_path / "other").mkdir()
    config = pets(tmp_path)
    configs = [config, another(tmp_path / "other", config), config]

    def refused(ranks: Ranks) -> str:
        with pytest.raises(ConfigError) as caught:
            evaluate(checkpoint, configs[ranks.rank], ranks=ranks)
        return str(caught.value)

    assert (
        in_each_rank(3, refused)
        == [
            "expected all processes to evaluate the same model on the same sets, found different "
            f"{names}: give the same command, model and data on all machines"
        ]
        * 3
    )
    assert not (checkpoint.parent.parent / "results.jsonl").exists()


def test_equal_data_at_another_path_is_the_same(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    configs = [pets(tmp_path), pets(tmp_path / "other").model_copy(update={"workers": None, "processes": 1})]
    found = in_each_rank(2, lambda ranks: evaluate(checkpoint, configs[ranks.rank], ranks=ranks))
    assert found[0].results == found[1].results
    (line,) = JsonLines(checkpoint.parent.parent / "results.jsonl").read()
    assert line["path"] == str(tmp_path / "pets")
