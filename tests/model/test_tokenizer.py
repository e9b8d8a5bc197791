import pickle
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.model.clean_text import clean
from clipkit.model.tokenizer import (
    END_OF_TEXT,
    END_OF_WORD,
    START_OF_TEXT,
    Tokenizer,
    _merged,
    _merged_long,
    encode,
    tokenize,
    vocabulary,
)
from tests.model.texts import long, texts

CAPTIONS = [
    "a photo of a dog",
    "Very good-looking Woman's hat, size 12½ — “new”!",
    "it's we're I've I'm you'll he'd don't DON'T 'S 'T",
    "1234567890 3.14 №7 ½ ² Ⅷ",
    "AT&amp;T &lt;b&gt; &amp;amp; &#39; &#x1F600; &nosuch; &amp;nbsp; &#28; & &",
    "schÃ¶n âœ” sÃ£o â€œquotedâ€ Ã",
    "ﬁne ﬂuﬀ ＦＵＬＬ　ｗｉｄｔｈ ㎏",
    "İstanbul ẞtraße ΑΣ ΌΣΟΣ ǅ",
    "日本語の写真 한국어 صورة قطة תמונה ภาพถ่าย हिन्दी",
    "👩‍👩‍👧‍👦 🏳️‍🌈 ☺️ 🇩🇪 👍🏽",
    "zero\u200bwidth\ufeff joined\u2060 soft\xadhyphen e\u0301",
    "tab\tnew\nline\r\nreturn\x0bvertical\x0cfeed\x85next\u2028line\u2029para\x1cfile\x1funit",
    "nul\x00bell\x07escape\x1b[31mred\x1b[0m\x7f\x80\x9f",
    "lone \ud800 surrogate \udfff \U000e0041 \U0010ffff",
    "<|startoftext|> <|endoftext|> <|EndOfText|><|startoftext|>x",
    "don\u2019t \u2018quote\u2019 ... … -- —",
    "    spaces \xa0 and \u3000 more    ",
    "",
    "a" * 500,
    "-" * 300 + "!?" * 100,
]
PIECES = st.one_of(
    st.text(max_size=12),
    st.text(st.characters(codec="ascii"), max_size=12),
    st.text(st.characters(max_codepoint=0x24F), max_size=8),
    st.sampled_from(CAPTIONS),
    st.sampled_from(
        [" ", "'s", "'", "&amp;", "&", "Ã©", "â€™", START_OF_TEXT, END_OF_TEXT, "\x1c", "1", "ß"]
    ),
)


@pytest.fixture(scope="module")
def reference(openai_clip: Any) -> Any:
    from clip.simple_tokenizer import SimpleTokenizer

    return SimpleTokenizer()


def test_the_tables_are_openais(reference: Any) -> None:
    table = vocabulary()
    assert table.ids == reference.encoder
    assert [table.ids[reference.byte_encoder[byte]] for byte in range(256)] == list(table.bytes)
    ranked = {(table.ids[a], table.ids[b]): rank for (a, b), rank in reference.bpe_ranks.items()}
    assert {(pair >> 16, pair & 0xFFFF): number - 512 for pair, number in table.merged.items()} == ranked


def test_every_merge_is_numbered_after_its_parts() -> None:
    merged = vocabulary().merged
    assert len(set(merged.values())) == len(merged)  # no token is made in two ways
    assert [pair for pair, number in merged.items() if max(pair >> 16, pair & 0xFFFF) >= number] == []


@pytest.mark.parametrize("text", CAPTIONS)
def test_difficult_captions_equal_the_reference(reference: Any, text: str) -> None:
    assert encode(text) == reference.encode(text)


@settings(max_examples=600, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_any_text_equals_the_reference(reference: Any, text: str) -> None:
    assert encode(text) == reference.encode(text)


def test_texts_of_every_kind_equal_the_reference(reference: Any) -> None:
    assert different(reference, texts(5_000, seed=0)) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_260_000_texts_equal_the_reference(reference: Any, seed: int) -> None:
    assert different(reference, texts(52_000, seed)) == []


def test_texts_of_100_kb_equal_the_reference(reference: Any) -> None:
    draw = random.Random(3)
    assert different(reference, (long(draw) for _ in range(3))) == []


def different(reference: Any, drawn: Iterable[str]) -> list[str]:
    return [text for text in drawn if encode(text) != reference.encode(text)]


def test_a_very_long_word_equals_the_reference(reference: Any) -> None:
    draw = random.Random(1)
    word = "".join(draw.choice("etaoinshrdlu") for _ in range(2_000))
    assert encode(word) == reference.encode(word)


def test_tokens_are_those_of_both_peers(openai_clip: Any, open_clip: Any) -> None:
    theirs = openai_clip.tokenize(CAPTIONS, truncate=True)
    ours = tokenize(CAPTIONS, truncate=True)
    assert ours.dtype == theirs.dtype == torch.int32
    assert ours.shape == (len(CAPTIONS), 77)
    assert torch.equal(ours, theirs)
    # OpenCLIP spells the special tokens in another way and splits words at separators OpenAI's does not.
    same = [text for text in CAPTIONS if "<|" not in text and "\x1c" not in text]
    assert torch.equal(tokenize(same, truncate=True), open_clip.get_tokenizer("RN50")(same).int())


@pytest.mark.parametrize("length", [1, 2, 5, 16, 200])
def test_another_context_length(openai_clip: Any, length: int) -> None:
    theirs = openai_clip.tokenize(CAPTIONS, context_length=length, truncate=True)
    assert torch.equal(tokenize(CAPTIONS, length, truncate=True), theirs)


@pytest.mark.parametrize("asked", ["a dog", "", ["a dog"], ("a dog", "a cat"), []], ids=repr)
def test_one_text_or_several(openai_clip: Any, asked: Any) -> None:
    assert torch.equal(tokenize(asked), openai_clip.tokenize(asked))
    assert tokenize(asked).shape == openai_clip.tokenize(asked).shape


def test_a_text_that_is_too_long_is_an_error_as_in_clip(openai_clip: Any) -> None:
    text = "word " * 76
    messages = []
    for peer in (openai_clip.tokenize, tokenize):
        with pytest.raises(RuntimeError) as caught:
            peer(["short", text])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert tokenize("word " * 75).shape == (1, 77)


def test_the_loaders_tokenizer_is_the_same_after_a_journey_to_a_worker() -> None:
    there_and_back = pickle.loads(pickle.dumps(Tokenizer(16)))
    tokens = there_and_back(CAPTIONS)
    assert (tokens.dtype, tokens.shape) == (np.int64, (len(CAPTIONS), 16))
    assert np.array_equal(tokens, tokenize(CAPTIONS, 16, truncate=True).numpy())
    assert Tokenizer()([]).shape == (0, 77)


def test_each_token_is_what_its_merges_lead_to() -> None:
    """So a word that is a token needs no merging: all of those that end a word, by the merges alone."""
    table = vocabulary()
    words = [token for token in table.ids if token.endswith(END_OF_WORD) and len(token) > len(END_OF_WORD)]
    assert len(words) == 34_483
    for word in words:
        numbers = [table.ids[character] for character in word.removesuffix(END_OF_WORD)]
        numbers[-1] += 256
        assert (
            _merged_long(list(numbers), table.merged) == _merged(numbers, table.merged) == [table.ids[word]]
        )


@pytest.mark.parametrize("length", [1, 2, 255, 256, 257, 1_000])
def test_long_and_short_words_are_merged_alike(length: int) -> None:
    draw, table = random.Random(length), vocabulary()
    for letters in ("aab", "etaoinshrdlu", "".join(map(chr, range(256)))):
        word = "".join(draw.choices(letters, k=length))
        numbers = list(word.encode("latin-1").translate(table.bytes))
        assert _merged_long(list(numbers), table.merged) == _merged(numbers, table.merged)


def test_what_lies_far_behind_the_last_token_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cleaning `&amp;amp;amp;…` takes as many rounds as it is long: minutes for what a caption may hold."""
    read: list[str] = []

    def noted(text: str) -> str:
        read.append(text)
        return clean(text)

    monkeypatch.setattr("clipkit.model.tokenizer.clean", noted)
    caption = "a photo of a dog " * 1000
    spaced = caption.replace(" ", " \n" * 100)
    tokens = Tokenizer()([" " * 10_000 + caption, caption[:2000], " " * 10_000, spaced])
    assert (tokens[0] == tokens[1]).all() and (tokens[0] == tokens[3]).all()
    assert tokens[0, -1] == vocabulary().ids[END_OF_TEXT]
    assert max(map(len, read)) <= 64 * 77
    assert tokenize([caption], truncate=True).tolist() == [tokens[0].tolist()]
