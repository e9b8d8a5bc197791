"""Labelled pictures in shards: webdataset's with `cls` members, and any whose text or json says the class."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias

from clipkit.errors import EvaluationError
from clipkit.evaluate.archives import ARCHIVE_ENDINGS, is_archive, open_archive
from clipkit.evaluate.classes import ClassSet, listing
from clipkit.evaluate.images import SUBSET, LabelledImages, read_folder, wrong_counts
from clipkit.evaluate.pictures import OpenedTar, TarPictures, ranges_of
from clipkit.json_values import parsed_json
from clipkit.locations import decoded
from clipkit.progress import Progress
from clipkit.shards.dataset import DATASET_FILE
from clipkit.shards.headers import CAPTIONS, MAX_CAPTION_BYTES, PICTURES
from clipkit.shards.index import INDEX_FILE
from clipkit.shards.patterns import PATTERN, tar_paths
from clipkit.shards.shard_files import DatasetFiles
from clipkit.shards.tar_reader import Member, Sample, TarReader

CLASS_FIELDS = ("cls", "label", "class", "class_id", "wnid", "synset", "class_name")
_LABELS = frozenset({"cls", "json", "txt"})
_WANTED = _LABELS.union(PICTURES)
_LOOKED_AT = 64
_AMBIGUOUS = -1

Shards: TypeAlias = Sequence[tuple[Path, OpenedTar]]


class _Found(NamedTuple):
    """A sample's picture, and what it says of its class, None if it says nothing."""

    name: str
    picture: Member | None
    word: str | None


def read_labelled(
    root: Path,
    classes: ClassSet,
    *,
    name: str,
    expected_each: int | None = None,
    allow_subset: bool = False,
) -> LabelledImages:
    """List the pictures of `classes` in a folder or archive (see `labelled_tree`), or in shards.

    Shards are a dataset directory, a folder of tars, a brace or glob pattern, or one tar whose samples have
    cls, json or txt members. Raises EvaluationError for what does not fit.
    """
    shards = shards_at(root, classes.folders)
    if shards is None:
        return read_folder(
            root, classes.folder_labels, name=name, expected_each=expected_each, allow_subset=allow_subset
        )
    return read_shards(
        root, shards, classes, name=name, expected_each=expected_each, allow_subset=allow_subset
    )


def read_shards(
    root: Path,
    shards: Shards,
    classes: ClassSet,
    *,
    name: str,
    expected_each: int | None = None,
    allow_subset: bool = False,
) -> LabelledImages:
    """List the pictures of `classes` in the shards that `shards_at` has found at `root`, in their order.

    A sample's class is its cls member, else the first of CLASS_FIELDS in its json, else its txt, else the
    first of CAPTIONS in its json: the class's folder (wnid), label from 0, or name. Raises
    EvaluationError for what does not fit, as `labelled_tree`.
    """
    words, several = class_words(classes), len(shards) > 1
    names: list[str] = []
    rows: list[tuple[int, int, int]] = []
    labels: list[int] = []
    refused: list[str] = []
    with Progress(f"index {root.name}", len(shards), "tars") as shown:
        for number, (path, tar) in enumerate(shards):
            taken: set[str] = set()
            for sample in _samples(path, tar):
                label = words.get(sample.word) if sample.word is not None else None
                if sample.picture is None or label is None or label == _AMBIGUOUS:
                    refused.append(_reason(sample, label))
                    continue
                key = sample.name.rpartition(".")[0]
                if key in taken:
                    refused.append(f"{decoded(sample.name)} stands in {path.name} twice")
                    continue
                taken.add(key)
                names.append(f"{path.name}/{sample.name}" if several else sample.name)
                rows.append((number, sample.picture.offset, sample.picture.size))
                labels.append(label)
            shown.update(number + 1, f"{len(names):,} pictures")
    fault = _fault(root, classes, labels, refused, expected_each)
    if fault and not (allow_subset and labels):
        raise EvaluationError(f"{fault}; {SUBSET}" if labels else fault)
    pictures = TarPictures([tar for _, tar in shards], names, ranges_of(rows))
    return LabelledImages(name, root, pictures, tuple(labels), partial=fault is not None)


def shards_at(root: Path, folders: Iterable[str] = ()) -> Shards | None:
    """Return the tars of shards at `root`, None if it is something else: tars beside class `folders` are.

    Raises DatasetError for a dataset directory or pattern that cannot be read.
    """
    if root.is_dir():
        if (root / INDEX_FILE).exists() or (root / DATASET_FILE).exists():
            paths = [root / name for name in DatasetFiles(root).names]
        else:
            paths = sorted(path for path in root.glob("*.tar") if not path.name.startswith("."))
            # The archive that class folders came from is often left beside them.
            if paths and any((root / folder).is_dir() for folder in folders):
                return None
    elif not root.exists() and PATTERN.search(str(root)):
        paths = tar_paths([str(root)])
    elif is_archive(root):
        archive = open_archive(root)
        return [(root, archive)] if _says_classes(root, archive) else None
    else:
        paths = []
    return [(path, open_archive(path)) for path in paths] or None


def name_of_set(root: Path) -> str:
    """Return the name of a set of the user's own: its folder's or archive's, or its pattern's folder's.

    It names figures: what is no UTF-8 in it becomes U+FFFD.
    """
    path = root.resolve()
    name = decoded(path.parent.name if PATTERN.search(path.name) and not root.exists() else path.name)
    for ending in sorted(ARCHIVE_ENDINGS, key=len, reverse=True):
        name = name.removesuffix(ending)
    return name or "folder"


def class_words(classes: ClassSet) -> dict[str, int]:
    """Return labels by what a text may say for them: the folder's name, the label in digits, a name.

    Where folders' names are numbers, labels are not taken. A word that means several classes is known to be
    that: its label is -1.
    """
    meant = [(name, label) for label, names in enumerate(classes.names) for name in names]
    meant += classes.folder_labels.items()
    if not any(folder.isdecimal() for folder in classes.folders):
        meant += ((str(label), label) for label in range(len(classes)))
    words: dict[str, int] = {}
    for word, label in meant:
        words[word] = label if words.get(word, label) == label else _AMBIGUOUS
    return words


def _says_classes(path: Path, archive: OpenedTar) -> bool:
    with TarReader(path, archive.open()) as reader:
        samples = islice(reader.samples(_WANTED), _LOOKED_AT)
        # A text alone, such as a README, is no label.
        return any(_LABELS & each.members.keys() and each.members.keys() - _LABELS for each in samples)


def _samples(path: Path, tar: OpenedTar) -> list[_Found]:
    with TarReader(path, tar.open()) as reader:
        return [_found(reader, sample) for sample in reader.samples(_WANTED) if sample.members]


def _found(reader: TarReader, sample: Sample) -> _Found:
    members = sample.members
    ending = next((name for name in PICTURES if name in members), None)
    texts = {name: _text(reader, members[name]) for name in ("cls", "json", "txt") if name in members}
    fields = _fields(texts.get("json", "{}"))
    said = [
        texts.get("cls"),
        *_first(fields, CLASS_FIELDS),
        texts.get("txt"),
        *_first(fields, CAPTIONS),
    ]
    word = next((each.strip() for each in said if each is not None), None)
    return _Found(f"{sample.key}.{ending}", members[ending] if ending else None, word)


def _text(reader: TarReader, member: Member) -> str:
    return reader.read(member).decode(errors="replace") if member.size <= MAX_CAPTION_BYTES else ""


def _fields(text: str) -> Mapping[str, object]:
    try:
        fields = parsed_json(text)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _first(fields: Mapping[str, object], names: tuple[str, ...]) -> list[str]:
    values = (fields[name] for name in names if name in fields)
    return [str(each) for each in values if isinstance(each, int | str) and not isinstance(each, bool)][:1]


def _reason(sample: _Found, label: int | None) -> str:
    if sample.picture is None:
        return f"{decoded(sample.name.removesuffix('.None'))} has no picture"
    if sample.word is None:
        return f"{decoded(sample.name)} has no class"
    kind = "a word for several classes" if label == _AMBIGUOUS else "no class's wnid or folder, label or name"
    return f"{decoded(sample.name)} says {sample.word[:60]!r}, {kind}"


def _fault(
    root: Path, classes: ClassSet, labels: list[int], refused: list[str], expected_each: int | None
) -> str | None:
    if refused or not labels:
        first = f": {refused[0]}" if refused else ""
        return (
            f"{root}: expected samples of a picture with its class in cls, json or txt, found "
            f"{len(refused):,} others of {len(labels) + len(refused):,}{first}"
        )
    counts = Counter(labels)
    if expected_each is not None:
        return wrong_counts(root, classes.folder_labels, counts, expected_each)
    empty = [folder for label, folder in enumerate(classes.folders) if not counts[label]]
    if empty:
        return f"{root}: expected pictures of {len(classes):,} classes, found none of {listing(empty)}"
    return None
