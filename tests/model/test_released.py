import hashlib
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import clipkit
from clipkit.downloads import Patience
from clipkit.errors import CheckpointError, DownloadError
from clipkit.model import released
from clipkit.model.convert import convert
from clipkit.model.released import RELEASED, available_models, default_folder, released_file, released_name
from tests.model.conftest import MICRO, inputs, picture
from tests.serving import Server, answer

QUICK = Patience(pause=0.01)


def test_names_addresses_and_folder_are_those_of_openais_package(openai_clip: Any) -> None:
    assert openai_clip.clip._MODELS == RELEASED
    assert available_models() == openai_clip.available_models() == clipkit.available_models()
    assert default_folder() == Path(os.path.expanduser("~/.cache/clip"))  # noqa: PTH111 (as it is written there)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ViT-L/14@336px", "ViT-L/14@336px"),
        ("ViT-L-14-336", "ViT-L/14@336px"),
        ("ViT-B-32-quickgelu", "ViT-B/32"),
        ("ViT-B-32-gelu", None),
        ("ViT-Micro/16@32px", None),
        ("runs/a.pt", None),
    ],
)
def test_names_may_be_written_with_dashes(written: str, name: str | None) -> None:
    assert released_name(written) == name


@pytest.fixture
def published(openai_archive: Path, server: Server) -> dict[str, str]:
    """A table of one model, whose file is OpenAI's own code traced."""
    body = openai_archive.read_bytes()
    sha256 = hashlib.sha256(body).hexdigest()
    return {"Tiny": server.add(f"/clip/models/{sha256}/Tiny.pt", answer(body))}


def test_a_name_is_fetched_opened_and_kept(
    published: dict[str, str], openai_archive: Path, server: Server, tmp_path: Path
) -> None:
    root = str(tmp_path / "cache")
    model, preprocess = clipkit.load("Tiny", "cpu", False, root, addresses=published)
    assert (tmp_path / "cache" / "Tiny.pt").read_bytes() == openai_archive.read_bytes()
    again, _ = clipkit.load("Tiny", device="cpu", jit=True, download_root=root, addresses=published)
    assert sum(server.hits.values()) == 1
    expected, _ = clipkit.load(openai_archive, "cpu")
    images, tokens = inputs(MICRO)
    assert preprocess.image_size == MICRO.image_size
    for opened in (model, again):
        assert not opened.training
        assert torch.equal(opened.encode_image(images), expected.encode_image(images))
        assert torch.equal(opened.encode_text(tokens), expected.encode_text(tokens))


def test_what_openais_package_has_fetched_is_used(
    openai_clip: Any, published: dict[str, str], server: Server, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it leaves the file open
        path = openai_clip.clip._download(published["Tiny"], str(tmp_path))
    assert released_file("Tiny", tmp_path, addresses=published) == Path(path)
    assert sum(server.hits.values()) == 1


def test_a_name_that_stands_for_another_model_is_refused(
    published: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="not a ViT-B/32"):
        clipkit.load("ViT-B/32", "cpu", download_root=tmp_path, addresses={"ViT-B/32": published["Tiny"]})


def test_without_the_file_it_says_where_to_put_it(server: Server, tmp_path: Path) -> None:
    address = server.url("/clip/models/0123/Tiny.pt")
    with pytest.raises(DownloadError, match=f"put it at {tmp_path}/Tiny.pt$") as caught:
        released_file("Tiny", tmp_path, addresses={"Tiny": address}, patience=QUICK)
    assert address in str(caught.value)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home without files, and a proxy that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    "call",
    [lambda: clipkit.load("ViT-B/32"), lambda: convert(Path("ViT-B-32"), Path("out.pt"), "clipkit")],
    ids=["load", "convert"],
)
def test_without_a_network_it_says_what_to_do(call: Callable[[], object], tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        call()
    assert RELEASED["ViT-B/32"] in str(caught.value)
    assert str(caught.value).endswith(f"put it at {tmp_path}/.cache/clip/ViT-B-32.pt")
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_evaluate_takes_names_too(tmp_path: Path) -> None:
    (tmp_path / "classes.csv").write_text("folder,names\na,a\nb,b\n")
    for name in "ab":
        (tmp_path / "pictures" / name).mkdir(parents=True)
        picture(40, 30).save(tmp_path / "pictures" / name / "1.png")
    sets = ["--folder", "pictures", "--classes", "classes.csv"]
    done = subprocess.run(
        [sys.executable, "-m", "clipkit", "evaluate", "--checkpoint", "ViT-B/32", *sets],
        env={**os.environ, "PYTHONPATH": str(Path(clipkit.__file__).parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(f"put it at {tmp_path}/.cache/clip/ViT-B-32.pt")


def test_a_path_goes_before_a_name_for_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RN50").write_bytes(b"mine")
    assert released.model_file("RN50") == Path("RN50")
    with pytest.raises(CheckpointError, match="RN50"):
        convert(Path("RN50"), Path("out.pt"), "clipkit")
