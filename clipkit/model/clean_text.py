"""OpenAI's cleaning of captions, ftfy and HTML entities, its work left out where it would change nothing.

ftfy repairs mojibake, which it knows by pairs of unlikely neighbours, and replaces some characters one by
one. A text that has neither comes out as it was, but for curly quotes; to see that a text has neither takes
one expression, a twentieth of ftfy's time. Whatever the expression does not match goes through ftfy.
"""

import html
import re
import unicodedata

import ftfy
from ftfy.fixes import unescape_html


def _letters(*, lower: bool) -> str:
    # Latin Extended-A and -B without what ftfy takes apart (ĳ, ŉ, ǆ …) or suspects (œ, ƒ).
    letters = (chr(code) for code in range(0x100, 0x250))
    kept = (c for c in letters if c not in "ĲĳŉŒœƒ" and not "Ǆ" <= c <= "ǌ" and not "Ǳ" <= c <= "ǳ")
    return "".join(c for c in kept if c.islower() == lower)


# ftfy suspects none of these beside ASCII or beside each other, nor does it replace any.
_ASCII = r"\t\n -~"
_TOGETHER = (
    f"ß-öø-ÿ{_letters(lower=True)}\u0388-\u03ff\u0401\u0403-\u048f\u0491-\u1fff"  # Greek, Cyrillic …
    "\u200c-\u200f\u20d0-\u20ff\u2600-\u2fff\u3001-\ud7ff"  # joiners, symbols, ideographs, Hangul
    "\ufb1d-\ufefe\U00010000-\U0010ffff"
)
# These it suspects only behind another that is not ASCII, or before one that is not of those above.
_CAPITALS = f"À-ÁÄ-ÍÏÑ-ÖØ-Þ{_letters(lower=False)}"
# These beside any that is not ASCII. Neither here nor there: Â and Ã, which it suspects beside ASCII.
_ALONE = "\xa0-¿ÎÐ×÷\u2010-\u2027\u2030-\u205e\u20a0-\u20cf\u2100-\u25ff"
_ISOLATED = f"(?<![^\\0-\\x7f])(?:[{_CAPITALS}](?![^{_ASCII}{_TOGETHER}])|[{_ALONE}](?![^\\0-\\x7f]))"
_HARMLESS = re.compile(f"[{_ASCII}{_TOGETHER}]*+(?:{_ISOLATED}[{_ASCII}{_TOGETHER}]*+)*+")
_SINGLE_QUOTES = re.compile("[\u2018-\u201b]")
_DOUBLE_QUOTES = re.compile("[\u201c-\u201f]")


def clean(text: str) -> str:
    """Return `text` as OpenAI's `basic_clean` does: repaired by ftfy, HTML entities resolved twice.

    Only white space at the ends and its kind may differ, which separates words in any case.
    """
    if "&" not in text and text.isascii() and text.isprintable():
        return text
    fixed = fix_text(text)
    return html.unescape(html.unescape(fixed)) if "&" in fixed else fixed


def fix_text(text: str) -> str:
    """Return what `ftfy.fix_text` returns."""
    current = text
    while True:  # as ftfy does, until nothing changes: &amp;amp; takes two rounds
        unescaped = unescape_html(current) if "&" in current and ";" in current else current
        if unescaped != current and "<" in text:  # ftfy then resolves entities in some lines only
            return _by_ftfy(text)
        if not _HARMLESS.fullmatch(unescaped) or not unicodedata.is_normalized("NFC", unescaped):
            return _by_ftfy(text)
        straight = _DOUBLE_QUOTES.sub('"', _SINGLE_QUOTES.sub("'", unescaped))
        if straight == current:
            return straight
        current = straight


def _by_ftfy(text: str) -> str:
    fixed: str = ftfy.fix_text(text)
    return fixed
