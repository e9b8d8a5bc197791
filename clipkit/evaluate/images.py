"""Labelled pictures: one folder a class, checked against the classes before any work is done."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import listing
from clipkit.evaluate.pictures import Pictures
from clipkit.evaluate.trees import Tree, is_picture, names_shown, tree_at

SUBSET = "--allow-subset takes what fits"


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their labels: `labels[i]` in 0…N−1 is the class of picture i.

    `root` is the folder, archive or shards that hold them. `partial` says that classes, pictures or files
    were left out because the caller allowed a subset.
    """

    name: str
    root: Path
    pictures: Pictures
    labels: tuple[int, ...]
    partial: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def chosen(self, places: Sequence[int]) -> "LabelledImages":
        """Return some of them, in this order."""
        labels = tuple(self.labels[place] for place in places)
        return replace(self, pictures=self.pictures.chosen(places), labels=labels)


def read_folder(
    root: Path,
    folder_labels: Mapping[str, int],
    *,
    name: str,
    expected_each: int | None = None,
    allow_subset: bool = False,
) -> LabelledImages:
    """List the pictures of the folder or archive `root`, as `labelled_tree` does."""
    tree = tree_at(root, folder_labels)
    return labelled_tree(
        tree, folder_labels, name=name, expected_each=expected_each, allow_subset=allow_subset
    )


def labelled_tree(
    tree: Tree,
    folder_labels: Mapping[str, int],
    *,
    name: str,
    expected_each: int | None = None,
    allow_subset: bool = False,
) -> LabelledImages:
    """List the pictures of `tree`, where the folder `f` holds those of class `folder_labels[f]`.

    The order is by label, then by file name. Hidden files are passed over, and so are files beside the class
    folders that are no pictures. Raises EvaluationError, naming what was found and expected, for missing,
    unknown and empty folders, for files that are no pictures by their names, and for another number of
    pictures than `expected_each` in a class; with `allow_subset` what fits is taken, and only nothing at all
    is refused.
    """
    fault = _fault(tree, folder_labels, expected_each)
    labelled = sorted(
        (folder_labels[folder], file, f"{folder}/{file}")
        for folder, files in tree.folders.items()
        if folder in folder_labels
        for file in files
        if is_picture(file)
    )
    if not labelled:
        raise EvaluationError(fault or f"{tree.root}: no picture in any class folder")
    if fault and not allow_subset:
        raise EvaluationError(f"{fault}; {SUBSET}")
    return LabelledImages(
        name=name,
        root=tree.root,
        pictures=tree.choose([path for _, _, path in labelled]),
        labels=tuple(label for label, _, _ in labelled),
        partial=fault is not None,
    )


def wrong_counts(
    root: Path, labels: Mapping[str, int], pictures: Counter[int], expected_each: int
) -> str | None:
    """Return what is wrong with the numbers of pictures by label, None if each class has `expected_each`."""
    found, expected = pictures.total(), expected_each * len(labels)
    if found != expected:
        return f"{root}: expected {expected:,} pictures, found {found:,}"
    uneven = [name for name, label in labels.items() if pictures[label] != expected_each]
    if uneven:
        return f"{root}: expected {expected_each} pictures of each class, found others of {listing(uneven)}"
    return None


def _fault(tree: Tree, folder_labels: Mapping[str, int], expected_each: int | None) -> str | None:
    root, folders, strays = tree.root, tree.folders, tree.strays
    expected = f"{root}: expected {len(folder_labels):,} class folders, found {len(folders):,}"
    unknown = [folder for folder in folders if folder not in folder_labels]
    missing = [folder for folder in folder_labels if folder not in folders]
    if unknown:
        return f"{expected}; not among the classes: {names_shown(unknown)}"
    if missing:
        beside = f", and {len(strays):,} pictures outside class folders" if strays else ""
        return f"{expected}{beside}; missing: {listing(missing)}"
    if strays:
        return f"{root}: {len(strays):,} pictures outside the class folders: {listing(strays)}"
    foreign = [
        f"{folder}/{file}" for folder, files in folders.items() for file in files if not is_picture(file)
    ]
    if foreign:
        return f"{root}: {len(foreign):,} files are no pictures by their names: {names_shown(foreign)}"
    empty = [folder for folder, files in folders.items() if not files]
    if empty:
        return f"{root}: {len(empty):,} class folders hold no picture: {names_shown(empty)}"
    if expected_each is None:
        return None
    counts = Counter({folder_labels[folder]: len(files) for folder, files in folders.items()})
    return wrong_counts(root, folder_labels, counts, expected_each)
