import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clipkit.errors import DatasetError
from clipkit.shards.original import sha256_words
from clipkit.shards.split import in_validation
from clipkit.splitmix import mix


def words(texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.uint64]]:
    return sha256_words(pa.chunked_array([pa.array(texts, pa.string())]), Path("x"))


PICTURES = [hashlib.sha256(b"%d" % number).hexdigest() for number in range(20_000)]
GOLDEN = [3, 490, 621, 633, 636, 751, 908, 974, 977]


def test_the_rule_is_what_it_always_was() -> None:
    """Golden: a change of these figures would move pictures of every dataset to the other side."""
    assert np.flatnonzero(in_validation(words(PICTURES[:1000]), 0.01)).tolist() == GOLDEN


def test_the_rule_is_as_it_is_written_down() -> None:
    expected = []
    for digits in PICTURES[:500]:
        state = 0
        for place in range(0, 64, 16):
            state = mix(state ^ int(digits[place : place + 16], 16))
        expected.append(state < 0.2 * 2**64)
    assert in_validation(words(PICTURES[:500]), 0.2).tolist() == expected


def test_a_share_is_about_that_and_a_larger_one_holds_the_smaller() -> None:
    all_words = words(PICTURES)
    parts = [in_validation(all_words, share) for share in (0.01, 0.05, 0.5)]
    assert [abs(part.mean() - share) < 0.01 for part, share in zip(parts, (0.01, 0.05, 0.5), strict=True)]
    assert not (parts[0] & ~parts[1]).any() and not (parts[1] & ~parts[2]).any()


@pytest.mark.parametrize("text", ["", "0" * 63, "0" * 65, "g" * 64, "A" * 64, "é" * 64, None])
def test_what_is_no_sha256_is_refused(text: str | None) -> None:
    with pytest.raises(DatasetError, match="64 hex digits"):
        sha256_words(pa.chunked_array([pa.array([PICTURES[0], text], pa.string())]), Path("x"))
