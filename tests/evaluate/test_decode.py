import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import InterpolationMode

from clipkit.errors import EvaluationError
from clipkit.evaluate import decode
from clipkit.evaluate.decode import decoded_batches
from clipkit.model.preprocess import EvalTransform, normalize
from tests.evaluate.listed import listed
from tests.processes import living, until


def picture(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = []
    for number, (mode, ending) in enumerate(
        [("RGB", "jpg"), ("L", "jpg"), ("RGBA", "png"), ("P", "png"), ("RGB", "webp"), ("RGB", "avif")]
    ):
        path = tmp_path / f"{number}.{ending}"
        picture(number, 40 + 9 * number, 70 - 7 * number, mode).save(path)
        paths.append(path)
    return paths


def image_folders_pixels(path: Path) -> torch.Tensor:
    """Those of torchvision's ImageFolder, which makes a picture RGB first, with OpenAI's transform."""
    steps = [transforms.Resize(32, interpolation=InterpolationMode.BICUBIC), transforms.CenterCrop(32)]
    statistics = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps += [transforms.ToTensor(), transforms.Normalize(*statistics)]
    tensor: torch.Tensor = transforms.Compose(steps)(pil_loader(path))
    return tensor


def sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_torchvisions_pixels_in_order(pictures: list[Path], workers: int) -> None:
    batches = list(decoded_batches(listed(pictures), EvalTransform(32), batch_size=2, workers=workers))
    assert [batch.indices_B.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
    images = torch.cat([batch.images_BCHW for batch in batches])
    assert images.dtype == torch.uint8
    digests = torch.cat([batch.sha256_B for batch in batches])
    assert [bytes(digest.tolist()) for digest in digests] == [sha256(path) for path in pictures]
    assert torch.equal(normalize(images), torch.stack([image_folders_pixels(path) for path in pictures]))


def test_what_cannot_be_read_comes_back_with_its_path_and_reason(pictures: list[Path]) -> None:
    whole = pictures[1].read_bytes()
    pictures[1].write_bytes(whole[: len(whole) // 2])
    pictures[2].write_bytes(b"<html>")
    pictures[3].unlink()
    batches = list(decoded_batches(listed(pictures), EvalTransform(32), batch_size=3, workers=0))
    unreadable = [row for batch in batches for row in batch.unreadable]
    assert [row.index for row in unreadable] == [1, 2, 3]
    assert [row.place for row in unreadable] == [str(path) for path in pictures[1:4]]
    assert unreadable[2].reason == "No such file or directory"
    assert all(row.reason and "\n" not in row.reason for row in unreadable)
    assert [row.sha256.tobytes() for row in unreadable] == [*map(sha256, pictures[1:3]), bytes(32)]
    assert [index for batch in batches for index in batch.indices_B.tolist()] == [0, 4, 5]


def test_a_batch_of_nothing_readable(tmp_path: Path) -> None:
    (batch,) = decoded_batches(listed([tmp_path / "none.jpg"]), EvalTransform(32), batch_size=8)
    assert len(batch.unreadable) == 1
    assert len(batch.indices_B) == len(batch.images_BCHW) == 0


def test_a_hostile_size_is_unreadable_not_a_crash(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    (tmp_path / "bomb.png").write_bytes(buffer.getvalue())
    (batch,) = decoded_batches(listed([tmp_path / "bomb.png"]), EvalTransform(32), batch_size=8)
    assert "megapixels" in batch.unreadable[0].reason


def test_the_global_random_state_is_left_alone(pictures: list[Path]) -> None:
    before = torch.get_rng_state()
    list(decoded_batches(listed(pictures), EvalTransform(32), batch_size=2, workers=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def workers_import_this(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers get a function of this file by its name, and this process's list of folders to look in."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2])


def killed(image: bytes) -> np.ndarray:
    os.kill(os.getpid(), signal.SIGKILL)
    return np.frombuffer(image, np.uint8)


def lost(image: bytes) -> np.ndarray:
    """At its third call the worker dies with a batch on its way, and its server is kept from noticing."""
    notes = Path(os.fsdecode(image))
    with (notes / "calls").open("a") as calls:
        calls.write("called\n")
        if calls.tell() >= 3 * len("called\n"):
            (notes / "processes").write_text(f"{os.getppid()} {os.getpid()}")
            os.kill(os.getppid(), signal.SIGSTOP)
            until((notes / "fetched").exists, "the first batch is fetched")
            os.kill(os.getpid(), signal.SIGKILL)
    return np.zeros((3, 1, 1), np.uint8)


def wrong(image: bytes) -> np.ndarray:
    raise RuntimeError("a mistake of ours")


@pytest.mark.usefixtures("workers_import_this")
def test_a_killed_worker_is_one_line(pictures: list[Path]) -> None:
    with pytest.raises(
        EvaluationError, match="a process that decodes pictures died, DataLoader worker"
    ) as caught:
        list(decoded_batches(listed(pictures), killed, batch_size=2, workers=1))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("workers_import_this")
def test_a_worker_killed_while_its_batch_is_fetched_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "picture").write_bytes(os.fsencode(tmp_path))
    batches = decoded_batches(listed([tmp_path / "picture"] * 3), lost, batch_size=1, workers=1)
    next(batches)
    noted = tmp_path / "processes"
    until(lambda: noted.exists() and noted.read_text(), "the third call")
    server, worker = map(int, noted.read_text().split())
    time.sleep(0.5)  # the second batch goes its way from another thread of the worker
    (tmp_path / "fetched").touch()
    with pytest.raises(EvaluationError, match="died, the connection to it broke: make memory free"):
        try:
            until(lambda: worker not in living(os.getsid(0)), "the worker dies")
            next(batches)
        finally:
            os.kill(server, signal.SIGCONT)


@pytest.mark.usefixtures("workers_import_this")
def test_a_mistake_in_a_worker_is_not_taken_for_its_death(pictures: list[Path]) -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        list(decoded_batches(listed(pictures), wrong, batch_size=2, workers=1))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one CPU looks the same either way")
def test_the_number_of_workers_is_that_of_the_cpus_allowed() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert [decode._default_workers(count) for count in (decode._IN_PROCESS_IMAGES, 10**6)] == [0, 1]
    finally:
        os.sched_setaffinity(0, allowed)


_SHOW_THE_PARENT = """
import gc
import os
from pathlib import Path
import numpy as np
from clipkit.evaluate.decode import decoded_batches
from clipkit.evaluate.pictures import FolderPictures

def has_parent_with_torch(image: bytes) -> np.ndarray:
    maps = Path(f"/proc/{os.getppid()}/maps").read_bytes()
    shared = gc.get_freeze_count() > 100_000  # no collection of garbage writes to what it shares
    return np.full((3, 1, 3), [b"libtorch" in maps, os.getppid() == int(image), shared], np.uint8)

if __name__ == "__main__":
    Path("pid").write_text(str(os.getpid()))
    pictures = FolderPictures(Path(), ["pid"])
    (batch,) = decoded_batches(pictures, has_parent_with_torch, batch_size=1, workers=1)
    print(*batch.images_BCHW[0, 0, 0].tolist())
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
def test_workers_are_forked_from_a_server_that_has_torch_not_from_this_process(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(_SHOW_THE_PARENT)
    printed = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, stdout=subprocess.PIPE, check=True)
    assert printed.stdout.split() == [b"1", b"0", b"1"]
