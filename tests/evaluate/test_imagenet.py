import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import imagenet_classes
from clipkit.evaluate.ground_truth import DEVKIT, KNOWN
from clipkit.evaluate.imagenet import imagenet_v2, imagenet_validation
from tests.evaluate.packed import devkit, gzipped, ids, tarred, unpacked, v2, validation

CLASSES = imagenet_classes()
WNIDS = CLASSES.folders


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
        int(name.partition("/")[0]) == label
        for name, label in zip(images.pictures.names, images.labels, strict=True)
    )
    (root / "7" / "0.jpeg").rename(root / "8" / "more.jpeg")
    with pytest.raises(EvaluationError, match="expected 10 pictures of each class, found others of '7', '8'"):
        imagenet_v2(root)


def test_v2_refuses_another_number_of_pictures_or_folders(tmp_path: Path) -> None:
    root = fill(tmp_path, [str(number) for number in range(1000)], 1)
    with pytest.raises(EvaluationError, match="expected 10,000 pictures, found 1,000; --allow-subset"):
        imagenet_v2(root)
    assert imagenet_v2(root, allow_subset=True).partial
    (root / "7").rename(root / "007")
    with pytest.raises(EvaluationError, match="not among the classes: '007'"):
        imagenet_v2(root)


@pytest.mark.parametrize("allow_subset", [False, True])
def test_each_set_is_told_from_the_other(tmp_path: Path, allow_subset: bool) -> None:
    numbered, by_wnid = fill(tmp_path / "numbers", ["0", "65"], 10), fill(tmp_path / "wnids", list(WNIDS), 1)
    with pytest.raises(EvaluationError, match="as ImageNetV2's are: give it as --imagenet-v2"):
        imagenet_validation(numbered, CLASSES, allow_subset=allow_subset)
    with pytest.raises(EvaluationError, match="ImageNet's validation set is given as --imagenet-val"):
        imagenet_v2(by_wnid, allow_subset=allow_subset)


def test_validation_labels_by_wnid(tmp_path: Path) -> None:
    images = imagenet_validation(fill(tmp_path, ["n15075141", "n01751748"], 2), CLASSES, allow_subset=True)
    assert images.labels == (65, 65, 999, 999)
    assert images.partial


def test_validation_refuses_a_wrong_number_of_wnids(tmp_path: Path) -> None:
    root = fill(tmp_path, list(WNIDS[:-1]), 1)
    with pytest.raises(
        EvaluationError, match="expected 1,000 class folders, found 999; missing: 'n15075141'"
    ):
        imagenet_validation(root, CLASSES)
    fill(root, ["n15075141", "n99999999"], 1)
    with pytest.raises(EvaluationError, match="found 1,001; not among the classes: 'n99999999'"):
        imagenet_validation(root, CLASSES)
    (root / "n99999999" / "0.jpeg").unlink()
    (root / "n99999999").rmdir()
    with pytest.raises(EvaluationError, match="expected 50,000 pictures, found 1,000"):
        imagenet_validation(root, CLASSES)


def flat(folder: Path, form: str, files: dict[str, bytes]) -> Path:
    """The pictures as the publisher's tar, as that unpacked, and packed again by other people."""
    if form == "folder":
        return unpacked(folder / "val", files)
    if form == "outer folder":
        return (
            unpacked(folder / "val", {f"val/{name}": content for name, content in files.items()}).parent
            / "val"
        )
    path = folder / ("val.tar.gz" if form == "tar.gz" else "ILSVRC2012_img_val.tar")
    content = tarred(files)
    path.write_bytes(gzip.compress(content) if form == "tar.gz" else content)
    return path


@pytest.mark.parametrize("form", ["tar", "tar.gz", "folder", "outer folder"])
def test_flat_validation_is_labelled_by_the_development_kit_beside_it(tmp_path: Path, form: str) -> None:
    root = flat(tmp_path, form, validation())
    with pytest.raises(
        EvaluationError, match="--imagenet-labels must tell their classes: ILSVRC2012_devkit_t12"
    ):
        imagenet_validation(root, CLASSES, allow_subset=True)
    devkit(tmp_path / DEVKIT)
    with pytest.raises(
        EvaluationError, match="expected 50,000 pictures, found 10; --allow-subset takes what fits"
    ):
        imagenet_validation(root, CLASSES)
    images = imagenet_validation(root, CLASSES, allow_subset=True)
    assert (images.name, images.root, images.labels, images.partial) == ("imagenet", root, KNOWN, True)
    assert images.pictures.names == tuple(validation())
    assert [images.pictures.read(i) for i in range(10)] == list(validation().values())


def test_flat_validation_is_labelled_by_the_numbers_in_the_names_not_by_positions(tmp_path: Path) -> None:
    files = validation()
    for number in (1, 2, 5):
        del files[f"ILSVRC2012_val_{number:08}.JPEG"]
    root = flat(tmp_path, "tar", files)
    truth = tmp_path / "truth.txt"
    truth.write_text("".join(f"{number}\n" for number in ids()))
    images = imagenet_validation(root, CLASSES, labels=truth, allow_subset=True)
    assert images.labels == tuple(KNOWN[i] for i in (2, 3, 5, 6, 7, 8, 9))


def test_flat_validation_with_the_wnids_in_the_names_needs_no_labels(tmp_path: Path) -> None:
    named = zip(validation().items(), KNOWN, strict=True)
    files = {name.replace(".JPEG", f"_{WNIDS[label]}.JPEG"): content for (name, content), label in named}
    images = imagenet_validation(flat(tmp_path, "tar.gz", files), CLASSES, allow_subset=True)
    assert images.labels == KNOWN
    wrong = {name.replace("n01751748", "n00000001"): content for name, content in files.items()}
    with pytest.raises(EvaluationError, match="1,000 wnids in the names, found 'n00000001'"):
        imagenet_validation(flat(tmp_path, "folder", wrong), CLASSES, allow_subset=True)


def test_what_does_not_fit_a_flat_validation_is_named(tmp_path: Path) -> None:
    devkit(tmp_path / DEVKIT)
    more = validation(11)
    for number, (files, says, left) in enumerate(
        [
            (more, "1 pictures are not in the labels: 'ILSVRC2012_val_00000011.JPEG'", 10),
            (validation() | {"cat.jpg": b""}, "and so on, found 1 others: 'cat.jpg'", 10),
            (
                {"ILSVRC2012_test_00000001.JPEG": b"", "b.jpg": b""},
                "found 'ILSVRC2012_test_00000001.JPEG', 'b.jpg'",
                0,
            ),
            (validation() | {"ILSVRC2012_val_00000003.png": b""}, "found several of '00000003'", 0),
        ]
    ):
        root = unpacked(tmp_path / f"{number}", files)
        with pytest.raises(EvaluationError) as caught:
            imagenet_validation(root, CLASSES)
        assert says in str(caught.value)
        if left:
            assert len(imagenet_validation(root, CLASSES, allow_subset=True)) == left
        else:
            with pytest.raises(EvaluationError):
                imagenet_validation(root, CLASSES, allow_subset=True)


@pytest.mark.slow
def test_a_whole_flat_validation_has_fifty_of_each_class(tmp_path: Path) -> None:
    order = np.random.default_rng(3).permutation(np.repeat(np.arange(1000), 50)).tolist()
    for place, label in enumerate(KNOWN):  # the true ones first, as everywhere
        other = order.index(label, place)
        order[place], order[other] = order[other], order[place]
    root = tmp_path / "val"
    root.mkdir()
    for number in range(1, 50_001):
        os.close(os.open(root / f"ILSVRC2012_val_{number:08}.JPEG", os.O_CREAT))
    truth = tmp_path / "labels.txt"
    truth.write_text("\n".join(map(str, order)))
    images = imagenet_validation(root, CLASSES, labels=truth)
    assert (len(images), images.partial, list(images.labels)) == (50_000, False, order)
    assert len(pickle.dumps(images.pictures)) < 4_000_000
    order[-1] = (order[-1] + 1) % 1000
    truth.write_text("\n".join(map(str, order)))
    with pytest.raises(EvaluationError, match="expected 50 pictures of each class, found others of 'n"):
        imagenet_validation(root, CLASSES, labels=truth)


def test_labels_beside_class_folders_are_refused(tmp_path: Path) -> None:
    root = fill(tmp_path / "val", list(WNIDS[:3]), 1)
    with pytest.raises(EvaluationError, match="since --imagenet-labels is given, found 3 folders; leave"):
        imagenet_validation(root, CLASSES, labels=devkit(tmp_path / DEVKIT), allow_subset=True)


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("imagenetv2-matched-frequency", "imagenetv2"),
        ("imagenetv2-threshold0.7", "imagenetv2-threshold0.7"),
        ("imagenetv2-top-images", "imagenetv2-top-images"),
    ],
)
def test_v2s_archives_unopened_unpacked_and_renamed(tmp_path: Path, published: str, name: str) -> None:
    files = v2(f"{published}-format-val")
    archive = gzipped(tmp_path / f"{published}.tar.gz", tarred(files))
    renamed = gzipped(tmp_path / "v2.tgz", tarred(files))
    outer = unpacked(tmp_path / "outer", files)
    inner = outer / f"{published}-format-val"
    named_outside = unpacked(tmp_path / published, v2("images"))
    unnamed = unpacked(tmp_path / "other", v2("images"))
    within = named_outside / "images"
    (linked := tmp_path / "link").symlink_to(within)
    for root in (archive, renamed, outer, inner, named_outside, within, linked, unnamed):
        images = imagenet_v2(root, allow_subset=True)
        assert images.name == ("imagenetv2" if root == unnamed else name)
        assert images.labels == (0, 0, 2, 2, 10, 10, 999, 999)
        below = {path.partition("/")[2]: content for path, content in files.items()}
        assert [images.pictures.read(i) for i in range(8)] == [below[each] for each in images.pictures.names]
    with pytest.raises(EvaluationError, match="expected 1,000 class folders, found 4; missing: '1', '3'"):
        imagenet_v2(archive)
