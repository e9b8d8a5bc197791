import hashlib
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from clipkit.errors import SourceError
from clipkit.ingest.config import IngestConfig
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.ingest.images import Picture, process
from clipkit.progress import Progress
from clipkit.shards.dataset import DatasetDescription
from tests.serving import encoded, photo

LIKE = DatasetDescription(sources=(), image=IngestConfig(image_size=64).image_settings)


def test_pictures_are_hashed_as_if_they_had_been_ingested(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b" / "c").mkdir(parents=True)
    contents = {
        "a.jpg": encoded(photo(300, 200, 1)),
        "b/c/d.png": encoded(photo(200, 300, 2), "PNG"),
        "b/e.webp": encoded(photo(100, 100, 3), "WEBP"),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "words.txt").write_text("no picture")
    (tmp_path / "b" / "broken.jpg").write_bytes(contents["a.jpg"][:900])
    (tmp_path / "loop").symlink_to(tmp_path)
    with Progress("hashes", None, "files") as display:
        found = hash_folder(tmp_path, LIKE, display)
    assert {found.name(place) for place in range(len(found.dhash))} == set(contents)
    for place, dhash in enumerate(found.dhash.tolist()):
        content = contents[found.name(place)]
        made = process(content, IngestConfig(image_size=64))
        assert isinstance(made, Picture)
        assert (made.dhash, made.original_width * made.original_height) == (dhash, found.pixels[place])
        digest = hashlib.sha256(content).digest()[:16]
        assert np.frombuffer(digest, ">u8").tolist() == found.sha256[place].tolist()
    assert "broken.jpg" in capsys.readouterr().err
    with Progress("hashes", None, "files") as display:
        assert hash_folder(tmp_path, LIKE, display).fingerprint == found.fingerprint
        (tmp_path / "a.jpg").write_bytes(encoded(Image.new("RGB", (9, 9))))
        assert hash_folder(tmp_path, LIKE, display).fingerprint != found.fingerprint


def test_folders_behind_links_are_looked_into_once(tmp_path: Path) -> None:
    classes = tmp_path / "classes"
    classes.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(encoded(photo(200, 300, 2)))
    (tmp_path / "elsewhere" / "back").symlink_to(classes)
    (classes / "cat").symlink_to(tmp_path / "elsewhere")
    (classes / "too").symlink_to(tmp_path / "elsewhere")
    with Progress("hashes", None, "files") as display:
        found = hash_folder(classes, LIKE, display)
    assert [found.name(place) for place in range(len(found.dhash))] == ["cat/a.jpg"]


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from clipkit.ingest.folder_hashes import hash_folder
from clipkit.progress import Progress
from tests.ingest.test_folder_hashes import LIKE
if os.geteuid() == 0:
    os.setuid(65534)  # who may read all is refused nothing
with Progress("hashes", None, "files") as display:
    hash_folder(Path(sys.argv[1]), LIKE, display)
"""
    with TemporaryDirectory() as place:  # outside of pytest's, which none but its owner may enter
        Path(place).chmod(0o755)
        Path(place, "closed").mkdir(mode=0)
        done = subprocess.run(
            [sys.executable, "-c", code, place], capture_output=True, text=True, check=False
        )
        Path(place, "closed").chmod(0o700)
    assert f"{place}/closed: expected a folder that can be read, found: Permission denied" in done.stderr


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with Progress("hashes", None, "files") as display, pytest.raises(SourceError, match="found neither"):
        hash_folder(tmp_path / "absent", LIKE, display)
