from pathlib import Path

import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import imagenet_classes
from clipkit.evaluate.imagenet import imagenet_v2, imagenet_validation

WNIDS = imagenet_classes().folders


def fill(root: Path, folders: list[str], each: int) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(each):
            (root / folder / f"{number}.jpeg").touch()
    return root


def test_v2_labels_are_the_numbers_not_the_sorted_positions(tmp_path: Path) -> None:
    root = fill(tmp_path, [str(number) for number in range(1000)], 10)
    images = imagenet_v2(root)
    assert len(images) == 10_000
    assert not images.partial
    assert images.name == "imagenetv2"
    assert all(
        int(path.parent.name) == label for path, label in zip(images.paths, images.labels, strict=True)
    )


def test_v2_refuses_another_number_of_pictures_or_folders(tmp_path: Path) -> None:
    root = fill(tmp_path, [str(number) for number in range(1000)], 1)
    with pytest.raises(EvaluationError, match="expected 10,000 pictures, found 1,000; --allow-subset"):
        imagenet_v2(root)
    assert imagenet_v2(root, allow_subset=True).partial
    (root / "7").rename(root / "007")
    with pytest.raises(EvaluationError, match="not among the classes: '007'"):
        imagenet_v2(root)


def test_validation_labels_by_wnid(tmp_path: Path) -> None:
    images = imagenet_validation(fill(tmp_path, ["n15075141", "n01751748"], 2), WNIDS, allow_subset=True)
    assert images.labels == (65, 65, 999, 999)
    assert images.partial


def test_validation_refuses_a_wrong_number_of_wnids(tmp_path: Path) -> None:
    root = fill(tmp_path, list(WNIDS[:-1]), 1)
    with pytest.raises(
        EvaluationError, match="expected 1,000 class folders, found 999; missing: 'n15075141'"
    ):
        imagenet_validation(root, WNIDS)
    fill(root, ["n15075141", "n99999999"], 1)
    with pytest.raises(EvaluationError, match="found 1,001; not among the classes: 'n99999999'"):
        imagenet_validation(root, WNIDS)
    (root / "n99999999" / "0.jpeg").unlink()
    (root / "n99999999").rmdir()
    with pytest.raises(EvaluationError, match="expected 50,000 pictures, found 1,000"):
        imagenet_validation(root, WNIDS)


def test_archives_and_flat_folders_are_refused_with_what_to_do(tmp_path: Path) -> None:
    archive = tmp_path / "imagenetv2-matched-frequency.tar.gz"
    archive.touch()
    with pytest.raises(EvaluationError, match="unpack it and give the folder"):
        imagenet_v2(archive)
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "ILSVRC2012_val_00000001.JPEG").touch()
    with pytest.raises(EvaluationError, match="found 0, and 1 pictures outside class folders"):
        imagenet_validation(flat, WNIDS)
