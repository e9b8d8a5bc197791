from pathlib import Path

import pytest

from clipkit.model.config import named_config
from clipkit.shards.csv_set import CsvSet
from clipkit.shards.mixture import Mixture
from clipkit.shards.sample_set import SampleSet
from clipkit.shards.shard_set import ShardSet
from clipkit.train.config import TrainConfig
from clipkit.train.run import train
from clipkit.train.run_directory import RunDirectory
from clipkit.train.small_pictures import small_pictures
from tests.conftest import picture
from tests.tars import write_tar


def listed(folder: Path, sizes: list[tuple[int, int]]) -> CsvSet:
    """A table of pictures of these sizes; of what is 0 high there is no picture."""
    lines = ["filepath\ttitle"]
    for number, (width, height) in enumerate(sizes):
        (folder / f"{number}.jpg").write_bytes(picture(number, width, height) if height else b"none")
        lines.append(f"{number}.jpg\tcaption")
    (folder / "train.csv").write_text("\n".join(lines) + "\n")
    return CsvSet(folder / "train.csv")


def foreign(tar: Path) -> ShardSet:
    return ShardSet(write_tar(tar, [{"__key__": f"{n}", "jpg": picture(n), "txt": "a"} for n in range(3)]))


def test_manifests_tell_and_the_remedy_is_named(tiny_dataset: Path) -> None:
    data = ShardSet(tiny_dataset)
    (line,) = small_pictures(data, named_config("RN50x4"))
    assert line.startswith(f"{tiny_dataset}: 100% of 64 pictures looked at are smaller than the 288 pixels")
    assert "that RN50x4 takes (their short side is 40 at the median)" in line
    assert "--image-size 288" in line
    assert list(small_pictures(data, named_config("ViT-Micro/16@32px"))) == []


def test_where_no_manifest_tells_headers_of_pictures_do(tmp_path: Path) -> None:
    sets: list[SampleSet] = [
        listed(tmp_path, [(50, 20), (99, 31), (31, 99), (0, 0), (60, 60)]),
        foreign(tmp_path / "a.tar"),
    ]
    (line,) = small_pictures(Mixture(sets), named_config("ViT-Micro/16@32px"))
    assert line.startswith(f"{tmp_path / 'train.csv'}: 75% of 4 pictures looked at are smaller than the 32 ")
    assert "short side is 31 at the median" in line
    assert len(list(small_pictures(Mixture(sets), named_config("RN50")))) == 2


def test_half_of_them_are_not_told(tmp_path: Path) -> None:
    data = listed(tmp_path, [(32, 31), (32, 31), (32, 33), (33, 32), (40, 40)])
    assert list(small_pictures(data, named_config("ViT-Micro/16@32px"))) == []


def test_a_run_tells_once(tiny_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(model="RN-Mini@64px", batch_size=32, samples_seen=32, workers=0)
    train(config, ShardSet(tiny_dataset), RunDirectory(tmp_path / "run"))
    assert capsys.readouterr().err.count("smaller than the 64 pixels that RN-Mini@64px takes") == 1
    assert "smaller than the 64 pixels" in (tmp_path / "run" / "out.log").read_text()
