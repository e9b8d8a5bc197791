import pickle
import random
from typing import Any

import ftfy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.model import tokenizer
from clipkit.model.tokenizer import (
    END_OF_TEXT,
    END_OF_WORD,
    START_OF_TEXT,
    Tokenizer,
    _merged,
    encode,
    tokenize,
    vocabulary,
)

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
    assert vocabulary().ids == reference.encoder
    assert vocabulary().ranks == reference.bpe_ranks


def test_every_merge_ranks_after_the_merges_that_made_its_parts() -> None:
    ranks = vocabulary().ranks
    made_by = {left + right: rank for (left, right), rank in ranks.items()}
    assert len(made_by) == len(ranks)  # no token is made in two ways
    late = [p for p, rank in ranks.items() if max(made_by.get(p[0], -1), made_by.get(p[1], -1)) >= rank]
    assert late == []


@pytest.mark.parametrize("text", CAPTIONS)
def test_difficult_captions_equal_the_reference(reference: Any, text: str) -> None:
    assert encode(text) == reference.encode(text)


@settings(max_examples=1_500, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join))
def test_any_text_equals_the_reference(reference: Any, text: str) -> None:
    assert encode(text) == reference.encode(text)


@pytest.mark.slow
def test_two_hundred_thousand_texts_equal_the_reference(reference: Any) -> None:
    draw = random.Random(0)
    planes = [(0x20, 0x7E), (0, 0x24F), (0, 0xFFFF), (0x1F000, 0x1FAFF), (0x10000, 0x10FFFF)]
    for _ in range(200_000):
        pieces = [
            "".join(chr(draw.randint(*draw.choice(planes))) for _ in range(draw.randrange(8)))
            if draw.random() < 0.6
            else draw.choice(CAPTIONS)[: draw.randrange(30)]
            for _ in range(draw.randrange(10))
        ]
        text = draw.choice(["", " "]).join(pieces)
        assert encode(text) == reference.encode(text), repr(text)


@given(st.text(st.sampled_from("\t\n " + "".join(chr(c) for c in range(33, 127) if chr(c) != "&"))))
def test_ftfy_changes_nothing_where_it_is_left_out(text: str) -> None:
    assert tokenizer._PLAIN.fullmatch(text)
    assert ftfy.fix_text(text) == text


@pytest.mark.parametrize("text", ["a&b", "caf\xe9", "bell\x07", "line\r\n", "\x7f"])
def test_ftfy_is_not_left_out_for_anything_else(text: str) -> None:
    assert not tokenizer._PLAIN.fullmatch(text)


def test_a_very_long_word_equals_the_reference(reference: Any) -> None:
    draw = random.Random(1)
    word = "".join(draw.choice("etaoinshrdlu") for _ in range(2_000))
    assert encode(word) == reference.encode(word)


def test_tokens_are_those_of_both_peers(openai_clip: Any, open_clip: Any) -> None:
    theirs = openai_clip.tokenize(CAPTIONS, truncate=True)
    ours = tokenize(CAPTIONS, truncate=True)
    assert ours.dtype == torch.int64
    assert ours.shape == (len(CAPTIONS), 77)
    assert torch.equal(ours, theirs.long())
    # OpenCLIP spells the special tokens in another way and splits words at separators OpenAI's does not.
    same = [text for text in CAPTIONS if "<|" not in text and "\x1c" not in text]
    assert torch.equal(tokenize(same, truncate=True), open_clip.get_tokenizer("RN50")(same))


@pytest.mark.parametrize("length", [5, 16, 200])
def test_another_context_length(openai_clip: Any, length: int) -> None:
    theirs = openai_clip.tokenize(CAPTIONS, context_length=length, truncate=True)
    assert torch.equal(tokenize(CAPTIONS, length, truncate=True), theirs.long())


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


def test_the_word_cache_is_bounded() -> None:
    assert tokenizer._cached_word.cache_info().maxsize == tokenizer.CACHED_WORDS
    before = tokenizer._cached_word.cache_info().currsize
    encode("x" * (tokenizer.CACHED_WORD_LENGTH + 1))
    assert tokenizer._cached_word.cache_info().currsize == before


def test_each_token_is_what_its_merges_lead_to() -> None:
    """So a word that is a token needs no merging: all of those that end a word, by the merges alone."""
    table = vocabulary()
    words = [token for token in table.ids if token.endswith(END_OF_WORD) and len(token) > len(END_OF_WORD)]
    assert len(words) == 34_483
    for word in words:
        symbols = list(word.removesuffix(END_OF_WORD))
        symbols[-1] += END_OF_WORD
        assert _merged(symbols, table.ranks) == [word]
