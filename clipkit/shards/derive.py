"""From a finished dataset to another that holds some of its samples: bytes copied, keys given anew.

What is written follows from the original and the choice alone. An interrupted derivation goes on behind the
last shard that its index lists.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from clipkit.errors import ConfigError, DatasetError
from clipkit.locations import decoded
from clipkit.progress import Progress
from clipkit.shards.dataset import Parent, Totals, check_can_hold_dataset, open_for_writing
from clipkit.shards.format import SHARD_SAMPLES
from clipkit.shards.index import INDEX_FILE, Index, IndexEntry, read_index
from clipkit.shards.original import Flags, Original
from clipkit.shards.report import REPORT_FILE, write_report
from clipkit.shards.writing import discard_unlisted, write_shard, write_sizes

COMMIT_SECONDS = 5.0

Display = Callable[[str, int | None, str], Progress]


@dataclass(frozen=True)
class Choice:
    """Which samples of the original to take, in its order, and why not the others.

    `left_out` counts the others by cause, `lost` the samples of each shard that is broken, which are among
    them; `settings` say how `command` made the choice.
    """

    keep: Flags
    command: str
    settings: dict[str, Any]
    left_out: dict[str, int]
    lost: dict[str, int]


class Derived(NamedTuple):
    """A dataset that was derived: where, and how much it holds."""

    out: str
    samples: int
    shards: int
    bytes: int
    left_out: dict[str, int]
    was_complete: bool
    report: str


def check_out(original: Original, out: Path) -> None:
    """Raise DatasetError if no dataset can be derived into `out`: better known before long work."""
    place, of_original = out.resolve(), original.directory.resolve()
    if place == of_original or of_original in place.parents:  # whose next ingest clears what it does not know
        raise DatasetError(
            f"{out}: expected a directory beside the original, found it or one inside; choose another --out"
        )
    check_can_hold_dataset(out)


def derive(original: Original, choices: Mapping[Path, Choice], progress: Display = Progress) -> list[Derived]:
    """Write a dataset for each of the choices, by its directory, or go on where the same call stopped.

    Raises ConfigError before anything is written if one of them chooses nothing, DatasetError if a directory
    holds something else, is being written by another process, or the original is broken; OSError as the
    file system does.
    """
    for out, choice in choices.items():
        check_out(original, out)
        if not choice.keep.any():
            hint = "; give a --split of which both sides get some" if choice.left_out.get("split") else ""
            raise ConfigError(
                f"{out}: expected samples to keep, found that none of {original.samples:,} remains "
                f"({_words(choice.left_out)}); nothing was written{hint}"
            )
    return [_derive(original, choice, out, progress) for out, choice in choices.items()]


def _derive(original: Original, choice: Choice, out: Path, progress: Display) -> Derived:
    description = original.description.model_copy(update={"parent": _parent(original, choice)})
    report = out / REPORT_FILE
    with open_for_writing(out, description) as dataset:
        was_complete = dataset.complete
        if not was_complete:
            _Copy(original, choice.keep, out, progress).run()
        index = read_index(out)
        index.check_files(out)
        shards = index.shards
        samples = sum(shard.samples for shard in shards)
        if samples + sum(choice.left_out.values()) != original.samples:
            raise DatasetError(
                f"{out}: expected {original.samples:,} samples to be kept or left out, found {samples:,} "
                f"kept and left out: {_words(choice.left_out)}; was a file of it changed? Remove it"
            )
        if not (was_complete and report.exists()):
            write_report(out)
        if not was_complete:
            totals = Totals(records=samples, samples=samples, failures=0, shards=len(shards))
            dataset.finish(totals, index.sha256)
    size = sum(shard.bytes for shard in shards)
    return Derived(str(out), samples, len(shards), size, choice.left_out, was_complete, str(report))


def _parent(original: Original, choice: Choice) -> Parent:
    chosen = hashlib.sha256(np.packbits(choice.keep).tobytes()).hexdigest()
    return Parent(
        name=decoded(original.directory.resolve().name),
        fingerprint=original.fingerprint,
        index_sha256=original.index_sha256,
        samples=original.samples,
        failures=original.failures,
        command=choice.command,
        settings=choice.settings,
        left_out=choice.left_out,
        lost=choice.lost,
        chosen_sha256=chosen,
        parent=original.description.parent,
    )


def _words(left_out: dict[str, int]) -> str:
    return ", ".join(f"{cause} {count:,}" for cause, count in left_out.items() if count) or "0"


class _Piece(NamedTuple):
    """Samples of one shard of the original."""

    shard: IndexEntry
    samples: pa.Table


class _Copy:
    """One derivation at work. Of the original's files the last ones used stay open."""

    def __init__(self, original: Original, keep: Flags, out: Path, progress: Display):
        self._original = original
        self._places = np.flatnonzero(keep)
        self._ends = np.cumsum(original.sizes)
        self._out = out
        self._progress = progress
        self._index = read_index(out) if (out / INDEX_FILE).exists() else Index()
        left = self._places[len(self._index.shards) * SHARD_SAMPLES :]
        which = np.unique(np.searchsorted(self._ends, left, side="right")).tolist()
        needed = [original.shards[each] for each in which]
        self._manifests, self._tars = original.manifests(needed), original.coming(needed)
        self._manifest: tuple[IndexEntry, pa.Table] | None = None
        self._tar: tuple[IndexEntry, int] | None = None
        self._open = ExitStack()

    def run(self) -> None:
        discard_unlisted(self._out, self._index)
        total = len(self._places)
        committed = time.monotonic()
        done = len(self._index.shards) * SHARD_SAMPLES
        with self._open, self._progress("copy", total, "samples") as display:
            if done:
                display.say(f"copy: going on in {self._out} after {min(done, total):,} samples")
            for number in range(len(self._index.shards), -(-total // SHARD_SAMPLES)):
                places = self._places[number * SHARD_SAMPLES : (number + 1) * SHARD_SAMPLES]
                self._index.entries.append(self._shard(number, places))
                display.update(number * SHARD_SAMPLES + len(places))
                if time.monotonic() - committed > COMMIT_SECONDS:
                    self._index.write(self._out)
                    committed = time.monotonic()
        write_sizes(self._out, self._index)
        self._index.write(self._out)

    def _shard(self, number: int, places: np.ndarray[tuple[int], np.dtype[np.int64]]) -> IndexEntry:
        pieces = []
        shards = np.searchsorted(self._ends, places, side="right")
        for which in np.unique(shards).tolist():
            shard = self._original.shards[which]
            rows = places[shards == which] - (self._ends[which] - shard.samples)
            pieces.append(_Piece(shard, self._manifest_of(shard).take(pa.array(rows))))
        samples = pa.concat_tables([piece.samples for piece in pieces])
        return write_shard(self._out, number, samples, self._images(pieces))

    def _manifest_of(self, shard: IndexEntry) -> pa.Table:
        while self._manifest is None or self._manifest[0] != shard:
            self._manifest = next(self._manifests)
        return self._manifest[1]

    def _tar_of(self, shard: IndexEntry) -> int:
        if self._tar is None or self._tar[0] != shard:
            self._open.close()
            next(each for each in self._tars if each == shard)  # the next ones are on their way then
            self._tar = shard, self._open.enter_context(self._original.tar(shard))
        return self._tar[1]

    def _images(self, pieces: list[_Piece]) -> Iterator[bytes]:
        for shard, samples in pieces:
            columns = ("image_offset", "image_bytes", "caption_offset", "caption_bytes", "caption")
            tar = self._tar_of(shard)
            for place, size, text_place, text_size, caption in zip(
                *(samples[name].to_pylist() for name in columns), strict=True
            ):
                data = os.pread(tar, text_place + text_size - place, place)
                if data[text_place - place :] != caption.encode() or len(data) < size:
                    raise DatasetError(
                        f"{self._original.directory / shard.name}: expected at byte {text_place:,} the "
                        "caption that its manifest has, found another; `clipkit shards verify` tells more"
                    )
                yield data[:size]
