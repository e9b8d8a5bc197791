"""Samples to look at: one with all that is known of it, or some at random as a page."""

import math
import random
from pathlib import Path
from typing import Any, NamedTuple

from clipkit.atomic import replaced, write_text
from clipkit.errors import DatasetError
from clipkit.locations import read_range
from clipkit.page import document, figure, text
from clipkit.shards.format import SHARD_SAMPLES, shard_name
from clipkit.shards.looked_at import Samples
from clipkit.shards.thumbnail import thumbnail
from clipkit.tables import size, table

_SIDE = 480  # pixels: sharp on a screen of two for each
_PAGE = b"<!doctype html>"
_ALIASES = {"jpg": (".jpeg",), "jpeg": (".jpg",)}
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"RIFF", b"BM")


class ShownSample(NamedTuple):
    """One sample: its shard, its manifest's row, and where its picture was written, if it was."""

    shard: str
    row: dict[str, Any]
    out: Path | None

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        plain = {name: _plain(value) for name, value in self.row.items()}
        return {"shard": self.shard, **plain, "out": str(self.out) if self.out else None}

    def lines(self) -> str:
        """Return it as a table, a row a column of the manifest."""
        rows = [
            ("shard", self.shard),
            *((name, "-" if value is None else str(value)) for name, value in self.row.items()),
        ]
        if self.out:
            rows.append(("written", str(self.out)))
        return table(rows)


class ShownPage(NamedTuple):
    """A page of samples: where it is, the samples' keys, and the seed that gives the same ones again."""

    out: Path
    seed: int
    keys: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**self._asdict(), "out": str(self.out)}

    def lines(self) -> str:
        """Return it in a line."""
        return f"{self.out}: {len(self.keys):,} samples; --seed {self.seed} gives the same ones again"


def show_sample(directory: Path, key: str, out: Path | None = None) -> ShownSample:
    """Look up the sample of `key` in the dataset in `directory`; write its picture's bytes to `out`.

    Raises DatasetError if there is no such sample, it cannot be read, or `out` is a file of another kind, or
    has the ending of one.
    """
    if not (key.isascii() and key.isdigit() and len(key) <= 9):
        raise DatasetError(f"{key}: expected a key of nine digits such as 000000042, found something else")
    number, place = divmod(int(key), SHARD_SAMPLES)
    one = Samples(directory).row(f"{shard_name(number)}.tar", place)
    if out is not None:
        ext = one.values["ext"]
        _check_suffix(out, f"the picture as it is stored, {ext}", f".{ext}", *_ALIASES.get(ext, ()))
        _check_replaceable(out, "a picture", _BEGINNINGS)
        content = one.picture()
        with replaced(out) as temporary:
            temporary.write_bytes(content)
    return ShownSample(one.shard, one.values, out)


def show_random(directory: Path, count: int, out: Path, seed: int | None = None) -> ShownPage:
    """Write a page of `count` samples at random, each as likely as any other, in the dataset's order.

    Without a `seed` they are others each time. What cannot be read is shown as that. Raises DatasetError if
    there are no samples, or `out` is as in `show_sample`; OSError as the file system does.
    """
    _check_suffix(out, "a page", ".html", ".htm")
    _check_replaceable(out, "a page", (_PAGE,))
    seed = random.randrange(10**9) if seed is None else seed
    samples = Samples(directory)
    if not len(samples):
        raise DatasetError(f"{directory}: expected samples, found none; see its failures/ for why")
    places = sorted(random.Random(seed).sample(range(len(samples)), min(count, len(samples))))
    figures, keys = [], []
    for row, picture in samples.at(places):
        keys.append(str(row.values["key"]))
        figures.append(_figure(row.values, picture))
    title = text(directory.resolve().name)
    counts = f"{len(keys):,} of {len(samples):,} samples, chosen with seed {seed}"
    body = f'<h1>{title}</h1><p class=soft>{counts}</p><div class="grid wide">{"".join(figures)}</div>'
    write_text(out, document(f"{title}: samples", body))
    return ShownPage(out, seed, keys)


def _figure(row: dict[str, Any], picture: bytes | DatasetError) -> str:
    facts = [f"{row['width']} × {row['height']}", size(row["image_bytes"])]
    if row["original_width"]:
        facts.append(
            f"from {row['original_width']} × {row['original_height']} {row['original_format'] or ''}"
        )
    lines = [f"<span>{text(str(row['key']))} · {text(', '.join(facts))}</span>"]
    if row["url"]:
        lines.append(f"<span class=url><bdi>{text(row['url'], 160)}</bdi></span>")
    try:
        if isinstance(picture, DatasetError):
            raise picture
        jpeg = thumbnail(picture, _SIDE)
    except Exception as error:  # pictures from anywhere make decoders raise anything; the page shows others
        lines.append(f"<span class=bad>cannot be shown: {text(' '.join(str(error).split()))}</span>")
        jpeg = None
    return figure(jpeg, row["caption"] or "", "".join(lines), 600)


def _check_suffix(out: Path, kind: str, *suffixes: str) -> None:
    if out.suffix.lower() not in ("", *suffixes):
        raise DatasetError(f"{out}: expected a name ending in {suffixes[0]} for {kind}; choose another --out")


def _check_replaceable(out: Path, kind: str, beginnings: tuple[bytes, ...]) -> None:
    if not out.exists():
        return
    if out.is_file() and read_range(out, 0, 16).startswith(beginnings):
        return
    raise DatasetError(
        f"{out}: expected a new name, or {kind} to replace, found something else there; choose another --out"
    )


def _plain(value: Any) -> Any:
    is_plain = value is None or isinstance(value, str | int | bool)
    is_plain |= isinstance(value, float) and math.isfinite(value)  # JSON has no others
    return value if is_plain else str(value)
