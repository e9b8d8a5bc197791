import io
import resource
import struct

import numpy as np
import pytest
from PIL import Image

from clipkit.ingest import decoding
from clipkit.ingest.bounded import at_most
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.ingest.rows import Failed
from tests.serving import encoded


def test_more_memory_than_was_allowed_is_not_there_until_the_end() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    with at_most(100_000_000):
        np.empty(10_000_000, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(300_000_000, np.uint8)
    np.empty(300_000_000, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_an_avif_larger_than_its_header_says_is_not_decoded_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (4000, 4000), "red"), "AVIF", speed=10, subsampling="4:4:4")
    size = data.index(b"ispe") + 8
    small = data[:size] + struct.pack(">II", 100, 100) + data[size + 8 :]
    assert Image.open(io.BytesIO(small)).size == (100, 100)
    assert isinstance(process(small, IngestConfig()), Picture)
    monkeypatch.setattr(decoding, "_BYTES_BESIDE", 10_000_000)
    outcome = process(small, IngestConfig(max_pixels=30_000))
    assert isinstance(outcome, Failed)
    assert outcome.reason in ("too_many_pixels", "broken_image")  # libavif need not say what it lacked
