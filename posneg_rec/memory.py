"""A linear memory of items beside a sequence model: what goes with what was liked.

A transformer reads the order of a history; this reads what is in it. Each item has a few
neighbours, found in the training events, and a history's items each add their weights:

- *next*: which items the likes of a history bring along. Ridge regression of "the user likes item
  i" on "the user likes item j", EASE [1]_ with at most so many neighbours an item. What was liked
  lately says more: half of a like's weight fades, by a tenth with each like that follows. Dislikes
  as further regressors gained nothing on MovieLens-1M.
- *taste*: whether an item would be liked. The item's mean sign, the user's mean deviation from it,
  of which the latest events say most, and ridge regression of what is left over on what the user's
  other items left over.

All neighbours would take a matrix of items by items and its inverse; each item's own regression on
its strongest neighbours takes memory and time that grow with the events, and on MovieLens it ranks
as well as the closed form cut down to as many weights an item. Where every two items have met, and
an item may have as many neighbours as there are, the two are the same.

A memory that has seen an event trusts itself too much there. How much it counts beside a model is
learned from events that neither has seen: :func:`fit_next_weight`, :func:`fit_taste_weights`.

Shapes use these letters: ``Q`` queries (histories), ``N`` items, ``n`` items of a tile, ``M``
neighbours of an item.

References
----------
.. [1] Steck: "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019. arXiv:1905.03375.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from posneg_rec._lazy import lazy
from posneg_rec.linalg import solve
from posneg_rec.sequences import Histories, PackedSequences, is_last, offsets_of, ranges

__all__ = [
    "LEFT",
    "LEVEL_PRIOR",
    "NEXT_WEIGHT",
    "TASTE_WEIGHTS",
    "ItemMemory",
    "ItemWeights",
    "Recalled",
    "TasteWeights",
    "WeighedMemory",
    "fit_next_weight",
    "fit_taste_weights",
    "usual_neighbours",
]

Array = NDArray[np.float32]
Tile = slice | NDArray[np.int64]

#: How much an item's, and a user's, mean sign is drawn towards what is usual, in events.
LEVEL_PRIOR = 5.0
# How much of a like's weight fades. It and what is left were chosen on later events of the
# validation users of MovieLens-1M, MovieTweetings and Amazon Beauty.
_FADING = 0.5
#: What is left of what fades after each like that follows.
LEFT = 0.9
# What is left of an event's weight in the user's mean after each that follows. People rate in
# moods: chosen by the likelihood of later signs of the validation users of MovieLens-1M; 0.9 to
# 0.98 are better than 1 there and on MovieLens-100K, and short histories hardly notice.
_USER_LEFT = 0.97
# A user's items of which pairs are counted, the latest ones, and pairs that are kept of an item of
# a catalogue that is not small, the most frequent ones, at least so many times its neighbours. They
# bound a fit's time by that many times the events and its memory by 8 bytes for each kept pair. On
# MovieLens-1M and Amazon Beauty no rank changes with 1,024 pairs, and with 256 NDCG@10 by .5 %.
_MOST_EVENTS, _MOST_PAIRS, _PAIRS_A_NEIGHBOUR, _SMALL_CATALOGUE = 1_000, 1_024, 5, 4_096
# Weights of all items, and the fewest and the most of one. Validation users of MovieLens-100K,
# MovieLens-1M and MovieTweetings find more with 100 neighbours than with 50, those of the first,
# which has half as many items, with 160 to 200 again more; 400 gain nothing anywhere. The file is
# three times as large as without a memory where an item has 160 of 1,600 or 100 of 3,400.
_N_WEIGHTS, _NEIGHBOURS = 256_000, (100, 200)
# Items whose neighbours' systems are solved at once.
_BLOCK = 32
# Pairs that are counted, and scores that stand in memory, at once.
_MANY_PAIRS, _MANY_SCORES = 2**25, 2**22
# A weight times a row of numbers takes so small a part of the time, a number, that it takes to add
# a weight up in a sparse product.
_DENSE = 24
# Scores that one step of a fit of the weight looks at: enough targets for a second digit.
_MOST_SCORES = 2**25


# -- Weights of items on items -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ItemWeights:
    """A sparse matrix of items by items, rows one after the other (CSR).

    Attributes
    ----------
    offsets : ndarray of shape (N + 1,), dtype=int64
        Item ``j`` of a history has the entries ``offsets[j]`` up to ``offsets[j + 1]``.
    items : ndarray of shape (n_weights,), dtype=int32
        The item that an entry speaks for, ascending within a row.
    weights : ndarray of shape (n_weights,), dtype=float32
        What it adds to that item's score.
    evidence : ndarray of shape (N,), dtype=float32
        Sum of squares of what the item was in the histories of a fit: how firmly its weights
        stand against those of a later one.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    weights: Array
    evidence: Array

    @classmethod
    def empty(cls, n_items: int) -> ItemWeights:
        """Make the matrix of those who know nothing."""
        return cls(
            np.zeros(n_items + 1, np.int64),
            np.empty(0, np.int32),
            np.empty(0, np.float32),
            np.zeros(n_items, np.float32),
        )

    def grown(self, n_items: int) -> ItemWeights:
        """Add items without weights up to `n_items`."""
        n_joined = n_items - len(self.evidence)
        return ItemWeights(
            np.pad(self.offsets, (0, n_joined), mode="edge"),
            self.items,
            self.weights,
            np.pad(self.evidence, (0, n_joined)),
        )

    def without(self, kept: NDArray[np.bool_]) -> ItemWeights:
        """Leave out the items that are not `kept`, a bool array of shape (N,)."""
        rows = np.repeat(np.arange(len(kept)), np.diff(self.offsets))
        entries = kept[rows] & kept[self.items]
        lengths = np.bincount(rows[entries], minlength=len(kept))[kept]
        codes = np.cumsum(kept, dtype=np.int32) - np.int32(1)
        return ItemWeights(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            codes[self.items[entries]],
            self.weights[entries],
            self.evidence[kept],
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made on demand."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def row(self, items: NDArray[np.int64], values: NDArray[np.floating]) -> Array:
        """Sum the rows of `items` times `values`, (N,), with NumPy alone."""
        lengths = self.offsets[items + 1] - self.offsets[items]
        entries = ranges(self.offsets[items], lengths)
        weights = self.weights.take(entries)
        weights *= np.repeat(values, lengths)
        n_items = len(self.evidence)
        return np.bincount(self.items.take(entries), weights, minlength=n_items).astype(np.float32)

    @lazy
    def matrix(self) -> Any:
        """Make SciPy's array of it, of shape (N, N)."""
        from scipy import sparse

        shape = len(self.evidence), len(self.evidence)
        return sparse.csr_array((self.weights, self.items, self.offsets), shape=shape)


def _item_weights(
    features: Any, n_neighbours: int, penalty: float, prior: ItemWeights
) -> ItemWeights:
    """Regress each item's column of `features` (U, N) on those of its strongest neighbours.

    The weights ``b`` of an item with the column ``y`` on its neighbours' columns ``Z`` minimise
    ``|y - Z b|^2 + (b - b0)' D (b - b0)``: they are drawn towards those of the prior, ``b0``, by
    the penalty and by the prior's evidence of each neighbour, the diagonal ``D``.
    """
    from scipy import sparse

    n_items = features.shape[1]
    squares = np.asarray(features.multiply(features).sum(axis=0), dtype=np.float64).ravel()
    pull = penalty + prior.evidence.astype(np.float64)
    width = min(n_neighbours, n_items - 1)
    gram = _gram(features, max(_MOST_PAIRS, _PAIRS_A_NEIGHBOUR * n_neighbours))
    old = prior.matrix.tocsc()
    columns, rows, values = [], [], []
    for start in range(0, n_items if width > 0 else 0, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, n_items))
        neighbours = np.repeat(block[:, None], width, axis=1)  # an item itself is a blank
        targets, before = np.zeros((2, len(block), width))
        for place, item in enumerate(block):
            near, products = _row(gram, item)
            were, weights = (
                part[old.indptr[item] : old.indptr[item + 1]] for part in (old.indices, old.data)
            )
            if len(were):
                found = np.union1d(near, were)
                products = _at(near, products, found)
                weights = _at(were, weights, found)
                near = found
            else:
                weights = np.zeros(len(near))
            # How much a neighbour alone would lessen the squared error, and has lessened it.
            gains = np.abs(products + pull[near] * weights) / np.sqrt(squares[near] + pull[near])
            gains[near == item] = -1
            best = np.argpartition(-gains, width - 1)[:width] if len(near) > width else slice(None)
            best = np.arange(len(near))[best]
            neighbours[place, : len(best)] = near[best]
            targets[place, : len(best)] = products[best]
            before[place, : len(best)] = weights[best]
        used = neighbours != block[:, None]
        systems = _among(gram, neighbours) * (used[:, :, None] & used[:, None, :])
        # The error that the old weights leave is what the new ones add to.
        targets -= np.vecdot(systems, before[:, None, :])
        systems[:, np.arange(width), np.arange(width)] += pull[neighbours]
        solved = before + solve(systems, (targets * used)[:, :, None])[:, :, 0]
        columns.append(np.broadcast_to(block[:, None], used.shape)[used])
        rows.append(neighbours[used])
        values.append(solved[used])
    if not columns:
        return prior
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    found = sparse.coo_array(entries, shape=(n_items, n_items)).tocsr()
    found.sort_indices()
    return ItemWeights(
        found.indptr.astype(np.int64),
        found.indices.astype(np.int32),
        found.data.astype(np.float32),
        (prior.evidence + squares).astype(np.float32),
    )


def usual_neighbours(n_items: int) -> int:
    """Say how many neighbours an item of a catalogue of so many may have."""
    fewest, most = _NEIGHBOURS
    return min(max(_N_WEIGHTS // max(n_items, 1), fewest), most)


def _gram(features: Any, most_pairs: int) -> Any:
    """Multiply columns by columns, (N, N): an array of few items, else sparse."""
    from scipy import sparse

    n_items = features.shape[1]
    features = features.astype(np.float32)
    by_item = features.T.tocsr()
    if n_items <= _SMALL_CATALOGUE:
        return (by_item @ features).toarray()
    # Pairs that an item meets, counted as often as they come: a bound on what a product takes.
    n_pairs = np.cumsum(by_item.astype(bool) @ np.diff(features.indptr).astype(np.int64))
    bounds = np.flatnonzero(np.diff(n_pairs // _MANY_PAIRS, append=-1)) + 1
    parts, start = [], 0
    for stop in bounds.tolist():
        part = (by_item[start:stop] @ features).tocsr()
        kept = np.ones(part.nnz, dtype=bool)
        for row in np.flatnonzero(np.diff(part.indptr) > most_pairs):
            entries = slice(part.indptr[row], part.indptr[row + 1])
            weak = np.argpartition(-np.abs(part.data[entries]), most_pairs)[most_pairs:]
            kept[entries.start + weak] = False
        part.data[~kept] = 0
        part.eliminate_zeros()
        parts.append(part)
        start = stop
    gram = sparse.vstack(parts, format="csr")
    del parts
    if np.diff(gram.indptr).max() >= most_pairs:  # some were cut: what one item of a pair kept
        missing = gram.T.tocsr()
        missing -= missing.multiply(gram.astype(bool))
        gram = (gram + missing).tocsr()
    gram.sort_indices()
    return gram


def _row(gram: Any, item: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the items that one met, ascending, and their products."""
    if isinstance(gram, np.ndarray):
        near = np.flatnonzero(gram[item])
        return near, gram[item, near].astype(np.float64)
    entries = slice(gram.indptr[item], gram.indptr[item + 1])
    return gram.indices[entries].astype(np.int64), gram.data[entries].astype(np.float64)


def _at(
    items: NDArray[np.integer], values: NDArray[np.floating], wanted: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Spread the values of some of the `wanted` items over all of them, else 0."""
    spread = np.zeros(len(wanted))
    spread[np.searchsorted(wanted, items)] = values
    return spread


def _among(gram: Any, neighbours: NDArray[np.int64]) -> NDArray[np.float64]:
    """Take the products of each row of `neighbours` (b, M) with each other, (b, M, M)."""
    if not isinstance(gram, np.ndarray):
        distinct, places = np.unique(neighbours, return_inverse=True)
        gram = gram[distinct][:, distinct].toarray()
        neighbours = places.reshape(neighbours.shape)
    return gram[neighbours[:, :, None], neighbours[:, None, :]].astype(np.float64)


# -- Events that count ---------------------------------------------------------------------------


class _Events(NamedTuple):
    """The last sign of each item that a history likes or dislikes, in the order of the events."""

    queries: NDArray[np.int64]
    items: NDArray[np.int64]
    signs: NDArray[np.float32]

    @classmethod
    def of(
        cls,
        items: NDArray[np.int64],
        signs: NDArray[np.integer],
        offsets: NDArray[np.int64],
        n_items: int,
    ) -> _Events:
        queries = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        # What lies beyond the items known here was met by nobody.
        kept = np.flatnonzero((items >= 0) & (items < n_items) & (signs != 0))
        queries, items = queries[kept], items[kept]
        counts = np.bincount(queries, minlength=len(offsets) - 1)
        last = is_last(queries, items, counts)
        return cls(queries[last], items[last], signs[kept][last].astype(np.float32))

    def at(self, kept: NDArray[Any]) -> _Events:
        return _Events(self.queries[kept], self.items[kept], self.signs[kept])

    def latest(self, n: int, n_queries: int) -> _Events:
        """Take at most the last `n` of each query."""
        return self.at(self.n_after(n_queries) < n)

    def matrix(self, values: NDArray[np.floating], n_queries: int, n_items: int) -> Any:
        from scipy import sparse

        offsets = offsets_of(np.bincount(self.queries, minlength=n_queries))
        matrix = sparse.csr_array((values, self.items, offsets), shape=(n_queries, n_items))
        matrix.sort_indices()
        return matrix

    def n_after(self, n_queries: int) -> NDArray[np.int64]:
        """Count the events of the same query that follow each."""
        ends = np.cumsum(np.bincount(self.queries, minlength=n_queries))
        after: NDArray[np.int64] = ends[self.queries] - 1 - np.arange(len(self.queries))
        return after

    def deviations(
        self, levels: Array, n_queries: int, left: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what item and user leave of each sign, and what is the user's (Q,).

        An event counts `left` times as much for the user as the one that follows it.
        """
        rest = self.signs.astype(np.float64) - levels[self.items]
        weights = left ** self.n_after(n_queries)
        total = np.bincount(self.queries, weights, minlength=n_queries) + LEVEL_PRIOR
        of_user = np.bincount(self.queries, weights * rest, minlength=n_queries) / total
        return rest - of_user[self.queries], of_user


# -- The memory ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ItemMemory:
    """What goes with what was liked, and what is liked by whom.

    Attributes
    ----------
    next : ItemWeights
        Of liked items, for the items that are liked with them.
    taste : ItemWeights
        Of what a sign in the history tells beyond item and user, for the signs of other items.
    levels : ndarray of shape (N,), dtype=float32
        Mean sign of each item, drawn towards the mean of all.
    counts : ndarray of shape (N,), dtype=float32
        Users whose sign of the item it was made of.
    mean : float
        Mean of all signs.
    fading : float
        Which part of a like's weight for *next* fades with the likes that follow; 0 in model files
        that were written before it did.
    user_left : float
        How much an event counts for the user's mean sign beside the one that follows it; 1 in model
        files that were written before.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.memory import ItemMemory
    >>> from posneg_rec.sequences import Histories, PackedSequences
    >>> histories = Histories(  # four users like items 0 and 1, four like 2 and dislike 1
    ...     users=np.arange(8), items=np.array([0, 1] * 4 + [2, 1] * 4),
    ...     signs=np.array([1, 1] * 4 + [1, -1] * 4, dtype=np.int8),
    ...     times=None, rows=np.arange(16), offsets=np.arange(0, 17, 2),
    ... )
    >>> memory = ItemMemory.fit(histories, n_items=3)
    >>> recalled = memory.recall(PackedSequences.from_lists([[0], [2]]), np.array([1, 1]))
    >>> recalled.next_scores().argmax(axis=1)
    array([1, 0])
    >>> likes_1, dislikes_1 = recalled.taste_scores()[:, 1]
    >>> bool(likes_1 > dislikes_1)
    True
    """

    next: ItemWeights
    taste: ItemWeights
    levels: Array
    counts: Array
    mean: float
    fading: float = _FADING
    user_left: float = _USER_LEFT

    @classmethod
    def fit(
        cls,
        histories: Histories,
        n_items: int,
        *,
        n_neighbours: int | None = None,
        next_penalty: float = 250.0,
        taste_penalty: float = 100.0,
        prior: ItemMemory | None = None,
    ) -> ItemMemory:
        """Regress items on items, over the users of some histories.

        A user counts once for each item, with the last sign that is not neutral; of users with
        more than 1,000 such items the latest 1,000 count.

        Parameters
        ----------
        histories : Histories
            The training part alone: the memory is sure of what it has seen.
        n_items : int
            Size N of the catalogue; the codes of `histories` lie below it or are -1.
        n_neighbours : int, default=None
            The most weights that speak for an item. None follows the catalogue: 200 up to 1,280
            items, 100 from 2,560 on, between them 256,000 of all items. A small catalogue has
            little data, and its memory more to say; a large one would make a large file.
        next_penalty : float, default=250.0
            Ridge penalty of *next*, in users: hardly any difference from 100 to 600 on
            MovieLens-100K and 1M.
        taste_penalty : float, default=100.0
            Ridge penalty of *taste*, in squares of signs. From 30 to 100 all is the same on
            MovieLens-1M; smaller data want the greater one.
        prior : ItemMemory, default=None
            What was remembered before, of these items or the first of them: where the histories
            tell nothing new it stays as it is.

        Returns
        -------
        ItemMemory

        Raises
        ------
        ValueError
            If a code or a number is out of range.
        """
        if n_neighbours is None:
            n_neighbours = usual_neighbours(n_items)
        _check(histories, n_items, n_neighbours, next_penalty, taste_penalty)
        before = (prior or cls._blank(0)).grown(n_items)
        n_users = len(histories.offsets) - 1
        events = _Events.of(histories.items, histories.signs, histories.offsets, n_items)
        events = events.latest(_MOST_EVENTS, n_users)
        # The sums of signs that the levels before were made of, and those of the events.
        sums = before.levels * (before.counts + LEVEL_PRIOR) - LEVEL_PRIOR * before.mean
        sums += np.bincount(events.items, events.signs, minlength=n_items)
        counts = before.counts + np.bincount(events.items, minlength=n_items)
        total = before.mean * before.counts.sum(dtype=np.float64) + events.signs.sum()
        mean = float(total / max(counts.sum(dtype=np.float64), 1))
        levels = ((sums + LEVEL_PRIOR * mean) / (counts + LEVEL_PRIOR)).astype(np.float32)

        liked = events.at(events.signs == 1)
        likes = liked.matrix(np.ones(len(liked.items), np.float32), n_users, n_items)
        rest, _ = events.deviations(levels, n_users, before.user_left)
        deviations = events.matrix(rest.astype(np.float32), n_users, n_items)
        return cls(
            _item_weights(likes, n_neighbours, next_penalty, before.next),
            _item_weights(deviations, n_neighbours, taste_penalty, before.taste),
            levels,
            counts.astype(np.float32),
            mean,
            before.fading,
            before.user_left,
        )

    @classmethod
    def _blank(cls, n_items: int) -> ItemMemory:
        nothing = ItemWeights.empty(n_items)
        none = np.zeros(n_items, np.float32)
        return cls(nothing, nothing, none, none, 0.0)

    @property
    def n_items(self) -> int:
        """Size N of the catalogue."""
        return len(self.levels)

    def grown(self, n_items: int) -> ItemMemory:
        """Add items that nothing is known of, up to `n_items`.

        Raises
        ------
        ValueError
            If that are fewer than there are.
        """
        n_joined = n_items - self.n_items
        if n_joined < 0:
            raise ValueError(f"n_items must be at least {self.n_items}, got {n_items}.")
        return ItemMemory(
            self.next.grown(n_items),
            self.taste.grown(n_items),
            np.pad(self.levels, (0, n_joined), constant_values=self.mean),
            np.pad(self.counts, (0, n_joined)),
            self.mean,
            self.fading,
            self.user_left,
        )

    def without(self, kept: NDArray[np.bool_]) -> ItemMemory:
        """Forget the items that are not `kept`, a bool array of shape (N,)."""
        return ItemMemory(
            self.next.without(kept),
            self.taste.without(kept),
            self.levels[kept],
            self.counts[kept],
            self.mean,
            self.fading,
            self.user_left,
        )

    def recall(self, items: PackedSequences, signs: NDArray[np.integer]) -> Recalled:
        """Read histories.

        Parameters
        ----------
        items : PackedSequences of Q histories
            Item codes, oldest first; -1 is ignored.
        signs : int array of shape (n_values,)
            Of each of ``items.values``: +1 liked, -1 disliked, 0 neutral.

        Returns
        -------
        Recalled
        """
        if np.shape(signs) != items.values.shape:
            raise ValueError(
                f"signs must have one entry per item, {len(items.values)}, got shape "
                f"{np.shape(signs)}."
            )
        events = _Events.of(items.values, np.asarray(signs), items.offsets, self.n_items)
        return Recalled(self, events, len(items))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the plain arrays that the memory is made of, by name."""
        parts = {
            f"{name}.{field.name}": getattr(getattr(self, name), field.name)
            for name in ("next", "taste")
            for field in fields(ItemWeights)
        }
        numbers = {name: np.array(getattr(self, name)) for name in ("mean", "fading", "user_left")}
        return parts | {"levels": self.levels, "counts": self.counts} | numbers

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ItemMemory:
        """Put together what :meth:`arrays` took apart."""
        following, taste = (
            ItemWeights(
                **{field.name: arrays[f"{name}.{field.name}"] for field in fields(ItemWeights)}
            )
            for name in ("next", "taste")
        )
        numbers = (float(arrays[name]) for name in ("mean", "fading", "user_left"))
        return cls(following, taste, arrays["levels"], arrays["counts"], *numbers)


class Recalled:
    """What Q histories bring to mind, tile by tile; made by :meth:`ItemMemory.recall`."""

    def __init__(self, memory: ItemMemory, events: _Events, n_queries: int) -> None:
        self._memory, self._events, self._n_queries = memory, events, n_queries

    def next_scores(self, items: Tile = slice(None)) -> Array:
        """Score items by what the likes bring along.

        Parameters
        ----------
        items : slice or int64 array of item codes, default=all

        Returns
        -------
        float32 array of shape (Q, n)
            0 where nothing liked has the item for a neighbour.
        """
        return _tile(self._next, items)

    def taste_scores(self, items: Tile = slice(None)) -> Array:
        """Foretell signs: the item's level, the user's, and what the other signs tell.

        Parameters
        ----------
        items : slice or int64 array of item codes, default=all

        Returns
        -------
        float32 array of shape (Q, n)
            About -1 (surely disliked) to 1 (surely liked).
        """
        product, of_user = self._taste
        scores = _tile(product, items)
        scores += of_user[:, None]
        scores += self._memory.levels[items]
        return scores

    @property
    def user_levels(self) -> Array:
        """What of the signs is the user's own, (Q,): a part of all the query's taste scores."""
        return self._deviations[1].astype(np.float32)

    def of_neighbours(self, next_weight: float, taste_weights: Array) -> Array:
        """Weigh and sum what the neighbours of a history's items add.

        Parameters
        ----------
        next_weight : float
        taste_weights : float32 array of shape (Q,)

        Returns
        -------
        float32 array of shape (Q, N)
            Just 0 of items that are neighbours of nothing.
        """
        added = np.float32(next_weight) * _tile(self._next, slice(None))
        added += taste_weights[:, None] * _tile(self._taste[0], slice(None))
        return added

    @lazy
    def _next(self) -> Any:
        liked = self._events.at(self._events.signs == 1)
        fading = self._memory.fading
        values = (1 - fading) + fading * LEFT ** liked.n_after(self._n_queries)
        return self._product(self._memory.next, liked, values.astype(np.float32))

    @lazy
    def _deviations(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        memory = self._memory
        return self._events.deviations(memory.levels, self._n_queries, memory.user_left)

    @lazy
    def _taste(self) -> tuple[Any, Array]:
        rest, of_user = self._deviations
        product = self._product(self._memory.taste, self._events, rest.astype(np.float32))
        return product, of_user.astype(np.float32)

    def _product(self, weights: ItemWeights, events: _Events, values: Array) -> Any:
        """Multiply histories by weights: an array, or a sparse one of many scores by item."""
        if self._n_queries == 1:
            return weights.row(events.items, values)[None]
        n_queries, n_items = self._n_queries, self._memory.n_items
        is_small = n_queries * n_items <= _MANY_SCORES
        lengths = weights.offsets[events.items + 1] - weights.offsets[events.items]
        if is_small and len(weights.weights) * n_queries <= _DENSE * int(lengths.sum()):
            met = np.zeros((n_items, n_queries), np.float32)
            met[events.items, events.queries] = values
            return (weights.matrix.T @ met).T
        product = events.matrix(values, n_queries, n_items) @ weights.matrix
        return product.toarray() if is_small else product.tocsc()


def _tile(product: Any, items: Tile) -> Array:
    """Take a copy of the columns of an array or sparse array."""
    tile = product[:, items]
    copy: Array = tile.copy() if isinstance(tile, np.ndarray) else tile.toarray(order="C")
    return copy


def _check(
    histories: Histories,
    n_items: int,
    n_neighbours: int,
    next_penalty: float,
    taste_penalty: float,
) -> None:
    highest = int(histories.items.max(initial=-1))
    if highest >= n_items:
        raise ValueError(f"Item codes must lie below n_items = {n_items}, got {highest}.")
    if n_neighbours < 1:
        raise ValueError(f"n_neighbours must be at least 1, got {n_neighbours}.")
    for name, penalty in (("next_penalty", next_penalty), ("taste_penalty", taste_penalty)):
        if not 0 < penalty < np.inf:
            raise ValueError(f"{name} must be a positive number, got {penalty}.")


# -- How much the memory counts ------------------------------------------------------------------


class TasteWeights(NamedTuple):
    """The logit of being liked is ``model * its logit + memory * taste_scores + offset``."""

    model: float
    memory: float
    offset: float

    def logit(self, model_logits: Array, taste_scores: Array) -> Array:
        """Combine what the model and the memory (both (Q, n)) make of being liked."""
        logits: Array = model_logits * np.float32(self.model)
        logits += np.float32(self.memory) * taste_scores
        logits += np.float32(self.offset)
        return logits


#: How much the memory counts where no events were held out to learn it from. Learned are, on
#: MovieLens-1M, MovieLens-100K and MovieTweetings, 3.6, 5.6 and 7.7 for what comes next (four ranks
#: for their later users about as well), and for taste 0.3 to 0.5 of the model and 1.4 to 2 of the
#: memory.
NEXT_WEIGHT = 4.0
#: The same for taste.
TASTE_WEIGHTS = TasteWeights(0.3, 1.75, 0.0)


class WeighedMemory(NamedTuple):
    """A memory, and how much it counts beside a model."""

    items: ItemMemory
    next_weight: float = NEXT_WEIGHT
    taste_weights: TasteWeights = TASTE_WEIGHTS


# What is learned is drawn towards them, by a normal distribution of so wide a scale: a few hundred
# held-out events outweigh it, a handful does not.
_NEXT_SCALES = np.array([0.5, 2.0, 0.5])
_TASTE_SCALES = np.array([0.2, 0.5, 0.5])


def fit_next_weight(
    features: Callable[[slice], tuple[Array, Array, Array]],
    targets: NDArray[np.int64],
) -> float:
    """Learn from held-out likes how much *next* counts beside a model.

    The likelihood of the liked item among all candidates is maximised over three numbers, the
    weights of ``log p(next)``, of the memory and of ``log p(liked)``; how much the memory counts
    is the ratio of the second to the first. With the first held at 1 the memory would seem to
    count for little: where both know the same, the sum of both is too sure. Searching for the best
    NDCG@10 finds the same weight, but for its noise.

    Parameters
    ----------
    features : callable
        Takes a slice of the targets, q of them, and returns three float32 arrays of shape (q, N):
        ``log p(next)``, -inf for items that are no candidates; the memory's ``next_scores``; and
        ``log p(liked)``. Called several times for each target.
    targets : int64 array of shape (n_targets,)
        Item codes of liked events that neither model nor memory has seen; those that are no
        candidates tell nothing. Of very many, as many as it takes are looked at.

    Returns
    -------
    float
        The weight of ``next_scores`` where that of ``log p(next)`` is 1, at least 0; about
        :data:`NEXT_WEIGHT` if there is little to learn from.
    """
    usual = np.array([1.0, NEXT_WEIGHT, 1.0])

    def blocks() -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        if len(targets) == 0:
            return
        n_items = features(slice(0, 1))[0].shape[1]
        size = max(1, _MANY_SCORES // (4 * n_items))
        n_blocks = -(-len(targets) // size)
        # Evenly spread, for targets come by user.
        step = -(-n_blocks * size * n_items // _MOST_SCORES)
        for start in range(0, len(targets), size * step):
            block = slice(start, min(start + size, len(targets)))
            x = np.stack(features(block)).astype(np.float64)  # (3, q, n)
            codes = targets[block]
            rows = np.arange(len(codes))
            told = (codes >= 0) & (x[0, rows, codes] > -np.inf)
            yield x[:, told], codes[told]

    def derivatives(
        weights: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gradient, curvature = np.zeros(3), np.zeros((3, 3))
        for x, codes in blocks():
            absent = x[0] == -np.inf
            x[:, absent] = 0
            scores = np.tensordot(weights, x, 1)
            scores[absent] = -np.inf
            scores -= scores.max(axis=1, keepdims=True)
            shares = np.exp(scores, out=scores)
            shares /= shares.sum(axis=1, keepdims=True)
            means = np.einsum("qn,fqn->qf", shares, x)
            own = x[:, np.arange(len(codes)), codes].T
            gradient += (own - means).sum(axis=0)
            flat = x.reshape(3, -1)
            curvature += (flat * shares.ravel()) @ flat.T - means.T @ means
        return gradient, curvature

    model, memory, _ = _newton(derivatives, usual, _NEXT_SCALES)
    return max(memory, 0.0) / max(model, 0.1)


def fit_taste_weights(
    model_logits: NDArray[np.floating],
    taste_scores: NDArray[np.floating],
    signs: NDArray[np.integer],
) -> TasteWeights:
    """Learn from held-out signs how model and memory together foretell them.

    Parameters
    ----------
    model_logits, taste_scores : arrays of shape (n_events,)
        What both say of the item that did come, for events that neither has seen.
    signs : int array of shape (n_events,)
        +1 liked, -1 disliked; 0 tells nothing.

    Returns
    -------
    TasteWeights
        Those of a logistic regression; about :data:`TASTE_WEIGHTS` if there is little to learn
        from.
    """
    told = np.asarray(signs) != 0
    x = np.stack([np.asarray(model_logits)[told], np.asarray(taste_scores)[told]])
    x = np.concatenate([x, np.ones((1, told.sum()))]).astype(np.float64)
    liked = np.asarray(signs)[told] == 1

    def derivatives(
        weights: NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        chance = 0.5 + 0.5 * np.tanh(0.5 * (weights @ x))
        return x @ (liked - chance), (x * (chance * (1 - chance))) @ x.T

    return TasteWeights(*_newton(derivatives, np.array(TASTE_WEIGHTS), _TASTE_SCALES))


def _newton(
    derivatives: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]],
    usual: NDArray[np.float64],
    scales: NDArray[np.float64],
) -> list[float]:
    """Maximise a concave log likelihood plus that of weights about the `usual` ones.

    `derivatives` gives the gradient and the negative Hessian of the log likelihood.
    """
    weights = usual.copy()
    for _ in range(20):
        gradient, curvature = derivatives(weights)
        gradient -= (weights - usual) / scales**2
        step = np.linalg.solve(curvature + np.diag(scales**-2.0), gradient)
        # Far from the best weights a whole step may overshoot; no step is longer than the scales.
        step /= max(1.0, float(np.abs(step / scales).max()))
        weights += step
        if np.abs(step / scales).max() < 1e-2:
            break
    return weights.tolist()
