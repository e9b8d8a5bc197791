"""Boxes that a list gives: blurred in the stored picture, and nowhere else."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from clipkit.errors import SourceError
from clipkit.ingest.blurring import blurred, with_boxes
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.rows import Box, UrlRow
from clipkit.ingest.run import ingest
from clipkit.ingest.table_files import table_files
from clipkit.shards.shard_set import ShardSet
from tests.datasets import everything
from tests.serving import Server, answer, encoded, photo

CONFIG = IngestConfig(allow_private_hosts=True, workers=1, retries=0, timeout=30)
NOISE = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
FACE: Box = (0.5, 0.25, 0.75, 0.75)


@pytest.mark.parametrize("pixels", [NOISE, NOISE[:, :, 0]], ids=["rgb", "grey"])
def test_what_lies_in_a_box_is_blurred_and_nothing_beyond_its_edge(pixels: Any) -> None:
    result = blurred(pixels, (FACE,))
    rows, columns = slice(50, 150), slice(150, 225)
    assert result[rows, columns].std() < 0.2 * pixels[rows, columns].std()
    assert abs(result[rows, columns].mean() - pixels[rows, columns].mean()) < 3
    diagonal = np.hypot(75, 100)
    far = round(0.5 * diagonal)  # five standard deviations beyond what is blurred whole
    changed = np.argwhere(result != pixels)
    assert changed[:, 0].min() >= 50 - far and changed[:, 0].max() < 150 + far
    assert changed[:, 1].min() >= 150 - far and changed[:, 1].max() < 225 + far
    assert (pixels == (NOISE if pixels.ndim == 3 else NOISE[:, :, 0])).all()  # what was given is as it was


@pytest.mark.parametrize(
    "box", [(0, 0, 1, 1), (-0.2, -0.2, 0.3, 1.3), (0.999, 0.5, 1, 0.5), (1.2, 1.2, 1.4, 1.4)]
)
@pytest.mark.parametrize("size", [(1, 1), (1, 300), (200, 300), (1200, 900)])
def test_boxes_and_pictures_of_any_size(box: Box, size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 77, np.uint8)
    assert (blurred(flat, (box,)) == 77).all()


def test_boxes_are_those_of_the_picture_in_its_file(server: Server) -> None:
    """DataComp's detector saw pictures as they lie there, not as their Exif turns them."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is at the left comes to the top
    Image.fromarray(NOISE).save(stream, "JPEG", quality=95, exif=exif)
    made = process(stream.getvalue(), CONFIG, ((0.0, 0.0, 0.3, 1.0),))
    assert isinstance(made, Picture) and (made.width, made.height) == (200, 300)
    pixels = np.asarray(Image.open(io.BytesIO(made.content)).convert("L"), float)
    assert pixels[:60].std() < 0.3 * pixels[-60:].std()


@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_a_column_of_boxes(server: Server, tmp_path: Path, ending: str) -> None:
    urls = [server.add(f"/{seed}", answer(encoded(photo(64, 64, seed)))) for seed in range(5)]
    boxes: list[Any] = [[list(FACE)], [], None, [[10, 20, 30, 40]], [[0.5, 0.5, 0.1, 0.1]]]
    path = tmp_path / f"list.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"url": urls, "text": ["a"] * 5, "face_bboxes": boxes}), path)
    else:
        rows = [{"url": url, "text": "a", "face_bboxes": box} for url, box in zip(urls, boxes, strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = table_files([path], keep=["face_bboxes"], blur_column="face_bboxes")
    result = ingest(source, tmp_path / "dataset", CONFIG)
    assert (result.samples, result.failures) == (3, {"bad_row": 2})
    plain = ingest(table_files([path]), tmp_path / "plain", CONFIG)
    assert plain.samples == 5
    made, as_served = (
        [sample.image for sample in everything(ShardSet(str(tmp_path / name)))]
        for name in ("dataset", "plain")
    )
    assert made[0] != as_served[0] and made[1:] == as_served[1:3]
    with pytest.raises(SourceError, match="expected --blur-col or --keep-original, found both"):
        ingest(source, tmp_path / "other", CONFIG.model_copy(update={"keep_original": True}))
    assert not (tmp_path / "other").exists()


NO_BOXES = (
    "nonsense", "{}x", "7", "[7]", "[[1, 2, 3]]", '[["a", 0, 1, 1]]', "[[0, 0, NaN, 1]]",
    "[[0, 0, 640, 480]]", json.dumps([list(FACE)] * 1001), "[" * 100_000,
)  # fmt: skip


@pytest.mark.parametrize("value", NO_BOXES, ids=lambda value: value[:20])
def test_what_are_no_boxes(value: str) -> None:
    made = with_boxes(UrlRow("list", 0, "http://h/", "caption"), value)
    assert made.problem and "found " in made.problem and len(made.problem) < 300
    assert not made.boxes
