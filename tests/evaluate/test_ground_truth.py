"""ImageNet's numbering: the first ten pictures' classes are published, in ids and by wnid."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.ground_truth import KNOWN, ilsvrc2012_ids, picture_number, read_ground_truth
from tests.evaluate.packed import WNIDS, devkit, gzipped, tarred

# As the files of the development kit have them, and OpenAI's, Caffe's and Kaggle's lists.
IDS = (490, 361, 171, 822, 297, 482, 13, 704, 599, 164)
WNID_OF = ["n01751748", "n09193705", "n02105855", "n04263257", "n03125729"]
WNID_OF += ["n01735189", "n02346627", "n02776631", "n03794056", "n02328150"]
LABELS = dict(enumerate(KNOWN, start=1))
NAMES = [f"ILSVRC2012_val_{number:08}" for number in range(1, 11)]


def test_the_table_of_ids_is_ilsvrc2012s() -> None:
    ids = ilsvrc2012_ids()
    assert sorted(ids) == list(WNIDS)
    assert (ids[0], ids[1], ids[489], ids[999]) == ("n02119789", "n02100735", "n01751748", "n03255030")
    # Two cranes and two maillots: a bird and a machine, a swimsuit and tights.
    assert (ids[428], ids[544], ids[781], ids[976]) == ("n02012849", "n03126707", "n03710637", "n03710721")
    assert [ids[number - 1] for number in IDS] == WNID_OF == [WNIDS[label] for label in KNOWN]
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest().startswith("930a31901625f214")


def kaggle() -> list[str]:
    boxes = [f"{name},{wnid} 85 1 499 272 " for name, wnid in zip(NAMES, WNID_OF, strict=True)]
    boxes[3] += "n04263257 1 2 3 4 "
    return ["ImageId,PredictionString", *boxes[::-1]]


def paired(separator: str, values: Sequence[object], ending: str = "") -> list[str]:
    return [f"{name}{ending}{separator}{value}" for name, value in zip(NAMES, values, strict=True)]


@pytest.mark.parametrize(
    "lines",
    [
        [str(number) for number in IDS],
        [str(label) for label in KNOWN],
        WNID_OF,
        paired(" ", WNID_OF, ".JPEG"),
        paired(",", WNID_OF)[::-1],
        paired("\t", KNOWN, ".JPEG"),
        [f"val/{line}" for line in paired(" ", IDS, ".JPEG")],
        kaggle(),
    ],
    ids=["ids", "labels", "wnids", "name wnid", "name,wnid", "name label", "path id", "Kaggle"],
)
def test_every_form_of_the_labels_gives_the_same(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\ufeff" + "\r\n".join(lines) + "\n\n")
    assert read_ground_truth(path, WNIDS) == LABELS


def test_the_development_kit_packed_and_unpacked(tmp_path: Path) -> None:
    assert read_ground_truth(devkit(tmp_path / "devkit.tar.gz"), WNIDS) == LABELS
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, IDS)))
    for folder in (data, data.parent, tmp_path):
        assert read_ground_truth(folder, WNIDS) == LABELS


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "expected at most 50,000 lines, found 1"),
        (["490"] * 50_001, "found 50,001"),
        (
            [str(label + 1) for label in KNOWN],
            "found other classes: the ground truth of another set or order",
        ),
        (sorted(WNID_OF), "expected n01751748, n09193705, n02105855 … for the pictures 1, 2, 3 … in wnids"),
        (["n01751748", "n99999999"], "expected ImageNet's 1,000 wnids, found 'n99999999'"),
        (["n01751748", "", "n02105855"], "line 2: expected a wnid or a number, found ''"),
        (["n01751748", "n09193705 x"], "line 2: expected a wnid or a number, found 'n09193705 x'"),
        (["n01751748", "361"], "expected ImageNet's 1,000 wnids, found '361'"),
        (["ILSVRC2012_val_00000001 n01751748", "n09193705"], "line 2: expected a line such as"),
        (["ILSVRC2012_val_00000001 n01751748"] * 2, "found two of number 1"),
        (["ILSVRC2012_val_00050001 n01751748"], "line 1: expected a line such as `ILSVRC2012_val_00000001"),
        (
            ["ILSVRC2012_val_00000011 7", "ILSVRC2012_val_00000012 8"],
            "could be ILSVRC2012's ids 1…1000 or labels",
        ),
        # 0 and 1000 each belong to one numbering alone, or to a third: devkit's ids from 0 on, for one.
        (["ILSVRC2012_val_00000011 0"], "none of the first ten pictures, whose classes tell which, is among"),
        (["ILSVRC2012_val_00000011 1000"], "none of the first ten pictures"),
        (["ILSVRC2012_val_00000001,n01751748 1 2 3 4 n09193705 1 2 3 4"], "line 1: expected a line such as"),
        (["1000"] * 3, "found other classes"),
        (["-1"], "line 1: expected a wnid or a number"),
        (["²"], "line 1: expected a wnid or a number"),
    ],
)
def test_what_is_wrong_or_could_be_read_in_two_ways_is_refused(
    tmp_path: Path, lines: list[str], says: str
) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(EvaluationError) as caught:
        read_ground_truth(path, WNIDS)
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"none: expected ILSVRC2012_devkit.* found: No such file"):
        read_ground_truth(tmp_path / "none", WNIDS)
    (tmp_path / "meta.mat").write_bytes(b"MATLAB\xff\xfe")
    with pytest.raises(EvaluationError, match=r"meta\.mat: expected ILSVRC2012_devkit.*; found no text"):
        read_ground_truth(tmp_path / "meta.mat", WNIDS)
    with pytest.raises(EvaluationError, match=r"expected a folder with data/ILSVRC2012_val.*, found 0"):
        read_ground_truth(tmp_path, WNIDS)
    other = gzipped(tmp_path / "other.tar.gz", tarred({"a/readme.txt": b""}))
    with pytest.raises(EvaluationError, match="expected ILSVRC2012's development kit, found no"):
        read_ground_truth(other, WNIDS)


def test_numbers_of_pictures() -> None:
    assert picture_number("val/ILSVRC2012_val_00000293.JPEG") == (293, None)
    assert picture_number("ILSVRC2012_val_00000293_n01440764.JPEG") == (293, "n01440764")
    for name in (
        "ILSVRC2012_val_00000000.JPEG",
        "ILSVRC2012_test_00000293.JPEG",
        "ILSVRC2012_val_293.JPEG",
        "1",
    ):
        assert picture_number(name) is None
