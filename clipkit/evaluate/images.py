"""Labelled pictures on disk: one folder a class, checked against the classes before any work is done."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.classes import listing

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpe"})


@dataclass(frozen=True)
class LabelledImages:
    """Pictures with their labels: `labels[i]` in 0…N−1 is the class of `paths[i]`.

    `partial` says that classes, pictures or files were left out because the caller allowed a subset.
    """

    name: str
    root: Path
    paths: tuple[Path, ...]
    labels: tuple[int, ...]
    partial: bool = False

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class _Tree:
    folders: dict[str, list[str]]
    strays: list[str]


def read_folder(
    root: Path,
    folder_labels: Mapping[str, int],
    *,
    name: str,
    expected_images: int | None = None,
    allow_subset: bool = False,
) -> LabelledImages:
    """List the pictures under `root`, where the folder `f` holds those of class `folder_labels[f]`.

    The order is by label, then by file name. Hidden files are passed over, and so are files beside the class
    folders that are no pictures. Raises EvaluationError, naming what was found and expected, for missing,
    unknown and empty folders, for files that are no pictures by their names, and for a number of pictures
    other than `expected_images`; with `allow_subset` what fits is taken, and only nothing at all is refused.
    """
    tree = _scan(root)
    known = {folder: files for folder, files in tree.folders.items() if folder in folder_labels}
    fault = _fault(root, tree, folder_labels, expected_images)
    if fault and not allow_subset:
        raise EvaluationError(f"{fault}; --allow-subset takes what fits")
    labelled = sorted(
        (folder_labels[folder], file, root / folder / file)
        for folder, files in known.items()
        for file in files
        if _is_picture(file)
    )
    if not labelled:
        raise EvaluationError(fault or f"{root}: no picture in any class folder")
    return LabelledImages(
        name=name,
        root=root,
        paths=tuple(path for _, _, path in labelled),
        labels=tuple(label for label, _, _ in labelled),
        partial=fault is not None,
    )


def _scan(root: Path) -> _Tree:
    folders: dict[str, list[str]] = {}
    strays = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders[entry.name] = sorted(
                        file.name for file in Path(entry.path).iterdir() if not file.name.startswith(".")
                    )
                elif _is_picture(entry.name):
                    strays.append(entry.name)
    except OSError as error:
        raise EvaluationError(
            f"{error.filename}: expected a folder with one folder a class: {error.strerror}"
        ) from None
    return _Tree(folders, sorted(strays))


def _fault(
    root: Path, tree: _Tree, folder_labels: Mapping[str, int], expected_images: int | None
) -> str | None:
    expected = f"{root}: expected {len(folder_labels):,} class folders, found {len(tree.folders):,}"
    unknown = sorted(tree.folders.keys() - folder_labels.keys())
    missing = [folder for folder in folder_labels if folder not in tree.folders]
    if unknown:
        return f"{expected}; not among the classes: {listing(unknown)}"
    if missing:
        beside = f", and {len(tree.strays):,} pictures outside class folders" if tree.strays else ""
        return f"{expected}{beside}; missing: {listing(missing)}"
    if tree.strays:
        return f"{root}: {len(tree.strays):,} pictures outside the class folders: {listing(tree.strays)}"
    foreign = [
        f"{folder}/{file}"
        for folder, files in tree.folders.items()
        for file in files
        if not _is_picture(file)
    ]
    if foreign:
        return f"{root}: {len(foreign):,} files are no pictures by their names: {listing(sorted(foreign))}"
    empty = [folder for folder, files in tree.folders.items() if not files]
    if empty:
        return f"{root}: {len(empty):,} class folders hold no picture: {listing(sorted(empty))}"
    found = sum(len(files) for files in tree.folders.values())
    if expected_images is not None and found != expected_images:
        return f"{root}: expected {expected_images:,} pictures, found {found:,}"
    return None


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in PICTURE_SUFFIXES
