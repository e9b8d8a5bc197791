"""What a zero-shot classifier tells apart: classes with their names, and the prompts around the names."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from clipkit.errors import EvaluationError, tell
from clipkit.progress import speaks

CLASS_COLUMNS = ("folder", "wnid", "index"), ("names", "name")
"""One of each: what tells a class, and its names."""
NAME_SEPARATOR = "|"
SLOT = "{}"
DEFAULT_TEMPLATES = ("a photo of a {}.",)
_SHOWN = 5


@dataclass(frozen=True)
class ClassSet:
    """The N classes of one evaluation, in label order.

    `folders[i]` is the folder that holds class i's pictures (a wnid for ImageNet), `names[i]` its one or more
    names, and each name is put into the `{}` of every template.
    """

    name: str
    folders: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]
    templates: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.folders)

    @property
    def folder_labels(self) -> dict[str, int]:
        """Folder name → label."""
        return {folder: label for label, folder in enumerate(self.folders)}

    @property
    def names_sha256(self) -> str:
        """SHA-256 of the names as compact JSON, a list of lists in label order, in UTF-8."""
        return _sha256(self.names)

    @property
    def templates_sha256(self) -> str:
        """SHA-256 of the templates as a compact JSON list, in UTF-8."""
        return _sha256(self.templates)

    @property
    def prompt_count(self) -> int:
        """How many prompts there are."""
        return sum(map(len, self.names)) * len(self.templates)

    def prompts(self) -> tuple[list[str], list[int]]:
        """Every prompt, and beside it the label of its class: all names × all templates, class by class."""
        pairs = [
            (template.replace(SLOT, name), label)
            for label, names in enumerate(self.names)
            for name in names
            for template in self.templates
        ]
        return [prompt for prompt, _ in pairs], [label for _, label in pairs]

    def with_templates(self, templates: tuple[str, ...]) -> "ClassSet":
        """The same classes in other prompts."""
        return replace(self, templates=templates)


def imagenet_classes() -> ClassSet:
    """ImageNet's 1,000 classes by sorted wnid, with OpenAI's names and 80 templates (Radford et al. 2021).

    Two names stand for two classes each in OpenAI's list ("missile", "sunglasses"); it is kept as published.
    """
    data = resources.files("clipkit.evaluate") / "data"
    rows = list(csv.DictReader(io.StringIO((data / "imagenet_classes.csv").read_text(encoding="utf-8"))))
    templates = (data / "imagenet_templates.txt").read_text(encoding="utf-8").splitlines()
    return ClassSet(
        name="imagenet",
        folders=tuple(row["wnid"] for row in rows),
        names=tuple((row["name"],) for row in rows),
        templates=tuple(templates),
    )


def read_classes(path: Path, *, name: str, templates: tuple[str, ...] = DEFAULT_TEMPLATES) -> ClassSet:
    """Read a CSV of classes, one row a class: `folder`, and `names`, of which several are separated by `|`.

    The order of the rows is the order of the labels. The first column may be called `wnid`, too, or `index`:
    then it is the label itself, 0…N−1 in any order, and the folder's name. Raises EvaluationError, with the
    line, for a file that is missing or not UTF-8 CSV, other columns, an empty or repeated folder or name (one
    of two classes is repeated too), and a folder that is a path.
    """
    reader = csv.reader(io.StringIO(_read_text(path, "class file")), strict=True)
    rows: list[tuple[str, tuple[str, ...]]] = []
    lines: list[int] = []
    try:
        header = [column.strip() for column in next(reader, [])]
        if len(header) != len(CLASS_COLUMNS) or not all(set(header) & set(each) for each in CLASS_COLUMNS):
            found = ",".join(header) or "nothing"
            raise EvaluationError(
                f"{path}: expected the columns folder,names (or wnid or index,names), found {found}"
            )
        for fields in reader:
            if fields:
                rows.append(_class_row(f"{path} line {reader.line_num}", header, fields))
                lines.append(reader.line_num)
    except csv.Error as error:
        raise EvaluationError(f"{path} line {reader.line_num}: not readable as CSV: {error}") from None
    if not rows:
        raise EvaluationError(
            f"{path}: no class below the header; expected one row a class: folder,name|name"
        )
    repeated = repeats(folder for folder, _ in rows)
    if repeated:
        raise EvaluationError(
            f"{path}: {listing(repeated)} stands in more than one row; give each folder one row"
        )
    _refuse_shared_names(path, rows, lines)
    if "index" in header:
        rows = _in_order(path, rows)
    return ClassSet(
        name=name,
        folders=tuple(folder for folder, _ in rows),
        names=tuple(names for _, names in rows),
        templates=templates,
    )


def _refuse_shared_names(path: Path, rows: list[tuple[str, tuple[str, ...]]], lines: list[int]) -> None:
    first: dict[str, tuple[str, int]] = {}
    for (folder, names), line in zip(rows, lines, strict=True):
        for name in names:
            if name in first:
                other, before = first[name]
                raise EvaluationError(
                    f"{path}: {name!r} is a name of {other!r} in line {before} and of {folder!r} in line "
                    f"{line}; give each class names of its own"
                )
            first[name] = folder, line
    alike: dict[str, tuple[str, str]] = {}
    for folder, names in rows:
        for name in names:
            # As the tokenizer reads them: in lower case, white space as one space.
            owner, written = alike.setdefault(" ".join(name.lower().split()), (folder, name))
            if owner != folder and speaks():
                tell(
                    f"{path}: {written!r} of {owner!r} and {name!r} of {folder!r} are one prompt to a model: "
                    "it cannot tell these classes apart by them"
                )
                return


def _in_order(path: Path, rows: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    by_index = dict(rows)
    wanted = [str(label) for label in range(len(rows))]
    if missing := [label for label in wanted if label not in by_index]:
        others = listing(index for index in by_index if index not in set(wanted))
        raise EvaluationError(
            f"{path}: expected the indexes 0…{len(rows) - 1}, found {others} and not {listing(missing)}"
        )
    return [(label, by_index[label]) for label in wanted]


def read_templates(path: Path) -> tuple[str, ...]:
    """Read prompt templates, one a line, each with `{}` where the name goes; blank lines are skipped.

    Raises EvaluationError for a missing or empty file, a line without `{}`, and a line that occurs twice.
    """
    lines = _read_text(path, "template file").split("\n")
    templates = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    for number, template in templates:
        if SLOT not in template:
            raise EvaluationError(f"{path} line {number}: no {SLOT} for the class name in {template!r}")
    if not templates:
        raise EvaluationError(f"{path}: no template; expected one a line, such as {DEFAULT_TEMPLATES[0]!r}")
    repeated = repeats(template for _, template in templates)
    if repeated:
        raise EvaluationError(
            f"{path}: the template {listing(repeated)} occurs more than once; keep one of each"
        )
    return tuple(template for _, template in templates)


def repeats(values: Iterable[str]) -> list[str]:
    """The values that occur more than once, in order of first occurrence."""
    return [value for value, count in Counter(values).items() if count > 1]


def listing(values: Iterable[str]) -> str:
    """The first few values, quoted, and how many more there are."""
    quoted = [repr(value) for value in values]
    more = f" and {len(quoted) - _SHOWN:,} more" if len(quoted) > _SHOWN else ""
    return ", ".join(quoted[:_SHOWN]) + more


def _class_row(place: str, header: list[str], fields: list[str]) -> tuple[str, tuple[str, ...]]:
    if len(fields) != len(header):
        raise EvaluationError(
            f"{place}: expected {len(header)} fields, found {len(fields)}; quote a name that holds a comma"
        )
    values = dict(zip(header, (field.strip() for field in fields), strict=True))
    folder = next(values[name] for name in CLASS_COLUMNS[0] if name in values)
    if not folder or folder in {".", ".."} or any(character in folder for character in "/\\\0"):
        raise EvaluationError(f"{place}: expected the name of a class's folder, found {folder!r}")
    text = next(values[name] for name in CLASS_COLUMNS[1] if name in values)
    names = tuple(name.strip() for name in text.split(NAME_SEPARATOR))
    if not all(names):
        raise EvaluationError(f"{place}: an empty name for {folder!r}; expected name{NAME_SEPARATOR}name")
    repeated = repeats(names)
    if repeated:
        raise EvaluationError(f"{place}: the name {listing(repeated)} occurs twice for {folder!r}")
    return folder, names


def _read_text(path: Path, kind: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise EvaluationError(f"{path}: the {kind} is not text in UTF-8") from None
    except OSError as error:
        raise EvaluationError(f"{path}: the {kind} cannot be read: {error.strerror}") from None


def _sha256(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
