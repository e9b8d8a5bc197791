"""Rebuild the emoji bundle in this folder from two npm packages: `python examples/emoji/build_bundle.py`.

Noto (Google) pictures become the training set, Twemoji (Twitter) pictures of the same emoji the evaluation
set. The packages are fetched with the `npm` client, checked against the SHA-256 below, and only read member
by member. The output depends on nothing but the packages and the versions of Pillow and libwebp.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SIZE = 64  # pixels, both sides of every picture
LEVELS = 63  # each channel is kept in 6 bits: below what the eye sees, and a third smaller
MAX_MEMBER_BYTES = 4 << 20
NOT_WORDS = re.compile(r"^flag [a-z]{2}$|[a-z]\d+$|^[^a-z]*$|^.$")  # codes like "flag eg", "cat2", "+1", "m"
TEMPLATES = ("{}",)


class Package(NamedTuple):
    """One npm package of pictures: the vendor's name in its paths, and what the tarball must hash to."""

    vendor: str
    version: str
    sha256: str

    @property
    def name(self) -> str:
        """The name in the npm registry."""
        return f"emoji-datasource-{self.vendor}"


NOTO = Package("google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438")
TWEMOJI = Package("twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877")


class Emoji(NamedTuple):
    """One emoji without skin tone: its code points joined by '-', its names (the best first), its group."""

    codepoints: str
    names: tuple[str, ...]
    category: str
    subcategory: str


def fetch(package: Package, folder: Path) -> Path:
    """The package's tarball in `folder`, fetched by npm where it is missing; another content is refused."""
    tarball = folder / f"{package.name}-{package.version}.tgz"
    if not tarball.exists():
        spec = f"{package.name}@{package.version}"
        subprocess.run(["npm", "pack", "--silent", "--ignore-scripts", spec], cwd=folder, check=True)
    found = hashlib.sha256(tarball.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SystemExit(
            f"{tarball}: expected sha256 {package.sha256}, found {found}; remove it and try again"
        )
    return tarball


def read_members(tarball: Path, prefix: str, suffix: str) -> dict[str, bytes]:
    """Contents of the regular files named `prefix…suffix`, by the part between; nothing is unpacked."""
    contents: dict[str, bytes] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            if not (member.isreg() and member.name.startswith(prefix) and member.name.endswith(suffix)):
                continue
            if member.size > MAX_MEMBER_BYTES:
                raise SystemExit(
                    f"{tarball}: {member.name} has {member.size} bytes, more than {MAX_MEMBER_BYTES}"
                )
            file = archive.extractfile(member)
            assert file is not None
            contents[member.name.removeprefix(prefix).removesuffix(suffix)] = file.read()
    return contents


def read_emoji(emoji_json: bytes) -> list[Emoji]:
    """Every emoji that both vendors draw, in Unicode's order, without skin tones."""
    drawn = [
        entry
        for entry in sorted(json.loads(emoji_json), key=lambda entry: entry["sort_order"])
        if entry["has_img_google"] and entry["has_img_twitter"] and entry["category"] != "Component"
    ]
    official = Counter(entry["name"].lower() for entry in drawn)
    return [
        Emoji(
            codepoints=_codepoints(entry["image"]),
            names=_names(entry["name"].lower(), entry["short_names"], official),
            category=entry["category"],
            subcategory=entry["subcategory"],
        )
        for entry in drawn
    ]


def _codepoints(image: str) -> str:
    stem = image.removesuffix(".png")
    if not re.fullmatch(r"[0-9a-f]{4,6}(-[0-9a-f]{4,6})*", stem):
        raise SystemExit(f"emoji.json: expected a picture named by code points, found {image!r}")
    return stem


def _names(name: str, short_names: list[str], official: Counter[str]) -> tuple[str, ...]:
    """Words of people, best first: the official name, then short names, none of which means two emoji."""
    short = [re.sub(r"[_-]+", " ", short_name).strip() for short_name in short_names]
    words = [name] if official[name] == 1 else []
    words += [word for word in short if not official[word] and not NOT_WORDS.search(word)]
    return tuple(dict.fromkeys(words)) or (name,)


def caption(emoji: Emoji) -> str:
    """The training caption: the names, one after the other."""
    return ", ".join(emoji.names)


def encode(png: bytes, *, flatten: bool) -> bytes:
    """A picture as lossless WebP with 6 bits a channel, laid on white with `flatten`, else with its alpha."""
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    if image.size != (SIZE, SIZE):
        raise SystemExit(
            f"expected a picture of {SIZE} × {SIZE} pixels, found {image.size[0]} × {image.size[1]}"
        )
    if flatten:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    pixels = np.asarray(image)
    pixels = ((pixels.astype(np.uint32) * LEVELS + 127) // 255 * 255 // LEVELS).astype(np.uint8)
    if not flatten:
        pixels[pixels[..., 3] == 0] = 0
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "WEBP", lossless=True, quality=100, method=6)
    return target.getvalue()


def write_zip(path: Path, members: dict[str, bytes]) -> None:
    """A zip whose bytes depend only on `members`: stored, one fixed date, one fixed mode."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            header = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            header.create_system, header.external_attr = 3, 0o100644 << 16
            archive.writestr(header, content)


def build(packages: Path, out: Path) -> None:
    """Write noto.zip, twemoji.zip, captions.tsv, classes.csv and templates.txt into `out`."""
    noto_tar, twemoji_tar = fetch(NOTO, packages), fetch(TWEMOJI, packages)
    emojis = read_emoji(read_members(noto_tar, "package/emoji", ".json")[""])
    noto = read_members(noto_tar, f"package/img/{NOTO.vendor}/64/", ".png")
    twemoji = read_members(twemoji_tar, f"package/img/{TWEMOJI.vendor}/64/", ".png")
    points = [emoji.codepoints for emoji in emojis]
    write_zip(out / "noto.zip", {f"{p}.webp": encode(noto[p], flatten=False) for p in points})
    write_zip(out / "twemoji.zip", {f"{p}/twemoji.webp": encode(twemoji[p], flatten=True) for p in points})
    write_texts(emojis, out)
    print(
        f"{len(emojis)} emoji; {sum(file.stat().st_size for file in out.iterdir() if file.is_file()):,} bytes"
    )


def write_texts(emojis: list[Emoji], out: Path) -> None:
    """Write captions.tsv, classes.csv and templates.txt into `out`."""
    _write_lines(out / "captions.tsv", [f"{emoji.codepoints}\t{caption(emoji)}" for emoji in emojis])
    names = [f'{emoji.codepoints},"{"|".join(emoji.names)}"' for emoji in emojis]
    _write_lines(out / "classes.csv", ["folder,names", *names])
    _write_lines(out / "templates.txt", list(TEMPLATES))


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def main() -> None:
    """Read the two options and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, help="folder with the two .tgz, or to fetch them into")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.packages or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        chosen.out.mkdir(parents=True, exist_ok=True)
        build(folder, chosen.out)


if __name__ == "__main__":
    main()
