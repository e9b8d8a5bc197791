"""Archives with small real pictures in them, made as the publishers' are: with Python's tarfile."""

import gzip
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from clipkit.evaluate.classes import imagenet_classes
from clipkit.evaluate.ground_truth import KNOWN, ilsvrc2012_ids
from tests.conftest import picture

WNIDS = imagenet_classes().folders


def tarred(files: Mapping[str, bytes], *more: tarfile.TarInfo) -> bytes:
    """A tar of files, with a header for each folder as tar itself writes them, and then `more` headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        folders: set[str] = set()
        for name, content in files.items():
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in folders and not {"", ".."} & set(parts):
                    folders.add(folder)
                    header = tarfile.TarInfo(folder)
                    header.type = tarfile.DIRTYPE
                    tar.addfile(header)
            header = tarfile.TarInfo(name)
            header.size = len(content)
            tar.addfile(header, io.BytesIO(content))
        for header in more:
            tar.addfile(header)
    return buffer.getvalue()


def gzipped(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content, 1))
    return path


def unpacked(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def validation(count: int = 10) -> dict[str, bytes]:
    """The first pictures of ImageNet's validation set by name; what they show is noise."""
    return {f"ILSVRC2012_val_{number:08}.JPEG": picture(number) for number in range(1, count + 1)}


def ids() -> list[int]:
    """The ILSVRC2012 ids of the first ten pictures."""
    return [ilsvrc2012_ids().index(WNIDS[label]) + 1 for label in KNOWN]


def devkit(path: Path) -> Path:
    inner = "ILSVRC2012_devkit_t12"
    truth = "".join(f"{number}\n" for number in ids()).encode()
    files = {
        f"{inner}/readme.txt": b"ILSVRC2012",
        f"{inner}/data/ILSVRC2012_validation_ground_truth.txt": truth,
        f"{inner}/data/meta.mat": b"MATLAB 5.0 MAT-file",
    }
    return gzipped(path, tarred(files))


def v2(inner: str, labels: tuple[int, ...] = (0, 10, 2, 999)) -> dict[str, bytes]:
    """Some of an ImageNetV2, two pictures of each label, under names as the publishers gave."""
    return {
        f"{inner}/{label}/{label * 7 + i:040x}.jpeg": picture(label + 5000 * i)
        for label in labels
        for i in (0, 1)
    }
