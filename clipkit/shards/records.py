"""Sets of source records: who accounts for a record twice is found in two bytes a record at most."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

_PAGE_BITS = 16
_DENSE = 4096  # rows of a page from which on a bit each is less than two bytes each

Rows = np.ndarray[Any, np.dtype[np.int64]]
_Page = np.ndarray[Any, np.dtype[Any]]


class RecordSet:
    """A set of records (source, row), row ≥ 0, in pages of 65,536 rows: lists of 16 bits, or a bit a row.

    As Chambi, Lemire et al., "Better bitmap performance with Roaring bitmaps" (2016).
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._pages: dict[tuple[int, int], _Page] = {}

    def add(self, sources: Sequence[str], of_source: Rows, rows: Rows) -> Rows:
        """Add records, `sources[of_source[i]]` with `rows[i]`; return the places of those there already.

        Where a record comes twice in one call, its second place is among them.
        """
        numbers = np.array([self._numbers.setdefault(each, len(self._numbers)) for each in sources], np.int64)
        of_source = numbers[of_source] if len(numbers) else of_source
        order = np.lexsort((rows, of_source))
        sorted_sources, sorted_rows = of_source[order], rows[order]
        again = np.zeros(len(order), bool)
        again[1:] = (np.diff(sorted_rows) == 0) & (np.diff(sorted_sources) == 0)
        pages = sorted_rows >> _PAGE_BITS
        begins = np.flatnonzero((np.diff(pages) != 0) | (np.diff(sorted_sources) != 0)) + 1
        edges = [0, *begins.tolist(), len(order)] if len(order) else [0]
        for start, end in pairwise(edges):
            key = int(sorted_sources[start]), int(pages[start])
            low = (sorted_rows[start:end] & 0xFFFF).astype(np.uint16)
            again[start:end] |= self._add_to_page(key, low)
        return np.sort(order[again])

    def absent(self, source: str, end: int) -> Rows:
        """Return the rows of `source` from 0 up to `end` that are not in the set."""
        number = self._numbers.get(source, -1)
        found = np.zeros(end, bool)
        for start in range(0, end, 1 << _PAGE_BITS):
            page = self._pages.get((number, start >> _PAGE_BITS), np.zeros(0, np.uint16))
            if page.dtype == np.uint16:
                rows = page.astype(np.int64)
            else:
                rows = np.flatnonzero(np.unpackbits(page, bitorder="little"))
            found[rows[rows < end - start] + start] = True
        return np.flatnonzero(~found)

    def _add_to_page(self, key: tuple[int, int], low: _Page) -> _Page:
        page = self._pages.get(key, np.zeros(0, np.uint16))
        if page.dtype == np.uint16:
            known = np.isin(low, page)
            page = np.union1d(page, low)
            if len(page) > _DENSE:
                bits = np.zeros(1 << _PAGE_BITS, bool)
                bits[page] = True
                page = np.packbits(bits, bitorder="little")
        else:
            known = (page[low >> 3] >> (low & 7).astype(np.uint8) & 1).astype(bool)
            np.bitwise_or.at(page, low >> 3, (1 << (low & 7)).astype(np.uint8))
        self._pages[key] = page
        return known
