"""Why ftfy's work may be left out: what the expression matches, ftfy leaves as it is but for curly quotes."""

import html
import random
import re
from functools import cache
from itertools import product
from re import _parser  # type: ignore[attr-defined]
from typing import Any, NamedTuple

import ftfy
import pytest
from ftfy.badness import BADNESS_RE, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.model import clean_text
from clipkit.model.clean_text import clean, fix_text
from tests.model.texts import SENTENCES, texts


class Harmless(NamedTuple):
    """Characters that it matches: of ASCII, others beside each other, others beside ASCII alone."""

    ascii: list[str]
    together: list[str]
    alone: list[str]


@cache
def harmless() -> Harmless:
    matches = clean_text._HARMLESS.fullmatch
    others = [*map(chr, range(0x80, 0x110000))]
    together = [c for c in others if matches(f"é{c}é")]
    alone = sorted({c for c in others if matches(c)} - set(together))
    return Harmless([c for c in map(chr, range(0x80)) if matches(c)], together, alone)


def pieces() -> st.SearchStrategy[str]:
    known = harmless()
    return st.one_of(*map(st.sampled_from, (known.together + known.alone, known.ascii, SENTENCES)))


def straight(text: str) -> str:
    return re.sub("[\u201c-\u201f]", '"', re.sub("[\u2018-\u201b]", "'", text))


def suspected_sets(parsed: Any) -> list[Any]:
    """The sets of characters in ftfy's expression for unlikely neighbours."""
    found = []
    for kind, value in parsed:
        if str(kind) == "BRANCH":
            found += [each for branch in value[1] for each in suspected_sets(branch)]
        elif str(kind) in ("SUBPATTERN", "MAX_REPEAT"):
            found += suspected_sets(value[-1])
        elif str(kind) in ("IN", "LITERAL"):
            found.append(value if str(kind) == "IN" else [(kind, value)])
        else:
            assert str(kind) in ("AT", "ANY")
    return found


def representatives() -> str:
    """One harmless character for each way of standing in those sets: ftfy cannot tell it from its like."""
    sets = suspected_sets(_parser.parse(BADNESS_RE.pattern, BADNESS_RE.flags))
    compiled = []
    for each in sets:
        parsed = _parser.parse("[x]")
        parsed.data = [(_parser.IN, each)]
        compiled.append(re._compiler.compile(parsed))  # type: ignore[attr-defined]
    characters = harmless()
    together = set(characters.together)
    known: dict[tuple[object, ...], str] = {}
    others = (c for c in characters.together + characters.alone if c < "\u2700" or c == "\ufffd")
    for c in (*characters.ascii, *others, "日", "😀"):
        alike = tuple(bool(each.fullmatch(c)) for each in compiled)
        known.setdefault((alike, c in together, c.isspace(), c.isascii()), c)
    return "".join(known.values())


def test_characters_that_may_stand_together_are_left_as_they_are() -> None:
    together = harmless().together
    assert len(together) > 1_000_000
    for first in range(0, len(together), 500):
        text = "".join(together[first : first + 500])
        assert ftfy.fix_text(text, normalization=None) == text


def test_characters_that_may_stand_alone_are_left_as_they_are_or_are_quotes() -> None:
    alone = harmless().alone
    assert len(alone) > 1_000
    for left, right in (("", ""), ("a", "b"), (" ", " "), ("Z", "."), ("?", "$"), ("", " "), ("9", "")):
        for c in alone:
            text = left + c + right
            assert ftfy.fix_text(text, normalization=None) == straight(text)


def test_no_three_neighbours_are_suspected() -> None:
    alphabet = representatives()
    assert len(alphabet) > 30
    unsuspected = [t for t in map("".join, product(alphabet, repeat=3)) if clean_text._HARMLESS.fullmatch(t)]
    assert len(unsuspected) > 10_000
    assert [text for text in unsuspected if is_bad(text)] == []


def test_no_longer_stretch_is_suspected() -> None:
    draw = random.Random(0)
    narrow = harmless().ascii
    alone = [c for c in harmless().alone if is_suspect(c)]
    together = [*narrow, *(c for c in harmless().together if is_suspect(c))]
    assert len(alone) > 100
    for _ in range(200):
        chosen = draw.choices(together, k=2_000)
        for place in range(1, len(chosen) - 1, draw.randint(2, 9)):
            chosen[place - 1 : place + 2] = [
                draw.choice(narrow),
                draw.choice(alone),
                draw.choice(narrow),
            ]
        text = "".join(chosen)
        assert clean_text._HARMLESS.fullmatch(text)
        assert not is_bad(text)


def is_suspect(c: str) -> bool:
    return c in BADNESS_RE.pattern or "\u0386" <= c <= "\u045f"


@settings(max_examples=500, deadline=None)
@given(st.deferred(lambda: st.lists(pieces())))
def test_any_text_is_fixed_as_by_ftfy(words: list[str]) -> None:
    text = "".join(words)
    assert fix_text(text) == ftfy.fix_text(text)


def test_drawn_texts_are_cleaned_as_by_openais_code(openai_clip: Any) -> None:
    from clip.simple_tokenizer import basic_clean

    for text in texts(5_000, seed=2):
        assert clean(text).split() == basic_clean(text).split()


@pytest.mark.parametrize(
    "text",
    ["a&amp;amp;b <i>", "&lt;b&gt; &amp;eacute;", "1 &lt 2 &amp;lt; 3\n<&eacute;", "&amp;#8217;s", "&copy 1"],
)
def test_entities(text: str) -> None:
    assert fix_text(text) == ftfy.fix_text(text)
    assert clean(text) == html.unescape(html.unescape(ftfy.fix_text(text)))


@pytest.mark.parametrize(
    "text", ["cafÃ©", "e\u0301", "ﬁne", "Ｆ", "\x07", "\x85", "a\r\nb", "é’s", "œ", "Â £1"]
)
def test_ftfy_is_asked_about_the_rest(text: str) -> None:
    assert not clean_text._HARMLESS.fullmatch(text) or not text.isascii()
    assert fix_text(text) == ftfy.fix_text(text)


def test_most_captions_of_the_web_do_without_ftfy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean_text, "ftfy", None)
    for text in (
        "Women’s “summer” dress, École – size 10½, £20 &amp; up",
        "東京タワー 👍🏽",
        "Größe™ naïve São Łódź ЁЛКА",
    ):
        assert clean(text)
    with pytest.raises(AttributeError):
        clean("cafÃ©")


def test_white_space_is_the_same_for_python_and_for_the_reference() -> None:
    import regex

    codes = [*map(chr, range(0x110000))]
    python, reference = {c for c in codes if c.isspace()}, set(regex.findall(r"\s", "".join(codes)))
    assert python - reference == set("\x1c\x1d\x1e\x1f")
    assert reference <= python
    for c in "\x1c\x1d\x1e\x1f":  # none is left, whether it stood there or was escaped
        assert ftfy.fix_text(f"a{c}b") == "ab"
        assert html.unescape(f"a&#{ord(c)};b") == "ab"
    for c in python:  # nor does its kind decide how what stands beside it is written small
        assert f"ΑΣ{c}Σ{c}".lower().split() == ["ας", "σ"]
