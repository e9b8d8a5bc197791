import io
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, JpegImagePlugin

from clipkit.ingest.config import IngestConfig
from clipkit.ingest.decoding import Limits, decode
from clipkit.ingest.images import Picture, difference_hash, process
from clipkit.ingest.rows import Failed
from clipkit.pictures import MAX_SCANS
from tests.serving import encoded, photo

CONFIG = IngestConfig(image_size=64)
ORIENTATION = 0x0112


def made(data: bytes, config: IngestConfig = CONFIG) -> Picture:
    picture = process(data, config)
    assert isinstance(picture, Picture), picture
    return picture


def failed(data: bytes, config: IngestConfig = CONFIG) -> Failed:
    outcome = process(data, config)
    assert isinstance(outcome, Failed), outcome
    return outcome


def pixels(picture: Picture) -> np.ndarray:
    return np.asarray(simplejpeg.decode_jpeg(picture.content), dtype=int)


def difference(picture: Picture, expected: Image.Image) -> float:
    """The mean absolute difference from `expected` (RGB), reduced by Pillow's antialiased bicubic."""
    reduced = expected.convert("RGB").resize((picture.width, picture.height), Image.Resampling.BICUBIC)
    return float(np.abs(pixels(picture) - np.asarray(reduced, dtype=int)).mean())


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, kind: str) -> None:
    data = encoded(photo(300, 180), kind, exif=oriented(orientation))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = made(data)
    assert (picture.original_width, picture.original_height) == upright.size
    assert (picture.width, picture.height) == ((107, 64) if orientation < 5 else (64, 107))
    assert difference(picture, upright) < 2.5


@pytest.mark.parametrize("byte_order", ["big", "little"])
def test_both_byte_orders_of_exif_are_read(byte_order: str) -> None:
    order, mark = (">", b"MM\0*") if byte_order == "big" else ("<", b"II*\0")
    tiff = mark + struct.pack(order + "IHHHIHHI", 8, 1, ORIENTATION, 3, 1, 6, 0, 0)
    assert made(encoded(photo(100, 50), exif=b"Exif\0\0" + tiff)).height == 100
    damaged = mark + struct.pack(order + "IH", 8, 5)
    assert made(encoded(photo(100, 50), exif=b"Exif\0\0" + damaged)).height == 50


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP"])
def test_every_format_is_read(kind: str) -> None:
    picture = made(encoded(photo(), kind))
    assert picture.original_format == kind.lower()
    assert (picture.original_width, picture.original_height) == (320, 240)
    assert (picture.width, picture.height, picture.ext) == (85, 64, "jpg")
    assert difference(picture, photo()) < 5


@pytest.mark.parametrize("mode", ["L", "CMYK", "1", "LA", "RGBA", "P"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = photo().convert(mode)
    kind = "JPEG" if mode in ("L", "CMYK") else "PNG"
    data = encoded(image, kind)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    assert difference(made(data), expected) < (8 if mode == "1" else 4)  # dithered: not smooth
    assert pixels(made(data)).shape == (64, 85, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (60, 40), (200, 30, 30, 255))
    image.paste((0, 0, 0, 0), (0, 0, 30, 40))
    image.paste((0, 0, 0, 128), (30, 0, 60, 20))
    if mode == "PA":
        data = encoded(image.quantize(16), "PNG")
        assert Image.open(io.BytesIO(data)).mode == "P"
    else:
        data = encoded(image.convert(mode), "PNG")
    got = pixels(made(data))
    assert (got[4:36, 4:24] > 248).all(), "what is transparent is white"
    assert (abs(got[4:14, 36:56] - 127) < 8).all(), "half-transparent black is grey"
    assert (got[26:36, 36:56].mean(axis=(0, 1)) < 215).all(), "what is opaque keeps its colour"


def test_a_transparent_colour_is_laid_on_white() -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 20, 40))
    got = pixels(made(encoded(image, "PNG", transparency=0)))
    assert (got[4:36, 4:14] > 245).all()
    assert (abs(got[4:36, 26:36].mean(axis=(0, 1)) - [0, 0, 255]) < 4).all()


def test_a_transparent_level_of_sixteen_bit_grey_is_laid_on_white() -> None:
    grey = np.full((40, 40), 30_000, np.uint16)
    grey[:, :20] = 0
    data = encoded(Image.fromarray(grey), "PNG", transparency=0)
    assert Image.open(io.BytesIO(data)).info["transparency"] == 0
    got = pixels(made(data))
    assert (got[4:36, 4:14] > 245).all()
    assert np.abs(got[4:36, 26:36] - 30_000 / 257).max() < 4


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_transparent_level_of_grey_of_few_bits_is_laid_on_white(depth: int) -> None:
    levels = "0" * (40 * depth) + f"{1:0{depth}b}" * 40  # half black, half of the lowest level above
    line = b"\0" + int(levels, 2).to_bytes(10 * depth, "big")
    data = png(80, 40, depth, line * 40, [(b"tRNS", b"\0\1")], colour=0)
    got = pixels(made(data, CONFIG.model_copy(update={"image_size": 100})))
    assert (got[:, :36] < 8).all() and (got[:, 44:] > 247).all()


def test_a_transparent_colour_of_sixteen_bits_is_laid_on_white() -> None:
    line = b"\0" + struct.pack(">3H", 0x1234, 0x5678, 0x9ABC) * 20 + struct.pack(">3H", 0xFFFF, 0, 0) * 20
    got = pixels(made(png(40, 40, 16, line * 40, [(b"tRNS", struct.pack(">3H", 0x1234, 0x5678, 0x9ABC))])))
    assert (got[4:36, 4:14] > 240).all()
    assert (got[4:36, 26:36, 0] > 240).all() and (got[4:36, 26:36, 1:] < 16).all()


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    ramp = np.linspace(0, 65535, 60, dtype=np.uint16)[None].repeat(40, axis=0)
    data = encoded(Image.fromarray(ramp), "PNG")
    assert Image.open(io.BytesIO(data)).mode == "I;16"
    got = pixels(made(data)).mean(axis=2)
    assert np.abs(got - ramp / 257).max() < 4


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_is_kept(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert getattr(Image.open(io.BytesIO(data)), "n_frames", 1) == 3
    assert (abs(pixels(made(data)).mean(axis=(0, 1)) - [255, 0, 0]) < 6).all()


def test_beside_the_first_frame_a_gif_is_white() -> None:
    gif = bytearray(encoded(Image.new("RGB", (30, 20), (255, 0, 0)).quantize(2), "GIF"))
    frame = gif.index(b",\0\0\0\0")
    gif[6:10], gif[frame + 1 : frame + 5] = struct.pack("<2H", 60, 40), struct.pack("<2H", 16, 8)
    got = pixels(made(bytes(gif)))
    assert got.shape == (40, 60, 3) and got[0, 0].min() > 250 and got[-1, -1].min() > 250
    assert (abs(got[12:24, 20:40].mean(axis=(0, 1)) - [255, 0, 0]) < 6).all()


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and green exchanged, though it still says that it is sRGB."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return icc.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_the_colour_profile_is_honoured(kind: str) -> None:
    red = Image.new("RGB", (40, 30), (255, 0, 0))
    swapped = made(encoded(red, kind, icc_profile=swapped_profile()))
    assert (abs(pixels(swapped).mean(axis=(0, 1)) - [0, 255, 0]) < 6).all()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for harmless in (srgb, swapped_profile()[:200], b"no profile at all"):
        same = made(encoded(red, kind, icc_profile=harmless))
        assert (abs(pixels(same).mean(axis=(0, 1)) - [255, 0, 0]) < 6).all()


def ink_profile() -> bytes:
    """A profile of inks (ICC.1:2001, 6.5.8) by which cyan prints red, black black, the others nothing."""
    white, red, black = bytes((255, 128, 128)), bytes((136, 208, 195)), bytes((0, 128, 128))  # in Lab
    table = b"mft1" + struct.pack(">4xBBBx9i", 4, 3, 2, *(65536 if at % 4 == 0 else 0 for at in range(9)))
    table += bytes(range(256)) * 4 + (white + black) * 4 + (red + black) * 4 + bytes(range(256)) * 3
    content = struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table
    header = struct.pack(
        ">I4xI4s4s4s12x4s", 128 + len(content), 0x02100000, b"prtr", b"CMYK", b"Lab ", b"acsp"
    )
    return header + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48) + content


def test_the_colour_profile_of_inks_is_honoured() -> None:
    cyan = Image.new("CMYK", (40, 30), (255, 0, 0, 0))
    profiled = encoded(cyan, icc_profile=ink_profile())
    for data, expected in ((encoded(cyan), [0, 255, 255]), (profiled, [255, 0, 0])):
        got = pixels(made(data))
        assert (abs(got.mean(axis=(0, 1)) - expected) < 12).all()


def test_a_profile_in_several_segments_is_put_together() -> None:
    profile = swapped_profile()
    data = encoded(Image.new("RGB", (40, 30), (255, 0, 0)))
    halves = (profile[:300], profile[300:])
    segments = [b"ICC_PROFILE\0" + bytes((number, 2)) + half for number, half in enumerate(halves, 1)]
    # The standard allows any order.
    inserted = b"".join(
        b"\xff\xe2" + (len(each) + 2).to_bytes(2, "big") + each for each in reversed(segments)
    )
    got = pixels(made(data[:2] + inserted + data[2:]))
    assert (abs(got.mean(axis=(0, 1)) - [0, 255, 0]) < 6).all()


def test_avif_is_known_by_its_compatible_brands() -> None:
    data = encoded(photo(), "AVIF")
    assert data[8:12] == b"avif" and b"avif" in data[16:32]
    assert made(data[:8] + b"mif1" + data[12:]).original_format == "avif"
    heic = data[:8] + b"mif1" + data[12:32].replace(b"avif", b"heic") + data[32:]
    assert failed(heic).reason == "not_an_image"


@pytest.mark.parametrize("size", [(64, 64), (50, 200), (3, 2000), (65, 64), (64, 65), (1, 1)])
def test_small_pictures_are_never_enlarged(size: tuple[int, int]) -> None:
    picture = made(encoded(photo(*size)))
    assert (picture.width, picture.height) == size == (picture.original_width, picture.original_height)


@pytest.mark.parametrize("size", [(128, 512), (127, 200), (640, 481), (1000, 65), (2000, 1500)])
def test_larger_pictures_get_the_short_side(size: tuple[int, int]) -> None:
    picture = made(encoded(photo(*size)))
    assert min(picture.width, picture.height) == 64
    assert picture.width / picture.height == pytest.approx(size[0] / size[1], rel=0.01)
    assert difference(picture, photo(*size)) < 2.5


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}])
def test_a_jpeg_cut_off_anywhere_is_broken(options: dict[str, Any]) -> None:
    data = encoded(photo(400, 300), quality=90, **options)
    for length in (30, len(data) // 4, len(data) // 2, len(data) * 9 // 10, len(data) - 20, len(data) - 3):
        assert failed(data[:length]).reason == "broken_image"


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "AVIF", "BMP"])
def test_other_pictures_cut_off_are_broken(kind: str) -> None:
    data = encoded(photo(400, 300), kind)
    for length in (len(data) // 4, len(data) // 2, len(data) * 9 // 10):
        outcome = failed(data[:length])
        assert outcome.reason == "broken_image"
        assert " at 0x" not in outcome.detail, "the same bytes must fail with the same words"


def test_a_png_with_damage_inside_is_broken() -> None:
    data = encoded(photo(400, 300), "PNG", compress_level=0)  # whose decoder would notice nothing
    end = len(data) - 100
    assert failed(data[:end] + bytes(20) + data[end + 20 :]) == Failed("broken_image", "a wrong checksum")


def test_bytes_behind_a_webp_do_not_mend_it() -> None:
    whole = encoded(photo(64, 48), "WEBP")
    assert made(whole + b"x" * 50).content == made(whole).content
    content = whole[20:-40]  # cut off, in a file that says it is whole
    cut = (
        b"RIFF"
        + struct.pack("<I", 12 + len(content))
        + whole[8:16]
        + struct.pack("<I", len(content))
        + content
    )
    assert failed(cut).reason == failed(cut + whole).reason == "broken_image"


def test_a_jpeg_with_damage_inside_is_broken() -> None:
    data = bytearray(encoded(photo(400, 300), quality=90))
    middle = len(data) // 2
    data[middle : middle + 40] = b"\xff\xd9" + bytes(38)
    assert failed(bytes(data)).reason == "broken_image"


def png(
    width: int,
    height: int,
    depth: int = 8,
    lines: bytes = bytes(1000),
    before: Sequence[tuple[bytes, bytes]] = (),
    colour: int = 2,
) -> bytes:
    """A PNG that claims this size, however few lines it has; `before` are further chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pieces = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in pieces
    )


def test_pixel_bombs_are_refused_before_they_are_decoded() -> None:
    for width, height in ((100_000, 100_000), (10_000, 9_500), (6001, 6000)):
        assert failed(png(width, height)).reason == "too_many_pixels"
    assert failed(png(6000, 6000)).reason == "broken_image", "36 megapixels are decoded"
    jpeg = encoded(photo(16, 16))
    sof = jpeg.index(b"\xff\xc0")
    assert (
        failed(jpeg[: sof + 5] + struct.pack(">HH", 65_000, 65_000) + jpeg[sof + 9 :]).reason
        == "too_many_pixels"
    )
    gif = encoded(photo(16, 16), "GIF")
    assert failed(gif[:6] + struct.pack("<HH", 65_535, 65_535) + gif[10:]).reason == "too_many_pixels"
    assert (
        failed(encoded(photo(20, 20)), CONFIG.model_copy(update={"max_pixels": 399})).reason
        == "too_many_pixels"
    )


@pytest.mark.parametrize(
    ("kind", "mode", "most", "options"),
    [
        ("PNG", "RGBA", 4000, {}),
        ("WEBP", "RGBA", 3000, {}),
        ("WEBP", "RGBA", 2200, {"lossless": True}),
        ("WEBP", "RGB", 1200, {"save_all": True}),
        ("AVIF", "RGB", 1400, {}),
        ("JPEG", "RGB", 2760, {"progressive": True, "subsampling": "4:4:4"}),
        ("JPEG", "RGB", 4000, {"progressive": True, "subsampling": "4:2:0"}),
        ("JPEG", "RGB", 4000, {"subsampling": "4:4:4"}),
        ("JPEG", "CMYK", 2400, {"progressive": True}),
        ("JPEG", "CMYK", 4000, {}),
    ],
)
def test_fewer_pixels_are_taken_where_each_costs_more_memory(
    kind: str, mode: str, most: int, options: dict[str, Any]
) -> None:
    config = CONFIG.model_copy(update={"max_pixels": 4000})

    def of_height(height: int) -> bytes:
        frames = {"append_images": [photo(20, height, 1)]} if "save_all" in options else {}
        return encoded(photo(20, height).convert(mode), kind, **options, **frames)

    height = most // 20
    assert made(of_height(height), config)
    assert failed(of_height(height + 1), config) == Failed(
        "too_many_pixels", f"20 x {height + 1}, above {most:,} pixels"
    )


def test_of_a_jpeg_that_is_decoded_at_a_fraction_those_pixels_count() -> None:
    config = CONFIG.model_copy(update={"max_pixels": 400, "image_size": 8})
    assert made(encoded(photo(40, 80)), config).original_height == 80  # at 1/4: 10 x 20
    assert made(encoded(photo(20, 80)), config).original_height == 80  # at 1/2
    assert failed(encoded(photo(20, 81)), config) == Failed("too_many_pixels", "20 x 81, above 1,600 pixels")
    assert failed(encoded(photo(40, 81)), config) == Failed("too_many_pixels", "40 x 81, above 3,200 pixels")
    several = encoded(photo(40, 80), progressive=True)
    for data, other in ((several, {}), (encoded(photo(40, 80)), {"keep_original": True})):
        refused = failed(data, config.model_copy(update=other))
        assert refused == Failed("too_many_pixels", "40 x 80, above 400 pixels")


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pictures_of_unwanted_sizes_are_refused_before_they_are_decoded(kind: str) -> None:
    data = encoded(photo(40, 120), kind)[:-30]  # cut short: whoever decodes it says broken_image
    wanted = CONFIG.model_copy(update={"min_size": 40, "max_aspect": 3.0})
    assert failed(data, wanted).reason == "broken_image"
    small, long = wanted.model_copy(update={"min_size": 41}), wanted.model_copy(update={"max_aspect": 2.99})
    assert failed(data, small) == Failed("too_small", "40 x 120")
    assert failed(data, long) == Failed("aspect", "40 x 120")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(("side", "reduction"), [(511, 1), (512, 2), (1025, 4), (2049, 8)])
def test_a_large_jpeg_is_decoded_at_a_fraction(mode: str, side: int, reduction: int) -> None:
    data = encoded(Image.new(mode, (side, side + 10)))
    decoded = decode(data, "jpeg", short_side=256, limits=Limits(36_000_000))
    assert (decoded.width, decoded.height, decoded.reduction) == (side, side + 10, reduction)
    assert decoded.pixels.shape[:2] == (-(-(side + 10) // reduction), -(-side // reduction))


def test_the_quality_is_that_of_the_stored_jpeg() -> None:
    data = encoded(photo())

    def tables(jpeg: bytes) -> dict[int, list[int]]:
        image = Image.open(io.BytesIO(jpeg))
        assert isinstance(image, JpegImagePlugin.JpegImageFile)
        return image.quantization

    for config, quality in ((CONFIG, 95), (CONFIG.model_copy(update={"quality": 50}), 50)):
        assert tables(made(data, config).content) == tables(encoded(photo(), quality=quality))


def test_the_bytes_as_served_can_be_kept() -> None:
    keeping = CONFIG.model_copy(update={"keep_original": True})
    sideways = Image.Exif()
    sideways[ORIENTATION] = 6
    for kind, ext, options in (("JPEG", "jpg", {"exif": sideways}), ("PNG", "png", {}), ("WEBP", "webp", {})):
        data = encoded(photo(300, 200), kind, **options)
        kept, stored = made(data, keeping), made(data)
        assert (kept.content, kept.ext, stored.ext) == (data, ext, "jpg")
        size = (200, 300) if options else (300, 200)
        assert (kept.width, kept.height) == (kept.original_width, kept.original_height) == size
        assert (kept.dhash, kept.sha256) == (stored.dhash, stored.sha256)
    assert failed(encoded(photo(300, 200))[:-500], keeping).reason == "broken_image"


def endless_scans(jpeg: bytes) -> bytes:
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:-2] + jpeg[last:-2] * (MAX_SCANS + 1) + jpeg[-2:]


def with_sampling(jpeg: bytes, sampling: int) -> bytes:
    """With other sampling factors of the first component in the frame header."""
    frame = re.search(rb"\xff[\xc0\xc2]", jpeg)
    assert frame
    place = frame.start() + 11
    return jpeg[:place] + bytes([sampling]) + jpeg[place + 1 :]


def baseline_in_scans(picture: Image.Image) -> bytes:
    """A scan for each component: the first cut off the scan of a grey picture, the others nothing at all."""
    jpeg = encoded(picture)
    scan = jpeg.rindex(b"\xff\xda")
    return jpeg[:scan] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" + jpeg[scan + 14 :]


@pytest.mark.parametrize(
    "data",
    [
        endless_scans(encoded(photo(64, 64), progressive=True)),
        endless_scans(baseline_in_scans(photo(64, 64))),
        endless_scans(encoded(photo(64, 64)).replace(b"\xff\xda", b"\xff\x00\x00\x02\xff\xda", 1)),
        endless_scans(encoded(photo(64, 64), progressive=True).replace(b"\xff\xc2", b"\xff\xca", 1)),
        with_sampling(endless_scans(encoded(photo(64, 64), progressive=True)), 0x31),
    ],
    ids=["progressive", "by component", "no marker before it", "arithmetic", "sampling left to Pillow"],
)
def test_a_jpeg_of_endless_scans_is_refused(data: bytes) -> None:
    outcome = failed(data)
    assert (outcome.reason, outcome.detail) == ("broken_image", f"more than {MAX_SCANS} scans")


def test_a_sequential_jpeg_has_one_scan() -> None:
    """libjpeg sees to that itself, having read no more of it: the scans are not counted."""
    for more in (1, MAX_SCANS + 1):
        data = encoded(photo(64, 64))
        scans = data[data.rindex(b"\xff\xda") : -2] * more
        assert failed(data[:-2] + scans + data[-2:]).detail == "ValueError: Didn't expect more than one scan"


def test_scans_elsewhere_in_the_file_do_not_count() -> None:
    data = encoded(photo(64, 64), progressive=True)
    marks = b"\xff\xda" * 3 * MAX_SCANS
    comment = b"\xff\xfe" + (len(marks) + 2).to_bytes(2, "big") + marks
    assert made(data[:2] + comment + data[2:] + marks)


@pytest.mark.parametrize("size", [(10, 70_000), (70_000, 10), (64, 66_000), (300, 100_000)])
def test_a_picture_too_long_to_store_is_a_failure(size: tuple[int, int]) -> None:
    outcome = failed(encoded(Image.new("L", size), "PNG"))
    assert (outcome.reason, outcome.detail) == ("aspect", f"{size[0]} x {size[1]}")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n <html lang=en>", "HTML"),
        (b"<svg xmlns=", "SVG"),
        (b"<?xml version", "XML"),
        (b"\xef\xbb\xbf<!-- a comment --><html>", "HTML"),
        (b"%PDF-1.4 and more", "PDF"),
        (b"BM but no bitmap at all here", "starts with b'BM but no bitmap'"),
        (b"\xff\xd9\x00no start", r"starts with b'\xff\xd9\x00no start'"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isomiso2", "a file of the brand b'isom'"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (encoded(photo(), "TIFF"), "TIFF"),
        (encoded(photo(), "JPEG2000"), "JPEG 2000"),
        (encoded(photo(), "ICO"), "ICO"),
    ],
)
def test_what_is_no_picture_is_named(data: bytes, detail: str) -> None:
    assert failed(data) == Failed("not_an_image", detail)


def test_no_bytes_are_empty() -> None:
    assert failed(b"").reason == "empty"


MAGIC = [
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"RIFF\x00\x01\x00\x00WEBP",
    b"\0\0\0 ftypavif",
    b"BM",
]


@settings(max_examples=150)
@given(st.sampled_from(MAGIC), st.binary(max_size=300))
def test_hostile_bytes_give_an_outcome(magic: bytes, rest: bytes) -> None:
    assert isinstance(process(magic + rest, CONFIG), Picture | Failed)


@settings(max_examples=60)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]), st.data())
def test_damaged_pictures_give_an_outcome(kind: str, draw: st.DataObject) -> None:
    data = bytearray(encoded(photo(40, 30), kind))
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    assert isinstance(process(bytes(data), CONFIG), Picture | Failed)


def test_the_difference_hash_is_near_for_near_pictures() -> None:
    hashes = [made(encoded(photo(seed=seed))).dhash for seed in range(6)]
    again = [made(encoded(photo(seed=seed).resize((200, 150)), quality=40)).dhash for seed in range(6)]
    for one in range(6):
        assert (hashes[one] ^ again[one]).bit_count() <= 6
        assert all((hashes[one] ^ hashes[other]).bit_count() > 10 for other in range(one))


def test_the_difference_hash_has_the_bits_of_its_definition() -> None:
    cells = np.zeros((8, 9), dtype=np.uint8)
    cells[0, 1] = 255  # row 0: brighter than its left neighbour, darker than none
    cells[7, 8] = 255  # the last cell: the last bit
    rgb = np.stack([cells.repeat(10, axis=0).repeat(10, axis=1)] * 3, axis=-1)
    assert difference_hash(rgb) == 1 << 63 | 1


@pytest.mark.parametrize("shape", [(256, 341), (64, 64), (31, 500), (5, 7), (1, 1)])
def test_the_difference_hash_compares_means_over_equal_areas(shape: tuple[int, int]) -> None:
    grey = np.random.default_rng(shape[1]).integers(0, 256, shape, dtype=np.uint8)
    parts = grey.repeat(8, axis=0).repeat(9, axis=1)  # each cell is now a whole number of these
    cells = parts.reshape(8, shape[0], 9, shape[1]).mean(axis=(1, 3))
    bits = "".join(str(int(bit)) for bit in (np.rint(cells)[:, :-1] < np.rint(cells)[:, 1:]).flat)
    assert difference_hash(np.stack([grey] * 3, axis=-1)) == int(bits, 2)


def test_the_difference_hash_of_a_large_picture_is_exact() -> None:
    rgb = np.full((3000, 3000, 3), 250, dtype=np.uint8)  # all together more than 32 bits hold
    rgb[-375:, -333:] = 255
    assert difference_hash(rgb) == 1


def test_the_same_bytes_give_the_same_picture() -> None:
    data = encoded(photo(500, 400), quality=80)
    assert made(data) == made(data)
    assert made(data).original_bytes == len(data)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 3}, {"progressive": True}])
def test_a_jpeg_without_its_end_is_whole_or_broken(mode: str, options: dict[str, Any]) -> None:
    jpeg = encoded(photo(150, 100).convert(mode), **options)
    whole = process(jpeg, CONFIG)
    assert isinstance(whole, Picture)
    taken = []
    for cut in range(1, 100):
        made = process(jpeg[:-cut], CONFIG)
        if isinstance(made, Picture):
            assert (made.content, made.original_bytes) == (whole.content, len(jpeg) - cut)
            taken.append(cut)
        else:
            assert made.reason == "broken_image"
    assert taken == ([] if "progressive" in options else [1, 2])
    kept = CONFIG.model_copy(update={"keep_original": True})
    assert getattr(process(jpeg[:-2], kept), "reason", None) == "broken_image"
