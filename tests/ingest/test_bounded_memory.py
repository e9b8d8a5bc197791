import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import Picture, process
from clipkit.processes import at_most_more_memory
from tests.serving import encoded


def test_more_memory_than_was_allowed_is_not_there_until_the_end() -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with at_most_more_memory(100_000_000):
        np.empty(10_000_000, np.uint8)
        with pytest.raises(MemoryError):
            np.empty(300_000_000, np.uint8)
    np.empty(300_000_000, np.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_an_avif_larger_than_its_header_says_is_not_decoded_whole(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (4000, 4000), "red"), "AVIF", speed=10, subsampling="4:4:4")
    size = data.index(b"ispe") + 8
    small = tmp_path / "small.avif"
    small.write_bytes(data[:size] + struct.pack(">II", 100, 100) + data[size + 8 :])
    with Image.open(small) as image:
        assert image.size == (100, 100)
    assert isinstance(process(small.read_bytes(), IngestConfig()), Picture)
    program = [sys.executable, "-c", PROGRAM, str(small)]  # another process: this one has memory left already
    ran = subprocess.run(program, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() in ("too_many_pixels", "broken_image")  # libavif need not say what it lacked


PROGRAM = """
import sys
from pathlib import Path
from clipkit.ingest import decoding
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.images import process
decoding._BYTES_BESIDE = 10_000_000
print(process(Path(sys.argv[1]).read_bytes(), IngestConfig(max_pixels=30_000)).reason)
"""
