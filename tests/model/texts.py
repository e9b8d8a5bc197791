"""Texts of every kind that a tokenizer may meet, drawn by a seed: real ones of this machine, hostile ones."""

import codecs
import random
import re
import sysconfig
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from html.entities import html5
from importlib import metadata
from pathlib import Path

import ftfy.bad_codecs
from ftfy.chardata import CHARMAP_ENCODINGS

ftfy.bad_codecs.ok()

SENTENCES = (
    "L’été à Bâle : l’œuvre d’Éloïse, déjà vue — « Ça va ? » où ÊTRE naïf coûte 12 €",
    "Größere Straßenfüße über Österreich, ÄÖÜ „schöne Grüße“ für Müller’s Übung",
    "El niño pequeño comió piña en Málaga; ¿Qué? ¡Olé! Ñandú güero n.º 5 ½ 20 °C",
    "Zażółć gęślą jaźń, ŁÓDŹ Żubrówka; příliš žluťoučký kůň ČŠŘ; İstanbul ığdır ŞİŞLİ; șarpe țară",
    "São Paulo não é João; Århus Ærø smørrebrød Øl; Þingvellir ðá; Õun jäääär",
    "Съешь же ещё этих мягких французских булок. ЁЛКА ЂОРЂЕ Љиљана Їжак Ґанок ґанок «да» № 7",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΟΔΟΣ ΣΟΦΟΣ ά·έ ΐΰ Άνω",
    "敏捷的棕色狐狸跳过了懒狗。日本語の写真『東京』カタカナ ﾊﾝｶｸ ＦＵＬＬ　ＷＩＤＴＨ １２３",
    "다람쥐 헌 쳇바퀴에 타고파 한국어 사진 \u1112\u1161\u11ab",
    "صورة قطة جميلة ١٢٣، ﷺ ﻻ؟ תמונה של חתול שָׁלוֹם हिन्दी में चित्र १२३ ภาพถ่ายแมว ৩ বিড়াল தமிழ் ქართული Հայերեն አማርኛ",
    "Tiếng Việt: Hà Nội đẹp, Đặng Thị Ngọc Ánh; Vie\u0323\u0302t e\u0301te\u0301 \u212b \u2126 \u1e9b\u0323",
    "½ ⅓ ² ³ Ⅷ ① ㎏ ™ ® © § ¶ † ‡ • ‰ ∞ ≠ ≤ √ ∑ π µ µm 5′ 6″ 3×4 ÷ ± ◊ █ │ ░ → ★ ✓ ✔ № ℃",
)
EMOJI = (
    *("👩‍👩‍👧‍👦", "🏳️‍🌈", "☺️", "🇩🇪", "👍🏽", "1️⃣", "#️⃣", "👨🏿‍🚀", "❤️‍🔥", "🏴\U000e0067\U000e0062\U000e007f"),
    *("😀", "©️", "™️", "\u200d", "\ufe0f", "\U0001f3fb", "🧑‍🤝‍🧑", "♀️", "⌚"),
)
MARKS = "!?.,;:-–—…'\"’‘“”„«»()[]{}<>/\\|@#$%^&*_+=~`·•°´¨¸¿¡§¶†‡™®©"
CONTRACTIONS = (
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "'LL",
    "'ſ",
    "’s",
    "’LL",
    "'Ve",
    "''s",
    "'st",
)
SPECIAL = ("<|startoftext|>", "<|endoftext|>", "<|EndOfText|>", "<|endoftext|", "|>", "<|", "</w>")
PLANES = ((0, 0x7F), (0x80, 0x24F), (0, 0xFFFF), (0xE000, 0xFFFF), (0x1F000, 0x1FAFF), (0x10000, 0x10FFFF))
WHITE = "".join(chr(code) for code in range(0x10000) if chr(code).isspace()) + "\u200b\u180e\ufeff"


@cache
def lines() -> tuple[str, ...]:
    """Lines of the descriptions of what is installed here, and of Python's own sources."""
    found = {
        line for each in metadata.distributions() for line in (each.read_text("METADATA") or "").split("\n")
    }
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        found.update(path.read_text("utf-8", "replace").split("\n"))
    return tuple(sorted(line.strip() for line in found if line.strip()))


@cache
def words() -> tuple[str, ...]:
    """Words of those lines, and of the names of characters and the sentences above."""
    found = {word for line in lines() for word in re.findall(r"[^\W\d_]{2,20}", line)}
    names = (unicodedata.name(chr(code), "") for code in range(0x3000))
    found.update(word.lower() for name in names for word in name.split())
    found.update(word for sentence in SENTENCES for word in sentence.split())
    return tuple(sorted(found))


def caption(draw: random.Random) -> str:
    """As the web has them: words, numbers, sizes, marks, shops' separators, some of it escaped."""
    chosen = []
    for _ in range(draw.randint(1, 16)):
        word = draw.choice(words())
        word = draw.choice((str, str, str.lower, str.title, str.upper))(word)
        chance = draw.random()
        if chance < 0.06:
            word = draw.choice(
                (f"{draw.randint(0, 3000)}", f"{draw.random():.2f}", f"{draw.randint(1, 99)}x{word}")
            )
        elif chance < 0.12:
            word += draw.choice(CONTRACTIONS)
        elif chance < 0.2:
            word = draw.choice(MARKS) + word + draw.choice(MARKS)
        elif chance < 0.22:
            word += draw.choice((" &amp; ", "&#39;s", "&quot;", "&nbsp;", " & ", "&T", "\xa0", "&#8217;s"))
        chosen.append(word)
    return draw.choice((" ", " ", " ", " - ", ", ", " | ", "/", "_", "  ", "\n", "\r\n")).join(chosen)


def entities(draw: random.Random) -> str:
    """Whole, cut, escaped again and again, numeric within and beyond Unicode, and none at all."""

    def one() -> str:
        name = draw.choice(_ENTITIES)
        number = draw.choice((draw.randrange(0x180), draw.randrange(0x120000)))
        text = draw.choice(
            (f"&{name};", f"&{name}", f"&#{number};", f"&#x{number:x};", f"&#{number}", f"&{name.upper()};")
        )
        for _ in range(draw.choice((0, 0, 1, 2, 3))):
            text = text.replace("&", "&amp;")
        return text if draw.random() < 0.9 else text[: draw.randint(0, len(text))]

    return _joined(
        draw, lambda: one() if draw.random() < 0.6 else draw.choice(("<", ">", "&", ";", "<b>", "a", " é"))
    )


def planes(draw: random.Random) -> str:
    """Characters of all planes, lone surrogates among them, alone or with neighbours of their own block."""

    def one() -> str:
        low, high = draw.choice(PLANES)
        first = draw.randint(low, high)
        return "".join(chr(min(first + draw.randrange(60), 0x10FFFF)) for _ in range(draw.randint(1, 6)))

    return _joined(draw, one)


def emoji(draw: random.Random) -> str:
    """Emoji with joiners, variants, tones, tags, in words and alone."""
    return _joined(draw, lambda: draw.choice(EMOJI) if draw.random() < 0.7 else draw.choice(words()))


def mojibake(draw: random.Random) -> str:
    """UTF-8 taken for a single-byte encoding, up to three times, whole or in part."""
    sentence = draw.choice(SENTENCES + EMOJI)
    text = sentence[draw.randrange(len(sentence)) :][: draw.randint(1, 40)]
    for _ in range(draw.randint(1, 3)):
        raw, encoding = text.encode("utf-8", "replace"), draw.choice(CHARMAP_ENCODINGS)
        text = codecs.decode(raw, encoding, draw.choice(("replace", "ignore")))
    return draw.choice(("", "plain ", "é")) + text + draw.choice(("", " “and”", "’s", "Ã", "\xa0"))


def controls(draw: random.Random) -> str:
    """NUL, C0 and C1 controls, terminal escapes, marks of order, surrogates in pairs and alone."""
    special = (
        "\0",
        "\x1b[31m",
        "\x1b[",
        "\x7f",
        "\ud83d\ude00",
        "\ud800",
        "\udfff\ud800",
        "\ufeff",
        "\u202e",
        "\ufffc",
    )
    return _joined(
        draw,
        lambda: draw.choice(
            (chr(draw.randrange(0x20)), chr(draw.randrange(0x7F, 0xA1)), draw.choice(special), "ab", "é")
        ),
    )


def neighbours(draw: random.Random) -> str:
    """Characters of ftfy's own suspicion, beside each other and beside ASCII."""
    return "".join(
        draw.choice(_SUSPECTS) if draw.random() < 0.5 else draw.choice("aZ ,.5?$")
        for _ in range(draw.randint(1, 12))
    )


def white(draw: random.Random) -> str:
    """White space of every kind between words, and what looks like it."""
    return "".join(
        draw.choice((draw.choice(WHITE), draw.choice(words()), "ΑΣ", "'s"))
        for _ in range(draw.randint(1, 10))
    )


def marks(draw: random.Random) -> str:
    """Contractions, digits, special tokens and marks in a row."""
    pieces = (*CONTRACTIONS, *SPECIAL, *MARKS, "don", "I", "12", "٣", "½", " ", "K", "İ", "ẞ")
    return "".join(draw.choice(pieces) for _ in range(draw.randint(1, 12)))


def long(draw: random.Random) -> str:
    """100 kB of what the others make."""
    pieces: list[str] = []
    while sum(map(len, pieces)) < 100_000:
        pieces.append(draw.choice((caption, caption, draw.choice(KINDS)))(draw))
    return draw.choice(("", " ")).join(pieces)


def line(draw: random.Random) -> str:
    """One of the real lines."""
    return draw.choice(lines())


KINDS: tuple[Callable[[random.Random], str], ...] = (
    *(
        caption,
        caption,
        caption,
        line,
        line,
        entities,
        planes,
        emoji,
        mojibake,
        controls,
        neighbours,
        white,
        marks,
    ),
)


def texts(count: int, seed: int) -> Iterator[str]:
    """So many of all kinds, in turn."""
    draw = random.Random(seed)
    for number in range(count):
        yield KINDS[number % len(KINDS)](draw)


def _joined(draw: random.Random, one: Callable[[], str]) -> str:
    return draw.choice(("", "", " ")).join(one() for _ in range(draw.randint(1, 8)))


_ENTITIES = sorted({name.rstrip(";") for name in html5})
_SUSPECTS = (
    "".join(sorted({c for sentence in SENTENCES for c in sentence if c > "\x7f"}))
    + "".join(map(chr, range(0xA0, 0x180)))
    + "€№™∂∆∏∑√∞∩∫≈≠≡≤≥═║╬▀█░ƒˆˇ˘˛˜˝⁄₧⌐ﬁﬂ�ΒΓΞΟВГРС‚"
)
