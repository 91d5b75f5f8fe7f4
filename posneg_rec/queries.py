"""What histories are to a model: the events that its encoder reads, and the items met already.

Shapes use these letters: ``Q`` queries (histories), ``U`` distinct inputs, ``E`` events of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posneg_rec._lazy import lazy
from posneg_rec.memory import ItemMemory, Recalled
from posneg_rec.sequences import Histories, PackedSequences, offsets_of, ranges

__all__ = ["HistoryReader", "Inputs", "Queries"]


class Inputs(NamedTuple):
    """What an encoder reads: the events of U histories, packed, oldest first."""

    items: NDArray[np.int64]  # (E,) codes
    signs: NDArray[np.int8]  # (E,)
    gap_tags: NDArray[np.int64]  # (E,)
    elapsed: NDArray[np.float64]  # (E,)
    offsets: NDArray[np.int64]  # (U + 1,)

    def __len__(self) -> int:
        """Return the number of histories."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of events of each history, (U,)."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Queries:
    """What Q histories are to the model: encoder inputs, and items that were met already.

    Queries with the same input share it: query ``q`` reads history ``rows[q]`` of `inputs`.
    """

    inputs: Inputs
    rows: NDArray[np.int64]  # (Q,)
    seen: PackedSequences  # Q sequences of item codes
    seen_signs: NDArray[np.int8]  # of each of its values

    @lazy
    def is_unread(self) -> NDArray[np.bool_]:
        """Which queries the encoder has nothing to read of, (Q,)."""
        unread: NDArray[np.bool_] = self.inputs.lengths[self.rows] == 0
        return unread

    def take(self, queries: slice | NDArray[np.int64]) -> Queries:
        """Return some of the queries, which share the inputs of all."""
        starts, lengths = self.seen.offsets[:-1][queries], self.seen.lengths[queries]
        events = ranges(starts, lengths)
        met = PackedSequences(self.seen.values[events], offsets_of(lengths))
        return Queries(self.inputs, self.rows[queries], met, self.seen_signs[events])

    def recall(self, memory: ItemMemory, queries: slice | NDArray[np.int64]) -> Recalled:
        """Let a memory read what some queries have met, all of it."""
        asked = self.take(queries)
        return memory.recall(asked.seen, asked.seen_signs)


class HistoryReader:
    """Histories as a model reads them: what is the same for all queries is made once.

    Items that the catalogue lacks are left out.

    Parameters
    ----------
    histories : Histories
    max_len : int
        Of how many events, the latest, the encoder gets to see.
    likes_only : bool
        Whether these are the liked ones, or all.
    gap_edges : float64 array
        Bounds of the ranges of time between all events; none of a model that reads no times.
    """

    def __init__(
        self,
        histories: Histories,
        *,
        max_len: int,
        likes_only: bool,
        gap_edges: NDArray[np.float64],
    ) -> None:
        self.histories, self._max_len = histories, max_len
        known = histories.items >= 0
        self._met = _Kept.of(known)
        self._read = _Kept.of(known & (histories.signs == 1)) if likes_only else self._met
        self._gap_tags = histories.gap_tags(gap_edges)
        reads_times = len(gap_edges) > 0
        self._elapsed = histories.elapsed() if reads_times else np.full(len(known), np.nan)

    def before(self, users: NDArray[np.int64], stops: NDArray[np.int64]) -> Queries:
        """Take the histories of `users` (positions) before the events `stops`, (Q,) each."""
        histories = self.histories
        starts = histories.offsets[:-1][users]
        first, last = self._read.n_before[starts], self._read.n_before[stops]
        # Where a user's input ends tells which user and how much: one key for equal inputs.
        key = np.where(last > first, last, -1)
        _, distinct, rows = np.unique(key, return_index=True, return_inverse=True)
        first, last = np.maximum(first, last - self._max_len)[distinct], last[distinct]
        index = self._read.events.take(ranges(first, last - first))
        inputs = Inputs(
            histories.items[index],
            histories.signs[index],
            self._gap_tags[index],
            self._elapsed[index],
            offsets_of(last - first),
        )
        first, last = self._met.n_before[starts], self._met.n_before[stops]
        index = self._met.events.take(ranges(first, last - first))
        met = PackedSequences(histories.items[index], offsets_of(last - first))
        return Queries(inputs, rows, met, histories.signs[index])


class _Kept(NamedTuple):
    """Some of all events, and how many of them lie before each place on the axis of all."""

    events: NDArray[np.int64]
    n_before: NDArray[np.int64]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> _Kept:
        return cls(np.flatnonzero(mask), np.concatenate([[0], np.cumsum(mask)]))
