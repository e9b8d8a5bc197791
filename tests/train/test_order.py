"""The order that a run's settings ask for: in how many stretches the data are read."""

from pathlib import Path

import pytest

from clipkit.errors import TrainError
from clipkit.model.preprocess import TrainTransform
from clipkit.model.tokenizer import Tokenizer
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.plan import BLOCK, STREAMS
from clipkit.train.config import TrainConfig
from clipkit.train.overfit import fixed_samples
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from tests.conftest import picture
from tests.train.test_run import CONFIG, losses

SHORT = CONFIG.model_copy(update={"epochs": None, "samples_seen": 36})
PICTURES = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CsvSet:
    """As many samples as three stretches need."""
    folder = tmp_path_factory.mktemp("stretches")
    for number in range(PICTURES):
        (folder / f"{number}.jpg").write_bytes(picture(number))
    records = [f"{number % PICTURES}.jpg\tcaption {number % PICTURES}\n" for number in range(3 * BLOCK)]
    (folder / "table.csv").write_text("".join(["filepath\ttitle\n", *records]))
    return CsvSet(folder / "table.csv")


def trained(data: CsvSet, path: Path, streams: int) -> list[float]:
    train(SHORT.model_copy(update={"streams": streams}), data, RunDirectory(path), ())
    return losses(path)


def test_another_number_of_stretches_is_another_order_and_another_run(data: CsvSet, tmp_path: Path) -> None:
    three = trained(data, tmp_path / "three", STREAMS)
    assert len(three) == 3
    assert trained(data, tmp_path / "two", 2) != three
    with pytest.raises(TrainError, match=r"data\.streams .*give the same settings, or another --name"):
        trained(data, tmp_path / "three", 2)
    assert trained(data, tmp_path / "three", 3) == three, "that is what it came to"


def test_the_order_of_what_is_learnt_by_heart(data: CsvSet) -> None:
    config = TrainConfig(workers=0, streams=2)
    samples = fixed_samples(data, config, 4, TrainTransform(32), Tokenizer(77), print)
    assert samples.positions_B.tolist() == [0, 2, 1, 3]


def test_the_default_is_the_streams() -> None:
    assert TrainConfig().streams == STREAMS
