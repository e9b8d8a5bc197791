"""Shards of other tools and of clipkit's own, whose samples say their classes."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset

from clipkit.errors import ClipkitError, EvaluationError
from clipkit.evaluate import pictures
from clipkit.evaluate.classes import ClassSet, imagenet_classes
from clipkit.evaluate.imagenet import imagenet_v2, imagenet_validation
from clipkit.evaluate.images import LabelledImages
from clipkit.evaluate.shard_images import class_words, name_of_set, read_labelled
from tests.conftest import WriteDataset, picture
from tests.evaluate.packed import WNIDS, tarred

PETS = ClassSet("pets", ("n1", "n2", "n3"), (("cat", "kitten"), ("dog",), ("eel", "dog")), ("a {}",))
Members = dict[str, bytes | str | int]


def write(path: Path, samples: list[Members]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path)) as tar:
        for number, members in enumerate(samples):
            tar.write({"__key__": f"{number:05}", **members})
    return path


def read(root: Path, allow_subset: bool = False) -> LabelledImages:
    images = read_labelled(root, PETS, name="pets", allow_subset=allow_subset)
    copy: LabelledImages = pickle.loads(pickle.dumps(images))
    return copy


SAID = {
    "cls": [{"cls": 0}, {"cls": 1}, {"cls": 2}],
    "cls beside captions": [
        {"cls": label, "txt": "a cat on a mat", "json": '{"label": 0}'} for label in range(3)
    ],
    "wnids": [{"txt": wnid} for wnid in ("n1", "n2", "n3\n")],
    "labels": [{"txt": str(label)} for label in range(3)],
    "names": [{"txt": "kitten"}, {"cls": 1}, {"txt": "eel"}],
    "json label": [{"json": json.dumps({"label": label, "caption": "eel"})} for label in range(3)],
    "json class beside text": [{"json": json.dumps({"class": wnid}), "txt": "eel"} for wnid in PETS.folders],
    "json caption": [{"json": json.dumps({"url": "x", "caption": wnid})} for wnid in PETS.folders],
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID.keys())
@pytest.mark.parametrize("ending", ["jpg", "jpeg"])
def test_whatever_says_the_class(tmp_path: Path, said: list[Members], ending: str) -> None:
    root = write(tmp_path / "pets.tar", [{ending: picture(i), **each} for i, each in enumerate(said)])
    images = read(root)
    assert (images.labels, images.partial, images.root) == ((0, 1, 2), False, root)
    assert images.pictures.names == tuple(f"{number:05}.{ending}" for number in range(3))
    assert [images.pictures.read(index) for index in range(3)] == [picture(index) for index in range(3)]


def test_a_folder_and_a_pattern_of_shards(tmp_path: Path) -> None:
    for number in range(3):
        samples: list[Members] = [{"jpg": picture(10 * number + label), "cls": label} for label in range(3)]
        write(tmp_path / "pets" / f"{number:03}.tar", samples)
    (tmp_path / "pets" / "nshards.txt").write_text("3")
    for root in (tmp_path / "pets", tmp_path / "pets" / "{000..002}.tar", tmp_path / "pets" / "*.tar"):
        images = read(root)
        assert images.labels == (0, 1, 2) * 3
        assert images.pictures.names[4] == "001.tar/00001.jpg"
        assert images.pictures.read(4) == picture(11)
        assert images.pictures.place(8).startswith(f"{tmp_path}/pets/002.tar: ")
        assert name_of_set(root) == "pets"
    assert name_of_set(tmp_path / "my.pets.tar.gz") == "my.pets"


def test_clipkits_own_shards(tmp_path: Path, write_dataset: WriteDataset) -> None:
    root = write_dataset(tmp_path / "pets", 3)
    classes = ClassSet(
        "x", ("a", "b"), (("caption of picture number 0",), ("caption of picture number 1",)), ("{}",)
    )
    with pytest.raises(
        EvaluationError, match=r"found 1 others of 3: 000000002\.jpg says 'caption of picture number 2'"
    ):
        read_labelled(root, classes, name="x")
    images = read_labelled(root, classes, name="x", allow_subset=True)
    assert (images.labels, images.partial) == ((0, 1), True)
    assert [images.pictures.read(index) for index in range(2)] == [picture(0), picture(1)]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"jpg": b"x", "cls": 3},
            "found 1 others of 3: 00002.jpg says '3', no class's wnid or folder, label or",
        ),
        ({"jpg": b"x", "cls": -1}, "says '-1', no class's"),
        ({"jpg": b"x", "txt": "dog"}, "says 'dog', a word for several classes"),
        ({"jpg": b"x", "txt": "a photo of an eel"}, "says 'a photo of an eel', no class's"),
        ({"jpg": b"x", "json": "[]"}, "00002.jpg has no class"),
        ({"jpg": b"x", "json": '{"label": true, "class": [0]}'}, "00002.jpg has no class"),
        ({"cls": 2}, "00002 has no picture"),
        ({"__key__": "00001", "jpg": b"x", "cls": 2}, "00001.jpg stands in pets.tar twice"),
        ({"jpg": b"x", "cls": "1"}, "expected pictures of 3 classes, found none of 'n3'"),
    ],
)
def test_a_sample_without_a_known_class_is_refused(tmp_path: Path, wrong: Members, says: str) -> None:
    right: list[Members] = [{"jpg": picture(label), "cls": label} for label in range(2)]
    root = write(tmp_path / "pets.tar", [*right, wrong])
    with pytest.raises(EvaluationError) as caught:
        read(root)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert read(root, allow_subset=True).labels[:2] == (0, 1)


def test_shards_that_are_cut_off_or_hold_nothing_are_one_line(tmp_path: Path) -> None:
    right: list[Members] = [{"jpg": picture(label), "cls": label} for label in range(3)]
    root = write(tmp_path / "pets.tar", right)
    root.write_bytes(root.read_bytes()[:1500])
    with pytest.raises(ClipkitError, match="was it cut off"):
        read(root)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "0.tar").write_bytes(tarred({}))
    with pytest.raises(
        EvaluationError, match="expected samples of a picture with its class in cls, json or txt"
    ):
        read(tmp_path / "none", allow_subset=True)
    with pytest.raises(ClipkitError, match=r"expected 3 tars, found 3 of them missing"):
        read(tmp_path / "missing" / "{0..2}.tar")


def test_imagenet_and_v2_as_shards(tmp_path: Path) -> None:
    samples: list[Members] = [{"webp": b"x", "cls": 2}, {"jpg": picture(2), "txt": WNIDS[10]}]
    root = write(tmp_path / "imagenetv2-top-images" / "0.tar", samples).parent
    with pytest.raises(EvaluationError, match="expected 50,000 pictures, found 2; --allow-subset"):
        imagenet_validation(root, imagenet_classes())
    images = imagenet_validation(root, imagenet_classes(), allow_subset=True)
    assert (images.name, images.labels, images.partial) == ("imagenet", (2, 10), True)
    with pytest.raises(EvaluationError, match="expected 10,000 pictures, found 2"):
        imagenet_v2(root)
    images = imagenet_v2(root, allow_subset=True)
    assert (images.name, images.labels) == ("imagenetv2-top-images", (2, 10))
    with pytest.raises(EvaluationError, match="since --imagenet-labels is given, found shards; leave"):
        imagenet_validation(root, imagenet_classes(), labels=tmp_path / "labels", allow_subset=True)


def test_class_folders_are_read_though_a_tar_lies_beside_them(tmp_path: Path) -> None:
    for wnid in WNIDS[:2]:
        (tmp_path / "val" / wnid).mkdir(parents=True)
        (tmp_path / "val" / wnid / "0.jpg").write_bytes(picture(0))
    (tmp_path / "val" / "ILSVRC2012_img_val.tar").write_bytes(tarred({"ILSVRC2012_val_00000001.JPEG": b"x"}))
    images = imagenet_validation(tmp_path / "val", imagenet_classes(), allow_subset=True)
    assert images.labels == (0, 1)
    for name in PETS.folders:
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "0.jpg").write_bytes(picture(0))
    (tmp_path / "pets" / "pets.tar").write_bytes(tarred({"n1/0.jpg": b"x"}))
    assert read(tmp_path / "pets").labels == (0, 1, 2)
    (tmp_path / "v2" / "3").mkdir(parents=True)
    (tmp_path / "v2" / "3" / "0.jpeg").write_bytes(picture(0))
    (tmp_path / "v2" / "v2.tar").write_bytes(tarred({"3/0.jpeg": b"x"}))
    assert imagenet_v2(tmp_path / "v2", allow_subset=True).labels == (3,)


def test_a_text_without_a_picture_makes_no_shards_of_a_tar(tmp_path: Path) -> None:
    texts = {"pets/README.txt": b"dog", "pets/licence.json": b"{}"}
    pictures = {f"pets/{folder}/0.jpg": picture(0) for folder in PETS.folders}
    (tmp_path / "pets.tar").write_bytes(tarred(texts | pictures))
    assert read(tmp_path / "pets.tar").labels == (0, 1, 2)


def test_words_of_classes() -> None:
    assert class_words(PETS) == {"n1": 0, "n2": 1, "n3": 2, "0": 0, "1": 1, "2": 2} | {
        "cat": 0, "kitten": 0, "dog": -1, "eel": 2,
    }  # fmt: skip
    numbers = ClassSet("x", ("1", "0"), (("one",), ("zero",)), ("{}",))
    assert class_words(numbers) == {"1": 0, "0": 1, "one": 0, "zero": 1}
    overlapping = ClassSet("x", ("a", "b", "c"), (("2",), ("8", "c"), ("2 cats",)), ("{}",))
    assert class_words(overlapping) == {"a": 0, "b": 1, "c": -1, "0": 0, "1": 1, "2": -1, "8": 1, "2 cats": 2}


def test_a_key_in_several_tars_is_as_many_pictures(tmp_path: Path) -> None:
    said: list[Members] = [{"jpg": picture(label), "cls": label} for label in range(3)]
    for name in ("a.tar", "b.tar"):
        write(tmp_path / "pets" / name, said)
    images = read(tmp_path / "pets")
    assert images.labels == (0, 1, 2) * 2
    assert images.pictures.names[0] == "a.tar/00000.jpg" and images.pictures.names[3] == "b.tar/00000.jpg"


def test_many_tars_are_read_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than may be open at a time, so that each thread closes what others have just opened."""
    monkeypatch.setattr(pictures, "_OPEN_TARS", 2)
    for tar in range(12):
        samples: list[Members] = [{"jpg": picture(3 * tar + row), "cls": 0} for row in range(3)]
        write(tmp_path / f"{tar:02}.tar", samples)
    found = read_labelled(tmp_path, PETS, name="pets", allow_subset=True).pictures
    expected = [found.read(place) for place in range(36)]
    places = list(range(36)) * 50
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(found.read, places)) == expected * 50
