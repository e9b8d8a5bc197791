"""Tars as other tools write them: by webdataset's own writer, and laid out as img2dataset 1.47 does."""

import json
import pickle
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import webdataset as wds

IMG2DATASET_COLUMNS = {
    "caption": pa.string(),
    "url": pa.string(),
    "key": pa.string(),
    "status": pa.string(),
    "error_message": pa.string(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
    "exif": pa.string(),
    "sha256": pa.string(),
}


def write_tar(path: Path, samples: Iterable[Mapping[str, Any]]) -> Path:
    """Write samples, each with its `__key__` and its members by extension."""
    with wds.TarWriter(str(path)) as tar:
        for sample in samples:
            tar.write(sample)
    return path


def write_img2dataset(folder: Path, shard: int, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a shard: 00000.tar with the `rows` that have a picture (`jpg`), 00000.parquet, 00000_stats.json.

    The other rows have a `status` and an `error_message`. The layout was compared with what img2dataset
    1.47.0 wrote when it was run on a server of good and bad answers: names, order and formatting of the
    members, columns and types of the Parquet file, null values, and the messages.
    """
    folder.mkdir(exist_ok=True)
    described = []
    samples = []
    for number, row in enumerate(rows):
        fields = dict.fromkeys(IMG2DATASET_COLUMNS) | {"key": f"{shard:05d}{number:04d}", "status": "success"}
        fields |= {name: value for name, value in row.items() if name != "jpg"}
        described.append(fields)
        if "jpg" in row:
            caption = "" if row["caption"] is None else str(row["caption"])
            members = {"jpg": row["jpg"], "json": json.dumps(fields, indent=4), "txt": caption}
            samples.append({"__key__": fields["key"], **members})
    schema = pa.schema(list(IMG2DATASET_COLUMNS.items()))
    pq.write_table(pa.Table.from_pylist(described, schema), folder / f"{shard:05d}.parquet")
    (folder / f"{shard:05d}_stats.json").write_text(
        json.dumps({"count": len(rows), "successes": len(samples)})
    )
    return write_tar(folder / f"{shard:05d}.tar", samples)


class _Touching:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def write_hostile(path: Path, made_by_pickles: Path, jpg: bytes) -> list[str]:
    """Write samples whose names lead out of any folder, with pickles that make a file; return their keys."""
    members = {"jpg": jpg, "txt": "a caption of number 7"}
    members |= dict.fromkeys(("pyd", "pkl", "pickle", "pth"), pickle.dumps(_Touching(made_by_pickles)))
    keys = ["plain", "../beside", "folder/below", f"{path.parent}/absolute", "./../../above"]
    write_tar(path, [{"__key__": key, **members} for key in keys])
    return keys
