"""CsvSet: pictures on this machine that a table lists, read as a ShardSet's samples are."""

import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from clipkit.errors import DatasetError, SourceError
from clipkit.progress import Progress
from clipkit.shards.csv_records import csv_records, csv_spans
from clipkit.shards.format import SHARD_SAMPLES, sample_key
from clipkit.shards.picture_files import NoPicture, picture_table, read_picture
from clipkit.shards.shard_files import Int64s, SampleError
from clipkit.shards.shard_set import MAX_PICTURE_BYTES, Sample
from clipkit.shards.text_files import COMPRESSIONS, Malformed, opened, shortened

_KEPT_BYTES = 1 << 27  # of the table: the stream's 64 blocks, if a record has 400 bytes
_LOOKED_AT = 10
_SHOWN_EVERY = 10_000
_LONGEST_NAME = 200


class _Columns(NamedTuple):
    """How a record is read: what stands between its values, how many there are, and where the two are."""

    delimiter: str
    width: int
    image: int
    caption: int

    def spans(self, stream: BinaryIO) -> Iterator[tuple[int, int, list[str] | str]]:
        """Yield where each record begins and ends, and its values, or why it has no path and caption."""
        begin = stream.tell()
        for end, record in csv_spans(stream, self.delimiter):
            yield begin, end, self._checked(record)
            begin = end

    def _checked(self, record: list[str] | Malformed) -> list[str] | str:
        if isinstance(record, Malformed):
            return record.problem
        if len(record) != self.width:
            return f"expected {self.width} columns, found {len(record)}"
        return record if record[self.image].strip() else "expected a path, found none"


class _Stretch(NamedTuple):
    data: bytes
    spans: Int64s  # (samples, 2): where each begins and ends


class CsvSet:
    """The pictures and captions of a table of files, as OpenCLIP's CSV files are.

    Relative paths are relative to the table's folder. A thousand records are a shard, so that the order of
    training is that of the dataset which `clipkit ingest files` makes of the same table. Records that are no
    path and caption are left out, counted and told. Memory does not grow with the table but by 8 bytes a
    thousand records. `fingerprint` is that of the table's content, its columns and separator; the pictures
    are not read for it. A CsvSet can be pickled.

    Raises SourceError for a table that cannot be read, is compressed or lacks a column, and if none of some
    pictures that it lists can be read.
    """

    is_remote = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_column: str = "filepath",
        caption_column: str = "title",
        separator: str | None = None,
        *,
        progress: Callable[[str, int | None, str], Progress] = Progress,
    ):
        self.source = str(path)
        self._path = Path(path).absolute()
        self._folder = str(self._path.parent)
        self._descriptor: int | None = None
        self._stretches: OrderedDict[int, _Stretch] = OrderedDict()
        self._kept_bytes = 0
        if self._path.suffix.lower() in COMPRESSIONS:
            raise SourceError(f"{path}: expected a table as plain text, found a compressed one; unpack it")
        table, image, caption = picture_table(self._path, image_column, caption_column, separator)
        names = table.names
        self._columns = _Columns(table.delimiter, len(names), names.index(image), names.index(caption))
        with opened(self._path) as stream:
            self._version = _version(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
            stream.seek(0)
            with progress("index", None, "records") as display:
                self._starts, self.sizes = self._indexed(stream, display)
        described = f"{digest}\t{image}\t{caption}\t{table.delimiter}\n"
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()
        self._check_pictures(image)

    def _indexed(self, stream: BinaryIO, display: Progress) -> tuple[list[int], Int64s]:
        """Return where each shard begins, and the last one ends, and their sizes."""
        starts: list[int] = []
        samples = empty = left_out = 0
        first_problem = ""
        for number, (begin, _, record) in enumerate(self._columns.spans(stream)):
            if number == 0:  # the header
                continue
            if isinstance(record, str):
                first_problem = first_problem or f"record {number}: {record}"
                left_out += 1
                continue
            if samples % SHARD_SAMPLES == 0:
                starts.append(begin)
            samples += 1
            empty += not record[self._columns.caption].strip()
            if number % _SHOWN_EVERY == 0:
                display.update(number)
        display.update(samples + left_out)
        if not samples:
            why = f" ({first_problem})" if first_problem else ""
            raise SourceError(f"{self.source}: expected records with a path and a caption, found none{why}")
        if left_out:
            kept_out = "records are no path and caption and are left out"
            display.say(f"{self.source}: {left_out:,} {kept_out} ({first_problem})")
        if empty:
            display.say(f"{self.source}: {empty:,} of {samples:,} captions are empty")
        sizes = np.full(len(starts), SHARD_SAMPLES, np.int64)
        sizes[-1] = samples - SHARD_SAMPLES * (len(starts) - 1)
        return [*starts, stream.tell()], sizes

    def _check_pictures(self, column: str) -> None:
        """A table whose paths lead nowhere is told now, not after the samples that may be unreadable."""
        places = np.unique(np.linspace(0, len(self) - 1, _LOOKED_AT).astype(np.int64)).tolist()
        problem = ""
        for place in places:
            try:
                self.read(place // SHARD_SAMPLES, place % SHARD_SAMPLES)
            except SampleError as error:
                problem = problem or str(error)
            else:
                return
        raise SourceError(
            f"{self.source}: expected paths of pictures in the column {column!r}, found that none of "
            f"{len(places)} can be read, such as: {problem}; relative paths begin at {self._folder}"
        )

    def __len__(self) -> int:
        return int(self.sizes.sum())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None, "_stretches": OrderedDict(), "_kept_bytes": 0}

    def __del__(self) -> None:
        if self.__dict__.get("_descriptor") is not None:
            os.close(self.__dict__["_descriptor"])

    def read(self, shard: int, row: int) -> Sample:
        """Return the sample at `row` (0-based) of shard number `shard`.

        Raises SampleError if its picture cannot be read, DatasetError if the table is not what it was,
        IndexError if there is none.
        """
        if shard < 0 or not 0 <= row < self.sizes[shard]:
            raise IndexError(f"{self.source}: no row {row} of shard {shard}")
        stretch = self._stretch(shard)
        begin, end = stretch.spans[row].tolist()
        record = next(csv_records(io.BytesIO(stretch.data[begin:end]), self._columns.delimiter))
        assert isinstance(record, list), "its stretch has been read"
        listed, caption = record[self._columns.image].strip(), record[self._columns.caption]
        image = read_picture(listed, os.path.join(self._folder, listed), MAX_PICTURE_BYTES)  # noqa: PTH118
        if isinstance(image, NoPicture):
            raise SampleError(f"{shortened(listed, _LONGEST_NAME)} cannot be read: {image.detail}")
        return Sample(self.key(shard, row), image, caption)

    def key(self, shard: int, row: int) -> str:
        """Return the sample's number among those of the table, in nine digits."""
        return sample_key(shard, row)

    def place(self, shard: int) -> str:
        """Return where the table lies, for messages."""
        return self.source

    def short_sides(self, shard: int) -> None:
        """A table does not tell."""
        return

    def prepare(self, shards: Iterable[int]) -> None:
        """Do nothing: all is here."""

    def _stretch(self, shard: int) -> _Stretch:
        found = self._stretches.get(shard)
        if found is not None:
            with suppress(KeyError):  # another thread may have removed it
                self._stretches.move_to_end(shard)
            return found
        found = self._stretches[shard] = self._read_stretch(shard)
        self._kept_bytes += len(found.data)
        while self._kept_bytes > _KEPT_BYTES and len(self._stretches) > 1:
            self._kept_bytes -= len(self._stretches.popitem(last=False)[1].data)
        return found

    def _read_stretch(self, shard: int) -> _Stretch:
        begin, end = self._starts[shard : shard + 2]
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            data = os.pread(self._descriptor, end - begin, begin)
            changed = _version(self._descriptor) != self._version
        except OSError as error:
            raise DatasetError(f"{self.source}: cannot be read ({error.strerror}); restore it") from error
        spans = [each[:2] for each in self._columns.spans(io.BytesIO(data)) if not isinstance(each[2], str)]
        if changed or len(spans) != self.sizes[shard]:
            raise DatasetError(
                f"{self.source}: expected the table as it was when the run began, found it changed; "
                "begin again, under another --name"
            )
        return _Stretch(data, np.array(spans, np.int64))


def _version(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
