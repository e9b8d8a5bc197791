"""What stands otherwise in one description than in another, in words for an error's one line."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

_LONGEST = 100
_TOLD = 10


def differences(
    one: Mapping[str, Any],
    other: Mapping[str, Any],
    *,
    verbs: tuple[str, str] = ("was", "now"),
    apart_from: Collection[str] = (),
) -> list[str]:
    """Return a phrase such as "image.quality was 95, now 90" for each value that is not the same in both.

    Values in mappings within mappings have dotted names; `apart_from` names those that may differ. A value
    that one of them lacks counts as None.
    """
    return [
        f"{name} {verbs[0]} {_shown(mine)}, {verbs[1]} {_shown(theirs)}"
        for name, mine, theirs in _pairs(one, other)
        if name not in apart_from and mine != theirs
    ]


def told(phrases: Sequence[str]) -> str:
    """Return the first few of `differences`, as one line, and how many more there are."""
    more = len(phrases) - _TOLD
    return "; ".join([*phrases[:_TOLD], *([f"and {more:,} differences more"] if more > 0 else [])])


def _pairs(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*one, *other]):
        mine, theirs = one.get(name), other.get(name)
        if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
            yield from _pairs(mine, theirs, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", mine, theirs


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
