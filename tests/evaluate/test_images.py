from pathlib import Path

import pytest

from clipkit.errors import EvaluationError
from clipkit.evaluate.images import read_folder

LABELS = {"cat": 0, "dog": 1, "eel": 2}


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")
    return root


def test_labels_by_folder_name_in_the_order_of_the_classes(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        "dog/b.PNG",
        "dog/a.jpg",
        "cat/z.webp",
        "eel/1.jpeg",
        "eel/2.avif",
        ".hidden/x",
        "cat/.DS_Store",
        "LICENSE",
    )
    images = read_folder(root, {"eel": 0, "cat": 1, "dog": 2}, name="pets")
    assert list(images.pictures.names) == [
        "eel/1.jpeg",
        "eel/2.avif",
        "cat/z.webp",
        "dog/a.jpg",
        "dog/b.PNG",
    ]
    assert images.labels == (0, 0, 1, 2, 2)
    assert (images.name, images.root, images.partial, len(images)) == ("pets", root, False, 5)


@pytest.mark.parametrize(
    ("files", "says", "left"),
    [
        (["cat/1.png", "dog/1.png"], "expected 3 class folders, found 2; missing: 'eel'", 2),
        (["cat/1.png", "dog/1.png", "eel/1.png", "fox/1.png"], "found 4; not among the classes: 'fox'", 3),
        (
            ["cat/1.png", "dog/1.png", "eel/notes.txt"],
            "1 files are no pictures by their names: 'eel/notes.txt'",
            2,
        ),
        (["cat/1.png", "dog/1.png", "eel/more/1.png"], "no pictures by their names: 'eel/more'", 2),
        (["cat/1.png", "dog/1.png", "eel/.keep"], "1 class folders hold no picture: 'eel'", 2),
        (
            ["cat/1.png", "dog/1.png", "eel/1.png", "2.jpg"],
            "1 pictures outside the class folders: '2.jpg'",
            3,
        ),
        (["cat/1.png", "1.jpg", "2.jpg"], "and 2 pictures outside class folders; missing: 'dog', 'eel'", 1),
        (["cat/1.png", "cat/2.png", "dog/1.png", "eel/1.png"], "expected 3 pictures, found 4", 4),
    ],
)
def test_refuses_what_does_not_fit_unless_a_subset_is_allowed(
    tmp_path: Path, files: list[str], says: str, left: int
) -> None:
    root = tree(tmp_path, *files)
    with pytest.raises(EvaluationError) as caught:
        read_folder(root, LABELS, name="pets", expected_each=1)
    assert says in str(caught.value)
    assert str(root) in str(caught.value)
    images = read_folder(root, LABELS, name="pets", expected_each=1, allow_subset=True)
    assert len(images) == left
    assert images.partial
    assert all(
        LABELS[name.partition("/")[0]] == label
        for name, label in zip(images.pictures.names, images.labels, strict=True)
    )


@pytest.mark.parametrize("allow_subset", [False, True])
@pytest.mark.parametrize("files", [[], ["fox/1.png"], ["cat/notes.txt", "dog/.x", "eel/.x"]])
def test_nothing_at_all_is_always_refused(tmp_path: Path, files: list[str], allow_subset: bool) -> None:
    root = tree(tmp_path / "set", *files)
    root.mkdir(exist_ok=True)
    with pytest.raises(EvaluationError) as told:
        read_folder(root, LABELS, name="pets", allow_subset=allow_subset)
    assert "--allow-subset" not in str(told.value)  # which would help nobody


@pytest.mark.parametrize("make_file", [False, True])
def test_missing_root_and_a_file_as_root(tmp_path: Path, make_file: bool) -> None:
    root = tmp_path / "set"
    if make_file:
        root.write_text("")
    with pytest.raises(EvaluationError, match="expected a folder or tar with one folder a class"):
        read_folder(root, LABELS, name="pets")


def test_many_faults_are_cut_short(tmp_path: Path) -> None:
    labels = {f"c{i:03}": i for i in range(100)}
    with pytest.raises(
        EvaluationError, match=r"missing: 'c001', 'c002', .* and 94 more; --allow-subset takes"
    ):
        read_folder(tree(tmp_path, "c000/1.png"), labels, name="x")
