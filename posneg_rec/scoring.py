"""From states to scores to the top k, ties by item code, with NumPy alone.

Scores are made a tile at a time, some queries by some items, and never stand in memory for all of
both: a tile is finished while it is in the cache, and what is kept of it is small.

Shapes use these letters: ``Q`` queries (histories), ``N`` items, ``n`` items of a tile, ``d`` the
embedding dimension, ``U`` distinct inputs of the queries.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posneg_rec._lazy import lazy
from posneg_rec.inference import Model
from posneg_rec.linalg import for_each, log_sigmoid, quietly, sigmoid
from posneg_rec.memory import ItemMemory, Recalled, TasteWeights, WeighedMemory
from posneg_rec.queries import Queries
from posneg_rec.selection import NO_FILTERS, Filters, Pool, select, take_out

if TYPE_CHECKING:
    from posneg_rec.progress import Watch


__all__ = [
    "COST",
    "LEAST_WORTH",
    "Catalogue",
    "Scorer",
    "Worth",
    "n_stages",
    "target_ranks",
    "top_k",
]

Array = NDArray[np.float32]

# Scores of one tile, which fit a core's cache (1 MiB).
_TILE_SCORES = 2**18
# Queries of a tile: enough for a matrix product to run at full speed.
_TILE_QUERIES = 2**8
# Where whole rows of scores are needed, so many numbers at once (64 MiB).
_MAX_ROW_SCORES = 2**24
# Where queries have lists of their own, so many marks of theirs at once (64 MiB).
_MAX_MARKS = 2**26
# Answers that are put together from pools: so many candidates in memory, and in a thread, at once.
_MAX_POOLED, _MAX_SELECTED = 2**22, 2**14
# What no history is scored by is small in the vectors of items, for an index sorts them by all
# their numbers; a power of 2, which changes no digit.
_SELDOM_ASKED = np.float32(64)
# Lists of more than this share of the catalogue are made from whole rows of scores.
_LONG_LIST = 1 / 16


class Catalogue:
    """What items are whatever the history; each part is made when first needed, and kept.

    Parameters
    ----------
    model : Model
    likes, dislikes : int arrays of shape (N,)
        How often each item was liked and disliked.
    memory : WeighedMemory, default=None
    """

    def __init__(
        self,
        model: Model,
        likes: NDArray[np.int64],
        dislikes: NDArray[np.int64],
        memory: WeighedMemory | None = None,
    ) -> None:
        self.model, self.likes, self.dislikes, self.memory = model, likes, dislikes, memory

    @lazy
    def fallback_parts(self) -> Array:
        """Log of the share of all likes, and log of the like rate, (2, N)."""
        likes, dislikes = self.likes + 1.0, self.dislikes + 1.0
        parts = np.log(likes / likes.sum()), np.log(likes / (likes + dislikes))
        return np.stack(parts).astype(np.float32)

    @lazy
    def fallback(self) -> Array:
        """Scores where there is no history to read, (N,): popular and well-liked."""
        fallback: Array = self.fallback_parts.sum(0)
        return fallback

    @property
    def taste_weights(self) -> TasteWeights:
        """How the logit of being liked is made of the model's and of what a memory tells."""
        return TasteWeights(1.0, 0.0, 0.0) if self.memory is None else self.memory.taste_weights

    @lazy
    def own_tastes(self) -> Array:
        """Return what of the logit of being liked is the item's own, (N,)."""
        weights = self.taste_weights
        own: Array = np.float32(weights.model) * self.model.weights["item_taste"]
        if self.memory is not None:
            own = own + np.float32(weights.memory) * self.memory.items.levels
        return own

    @lazy
    def mean_item(self) -> tuple[Array, np.float32]:
        """Mean of item vectors (d,) and own tastes, weighed by likes."""
        share = ((self.likes + 1) / (self.likes + 1).sum()).astype(np.float32)
        return share @ self.model.items, np.float32(share @ self.own_tastes)

    def vectors(self, items: slice | NDArray[np.int64] = slice(None)) -> Array:
        """Make the vectors of items that :meth:`Scorer.query_vectors` is to be multiplied with.

        Parameters
        ----------
        items : slice or int64 array, default=all

        Returns
        -------
        float32 array of shape (n, d')
            The item's d numbers; its score where there is no history, made small; and of a model
            of likelihoods 1 and its own part of the logit of being liked.
        """
        vectors = self.model.items[items]
        dim = vectors.shape[1]
        found = np.empty((len(vectors), dim + _n_further(self.model)), np.float32)
        found[:, :dim] = vectors
        found[:, dim] = self.fallback[items] / _SELDOM_ASKED
        if self.model.is_likelihood:
            found[:, -2] = 1
            found[:, -1] = self.own_tastes[items]
        return found


def _n_further(model: Model) -> int:
    return 3 if model.is_likelihood else 1


class _Tangents(NamedTuple):
    """Of Q queries: an item's line is ``heights + slopes (queries . vector + own taste)``."""

    queries: Array  # (Q, d)
    slopes: Array  # (Q,)
    heights: Array  # (Q,)


@dataclass
class Scorer:
    """The scores of all items for some queries.

    Logits, or of a model of likelihoods ``log p(next)`` plus the log of what an item is worth that
    comes next, by how likely it is liked: :class:`Worth`. A memory adds what it knows to the logits
    of both. Where the encoder has nothing to read, the popular and well-liked score high.

    Parameters
    ----------
    model : Model
    likes, dislikes : int arrays of shape (N,)
        How often each item was liked and disliked.
    queries : Queries
    aversion : float, default=1.0
        What a dislike costs, >= 0, in a model of likelihoods.
    exclude_seen : bool, default=True
        Whether items that the query has seen score -inf.
    filters : Filters
        What is no candidate scores -inf, boosts are part of the scores; pinned items, groups and
        variety are the business of :meth:`top_k`.
    memory : WeighedMemory, default=None
        Of a model of likelihoods.
    liked_shift : float, default=0.0
        Added to the logits of being liked: the probability is that of a world in which the share
        of dislikes is another.
    catalogue : Catalogue, default=None
        Of the same model, likes, dislikes and memory, where one is kept.
    watch : Watch, default=None
        Sees the jobs of each stage done; the first stage is the encoding.
    """

    model: Model
    likes: NDArray[np.int64]
    dislikes: NDArray[np.int64]
    queries: Queries
    aversion: float = 1.0
    exclude_seen: bool = True
    filters: Filters = NO_FILTERS
    memory: WeighedMemory | None = None
    liked_shift: float = 0.0
    catalogue: Catalogue | None = None
    watch: Watch | None = None

    def __post_init__(self) -> None:
        """Encode what the queries read."""
        self._states = self.model.encode(self.queries.inputs, self.watch)  # (U, d)

    def top_k(self, k: int) -> tuple[NDArray[np.int64], Array]:
        """Find the best items of each query, best first, equal scores by item code.

        Pinned items come before them; groups and variety may leave some of them out, see
        :func:`selection.select`.

        Parameters
        ----------
        k : int

        Returns
        -------
        codes : int64 array of shape (Q, min(k, N))
            -1 where a query has fewer candidates.
        scores : float32 array of shape (Q, min(k, N))
            -inf there.
        """
        n_queries, n_items = len(self.queries.rows), len(self.likes)
        k = min(k, n_items)
        if not self.filters.reorders:
            return self._best(k)[:2]
        codes = np.full((n_queries, k), -1)
        best = np.full(codes.shape, -np.inf, dtype=np.float32)
        left, size = np.arange(n_queries), self.filters.pool_size(k)
        while len(left):
            size = min(size, n_items)
            step = max(1, _MAX_POOLED // size)
            parts = [left[start : start + step] for start in range(0, len(left), step)]
            # Where groups leave too few, the pool is widened until nothing is left to come.
            left = np.concatenate([self._select(part, k, size, codes, best) for part in parts])
            size *= 4
        return codes, best

    def _select(
        self,
        queries: NDArray[np.int64],
        k: int,
        size: int,
        codes: NDArray[np.int64],
        best: Array,
    ) -> NDArray[np.int64]:
        """Fill in the answers to some queries, from pools of a size; return which stay short."""
        asked = self._of(queries)
        pool, is_short = asked._best(size), np.empty(len(queries), dtype=bool)

        def fill(block: slice) -> None:
            filters = asked.filters.take(np.arange(block.start, block.stop))
            codes[queries[block]], best[queries[block]], is_short[block] = select(
                pool.part(block), k, filters, self.model.items
            )

        for_each(fill, asked._blocks(_MAX_SELECTED // size), self.watch)
        return queries[is_short & (size < len(self.likes))]

    def _of(self, queries: NDArray[np.int64]) -> Scorer:
        """Return the scorer of some of the queries, whose inputs are encoded already."""
        asked = copy.copy(self)
        for made in ("_recalled", "_tangents"):  # of all queries
            vars(asked).pop(made, None)
        asked.queries, asked.filters = self.queries.take(queries), self.filters.take(queries)
        return asked

    def _best(self, k: int) -> Pool:
        """Find the k <= N best candidates of each query that are not pinned."""
        n_items = len(self.likes)
        codes = np.full((len(self.queries.rows), k), -1)
        best = np.full(codes.shape, -np.inf, dtype=np.float32)
        pinned = self._pinned
        pinned_scores = np.full(pinned.shape, -np.inf, dtype=np.float32)

        def fill_whole(block: slice) -> None:
            scores, log_normaliser = self._whole_rows(block)
            everything = np.arange(len(scores)), slice(0, n_items)
            take_out(scores, *everything, pinned[block], pinned_scores[block])
            codes[block], best[block] = top_k(scores, k)
            best[block] -= log_normaliser[:, None]
            pinned_scores[block] -= log_normaliser[:, None]

        @quietly
        def fill(block: slice) -> None:
            found, top = codes[block], best[block]  # views
            floor, log_normaliser = top[:, -1], self._no_normaliser(block)
            for rows, items, scores in self._tiles(block, floor, log_normaliser):
                take_out(scores, rows, items, pinned[block], pinned_scores[block])
                # What was found before has lower codes and so goes before its equals.
                positions, top[rows] = top_k(np.concatenate([top[rows], scores], axis=1), k)
                kept = found[rows[:, None], np.minimum(positions, k - 1)]
                found[rows] = np.where(positions < k, kept, positions + (items.start - k))
            top -= log_normaliser[:, None]
            pinned_scores[block] -= log_normaliser[:, None]

        # Tile after tile, long lists would be sorted over and over.
        if k > _LONG_LIST * n_items:
            for_each(fill_whole, self._blocks(_MAX_ROW_SCORES // n_items), self.watch)
        else:
            has_rows = self.filters.allowed_rows is not None or self.filters.denied_rows
            most = _MAX_MARKS // n_items if has_rows else _TILE_QUERIES
            for_each(fill, self._blocks(min(_TILE_QUERIES, most)), self.watch)
        return Pool(codes, best, pinned_scores)

    def ranks(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the position of each query's target among all items, as :func:`target_ranks` does.

        Parameters
        ----------
        targets : int64 array of shape (Q,)

        Returns
        -------
        int64 array of shape (Q,)
        """
        ranks = np.empty(len(targets), dtype=np.int64)

        def fill(block: slice) -> None:
            scores, _ = self._whole_rows(block)
            ranks[block] = target_ranks(scores, targets[block])

        size = min(_TILE_QUERIES, _MAX_ROW_SCORES // len(self.likes))
        for_each(fill, self._blocks(size), self.watch)
        return ranks

    def ranks_by_aversion(
        self, targets: NDArray[np.int64], aversions: Sequence[float]
    ) -> NDArray[np.int64]:
        """Find the same under several aversions instead of the scorer's own.

        The logits that they weigh are made once for all of them.

        Parameters
        ----------
        targets : int64 array of shape (Q,)
        aversions : sequence of A floats

        Returns
        -------
        int64 array of shape (A, Q)
        """
        ranks = np.empty((len(aversions), len(targets)), dtype=np.int64)

        def fill(block: slice) -> None:
            scores, liked = self._whole_parts(block)
            for row, aversion in zip(ranks, aversions, strict=True):
                row[block] = target_ranks(_weighed(scores, liked, aversion), targets[block])

        size = min(_TILE_QUERIES, _MAX_ROW_SCORES // len(self.likes))
        for_each(fill, self._blocks(size), self.watch)
        return ranks

    def row(self, query: int) -> Array:
        """Score all items, (N,), for one query."""
        scores, log_normaliser = self._whole_rows(slice(query, query + 1))
        row: Array = scores[0] - log_normaliser
        return row

    def tastes(self, memory: ItemMemory | None, targets: NDArray[np.int64]) -> tuple[Array, Array]:
        """Tell what model and memory make of each query's target being liked, (Q,) each.

        They are a logit, and a score of :meth:`ItemMemory.recall` (0 without a memory); to be
        weighed by :func:`memory.fit_taste_weights`.
        """
        logits, scores = np.zeros((2, len(targets)), dtype=np.float32)
        everything = slice(0, len(self.likes))
        for block in self._blocks(min(_TILE_QUERIES, _MAX_ROW_SCORES // len(self.likes))):
            rows, own = np.arange(block.stop - block.start), targets[block]
            states = self._states[self.queries.rows[block]]
            logits[block] = self.model.liked_logits(states, everything)[rows, own]
            if memory is not None:
                scores[block] = self.queries.recall(memory, block).taste_scores()[rows, own]
        return logits, scores

    @quietly
    def parts(
        self, memory: ItemMemory, taste_weights: TasteWeights, block: slice
    ) -> tuple[Array, Array, Array]:
        """Return what scores are made of, for some queries, as :func:`memory.fit_next_weight` asks.

        Without a memory or aversion of the scorer's own, these are ``log p(next)`` of candidates,
        what a memory makes of them, and ``log p(liked | next)`` of both, (Q, N) each.
        """
        scores, log_normaliser = self._whole_rows(block)
        recalled = self.queries.recall(memory, block)
        states = self._states[self.queries.rows[block]]
        liked = self.model.liked_logits(states, slice(0, len(self.likes)))
        liked = taste_weights.logit(liked, recalled.taste_scores())
        return scores - log_normaliser[:, None], recalled.next_scores(), log_sigmoid(liked)

    @property
    def _pinned(self) -> NDArray[np.int64]:
        pinned = self.filters.pinned
        return np.empty((len(self.queries.rows), 0), np.int64) if pinned is None else pinned

    def _blocks(self, size: int) -> list[slice]:
        n, size = len(self.queries.rows), max(1, size)
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _no_normaliser(self, block: slice) -> Array:
        nothing = -np.inf if self.model.is_likelihood else 0.0
        return np.full(block.stop - block.start, nothing, dtype=np.float32)

    @quietly
    def _whole_rows(self, block: slice) -> tuple[Array, Array]:
        log_normaliser = self._no_normaliser(block)
        whole = np.full((len(log_normaliser), len(self.likes)), -np.inf, dtype=np.float32)
        for rows, items, scores in self._tiles(
            block, np.full_like(log_normaliser, -np.inf), log_normaliser
        ):
            whole[rows, items] = scores
        return whole, log_normaliser

    @quietly
    def _whole_parts(self, block: slice) -> tuple[Array, Array | None]:
        """Return what ranks by any aversion: scores without one, and logits of being liked."""
        log_normaliser = self._no_normaliser(block)
        floor = np.full_like(log_normaliser, -np.inf)
        whole = np.full((len(log_normaliser), len(self.likes)), -np.inf, dtype=np.float32)
        whole_liked = np.full_like(whole, np.inf) if self.model.is_likelihood else None
        for rows, items, scores, liked in self._tiles_in_parts(block, floor, log_normaliser):
            whole[rows, items] = scores
            if whole_liked is not None:
                whole_liked[rows, items] = liked
        return whole, whole_liked

    def _tiles(
        self, block: slice, floor: Array, log_normaliser: Array
    ) -> Iterator[tuple[NDArray[np.int64], slice, Array]]:
        """Score as :meth:`_tiles_in_parts` does, by the scorer's own aversion."""
        for rows, items, scores, liked in self._tiles_in_parts(
            block, floor, log_normaliser, with_liked=self.aversion > 0
        ):
            yield rows, items, _weighed(scores, liked, self.aversion, out=scores)

    def _tiles_in_parts(
        self, block: slice, floor: Array, log_normaliser: Array, *, with_liked: bool = True
    ) -> Iterator[tuple[NDArray[np.int64], slice, Array, Array | None]]:
        """Score one tile after the other, in ascending order of the items.

        Yields the rows (positions in the block) that may score above their `floor` in the tile, or
        have something pinned there, the items, and the scores of these rows, the caller's to
        change: without an aversion, and the logits of being liked that it weighs, of a model of
        likelihoods and on request. The caller may raise the floor in between. The scores lack
        ``- log_normaliser``, what makes probabilities of the logits and is complete after the last
        tile: the same for a whole row, it changes no rank.
        """
        inputs = self.queries.rows[block]
        states = self._states[inputs]  # (Q, d)
        is_unread = self.queries.is_unread[block]
        empty = np.flatnonzero(is_unread)
        seen_rows, seen = self._seen(block)
        filters, pinned = self.filters, self._pinned[block]
        blocked = filters.blocked(block, len(self.likes))
        marks = filters.boosts, filters.allowed, blocked
        is_filtered = any(mark is not None for mark in marks)
        recalled = self._recall(block)
        n_items = len(self.likes)
        step = max(1, _TILE_SCORES // len(inputs))
        for start in range(0, n_items, step):
            items = slice(start, min(start + step, n_items))
            scores = self._next_logits(states, items, recalled)  # (Q, n)
            top = scores.max(1)
            if self.model.is_likelihood:
                total = np.exp(scores - top[:, None]).sum(1)
                np.logaddexp(log_normaliser, top + np.log(total), out=log_normaliser)
            if len(empty):
                scores[empty] = self._fallback[items]  # negative, while their logits were 0
            if filters.boosts is not None:
                scores += filters.boosts[items]
            if filters.allowed is not None:
                scores[:, ~filters.allowed[items]] = -np.inf
            if blocked is not None:
                np.copyto(scores, np.float32(-np.inf), where=blocked[:, items])
            if is_filtered:
                top = scores.max(1)
            first, last = np.searchsorted(seen, [items.start, items.stop])
            scores[seen_rows[first:last], seen[first:last] - start] = -np.inf
            # Nothing is worth more than a like: from their logits on scores only go down.
            is_pinned = (pinned >= items.start) & (pinned < items.stop)
            rows = np.flatnonzero((top > floor) | is_pinned.any(1))
            if len(rows) < len(top):
                scores = scores[rows]
            liked = None
            if self.model.is_likelihood and with_liked:
                liked = self._liked_logits(states, items, recalled, rows)
                if len(empty):
                    liked[is_unread[rows]] = np.inf
            yield rows, items, scores, liked
        log_normaliser[empty] = 0

    def _next_logits(
        self, states: Array, items: slice | NDArray[np.int64], recalled: Recalled | None
    ) -> Array:
        """Of what comes next, (Q, n): the model's, and what a memory adds."""
        logits = self.model.logits(states, items)
        if self.memory is not None and recalled is not None:
            logits += self.memory.next_weight * recalled.next_scores(items)
        return logits

    def _liked_logits(
        self,
        states: Array,
        items: slice | NDArray[np.int64],
        recalled: Recalled | None,
        rows: slice | NDArray[np.int64] = slice(None),
    ) -> Array:
        """Of being liked if it comes next, for some rows of the queries of such a model."""
        logits = self.model.liked_logits(states[rows], items)
        if self.memory is not None and recalled is not None:
            taste = recalled.taste_scores(items)[rows]
            logits = self.memory.taste_weights.logit(logits, taste)
        logits += np.float32(self.liked_shift)
        return logits

    @quietly
    def parts_of(self, items: NDArray[np.int64]) -> tuple[Array, Array]:
        """Score some items, seen or not: what makes them come next, and what makes them liked.

        Parameters
        ----------
        items : int64 array of shape (n,)
            Codes.

        Returns
        -------
        next_parts, liked_parts : float32 arrays of shape (Q, n)
            Their sum is the score, but for ``log_normaliser`` of a model of likelihoods, which
            takes the whole catalogue: see :meth:`log_normalisers`. The second is the log of an
            item's worth, and 0 where there is no aversion.
        """
        states, empty = self._states[self.queries.rows], self.queries.is_unread
        following = self._next_logits(states, items, self._recalled)
        liked = np.zeros_like(following)
        if self.model.is_likelihood and self.aversion:
            logits = self._liked_logits(states, items, self._recalled)
            liked = Worth(self.aversion).log(logits)
        if empty.any():
            following[empty], liked[empty] = self._catalogue.fallback_parts[:, items]
        return following, liked

    def log_normalisers(self) -> Array:
        """Return what is to be taken from the first of :meth:`parts_of` for probabilities, (Q,)."""
        found = np.empty(len(self.queries.rows), np.float32)
        for block in self._blocks(_TILE_QUERIES):
            log_normaliser = self._no_normaliser(block)
            above_all = np.full_like(log_normaliser, np.inf)  # no score is wanted of any tile
            for _ in self._tiles(block, above_all, log_normaliser):
                pass
            found[block] = log_normaliser
        return found

    @quietly
    def query_vectors(self) -> Array:
        """Make vectors whose products with :meth:`Catalogue.vectors` rank as the scores do.

        The product is the score of a model of logits. Of a model of likelihoods it is an upper
        bound of the score before ``log_normaliser`` is taken from it, for the log of the worth is
        replaced by its tangent at the logit that items mostly have: it is concave, so no tangent
        lies below. What the neighbours of a memory add is left out, see :meth:`of_neighbours`.

        Returns
        -------
        float32 array of shape (Q, d'), as :meth:`Catalogue.vectors`
        """
        states, empty = self._states[self.queries.rows], self.queries.is_unread
        dim = states.shape[1]
        vectors = np.zeros((len(states), dim + _n_further(self.model)), np.float32)
        vectors[:, :dim] = states
        if self.model.is_likelihood and self.aversion:
            tangents = self._tangents
            vectors[:, :dim] += tangents.slopes[:, None] * tangents.queries
            vectors[:, -1] = tangents.slopes
            vectors[:, -2] = tangents.heights
        vectors[empty] = 0
        vectors[empty, dim] = _SELDOM_ASKED
        return vectors

    @quietly
    def of_neighbours(self) -> Array:
        """Return the most that a memory adds to the products of vectors, (Q, N).

        Just 0 of items that the memory does not know as neighbours of the history's.
        """
        added = np.zeros((len(self.queries.rows), len(self.likes)), np.float32)
        if self.memory is not None and self._recalled is not None:
            slope = np.zeros(len(added), np.float32)
            if self.aversion:
                slope = self._tangents.slopes * np.float32(self.memory.taste_weights.memory)
            added = self._recalled.of_neighbours(self.memory.next_weight, slope)
        return added

    @lazy
    def _tangents(self) -> _Tangents:
        """Make the tangents of the log of the worth, one of each query."""
        weights = self._catalogue.taste_weights
        queries, level = self.model.taste_queries(self._states[self.queries.rows])
        queries *= np.float32(weights.model)
        constant = np.float32(weights.model) * level  # what all logits have in common
        constant += np.float32(weights.offset + self.liked_shift)
        if self._recalled is not None:
            constant += np.float32(weights.memory) * self._recalled.user_levels
        # Where a logit mostly is: that of the mean item, by likes.
        vector, taste = self._catalogue.mean_item
        point = queries @ vector + taste + constant
        worth = Worth(self.aversion)
        slopes = worth.slope(point)
        heights = slopes * (constant - point)
        heights += worth.log(point)
        return _Tangents(queries, slopes, heights)

    @lazy
    def _recalled(self) -> Recalled | None:
        """Let a memory read what all queries have met; kept, for several answers need it."""
        if self.memory is None:
            return None
        return self.memory.items.recall(self.queries.seen, self.queries.seen_signs)

    def _recall(self, block: slice) -> Recalled | None:
        """Let a memory read what some queries have met."""
        if self.memory is None or block == slice(0, len(self.queries.rows)):
            return self._recalled
        return self.queries.recall(self.memory.items, block)

    @lazy
    def _catalogue(self) -> Catalogue:
        return self.catalogue or Catalogue(self.model, self.likes, self.dislikes, self.memory)

    @property
    def _fallback(self) -> Array:
        """Log of the share of all likes times log of the like rate, (N,)."""
        fallback: Array = self._catalogue.fallback
        return fallback

    def _seen(self, block: slice) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and items of what the queries of a block have seen, by item."""
        seen = self.queries.seen
        if not self.exclude_seen:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        items = seen.values[seen.offsets[block.start] : seen.offsets[block.stop]]
        order = np.argsort(items)
        return np.repeat(np.arange(block.stop - block.start), seen.lengths[block])[order], items[
            order
        ]


def n_stages(n_queries: int, n_items: int, k: int, filters: Filters) -> int:
    """Count what a scorer's `watch` sees of a top k, if no pool must be widened."""
    if not filters.reorders:
        return 2
    n_parts = -(-n_queries // max(1, _MAX_POOLED // min(filters.pool_size(k), n_items)))
    return 1 + 2 * n_parts


#: How much more of a like a dislike costs with each unit of an aversion above 1: with 7 as much as
#: a like gains. Chosen so that an aversion finds about as many likes as a weight of
#: ``log p(liked)`` of the same size does, and shows fewer dislikes for them.
COST = 1 / 6
#: Below it the log of a worth goes on along its tangent: some items are worth less than nothing.
#: Of .02 to .4 the best on validation users of MovieLens-1M and Amazon Beauty.
LEAST_WORTH = 0.02
# No logit of a float32 is told from others by a larger one.
_MOST_AVERSION = 1e6


class Worth:
    """What showing an item is worth that comes next, as its logit of being liked tells.

    An aversion of 0 asks for what comes next, liked or not: all is worth 1. One of 1 asks for what
    comes next and is liked: ``p(liked)``, and between the two its power. Above, each dislike that
    is shown costs: ``p(liked) - cost p(disliked)`` with a cost of ``(aversion - 1) / 6`` likes.
    Ranked by ``p(next)`` times the worth, the first k items have the greatest expected number of
    likes less the cost of the dislikes. Below :data:`LEAST_WORTH` the log goes on along its
    tangent; so logs of worths are finite, rise with the logit and are concave.

    Parameters
    ----------
    aversion : float
        >= 0.
    """

    def __init__(self, aversion: float) -> None:
        self._aversion = aversion
        # What is lost by a dislike: the like that it might be, and its cost.
        self.loss = 1 + COST * (min(aversion, _MOST_AVERSION) - 1) if aversion > 1 else None
        if self.loss is not None:
            most_disliked = (1 - LEAST_WORTH) / self.loss
            self.most_disliked = np.float32(most_disliked)
            #: The logit of the least worth, and the slope of the log from there down.
            self.knee = np.float32(np.log(1 / most_disliked - 1))
            self.steepest = np.float32((1 - most_disliked) * (1 - LEAST_WORTH) / LEAST_WORTH)

    @quietly
    def log(self, logits: Array) -> Array:
        """Return the log of the worth, an array of the same shape."""
        if self.loss is None:
            logs = log_sigmoid(logits.copy())
            logs *= np.float32(self._aversion)
            return logs
        logs = self._disliked(logits)
        logs *= np.float32(-self.loss)
        np.log1p(logs, out=logs)
        below = logits - self.knee
        np.minimum(below, 0, out=below)
        below *= self.steepest
        logs += below
        return logs

    @quietly
    def slope(self, logits: Array) -> Array:
        """Return the derivative of the log by the logit."""
        if self.loss is None:
            return np.float32(self._aversion) * sigmoid(-logits)
        disliked = self._disliked(logits)
        loss = np.float32(self.loss)
        slopes: Array = loss * disliked * (1 - disliked) / (1 - loss * disliked)
        return slopes

    def _disliked(self, logits: Array) -> Array:
        """Return the probabilities of dislikes, up to that of the least worth."""
        disliked = sigmoid(-logits)
        return np.minimum(disliked, self.most_disliked, out=disliked)


def _weighed(
    scores: Array, liked: Array | None, aversion: float, out: Array | None = None
) -> Array:
    """Return scores plus the logs of the worths that logits of being liked tell."""
    if liked is None or not aversion:
        return scores
    weighed: Array = np.add(scores, Worth(aversion).log(liked), out=out)
    return weighed


def top_k(scores: Array, k: int) -> tuple[NDArray[np.int64], Array]:
    """Find the k best items of each row, best first, equal scores by item code.

    Parameters
    ----------
    scores : float32 array of shape (Q, N)
        -inf marks items that are no candidates.
    k : int

    Returns
    -------
    codes : int64 array of shape (Q, k)
        -1 where a row has fewer than k candidates.
    scores : float32 array of shape (Q, k)
        -inf there.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.scoring import top_k
    >>> codes, _ = top_k(np.array([[0.0, 2.0, 2.0, -np.inf]], dtype=np.float32), k=4)
    >>> codes
    array([[ 1,  2,  0, -1]])
    """
    n_queries, n_items = scores.shape
    width = min(k, n_items)
    rows = np.arange(n_queries)[:, None]
    positions = np.argpartition(scores, n_items - width, axis=1)[:, n_items - width :]
    tops = scores[rows, positions]
    # Where the k-th score occurs again beyond the k best, the partition chose among equals at
    # will: take the lowest codes instead.
    kth = tops.min(1)
    n_equal = np.count_nonzero(scores == kth[:, None], axis=1)
    equals = n_equal > np.count_nonzero(tops == kth[:, None], axis=1)
    for row in np.flatnonzero(equals & (kth > -np.inf)):
        above = np.flatnonzero(scores[row] > kth[row])
        equal = np.flatnonzero(scores[row] == kth[row])[: width - len(above)]
        positions[row] = np.concatenate([above, equal])
        tops[row] = scores[row, positions[row]]
    order = np.lexsort((positions, -tops), axis=1)
    codes = np.full((n_queries, k), -1)
    best = np.full((n_queries, k), -np.inf, dtype=scores.dtype)
    best[:, :width], codes[:, :width] = tops[rows, order], positions[rows, order]
    codes[best == -np.inf] = -1
    return codes, best


def target_ranks(scores: Array, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the position of each row's target in that row's ranking: 1 is the top.

    Parameters
    ----------
    scores : float32 array of shape (Q, N)
    targets : int64 array of shape (Q,)
        Item codes; -1 is an item that the catalogue lacks.

    Returns
    -------
    int64 array of shape (Q,)
        ``N + 1`` for a target that is no candidate (unknown, or its score is -inf).
    """
    n_items = scores.shape[1]
    own = scores[np.arange(len(scores)), targets][:, None]
    ranks = 1 + (scores > own).sum(1)
    equals = np.flatnonzero((scores == own).sum(1) > 1)
    for row in equals:
        ranks[row] += (scores[row, : targets[row]] == own[row]).sum()
    return np.where((targets < 0) | (own[:, 0] == -np.inf), n_items + 1, ranks)
