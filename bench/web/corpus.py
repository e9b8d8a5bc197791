"""Pictures as the web has them, cut out of the photographs in Debian's wallpaper packages.

Each is another crop, scaled to a width of 256 to 2,400 pixels (log-spread) and stored at a quality of 75
to 95. Everything follows from the numbers below and the packages' files.
"""

import io
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageCms

PICTURES = 2_200
PACKAGES = (
    "gnome-backgrounds",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
    "plasma-workspace-wallpapers",
    "ukui-wallpapers",
)
_SMALLEST_SOURCE = 1000  # of the short side, in pixels: leaves icons and screenshots out
_NARROWEST, _WIDEST = 256, 2400
_CROWDING = 1.25  # widths are log-uniform at 1; more makes small ones more frequent
_ASPECTS = (4 / 3, 3 / 2, 16 / 9, 1.0, 3 / 4, 2 / 3)
_ASPECT_WEIGHTS = (30, 25, 15, 15, 10, 5)
_PROGRESSIVE = 0.07  # of 7 million JPEGs on 300,000 sites (Meenan, "Progressive JPEGs FTW", 2013)
_ORIENTATION = 0x0112
_CAMERA = {0x010F: "clipkit", 0x0110: "bench", 0x0131: "1.0", 0x0132: "2026:01:01 12:00:00"}


def make_corpus(folder: Path) -> list[Path]:
    """Make the pictures in `folder`, or find them there from an earlier run; sorted by name."""
    if not folder.is_dir():
        begun = folder.with_name(folder.name + ".begun")
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        found = sources()
        for number, source in enumerate(found):
            first, last = (PICTURES * place // len(found) for place in (number, number + 1))
            picture = loaded(source)
            for place in range(first, last):
                suffix, content = _web_picture(picture, random.Random(place))
                (begun / f"{place:05d}.{suffix}").write_bytes(content)
        begun.rename(folder)
    return sorted(folder.iterdir())


def baseline_jpegs(pictures: Sequence[Path]) -> list[Path]:
    """The pictures that are JPEGs and not progressive."""
    return [path for path in pictures if path.suffix == ".jpg" and not _is_progressive(path)]


def _is_progressive(path: Path) -> bool:
    with Image.open(path) as image:
        return "progressive" in image.info


def sources() -> list[Path]:
    """The photographs and drawings in the packages, large ones, sorted."""
    files = {path for package in PACKAGES for path in _files_of(package)}
    return sorted(path for path in files if min(_size(path)) >= _SMALLEST_SOURCE)


def _files_of(package: str) -> Iterator[Path]:
    try:
        listed = subprocess.run(["dpkg-query", "-L", package], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        needed = " ".join(("nginx-light", "libnginx-mod-http-echo", *PACKAGES))
        raise SystemExit(f"expected Debian's {package}, found none; apt-get install {needed}") from None
    for line in listed.stdout.splitlines():
        path = Path(line)
        if path.suffix.lower() in (".jpg", ".jpeg", ".webp") and path.is_file():
            yield path.resolve()


def _size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def loaded(path: Path) -> Image.Image:
    """A picture as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")


def _web_picture(source: Image.Image, chance: random.Random) -> tuple[str, bytes]:
    width = round(_NARROWEST * (_WIDEST / _NARROWEST) ** chance.random() ** _CROWDING)
    (aspect,) = chance.choices(_ASPECTS, _ASPECT_WEIGHTS)
    height = max(1, round(width / aspect))
    # As much of the source as a photographer might show: all that fits, down to a third of it.
    most = min(source.width / width, source.height / height)
    scale = max(min(1.0, most), most * chance.uniform(1 / 3, 1))
    box_width, box_height = min(width * scale, source.width), min(height * scale, source.height)
    left = chance.uniform(0, source.width - box_width)
    top = chance.uniform(0, source.height - box_height)
    box = (left, top, left + box_width, top + box_height)
    picture = source.resize((width, height), Image.Resampling.LANCZOS, box, reducing_gap=3.0)
    return _stored(picture, chance)


def _stored(picture: Image.Image, chance: random.Random) -> tuple[str, bytes]:
    content = io.BytesIO()
    (kind,) = chance.choices(("jpg", "png", "webp"), (95, 2, 3))
    if kind == "png":
        picture.thumbnail((500, 500))  # larger photographs are rarely PNG
        picture.save(content, "PNG")
    elif kind == "webp":
        picture.save(content, "WEBP", quality=chance.choice((75, 80, 90)))
    else:
        _save_jpeg(picture, content, chance)
    return kind, content.getvalue()


def _save_jpeg(picture: Image.Image, content: io.BytesIO, chance: random.Random) -> None:
    (subsampling,) = chance.choices(("4:2:0", "4:4:4", "4:2:2"), (85, 11, 4))
    options: dict[str, Any] = {
        "quality": chance.choices((75, 80, 85, 90, 92, 95), (20, 20, 25, 20, 5, 10))[0],
        "subsampling": subsampling,
        "progressive": chance.random() < _PROGRESSIVE,
        "optimize": chance.random() < 0.5,
    }
    if chance.random() < 0.2:
        options["exif"] = _exif(chance)
    if chance.random() < 0.15:
        options["icc_profile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if chance.random() < 0.02:
        picture = picture.convert("L")
        del options["subsampling"]
    picture.save(content, "JPEG", **options)


def _exif(chance: random.Random) -> Image.Exif:
    exif = Image.Exif()
    for tag, value in _CAMERA.items():
        exif[tag] = value
    exif[_ORIENTATION] = chance.choices((1, 3, 6, 8), (85, 3, 9, 3))[0]
    return exif
