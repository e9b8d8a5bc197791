import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from clipkit.model import tokenizer
from clipkit.model.token_cache import TokenCache, Tokens

NUMBERS = list(range(50_000))


def lengths(text: str) -> Tokens:
    """As many tokens as characters: numbers that exist already, as those of a vocabulary do."""
    return tuple(NUMBERS[ord(c)] for c in text)


def noting(asked: list[str]) -> Callable[[str], Tokens]:
    def compute(text: str) -> Tokens:
        asked.append(text)
        return lengths(text)

    return compute


def test_it_gives_what_was_computed_and_computes_once() -> None:
    asked: list[str] = []
    cache = TokenCache(noting(asked), 1 << 20, 8)
    for _ in range(3):
        assert cache.recent["ab"] == (97, 98)
    assert asked == ["ab"]
    for _ in range(2):
        assert cache.recent["a long text"] == lengths("a long text")
    assert asked == ["ab", "a long text", "a long text"]


def test_what_is_asked_for_again_outlives_what_is_not() -> None:
    asked: list[str] = []
    cache = TokenCache(noting(asked), 1 << 16, 64)
    for number in range(5_000):
        assert cache.recent["often"] == lengths("often")
        assert cache.recent[f"once {number}"] == lengths(f"once {number}")
    assert asked.count("often") == 1
    assert cache.recent["once 1"] == lengths("once 1")
    assert asked.count("once 1") == 2


@pytest.mark.parametrize("length", [3, 30, 64])
@pytest.mark.parametrize("capacity", [600_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_its_memory_stays_within_its_bound(capacity: int, length: int) -> None:
    cache = TokenCache(lengths, capacity, 64)
    noise = "".join(random.Random(length).choices([chr(code) for code in range(0x3000, 0x9000)], k=20_000))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for first in range(capacity // 60):
            cache.recent[noise[first : first + length]]
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert capacity / 4 < after - before < capacity
    assert peak - before < capacity


def test_threads_share_it() -> None:
    cache = TokenCache(lengths, 1 << 16, 64)

    def hammer(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(5_000):
            text = str(draw.randrange(3_000))
            assert cache.recent[text] == lengths(text)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(hammer, range(8)))
    finally:
        sys.setswitchinterval(interval)
    held = sum(sys.getsizeof(text) + sys.getsizeof(tokens) + 104 for text, tokens in cache.recent.items())
    assert cache._bytes == held <= cache._capacity // 2


def test_the_tokenizers_is_bounded_and_keeps_no_long_words() -> None:
    assert tokenizer._CACHE._capacity == tokenizer.CACHE_BYTES
    tokenizer.encode("x" * (tokenizer.CACHED_LENGTH + 1))
    assert "x" * (tokenizer.CACHED_LENGTH + 1) not in tokenizer._CACHE.recent
    tokenizer.encode("unlikelyword,")
    assert "unlikelyword," in tokenizer._CACHE.recent


def test_a_fork_while_another_thread_stores_does_not_hang() -> None:
    program = """if True:
        import os, signal
        from clipkit.model.tokenizer import _CACHE, encode
        with _CACHE._lock:
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                encode("words never seen before")
                os._exit(0)
        print(os.waitpid(child, 0)[1])
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
