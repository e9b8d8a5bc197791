"""The splitmix64 step (Steele, Lea, Flood 2014): all randomness that must depend on an explicit key alone."""

from typing import TYPE_CHECKING, Any, overload

if TYPE_CHECKING:
    import numpy as np

MASK = (1 << 64) - 1
INCREMENT = 0x9E3779B97F4A7C15


@overload
def mix(value: int) -> int: ...
@overload
def mix(value: "np.ndarray[Any, np.dtype[np.uint64]]") -> "np.ndarray[Any, np.dtype[np.uint64]]": ...
def mix(value: Any) -> Any:
    """Return the step of a 64-bit integer, or of each element of a uint64 array.

    The step of s, s + INCREMENT, s + 2 · INCREMENT … is the sequence that splitmix64 makes from the seed s.
    """
    value = (value + INCREMENT) & MASK
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31
