"""The class folders that hold a set's pictures, below a folder or within an archive."""

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipkit.errors import EvaluationError
from clipkit.evaluate.archives import is_archive, members, open_archive
from clipkit.evaluate.classes import listing
from clipkit.evaluate.pictures import FolderPictures, OpenedTar, Pictures, TarPictures, ranges_of
from clipkit.shards.headers import PICTURES
from clipkit.shards.tar_reader import Member

PICTURE_SUFFIXES = frozenset(f".{name}" for name in (*PICTURES, "jpe", "tif", "tiff"))


@dataclass
class Tree:
    """Folders with the names of what is in each, and pictures beside them; hidden files are left out.

    `root` is the folder or archive, `inner` the folders within it that hold all the rest, "" if there are
    none; `choose` makes Pictures of names below these, such as `0/a.jpeg`.
    """

    root: Path
    inner: str
    choose: Callable[[Sequence[str]], Pictures]
    folders: dict[str, list[str]] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)


def tree_at(root: Path, classes: Container[str]) -> Tree:
    """Look at the folder or archive `root`.

    A folder that holds nothing but one other folder, which is none of the `classes`, is passed through.
    Raises EvaluationError for what is neither, and as `members` does.
    """
    if is_archive(root):
        archive = open_archive(root)
        return tree_of_archive(root, archive, members(archive, root), classes)
    folder = root
    while True:
        tree = _scanned(root, folder)
        inner = _only_folder(tree, classes)
        if inner is None:
            return tree
        folder = folder / inner


def tree_of_archive(root: Path, archive: OpenedTar, found: Sequence[Member], classes: Container[str]) -> Tree:
    """Return the tree that the files of an archive make."""
    paths = {
        member.name: member
        for member in found
        if not any(part.startswith(".") for part in member.name.split("/"))
    }
    inner = ""
    while True:
        tree = _grown(root, inner, _chooser(archive, paths, inner), paths)
        further = _only_folder(tree, classes)
        if further is None:
            return tree
        inner = f"{inner}{further}/"


def is_picture(name: str) -> bool:
    """Tell whether a file's name is that of a picture."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 (of 50,000 names)


def _scanned(root: Path, folder: Path) -> Tree:
    inner = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    tree = Tree(root, inner, lambda names: FolderPictures(folder, names))
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    tree.folders[entry.name] = sorted(
                        file.name for file in os.scandir(entry.path) if not file.name.startswith(".")
                    )
                elif is_picture(entry.name):
                    tree.strays.append(entry.name)
    except OSError as error:
        raise EvaluationError(
            f"{error.filename}: expected a folder or tar with one folder a class: {error.strerror}"
        ) from None
    tree.strays.sort()
    return tree


def _grown(
    root: Path, inner: str, choose: Callable[[Sequence[str]], Pictures], paths: dict[str, Member]
) -> Tree:
    tree = Tree(root, inner, choose)
    held: dict[str, set[str]] = {}
    for path in paths:
        folder, slash, rest = path[len(inner) :].partition("/")
        if slash:
            held.setdefault(folder, set()).add(rest.partition("/")[0])
        elif is_picture(folder):
            tree.strays.append(folder)
    tree.folders = {folder: sorted(names) for folder, names in held.items()}
    tree.strays.sort()
    return tree


def _chooser(archive: OpenedTar, paths: dict[str, Member], inner: str) -> Callable[[Sequence[str]], Pictures]:
    def choose(names: Sequence[str]) -> Pictures:
        chosen = [paths[inner + name] for name in names]
        return TarPictures([archive], names, ranges_of([(0, each.offset, each.size) for each in chosen]))

    return choose


def _only_folder(tree: Tree, classes: Container[str]) -> str | None:
    """The folder to go on into, if there is nothing else that could hold pictures."""
    if tree.strays or len(tree.folders) != 1:
        return None
    (folder,) = tree.folders
    return None if folder in classes else folder


def names_shown(names: Sequence[str]) -> str:
    """Return the first few names in order, and how many more there are."""
    return listing(sorted(names))
