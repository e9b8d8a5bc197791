"""OpenAI's byte-pair tokenizer (Radford et al. 2021), token for token.

The merges are OpenAI's table, shipped as it was published in `data/` (MIT, see NOTICE). No torch is needed
except by `tokenize`, whose result is a tensor.
"""

import gzip
import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import regex

from clipkit.model.clean_text import clean
from clipkit.model.config import OPENAI_CONTEXT_LENGTH, OPENAI_VOCABULARY
from clipkit.model.token_cache import TokenCache

if TYPE_CHECKING:
    import torch

MERGES_FILE = "bpe_simple_vocab_16e6.txt.gz"
START_OF_TEXT = "<|startoftext|>"
END_OF_TEXT = "<|endoftext|>"
END_OF_WORD = "</w>"
CACHE_BYTES = 32 << 20
CACHED_LENGTH = 64
SHORT_WORD = 256
READ_FOR_A_TOKEN = 64
"""Characters that are read for each token wanted, white space counted once: none has more than 28 bytes."""
_SPACES = regex.compile(r"(\s)\s+")

_WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


@dataclass(frozen=True)
class Vocabulary:
    """The tables of the tokenizer.

    `merges`: the pairs of tokens in the order of their merges; `ids`: the number of each token; `bytes`: the
    number of each byte within a word, 256 less than that of the byte at a word's end; `merged`: by two
    neighbours' numbers, first << 16 | second, the number of the token that they merge into. Tokens are
    numbered in the order of their merges, so the lowest is merged first.
    """

    merges: tuple[tuple[str, str], ...]
    ids: dict[str, int]
    bytes: bytes
    merged: dict[int, int]


@cache
def vocabulary() -> Vocabulary:
    """Read OpenAI's merges: 256 bytes, 256 bytes that end a word, 48,894 merges, and two special tokens."""
    packed = (files("clipkit.model") / "data" / MERGES_FILE).read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    pairs = (line.split() for line in lines[1 : OPENAI_VOCABULARY - 512 - 2 + 1])
    merges = tuple((left, right) for left, right in pairs)
    characters = _byte_characters()
    # Tokens are numbered with the bytes that print as themselves first.
    ordered = sorted(characters, key=lambda character: (ord(character) > 255, ord(character)))
    tokens = [*ordered, *(c + END_OF_WORD for c in ordered), *(left + right for left, right in merges)]
    ids = {token: number for number, token in enumerate([*tokens, START_OF_TEXT, END_OF_TEXT])}
    merged = {ids[left] << 16 | ids[right]: ids[left + right] for left, right in merges}
    return Vocabulary(merges, ids, bytes(ids[character] for character in characters), merged)


def encode(text: str) -> list[int]:
    """Token ids of one text, without start and end, of any length."""
    # No token reaches over white space, and what stands between is often known already.
    return list(chain.from_iterable(map(_CACHE.recent.__getitem__, clean(text).lower().split())))


def _beginning(caption: str, most: int) -> str:
    if len(caption) <= most:
        return caption
    shorter: str = _SPACES.sub(r"\1", caption).lstrip()[:most]
    return shorter


@dataclass(frozen=True)
class Tokenizer:
    """Picklable callable for the loader: captions → int64 (B, L), cut and padded as OpenAI's.

    What lies far behind the last token that counts is not read: a hostile text of that length could take
    minutes (ftfy resolves `&amp;amp;amp;…` round by round).
    """

    context_length: int = OPENAI_CONTEXT_LENGTH

    def __call__(self, captions: Sequence[str]) -> npt.NDArray[np.int64]:
        """Tokens (B, L) of B captions."""
        most = READ_FOR_A_TOKEN * self.context_length
        return _padded([encode(_beginning(caption, most)) for caption in captions], self.context_length)


def tokenize(
    texts: str | Sequence[str], context_length: int = OPENAI_CONTEXT_LENGTH, truncate: bool = False
) -> "torch.Tensor":
    """Tokens (n, context_length), int32, of one text or several: start, text, end, zeros.

    A text that is too long is cut so that its last token is the end, if `truncate`; else RuntimeError, as in
    `clip`.
    """
    import torch

    texts = [texts] if isinstance(texts, str) else texts
    encoded = [encode(text) for text in texts]
    if not truncate:
        for text, tokens in zip(texts, encoded, strict=True):
            if len(tokens) + 2 > context_length:
                raise RuntimeError(f"Input {text} is too long for context length {context_length}")
    return torch.from_numpy(_padded(encoded, context_length).astype(np.int32))


def _padded(encoded: list[list[int]], length: int) -> npt.NDArray[np.int64]:
    start, end = (vocabulary().ids[mark] for mark in (START_OF_TEXT, END_OF_TEXT))
    rows = [[start, *tokens, end] for tokens in encoded]
    for row in rows:
        if len(row) > length:
            row[length - 1 :] = [end]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    tokens_BL = np.zeros((len(rows), length), np.int64)
    tokens_BL[np.arange(length) < lengths[:, None]] = list(chain.from_iterable(rows))
    return tokens_BL


def _encode_chunk(chunk: str) -> tuple[int, ...]:
    return tuple(chain.from_iterable(map(_encode_word, _WORD.findall(chunk))))


_CACHE = TokenCache(_encode_chunk, CACHE_BYTES, CACHED_LENGTH)
os.register_at_fork(after_in_child=_CACHE.after_fork)


def _encode_word(word: str) -> tuple[int, ...]:
    table = vocabulary()
    if word in (START_OF_TEXT, END_OF_TEXT):
        return (table.ids[word],)
    if word.isascii() and (whole := table.ids.get(word + END_OF_WORD)) is not None:
        return (whole,)  # each token is what its own merges lead to
    numbers = list(word.encode("utf-8").translate(table.bytes))
    numbers[-1] += 256
    return tuple((_merged if len(numbers) <= SHORT_WORD else _merged_long)(numbers, table.merged))


def _merged(numbers: list[int], merged: dict[int, int]) -> list[int]:
    # First merge first, leftmost first: n² steps for n bytes, but of the interpreter's own code.
    never = OPENAI_VOCABULARY
    known = [merged.get(first << 16 | second, never) for first, second in pairwise(numbers)]
    while known and (lowest := min(known)) < never:
        left = known.index(lowest)
        numbers[left] = lowest
        del numbers[left + 1], known[left]
        if left:
            known[left - 1] = merged.get(numbers[left - 1] << 16 | lowest, never)
        if left < len(known):
            known[left] = merged.get(lowest << 16 | numbers[left + 1], never)
    return numbers


def _merged_long(numbers: list[int], merged: dict[int, int]) -> list[int]:
    # The same in O(n log n) steps. A merge can only make pairs that merge later (a token is learnt before it
    # is merged), so a heap visits them in the same order.
    following = [*range(1, len(numbers)), -1]
    preceding = list(range(-1, len(numbers) - 1))
    pairs = enumerate(first << 16 | second for first, second in pairwise(numbers))
    heap = [(merged[pair], left, pair) for left, pair in pairs if pair in merged]
    heapq.heapify(heap)
    while heap:
        lowest, left, pair = heapq.heappop(heap)
        right = following[left]
        if right < 0 or numbers[left] << 16 | numbers[right] != pair:
            continue  # one of the two is part of a longer token by now
        numbers[left], numbers[right] = lowest, -1
        after = following[left] = following[right]
        if after >= 0:
            preceding[after] = left
        for first, second in ((preceding[left], left), (left, after)):
            if first >= 0 and second >= 0 and (new := numbers[first] << 16 | numbers[second]) in merged:
                heapq.heappush(heap, (merged[new], first, new))
    return [number for number in numbers if number >= 0]


def _byte_characters() -> tuple[str, ...]:
    printable = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    }
    spare = iter(range(256, 512))
    return tuple(chr(byte) if byte in printable else chr(next(spare)) for byte in range(256))
