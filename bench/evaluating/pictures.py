"""A labelled set like ImageNet's validation pictures: crops of photographs in Debian's wallpaper packages.

A class is one photograph. Sizes, formats and qualities are about those of ImageNet, with more of the rare
kinds: grey, inks, palettes, transparency, 16 bits, progressive, rotated by EXIF, profiles. All follows from
the numbers below and the packages' files.
"""

import csv
import io
import os
import random
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image, ImageCms
from web.corpus import loaded, sources

from clipkit.evaluate.classes import imagenet_classes

_SIZES = {
    (500, 375): 40,
    (375, 500): 14,
    (500, 333): 16,
    (333, 500): 6,
    (640, 480): 6,
    (1024, 768): 4,
    (400, 300): 4,
    (300, 300): 3,
    (150, 200): 3,
    (500, 200): 2,
    (200, 500): 2,
}
_KINDS = {
    "jpg": 100,
    "gray jpg": 3,
    "inks jpg": 1,
    "png": 2,
    "palette png": 1,
    "clear png": 1,
    "16-bit png": 1,
    "webp": 1,
}
_QUALITIES = {75: 10, 85: 20, 90: 25, 95: 45}
_SUBSAMPLINGS = {"4:2:0": 88, "4:4:4": 8, "4:2:2": 4}
_PROGRESSIVE, _ROTATED, _PROFILED = 0.05, 0.1, 0.1
_ORIENTATION = 0x0112


class LabelledSet(NamedTuple):
    """A folder with a folder a class, the classes' names as clipkit takes them, and how many of both."""

    folder: Path
    classes: Path
    names: list[str]
    pictures: int


def make_set(place: Path, each_class: int) -> LabelledSet:
    """Make the set in `place`, or find it there: so many pictures of each class, every one different."""
    files = sources()
    names = [names[0] for names in imagenet_classes().names[: len(files)]]
    made = LabelledSet(place / "val", place / "classes.csv", names, each_class * len(files))
    if not place.is_dir():
        begun = place.with_name(place.name + ".begun")
        shutil.rmtree(begun, ignore_errors=True)
        for label, source in enumerate(files):
            _make_class(begun / "val" / _folder(label), source, label, each_class)
        with (begun / "classes.csv").open("w", encoding="utf-8", newline="") as file:
            rows = [(_folder(label), name) for label, name in enumerate(names)]
            csv.writer(file).writerows([("folder", "names"), *rows])
        begun.rename(place)
    return made


def several_times(made: LabelledSet, place: Path, times: int) -> LabelledSet:
    """The set with every picture under several names, which cost no disk."""
    if not place.is_dir():
        begun = place.with_name(place.name + ".begun")
        shutil.rmtree(begun, ignore_errors=True)
        for path in sorted(made.folder.glob("*/*")):
            folder = begun / "val" / path.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(times):
                os.link(path, folder / f"{number}-{path.name}")
        shutil.copy(made.classes, begun)
        begun.rename(place)
    return LabelledSet(place / "val", place / "classes.csv", made.names, times * made.pictures)


def _folder(label: int) -> str:
    return f"class-{label:03d}"


def _make_class(folder: Path, source: Path, label: int, count: int) -> None:
    folder.mkdir(parents=True)
    picture = loaded(source)
    for number in range(count):
        chance = random.Random(f"{label} {number}")
        kind = _choice(chance, _KINDS)
        content = _stored(_crop(picture, chance), kind, chance)
        (folder / f"{number:04d}.{kind.split()[-1]}").write_bytes(content)


def _choice(chance: random.Random, shares: dict[Any, int]) -> Any:
    return chance.choices(list(shares), list(shares.values()))[0]


def _crop(source: Image.Image, chance: random.Random) -> Image.Image:
    width, height = _choice(chance, _SIZES)
    most = min(source.width / width, source.height / height)
    scale = most * chance.uniform(1 / 3, 1)
    left = chance.uniform(0, source.width - width * scale)
    top = chance.uniform(0, source.height - height * scale)
    box = (left, top, min(left + width * scale, source.width), min(top + height * scale, source.height))
    return source.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)


def _stored(picture: Image.Image, kind: str, chance: random.Random) -> bytes:
    content = io.BytesIO()
    if kind.endswith("jpg"):
        _save_jpeg(picture, kind, content, chance)
    elif kind == "webp":
        picture.save(content, "WEBP", quality=85)
    else:
        _as_png(picture, kind).save(content, "PNG")
    return content.getvalue()


def _as_png(picture: Image.Image, kind: str) -> Image.Image:
    if kind == "palette png":
        return picture.quantize(128)
    if kind == "clear png":
        clear = picture.convert("RGBA")
        clear.putalpha(picture.convert("L"))
        return clear
    if kind == "16-bit png":
        return picture.convert("L").convert("I").point(lambda level: level * 257).convert("I;16")
    return picture


def _save_jpeg(picture: Image.Image, kind: str, content: io.BytesIO, chance: random.Random) -> None:
    options: dict[str, Any] = {
        "quality": _choice(chance, _QUALITIES),
        "subsampling": _choice(chance, _SUBSAMPLINGS),
        "progressive": chance.random() < _PROGRESSIVE,
    }
    if chance.random() < _ROTATED:
        exif = Image.Exif()
        exif[_ORIENTATION] = chance.choice((3, 6, 8))
        options["exif"] = exif
    if chance.random() < _PROFILED:
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    mode = {"gray jpg": "L", "inks jpg": "CMYK"}.get(kind, "RGB")
    if mode == "L":
        del options["subsampling"]
    if mode == "CMYK":
        options.pop("icc_profile", None)
    picture.convert(mode).save(content, "JPEG", **options)
