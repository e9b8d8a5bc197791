import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipkit.model.augment import Draws
from clipkit.splitmix import INCREMENT, MASK, mix

# What the authors' splitmix64.c makes from the seed 1234567.
SEQUENCE = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def test_the_sequence_of_a_seed() -> None:
    assert [mix((1234567 + step * INCREMENT) & MASK) for step in range(5)] == SEQUENCE
    draws = Draws(1234567)
    assert [draws.uniform() for _ in SEQUENCE] == [(word >> 11) / 2**53 for word in SEQUENCE]


@given(st.lists(st.integers(0, MASK)))
def test_an_array_is_mixed_like_its_elements(words: list[int]) -> None:
    assert mix(np.array(words, np.uint64)).tolist() == [mix(word) for word in words]
