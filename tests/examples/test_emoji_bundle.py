"""The emoji bundle holds what its README says, whichever way it was built."""

import csv
import importlib.util
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

BUNDLE = Path(__file__).parents[2] / "examples" / "emoji"
CODEPOINTS = r"[0-9a-f]{4,6}(-[0-9a-f]{4,6})*"
LIMIT_BYTES = 8_000_000
SKIN_TONES = re.compile(r"(^|-)1f3f[b-f](-|$)")


def _pictures(name: str) -> dict[str, bytes]:
    with zipfile.ZipFile(BUNDLE / name) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert len(names) == len(set(names))
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
        return {name: archive.read(name) for name in names}


@pytest.fixture(scope="module")
def noto() -> dict[str, bytes]:
    return _pictures("noto.zip")


@pytest.fixture(scope="module")
def twemoji() -> dict[str, bytes]:
    return _pictures("twemoji.zip")


@pytest.fixture(scope="module")
def classes() -> dict[str, list[str]]:
    with (BUNDLE / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["folder"] for row in rows}) == len(rows)
    return {row["folder"]: row["names"].split("|") for row in rows}


@pytest.fixture(scope="module")
def captions() -> dict[str, str]:
    lines = (BUNDLE / "captions.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 2 for row in rows)
    assert len({key for key, _ in rows}) == len(rows)
    return {row[0]: row[1] for row in rows}


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_bundle", BUNDLE / "build_bundle.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whole_folder_is_small() -> None:
    assert sum(file.stat().st_size for file in BUNDLE.iterdir() if file.is_file()) <= LIMIT_BYTES


def test_names_in_the_zips_are_safe(noto: dict[str, bytes], twemoji: dict[str, bytes]) -> None:
    assert all(re.fullmatch(rf"{CODEPOINTS}\.webp", name) for name in noto)
    assert all(re.fullmatch(rf"{CODEPOINTS}/twemoji\.webp", name) for name in twemoji)


def test_every_class_has_one_picture_of_each_vendor_and_a_name(
    noto: dict[str, bytes], twemoji: dict[str, bytes], classes: dict[str, list[str]]
) -> None:
    assert len(classes) >= 1_000
    assert sorted(classes) == sorted(name.partition("/")[0] for name in twemoji)
    assert sorted(classes) == sorted(name.removesuffix(".webp") for name in noto)
    assert not any(SKIN_TONES.search(folder) for folder in classes)
    assert all(name.strip() for names in classes.values() for name in names)


def test_no_name_means_two_classes(classes: dict[str, list[str]]) -> None:
    names = [name for group in classes.values() for name in group]
    assert len(names) == len(set(names))


def test_every_training_picture_has_a_caption(noto: dict[str, bytes], captions: dict[str, str]) -> None:
    assert sorted(captions) == sorted(name.removesuffix(".webp") for name in noto)
    assert all(caption.strip() for caption in captions.values())
    assert all(caption.isprintable() for caption in captions.values())


def test_all_pictures_decode_and_the_vendors_share_none(
    noto: dict[str, bytes], twemoji: dict[str, bytes]
) -> None:
    training = {_on_white(content, mode="RGBA") for content in noto.values()}
    evaluation = {_on_white(content, mode="RGB") for content in twemoji.values()}
    assert not training & evaluation


def _on_white(content: bytes, *, mode: str) -> bytes:
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.size) == ("WEBP", (64, 64))
    assert picture.mode in (mode, "RGB")  # opaque pictures lose their alpha channel in WebP
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).tobytes()


def test_the_licences_are_whole() -> None:
    phrases = {
        "LICENSE-Noto-Apache-2.0.txt": "END OF TERMS AND CONDITIONS",
        "LICENSE-Noto-OFL-1.1.txt": "OTHER DEALINGS IN THE FONT SOFTWARE",
        "LICENSE-Twemoji-CC-BY-4.0.txt": "Section 8",
        "LICENSE-emoji-data-MIT.txt": "Copyright (c) 2013 Cal Henderson",
        "LICENSE-Unicode-3.0.txt": "UNICODE LICENSE V3",
    }
    assert {file.name for file in BUNDLE.glob("LICENSE-*")} == set(phrases)
    assert all(phrase in (BUNDLE / name).read_text(encoding="utf-8") for name, phrase in phrases.items())


def test_the_builder_makes_the_same_bytes_again(builder: ModuleType, tmp_path: Path) -> None:
    builder.write_zip(tmp_path / "a.zip", {"1f600.webp": b"first", "1f601.webp": b"second"})
    builder.write_zip(tmp_path / "b.zip", {"1f600.webp": b"first", "1f601.webp": b"second"})
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_encoding_keeps_six_bits_and_lays_on_white(builder: ModuleType) -> None:
    ramp = np.zeros((64, 64, 4), dtype=np.uint8)
    ramp[..., 0] = np.arange(64)[:, None] * 4
    ramp[:, 32:, 3] = 255
    png = io.BytesIO()
    Image.fromarray(ramp).save(png, "PNG")
    kept = np.asarray(Image.open(io.BytesIO(builder.encode(png.getvalue(), flatten=False))).convert("RGBA"))
    flat = np.asarray(Image.open(io.BytesIO(builder.encode(png.getvalue(), flatten=True))))
    assert (kept[:, :32] == 0).all()
    assert np.abs(kept[:, 32:].astype(int) - ramp[:, 32:]).max() <= 3
    assert flat.shape == (64, 64, 3)
    assert (flat[:, :32] == 255).all()


def test_a_tarball_is_read_by_name_and_regular_files_only(builder: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("package/img/a.png", "../outside.png", "package/img/b.txt"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("package/img/c.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert builder.read_members(path, "package/img/", ".png") == {"a": b"abc"}


def test_another_tarball_is_refused(builder: ModuleType, tmp_path: Path) -> None:
    (tmp_path / f"{builder.NOTO.name}-{builder.NOTO.version}.tgz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="expected sha256"):
        builder.fetch(builder.NOTO, tmp_path)


def test_names_are_words_and_none_means_two_emoji(builder: ModuleType) -> None:
    def entry(name: str, image: str, *short_names: str) -> dict[str, object]:
        vendors = {"has_img_google": True, "has_img_twitter": True}
        return {
            "name": name, "image": image, "short_names": short_names, "category": "Animals & Nature",
            "subcategory": "animal-mammal", "sort_order": 1, **vendors,
        }  # fmt: skip

    rows = [
        entry("CAT", "1f408.png", "cat2"),
        entry("CAT FACE", "1f431.png", "cat"),
        entry("Egypt Flag", "1f1ea-1f1ec.png", "flag-eg"),
        entry("RUNNER", "1f3c3.png", "runner", "running"),
    ]
    emojis = builder.read_emoji(json.dumps(rows).encode())
    assert [emoji.names for emoji in emojis] == [
        ("cat",), ("cat face",), ("egypt flag",), ("runner", "running")
    ]  # fmt: skip
    assert builder.caption(emojis[3]) == "runner, running"
