"""OpenAI's byte-pair tokenizer (Radford et al. 2021), token for token.

The merges are OpenAI's table, shipped as it was published in `data/` (MIT, see NOTICE). No torch is needed
except by `tokenize`, whose result is a tensor.
"""

import gzip
import heapq
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING

import ftfy
import numpy as np
import numpy.typing as npt
import regex

from clipkit.model.config import OPENAI_CONTEXT_LENGTH, OPENAI_VOCABULARY

if TYPE_CHECKING:
    import torch

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
END_OF_WORD = "</w>"
CACHED_WORDS = 1 << 16
CACHED_WORD_LENGTH = 32

_WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
_SPACE = regex.compile(r"\s+")
# Printable ASCII without an ampersand: nothing in it for ftfy or html.unescape to mend.
_PLAIN = regex.compile(r"[\t\n -%'-~]*")


@dataclass(frozen=True)
class Vocabulary:
    """The tables of the tokenizer: a character for each byte, an id for each token, a rank for each merge."""

    byte_characters: tuple[str, ...]
    ids: dict[str, int]
    ranks: dict[tuple[str, str], int]


@cache
def vocabulary() -> Vocabulary:
    """Read OpenAI's merges: 256 bytes, 256 bytes that end a word, 48,894 merges, and two special tokens."""
    packed = (files("clipkit.model") / "data" / MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    merges = [
        (left, right) for left, right in (line.split() for line in lines[1 : OPENAI_VOCABULARY - 512 - 2 + 1])
    ]
    characters = _byte_characters()
    # Tokens are numbered with the bytes that print as themselves first.
    ordered = sorted(characters, key=lambda character: (ord(character) > 255, ord(character)))
    tokens = [*ordered, *(c + END_OF_WORD for c in ordered), *(left + right for left, right in merges)]
    ids = {token: number for number, token in enumerate([*tokens, START_OF_TEXT, END_OF_TEXT])}
    return Vocabulary(characters, ids, {pair: rank for rank, pair in enumerate(merges)})


def encode(text: str) -> list[int]:
    """Token ids of one text, without start and end, of any length."""
    tokens: list[int] = []
    for word in _WORD.findall(_clean(text)):
        tokens.extend(_cached_word(word) if len(word) <= CACHED_WORD_LENGTH else _encode_word(word))
    return tokens


@dataclass(frozen=True)
class Tokenizer:
    """Picklable callable for the loader: captions → int64 (B, L), cut and padded as OpenAI's."""

    context_length: int = OPENAI_CONTEXT_LENGTH

    def __call__(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """Tokens (B, L) of B captions."""
        tokens_BL = np.zeros((len(captions), self.context_length), dtype=np.int64)
        for row, caption in zip(tokens_BL, captions, strict=True):
            tokens = _framed(caption)
            row[: len(tokens)] = tokens[: self.context_length]
            if len(tokens) > self.context_length:
                row[-1] = tokens[-1]
        return tokens_BL


def tokenize(
    texts: str | Sequence[str], context_length: int = OPENAI_CONTEXT_LENGTH, truncate: bool = False
) -> "torch.Tensor":
    """Tokens (n, context_length), int64, of one text or several: start, text, end, zeros.

    A text that is too long is cut so that its last token is the end, if `truncate`; else RuntimeError, as in
    `clip`.
    """
    import torch

    texts = [texts] if isinstance(texts, str) else texts
    if not truncate:
        for text in texts:
            if len(_framed(text)) > context_length:
                raise RuntimeError(f"Input {text} is too long for context length {context_length}")
    return torch.from_numpy(Tokenizer(context_length)(texts))


def _framed(text: str) -> list[int]:
    ids = vocabulary().ids
    return [ids[START_OF_TEXT], *encode(text), ids[END_OF_TEXT]]


def _clean(text: str) -> str:
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    spaced: str = _SPACE.sub(" ", text.strip())
    return spaced.strip().lower()


@lru_cache(CACHED_WORDS)
def _cached_word(word: str) -> tuple[int, ...]:
    return _encode_word(word)


def _encode_word(word: str) -> tuple[int, ...]:
    table = vocabulary()
    if word in (START_OF_TEXT, END_OF_TEXT):
        return (table.ids[word],)
    symbols = [table.byte_characters[byte] for byte in word.encode("utf-8")]
    symbols[-1] += END_OF_WORD
    if (whole := table.ids.get("".join(symbols))) is not None:
        return (whole,)  # each token is what its own merges lead to
    return tuple(table.ids[symbol] for symbol in _merged(symbols, table.ranks))


def _merged(symbols: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    # Lowest rank first, leftmost first. A merge can only make pairs of higher rank (a token is learnt before
    # it is merged), so a heap visits them in the reference's order, in O(n log n) however long the word is.
    following = [*range(1, len(symbols)), -1]
    preceding = list(range(-1, len(symbols) - 1))
    pairs = enumerate(pairwise(symbols))
    heap = [(ranks[pair], left, pair) for left, pair in pairs if pair in ranks]
    heapq.heapify(heap)
    while heap:
        _, left, pair = heapq.heappop(heap)
        right = following[left]
        if right < 0 or (symbols[left], symbols[right]) != pair:
            continue  # one of the two is part of a longer token by now
        symbols[left], symbols[right] = pair[0] + pair[1], ""
        after = following[left] = following[right]
        if after >= 0:
            preceding[after] = left
        for first, second in ((preceding[left], left), (left, after)):
            if first >= 0 and second >= 0 and (symbols[first], symbols[second]) in ranks:
                new = (symbols[first], symbols[second])
                heapq.heappush(heap, (ranks[new], first, new))
    return [symbol for symbol in symbols if symbol]


def _byte_characters() -> tuple[str, ...]:
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    spare = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(spare)) for byte in range(256))
