"""What histories are to a model: the events that its encoder reads, and the items met already.

Shapes use these letters: ``Q`` queries (histories), ``U`` distinct inputs, ``E`` events of these.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posneg_rec.memory import ItemMemory, Recalled
from posneg_rec.sequences import Histories, PackedSequences, offsets_of, ranges

__all__ = ["Inputs", "Queries"]


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

    @classmethod
    def before(
        cls,
        histories: Histories,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        max_len: int,
        likes_only: bool,
        gap_edges: NDArray[np.float64],
    ) -> Queries:
        """Take the histories of `users` (positions) before the events `stops`.

        Items that the catalogue lacks are left out. The encoder gets the last `max_len` events,
        of all or of the liked ones; `gap_edges` bound the ranges of time between all events.
        """
        starts = histories.offsets[:-1][users]

        def events(kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
            n_before = np.concatenate([[0], np.cumsum(kept)])
            return np.flatnonzero(kept), n_before[starts], n_before[stops]

        known = histories.items >= 0
        read, first, last = events(known & (histories.signs == 1) if likes_only else known)
        # Where a user's input ends tells which user and how much: one key for equal inputs.
        key = np.where(last > first, last, -1)
        _, distinct, rows = np.unique(key, return_index=True, return_inverse=True)
        first, last = np.maximum(first, last - max_len)[distinct], last[distinct]
        index = read.take(ranges(first, last - first))
        inputs = Inputs(
            histories.items[index],
            histories.signs[index],
            histories.gap_tags(gap_edges)[index],
            histories.elapsed()[index],
            offsets_of(last - first),
        )
        seen, first, last = events(known)
        index = seen.take(ranges(first, last - first))
        met = PackedSequences(histories.items[index], offsets_of(last - first))
        return cls(inputs, rows, met, histories.signs[index])

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
