"""Lists of URLs on loopback, spread over many hosts, in an order that chance has made once."""

import random
from collections.abc import Iterator, Sequence
from itertools import chain, islice, repeat
from pathlib import Path

from web.server import Site

_LINES_AT_ONCE = 100_000


def write_list(path: Path, pictures: Sequence[Path], site: Site, live: int, dead: int) -> Path:
    """Write a table of `live` URLs, each picture about equally often, and `dead` ones (404) among them."""
    chance = random.Random(live + dead)
    names = [f"{pictures[n % len(pictures)].name}?v={n // len(pictures)}" for n in range(live)]
    names += [f"gone/{n}.jpg" for n in range(dead)]
    chance.shuffle(names)
    _write(path, _lines(names, site))
    return path


def write_long_list(path: Path, pictures: Sequence[Path], site: Site, rows: int) -> Path:
    """Write a table of `rows` URLs, of the same pictures again and again."""
    lines = list(_lines([picture.name for picture in pictures], site))
    _write(path, islice(chain.from_iterable(repeat(lines)), rows))
    return path


def _lines(names: Sequence[str], site: Site) -> Iterator[str]:
    for number, name in enumerate(names):
        yield f"{site.url(number, name)}\ta picture, number {number}\n"


def _write(path: Path, lines: Iterator[str]) -> None:
    with path.open("w") as table:
        table.write("url\tcaption\n")
        while some := list(islice(lines, _LINES_AT_ONCE)):
            table.writelines(some)
