"""How the values of a column are spread, in memory that does not grow with their number."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_BITS = 10  # kept of a value behind its first one: below 2,048 all of them
_BINS = (64 - _BITS) << _BITS
PERCENTS = (1, 5, 25, 50, 75, 95, 99)


class Spread(NamedTuple):
    """The least, mean, median and greatest of a column, and percentiles; all zero for one without values.

    Percentiles (nearest rank) are exact below 2,048, and above to a thousandth of the value.
    """

    values: int
    least: int
    mean: float
    median: int
    greatest: int
    percentiles: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """Return the spread as plain JSON values."""
        return self._asdict()


class Distribution:
    """Counts values, integers from 0 on, in bins that are narrow where values are small.

    The bins are those of HdrHistogram: the position of a value's first bit, and the ten bits behind it.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._sum = self._values = self._greatest = 0
        self._least: int | None = None

    def add(self, values: npt.NDArray[Any]) -> None:
        """Count values; negative ones, of which a whole dataset has none, count as 0."""
        if not len(values):
            return
        values = np.maximum(values.astype(np.int64), 0)
        shift = np.maximum(np.frexp(values.astype(np.float64))[1].astype(np.int64) - _BITS - 1, 0)
        bins, counts = np.unique((shift << _BITS) + (values >> shift), return_counts=True)
        self._counts[bins] += counts
        self._values += len(values)
        self._sum += int(values.sum())
        self._greatest = max(self._greatest, int(values.max()))
        least = int(values.min())
        self._least = least if self._least is None else min(self._least, least)

    def spread(self) -> Spread:
        """Return how the values so far are spread."""
        if self._least is None:
            return Spread(0, 0, 0.0, 0, 0, {f"p{percent}": 0 for percent in PERCENTS})
        ends = np.cumsum(self._counts)
        ranks = [max(1, -(-percent * self._values // 100)) for percent in PERCENTS]
        bins = np.searchsorted(ends, ranks)
        shift = np.maximum((bins >> _BITS) - 1, 0)
        found = (bins - (shift << _BITS)) << shift
        percentiles = {
            f"p{percent}": max(self._least, int(value))
            for percent, value in zip(PERCENTS, found, strict=True)
        }
        mean = round(self._sum / self._values, 2)
        return Spread(self._values, self._least, mean, percentiles["p50"], self._greatest, percentiles)
