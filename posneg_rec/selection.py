"""Which candidates of a ranking are shown: filters, pinned items, groups, variety.

Everything here works on codes and scores with NumPy alone; what a request says in raw ids becomes
:class:`Filters` in :mod:`filters`. Variety is maximal marginal relevance [1]_.

Shapes use these letters: ``Q`` queries, ``N`` items, ``m`` pinned items, ``p`` items of a pool,
``c`` candidates, the pinned ones before those of the pool.

References
----------
.. [1] Carbonell, Goldstein: "The Use of MMR, Diversity-Based Reranking for Reordering Documents
   and Producing Summaries", SIGIR 1998. doi:10.1145/290941.291025.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from posneg_rec.sequences import PackedSequences

__all__ = ["NO_FILTERS", "Filters", "Pool", "select", "take_out"]

Array = NDArray[np.float32]

# Of so many candidates an answer with groups is made at first, for each item that is asked for.
_POOL_OF_GROUPS = 4
# A varied answer is made of so many candidates for each item, and of no fewer than so many.
_POOL_OF_VARIETY, _SMALLEST_POOL = 10, 100


@dataclass(frozen=True, eq=False)
class Filters:
    """What a request asks for beside the best scores, in codes.

    Parameters
    ----------
    allowed : bool array of shape (N,), default=None
        The candidates of all queries; None for all items.
    allowed_rows : PackedSequences of length Q, default=None
        The candidates of each query, in any order.
    is_limited : bool array of shape (Q,), default=None
        Which queries `allowed_rows` speaks of; None for all.
    denied_rows : tuple of PackedSequences of length Q
        What is no candidate of each query, in any order.
    pinned : int64 array of shape (Q, m), default=None
        What comes first, if it is a candidate; distinct in a row, padded with -1.
    boosts : float32 array of shape (N,), default=None
        Added to the scores.
    groups : int64 array of shape (N,), default=None
        The group of each item; -1 for none.
    max_per_group : int, default=1
        How many items of one group an answer may have.
    diversity : float, default=0.0
        Weight in [0, 1] of being unlike what was chosen before.
    """

    allowed: NDArray[np.bool_] | None = None
    allowed_rows: PackedSequences | None = None
    is_limited: NDArray[np.bool_] | None = None
    denied_rows: tuple[PackedSequences, ...] = ()
    pinned: NDArray[np.int64] | None = None
    boosts: Array | None = None
    groups: NDArray[np.int64] | None = None
    max_per_group: int = 1
    diversity: float = 0.0

    @property
    def reorders(self) -> bool:
        """Whether an answer may differ from the head of the ranking of the candidates."""
        return self.pinned is not None or self.groups is not None or self.diversity > 0

    def pool_size(self, k: int) -> int:
        """Tell of how many candidates an answer of k items is made at first."""
        if self.diversity > 0:
            return max(_POOL_OF_VARIETY * k, _SMALLEST_POOL)
        return k if self.groups is None else _POOL_OF_GROUPS * k

    def take(self, queries: NDArray[np.int64]) -> Filters:
        """Return the filters of some queries."""
        return replace(
            self,
            allowed_rows=None if self.allowed_rows is None else self.allowed_rows.take(queries),
            is_limited=None if self.is_limited is None else self.is_limited[queries],
            denied_rows=tuple(rows.take(queries) for rows in self.denied_rows),
            pinned=None if self.pinned is None else self.pinned[queries],
        )

    def blocked(self, queries: slice | NDArray[np.int64], n_items: int) -> NDArray[np.bool_] | None:
        """Tell what each query's own lists rule out, (Q, N); None if there are none."""
        if self.allowed_rows is None and not self.denied_rows:
            return None
        if isinstance(queries, slice):
            queries = np.arange(queries.start, queries.stop)
        blocked = np.zeros((len(queries), n_items), dtype=bool)
        if self.allowed_rows is not None:
            blocked[slice(None) if self.is_limited is None else self.is_limited[queries]] = True
            _fill(blocked, self.allowed_rows.take(queries), False)
        for rows in self.denied_rows:
            _fill(blocked, rows.take(queries), True)
        return blocked


NO_FILTERS = Filters()


def _fill(matrix: NDArray[np.bool_], columns: PackedSequences, value: bool) -> None:
    """Write a value into some columns of each row."""
    flat = matrix.reshape(-1)  # a view
    starts = matrix.shape[1] * np.arange(len(matrix))
    flat[np.repeat(starts, columns.lengths) + columns.values] = value


class Pool(NamedTuple):
    """The best candidates of each query, best first, but for the pinned ones."""

    codes: NDArray[np.int64]  # (Q, p), -1 where there are fewer
    scores: Array  # (Q, p)
    pinned_scores: Array  # (Q, m), -inf of what is no candidate

    def part(self, block: slice) -> Pool:
        """Return the pool of some of the queries."""
        return Pool(self.codes[block], self.scores[block], self.pinned_scores[block])


def take_out(
    scores: Array,
    rows: NDArray[np.int64],
    items: slice,
    pinned: NDArray[np.int64],
    found: Array,
) -> None:
    """Move the scores of pinned items from a tile, whose rows are `rows`, to `found` (Q, m)."""
    codes = pinned[rows]
    row, place = np.nonzero((codes >= items.start) & (codes < items.stop))
    column = codes[row, place] - items.start
    found[rows[row], place] = scores[row, column]
    scores[row, column] = -np.inf


def select(
    pool: Pool, k: int, filters: Filters, vectors: Array
) -> tuple[NDArray[np.int64], Array, NDArray[np.bool_]]:
    """Choose k items of each query from a pool.

    Parameters
    ----------
    pool : Pool
    k : int
    filters : Filters
        Of the same queries.
    vectors : float32 array of shape (N, d)
        Of the items, whose cosines tell what is alike.

    Returns
    -------
    codes : int64 array of shape (Q, k)
        -1 where a query has fewer.
    scores : float32 array of shape (Q, k)
        -inf there.
    is_short : bool array of shape (Q,)
        Whether a wider pool would find more.
    """
    codes, scores = pool.codes, pool.scores
    n_pinned = pool.pinned_scores.shape[1]
    if filters.pinned is not None:
        codes = np.concatenate([filters.pinned, codes], axis=1)  # (Q, c)
        scores = np.concatenate([pool.pinned_scores, scores], axis=1)
    fits = _within_groups(codes, scores > -np.inf, filters)
    is_short = (fits.sum(1) < k) & (pool.scores[:, -1] > -np.inf)
    if filters.diversity > 0:
        places = _varied(codes, scores, fits, n_pinned, k, filters, vectors)
    else:
        places = np.argsort(~fits, axis=1, kind="stable")[:, :k]
        places[~np.take_along_axis(fits, places, 1)] = -1
    if places.shape[1] < k:
        places = np.pad(places, ((0, 0), (0, k - places.shape[1])), constant_values=-1)
    chosen = places >= 0
    return (
        np.where(chosen, np.take_along_axis(codes, places, 1), -1),
        np.where(chosen, np.take_along_axis(scores, places, 1), np.float32(-np.inf)),
        is_short,
    )


def _within_groups(
    codes: NDArray[np.int64], is_candidate: NDArray[np.bool_], filters: Filters
) -> NDArray[np.bool_]:
    """Tell which candidates, taken from left to right, find room in their groups, (Q, c)."""
    if filters.groups is None:
        return is_candidate
    groups = np.where(is_candidate, filters.groups[codes], -1)
    row, place = np.nonzero(groups >= 0)
    key = row * (int(filters.groups.max(initial=0)) + 1) + groups[row, place]
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    is_first = np.ones(len(key), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(key)), 0))
    n_before = np.arange(len(key)) - first  # of the same group and query
    full = order[n_before >= filters.max_per_group]
    fits = is_candidate.copy()
    fits[row[full], place[full]] = False
    return fits


def _varied(
    codes: NDArray[np.int64],
    scores: Array,
    fits: NDArray[np.bool_],
    n_pinned: int,
    k: int,
    filters: Filters,
    vectors: Array,
) -> NDArray[np.int64]:
    """Choose by maximal marginal relevance [1]_: places among the candidates, (Q, k) or fewer.

    What is chosen next has the largest ``(1 - diversity) r - diversity max cos``: ``r`` is its
    score, brought to [0, 1] between the worst and the best of the pool, and the maximum is over
    what was chosen before it (0 before the first). Equal values go by the order of the candidates.
    Pinned items are chosen before all others.
    """
    n_queries, n_candidates = codes.shape
    is_open = scores > -np.inf
    # Of the pinned, which nothing precedes, those that fit are known.
    is_open[:, :n_pinned] = fits[:, :n_pinned]
    rows = np.arange(n_queries)
    relevance = _relevance(scores[:, n_pinned:])
    gain = (1 - filters.diversity) * relevance  # (Q, p)
    value = np.empty((n_queries, n_candidates))
    units = vectors[np.maximum(codes, 0)].astype(np.float64)  # (Q, c, d)
    norms = np.sqrt(np.einsum("qcd,qcd->qc", units, units))
    units /= np.maximum(norms, np.finfo(np.float64).tiny)[:, :, None]
    alike = np.zeros((n_queries, n_candidates))
    groups = None if filters.groups is None else np.where(codes >= 0, filters.groups[codes], -1)
    in_group = np.zeros((n_queries, n_candidates), dtype=np.int64)
    k = min(k, n_candidates)
    places = np.full((n_queries, k), -1)
    for step in range(k):
        value[:, :n_pinned] = np.inf  # of which argmax takes the first
        value[:, n_pinned:] = gain - filters.diversity * alike[:, n_pinned:]
        value[~is_open] = -np.inf
        place = value.argmax(1)
        found = is_open[rows, place]
        if not found.any():
            break
        places[found, step] = place[found]
        is_open[rows, place] = False
        cosines = np.einsum("qcd,qd->qc", units, units[rows, place])
        alike = cosines if step == 0 else np.maximum(alike, cosines)
        if groups is not None:
            group = groups[rows, place]
            in_group += (groups == group[:, None]) & (group >= 0)[:, None]
            is_open &= in_group < filters.max_per_group
    return places


def _relevance(scores: Array) -> NDArray[np.float64]:
    """Bring the scores of each row to [0, 1]; what is no candidate has any."""
    known = scores > -np.inf
    exact = np.where(known, scores, 0).astype(np.float64)
    low = np.where(known, exact, np.inf).min(1, initial=np.inf, keepdims=True)
    high = np.where(known, exact, -np.inf).max(1, initial=-np.inf, keepdims=True)
    nothing = low > high
    low, high = np.where(nothing, 0, low), np.where(nothing, 0, high)
    span = np.where(high > low, high - low, 1)
    return np.where(known, (exact - low) / span, 0)
