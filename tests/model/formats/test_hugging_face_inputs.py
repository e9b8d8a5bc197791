"""The written tokenizer and image processor against Hugging Face's own classes that open them."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import clipkit
from clipkit.model.config import named_config
from clipkit.model.formats.hugging_face import write
from clipkit.model.preprocess import STD, OpenAITransform
from clipkit.model.tokenizer import END_OF_WORD, encode, vocabulary
from tests.model.conftest import MICRO, picture, trained_looking

PLAIN = ["'s", "don't", "I'VE", "They'll", "we're", "!", "?!", "...", "2024", "3.14", "#tag", "&", "-", "(2)"]
PLAIN += [
    '"q"',
    "a/b",
    "$5",
    "50%",
    "café",
    "naïve",
    "Zürich",
    "日本語",
    "кошка",
    "👍",
    "🏳️‍🌈",
    "½",
    "№7",
    "e\u0301",
]
PLAIN += ["İ", "ß", "\u00a0", "\u2003", "\n", "\t", "\u200b", "…"]
OTHERWISE = ["it’s", "“quoted”", "&amp;", "sÃ©", "ﬁne", "ＦＵＬＬ", "\x1c", "ΟΔΟΣ", "'\u017f"]
"""What OpenAI's tokenizer, and so clipkit's, mends (ftfy, HTML) or lowers by its place; theirs does not."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hf")
    write(trained_looking(MICRO), place)
    return place


def captions(count: int) -> list[str]:
    """Sentences of English words, some capital, and of what else stands in captions."""
    words = [token.removesuffix(END_OF_WORD) for token in vocabulary().ids if token.endswith(END_OF_WORD)]
    known = [word for word in words if word.isascii() and word.isalpha()]
    draw = random.Random(5)
    made = []
    for _ in range(count):
        parts = [draw.choice(PLAIN if draw.random() < 0.3 else known) for _ in range(draw.randrange(1, 20))]
        cased = [part.title() if draw.random() < 0.2 and part.isascii() else part for part in parts]
        made.append("".join(part + draw.choice(["", " ", " "]) for part in cased))
    return made


@pytest.mark.parametrize(
    ("name", "count"), [("CLIPTokenizer", 4_000), ("CLIPTokenizerFast", 200), ("AutoTokenizer", 200)]
)
def test_the_tokens_are_the_same(transformers: Any, folder: Path, name: str, count: int) -> None:
    theirs = getattr(transformers, name).from_pretrained(folder)
    texts = captions(count)
    found = theirs(texts, padding="max_length", truncation=True, return_tensors="pt")
    ours = clipkit.tokenize(texts, truncate=True)
    assert found.input_ids.shape == ours.shape == (count, 77)
    used = found.attention_mask.bool()
    different = [
        text
        for text, one, other, mask in zip(texts, found.input_ids, ours, used, strict=True)
        if not torch.equal(one[mask], other[mask])
    ]
    assert different == []
    assert not ours[~used].any()  # they pad with the end of text: causal attention sees neither
    assert theirs.decode(found.input_ids[0], skip_special_tokens=True)


def test_their_tokenizer_does_not_mend_text(transformers: Any, folder: Path) -> None:
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    for text in OTHERWISE:
        assert theirs(f"a {text} b").input_ids[1:-1] != encode(f"a {text} b")


def test_the_pixels_are_the_same_up_to_one_level(transformers: Any, folder: Path) -> None:
    theirs = transformers.CLIPImageProcessor.from_pretrained(folder)
    for width, height in ((32, 32), (48, 40), (500, 333), (1000, 61)):
        for mode in ("RGB", "L"):  # of palettes and transparency each makes something else
            seen = picture(width, height, mode)
            one = theirs(seen, return_tensors="pt").pixel_values[0]
            assert one.shape == (3, 32, 32)
            levels = (one - OpenAITransform(32)(seen)).abs() * torch.tensor(STD)[:, None, None] * 255
            assert levels.max() < 1.01, (width, height, mode)
            assert levels.mean() < 0.6


def test_where_the_margin_is_odd_their_crop_lies_a_pixel_beside(transformers: Any, folder: Path) -> None:
    theirs = transformers.CLIPImageProcessor.from_pretrained(folder)
    seen = picture(47, 32)  # 15 columns too many
    for begin, found in (
        (8, OpenAITransform(32)(seen)),
        (7, theirs(seen, return_tensors="pt").pixel_values[0]),
    ):
        part = Image.fromarray(np.asarray(seen)[:, begin : begin + 32])
        assert (found - OpenAITransform(32)(part)).abs().max() < 1e-5


def test_the_processor_gives_the_model_all_that_it_takes(transformers: Any, folder: Path) -> None:
    processor = transformers.CLIPProcessor.from_pretrained(folder)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    seen = [picture(50, 70), picture(32, 32, seed=1)]
    texts = ["a photo of a dog", "Two cats"]
    given = processor(text=texts, images=seen, padding=True, return_tensors="pt")
    ours, preprocess = clipkit.load(folder, "cpu")
    assert ours.config == named_config("ViT-Micro/16@32px")
    with torch.no_grad():
        theirs = model(**given)
        texts_BD = torch.nn.functional.normalize(ours.encode_text(clipkit.tokenize(texts)), dim=-1)
        assert (theirs.text_embeds - texts_BD).abs().max() < 1e-5
        images_BD = ours.encode_image(torch.stack([preprocess(one) for one in seen]))
        assert (theirs.image_embeds - torch.nn.functional.normalize(images_BD, dim=-1)).abs().max() < 1e-2
