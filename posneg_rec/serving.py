"""From histories to scores to the top k, ties by item code, with NumPy alone.

Scores are made a tile at a time, some queries by some items, and never stand in memory for all of
both: a tile is finished while it is in the cache, and what is kept of it is small.

Shapes use these letters: ``Q`` queries (histories), ``N`` items, ``n`` items of a tile, ``d`` the
embedding dimension, ``H`` heads, ``U`` histories of the same length ``L``.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.parallel import _get_threadpool_controller

from posneg_rec.sequences import Histories, PackedSequences

__all__ = ["Model", "Queries", "Scorer", "of_one_length", "target_ranks", "top_k"]

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

# What fits a core's cache: events encoded at once, and scores of one tile (1 MiB).
_MAX_EVENTS = 2**10
_TILE_SCORES = 2**18
# Queries of a tile: enough for a matrix product to run at full speed.
_TILE_QUERIES = 2**8
# Where whole rows of scores are needed, so many numbers at once (64 MiB).
_MAX_ROW_SCORES = 2**24


@dataclass(frozen=True)
class Queries:
    """What Q histories are to the model: encoder inputs, and items that were met already.

    Queries with the same input share it: query ``q`` reads ``inputs[rows[q]]``. A token is an
    item code, for a joint model plus ``N (sign + 1 + 3 gap tag)``.
    """

    inputs: PackedSequences
    rows: NDArray[np.int64]  # (Q,)
    seen: PackedSequences  # Q sequences of item codes

    @classmethod
    def before(
        cls,
        histories: Histories,
        users: NDArray[np.int64],
        stops: NDArray[np.int64],
        *,
        n_items: int,
        max_len: int,
        likes_only: bool,
        gap_tags: NDArray[np.int64] | None = None,
    ) -> Queries:
        """Take the histories of `users` (positions) before the events `stops`.

        Items that the catalogue lacks are left out. The encoder gets the last `max_len` events:
        liked items alone, or all events tagged with their sign and the time since the one before,
        `gap_tags` of all events of `histories`.
        """
        starts = histories.offsets[:-1][users]

        def events(kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
            n_before = np.concatenate([[0], np.cumsum(kept)])
            return np.flatnonzero(kept), n_before[starts], n_before[stops]

        known = histories.items >= 0
        read, first, last = events(known & (histories.signs == 1) if likes_only else known)
        tokens = histories.items[read]
        if not likes_only:
            tags = histories.signs[read].astype(np.int64) + 1
            if gap_tags is not None:
                tags += 3 * gap_tags[read]
            tokens = tokens + n_items * tags
        # Where a user's input ends tells which user and how much: one key for equal inputs.
        key = np.where(last > first, last, -1)
        _, distinct, rows = np.unique(key, return_index=True, return_inverse=True)
        first, last = first[distinct], last[distinct]
        inputs = PackedSequences.slices(tokens, np.maximum(first, last - max_len), last)
        seen, first, last = events(known)
        return cls(inputs, rows, PackedSequences.slices(histories.items[seen], first, last))


# -- Threads -----------------------------------------------------------------------------------

_Job = TypeVar("_Job")


class _OneThreadEach:
    """Give each matrix product one thread while somebody is inside; tell how many it would have.

    Threads that meet after each small product spend more time on meeting than on the product, and
    on a machine with other work they wait for each other a hundred times as long.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_threads: list[int] = []
        self._n_inside = 0

    @functools.cached_property
    def _libraries(self) -> list[Any]:
        return _get_threadpool_controller().select(user_api="blas").lib_controllers

    def __enter__(self) -> int:
        with self._lock:
            current = [library.num_threads for library in self._libraries]
            # The number is the whole process's: whoever comes first notes it for the last to leave.
            if self._n_inside == 0:
                self._n_threads = current
                self._limit([1] * len(current))
            self._n_inside += 1
        return max(current, default=1)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._limit(self._n_threads)

    def _limit(self, n_threads: list[int]) -> None:
        for library, n in zip(self._libraries, n_threads, strict=True):
            library.set_num_threads(n)


_one_thread_each = _OneThreadEach()


def _for_each(function: Callable[[_Job], None], jobs: Sequence[_Job]) -> None:
    """Call a function with each job, on as many threads as one matrix product would take."""
    with _one_thread_each as n_threads:
        if n_threads == 1 or len(jobs) == 1:
            for job in jobs:
                function(job)
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                list(pool.map(function, jobs))


def of_one_length(lengths: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
    """Group histories that need neither padding nor a mask of it beside each other.

    Each group, positions of histories of one length, has at most (if it can) `most` events; those
    of length 0 are in none.
    """
    order = np.argsort(lengths, kind="stable")
    counts = np.bincount(lengths)
    stops = np.cumsum(counts)
    groups = []
    for length in (np.flatnonzero(counts[1:]) + 1).tolist():
        alike = order[stops[length - 1] : stops[length]]
        step = max(1, most // length)
        groups += [alike[start : start + step] for start in range(0, len(alike), step)]
    return groups


# -- The model's arithmetic: a plain twin of what `nn` trains -----------------------------------


class _Block(NamedTuple):
    """A transformer block in as few products as give the same numbers.

    Scale and shift of each norm are part of what follows it, and keys and values are never made.
    A query times a key, ``(Q x) . (K y)``, is ``(K' Q x) . y``, and what all keys of a query share
    leaves a softmax as it is; the values taken, ``sum a V y``, are ``V (sum a y)``. With one head
    that is a product less, and where only the last event asks, hardly any work.
    """

    query: Array  # (H, d, d)
    query_bias: Array  # (H, 1, d)
    value: Array  # (H, d, d/H)
    value_bias: Array  # (H, 1, d/H)
    gate: Array  # (d, d), or (d, 0) of a block without gates
    gate_bias: Array
    out: Array  # (d, d)
    out_bias: Array
    inner: Array  # (d, d), with gates (d, 2d)
    inner_bias: Array
    outer: Array  # (d, d)
    outer_bias: Array

    @classmethod
    def of(cls, weights: Weights, name: str, n_heads: int) -> _Block:
        def exact(part: str) -> NDArray[np.float64]:  # rounded once, at the end
            return weights[f"{name}.{part}"].astype(np.float64)

        def after_norm(norm: str, linear: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            matrix = exact(f"{linear}.weight")
            bias = matrix @ exact(f"{norm}.bias") + exact(f"{linear}.bias")
            return matrix * exact(f"{norm}.weight"), bias

        matrix, bias = after_norm("attention_norm", "attention_in")  # of Q, K, V and, maybe, gate
        dim = matrix.shape[1]
        q, k, v = matrix[: 3 * dim].reshape(3, n_heads, -1, dim)  # (H, d/H, d)
        q_bias, _, v_bias = bias[: 3 * dim].reshape(3, n_heads, 1, -1)
        k /= np.sqrt(k.shape[1])
        inner, inner_bias = after_norm("feedforward_norm", "feedforward_in")
        parts = {
            "query": q.mT @ k,
            "query_bias": q_bias @ k,
            "value": v.mT,
            "value_bias": v_bias,
            "gate": matrix[3 * dim :].T,
            "gate_bias": bias[3 * dim :],
            "out": exact("attention_out.weight").T,
            "out_bias": exact("attention_out.bias"),
            "inner": inner.T,
            "inner_bias": inner_bias,
            "outer": exact("feedforward_out.weight").T,
            "outer_bias": exact("feedforward_out.bias"),
        }
        return cls(
            **{part: np.ascontiguousarray(value, np.float32) for part, value in parts.items()}
        )

    def __call__(self, x: Array, n_asked: int) -> Array:
        """Turn states (U, L, d) into those of the last `n_asked` events, (U, n_asked, d)."""
        n_users, length, dim = x.shape
        gated = self.gate.size > 0
        last = slice(length - n_asked, length)
        events = _standardised(x)
        asked, x = events[:, last].reshape(-1, dim), x[:, last].reshape(-1, dim)  # (U n_asked, d)
        queries = _affine(asked, self.query, self.query_bias)  # (H, U n_asked, d)
        attention: Array = queries.reshape(-1, n_users, n_asked, dim) @ events.mT
        # Now (H, U, n_asked, L).
        if n_asked > 1:
            places = np.arange(length)
            later = places > places[last, None]
            attention += np.where(later, np.float32(-np.inf), np.float32(0))
        attention -= attention.max(-1, keepdims=True)
        np.exp(attention, out=attention)
        attention /= attention.sum(-1, keepdims=True)
        taken = (attention @ events).reshape(len(attention), -1, dim)  # (H, U n_asked, d)
        taken = _affine(taken, self.value, self.value_bias).swapaxes(0, 1).reshape(asked.shape)
        if gated:
            taken *= _sigmoid(_affine(asked, self.gate, self.gate_bias))
        x = x + _affine(taken, self.out, self.out_bias)
        inner = _affine(_standardised(x), self.inner, self.inner_bias)
        if gated:
            inner = inner[:, :dim] * _sigmoid(inner[:, :dim]) * inner[:, dim:]
        else:
            np.maximum(inner, 0, out=inner)
        x += _affine(inner, self.outer, self.outer_bias)
        return x.reshape(n_users, n_asked, dim)


def _standardised(x: Array) -> Array:
    share = np.float32(1 / x.shape[-1])
    centred: Array = x - x.sum(-1, keepdims=True) * share
    variance = np.einsum("...i,...i->...", centred, centred)[..., None] * share
    centred /= np.sqrt(variance + np.float32(1e-5))
    return centred


def _affine(x: Array, matrix: Array, bias: Array) -> Array:
    y: Array = x @ matrix
    y += bias
    return y


def _sigmoid(x: Array) -> Array:
    y: Array = np.tanh(x * np.float32(0.5))  # which cannot overflow
    y += 1
    y *= np.float32(0.5)
    return y


class Model:
    """What a trained model computes, from its parameters, made ready once.

    Parameters
    ----------
    weights : mapping of str to float32 array
        The parameters by name.
    n_heads : int
    """

    def __init__(self, weights: Weights, n_heads: int) -> None:
        self.weights, self.n_heads = weights, n_heads
        self.items = weights["item_embedding"]  # (N, d)
        self.is_joint = "item_taste" in weights
        self._encoder = "encoder" if self.is_joint else "positive"
        self._scale = np.float32(np.sqrt(self.items.shape[1]))
        if self.is_joint:
            # Signs by gap tags, (3 G, d); models of the first file format read no gaps.
            tags = weights["sign_embedding"] * self._scale
            if "gap_embedding" in weights:
                tags = (weights["gap_embedding"][:, None] * self._scale + tags).reshape(
                    -1, tags.shape[1]
                )
            self.tags = tags
        names = [name for name in weights if name.startswith(f"{self._encoder}.blocks.")]
        self._blocks = [
            _Block.of(weights, f"{self._encoder}.blocks.{layer}", n_heads)
            for layer in range(len({name.split(".")[2] for name in names}))
        ]

    def encode(self, sequences: PackedSequences) -> Array:
        """Encode histories to the state after the last event.

        Parameters
        ----------
        sequences : PackedSequences of U histories
            Tokens (see :class:`Queries`), oldest first, each at most ``max_len`` long.

        Returns
        -------
        float32 array of shape (U, d)
            0 where the history is empty.
        """
        states = np.zeros((len(sequences), self.items.shape[1]), np.float32)
        lengths, starts = sequences.lengths, sequences.offsets[:-1]

        def fill(rows: NDArray[np.int64]) -> None:
            events = starts[rows, None] + np.arange(lengths[rows[0]])  # (U, L)
            states[rows] = self._encode(sequences.values[events])

        _for_each(fill, of_one_length(lengths, _MAX_EVENTS))
        return states

    def _encode(self, tokens: NDArray[np.int64]) -> Array:
        """Encode histories of one length, (U, L) to (U, d)."""
        x = self._vectors(tokens)  # (U, L, d)
        x += self.weights[f"{self._encoder}.position_embedding"][: x.shape[1]][::-1]
        for block in self._blocks[:-1]:
            x = block(x, x.shape[1])
        for block in self._blocks[-1:]:  # of which only the last event's state is read
            x = block(x, 1)
        states = _standardised(x[:, -1])
        states *= self.weights[f"{self._encoder}.norm.weight"]
        states += self.weights[f"{self._encoder}.norm.bias"]
        return states

    def _vectors(self, tokens: NDArray[np.int64]) -> Array:
        """Make input vectors (U, L, d) of tokens (U, L), see :class:`Queries`."""
        tags, codes = np.divmod(tokens, len(self.items))
        vectors: Array = self.items[codes]
        vectors *= self._scale
        if "latest.weight" in self.weights:
            place = np.arange(tokens.shape[1])
            parts = np.split(vectors @ self.weights["latest.weight"].T, 2, axis=-1)
            for sign, shown in zip((1, -1), parts, strict=True):
                found = np.maximum.accumulate(np.where(tags % 3 == sign + 1, place, -1), axis=1)
                user, event = np.nonzero(found >= 0)
                vectors[user, event] += shown[user, found[user, event]]
        if self.is_joint:
            vectors += self.tags[tags]
        return vectors

    def logits(self, states: Array, items: slice) -> Array:
        """Of what comes next, (Q, n) from states (Q, d): log probabilities but for a constant."""
        logits: Array = states @ self.items[items].T
        return logits

    def log_liked(self, states: Array, items: slice) -> Array:
        """``log p(liked | next)`` of a joint model, (Q, n) from states (Q, d)."""
        weights = self.weights
        x = _affine(states, weights["taste_query.weight"].T, weights["taste_query.bias"])
        level = _affine(states, weights["taste_level.weight"].T, weights["taste_level.bias"])
        x = self.logits(x, items)
        x += weights["item_taste"][items]
        x += level
        # log sigmoid(x) = min(x, 0) - log(1 + exp(-|x|)), by functions that NumPy has vectorised.
        rest = np.abs(x)
        np.exp(np.negative(rest, out=rest), out=rest)
        rest += 1
        np.minimum(x, 0, out=x)
        x -= np.log(rest, out=rest)
        return x


# -- Scores of queries by items ----------------------------------------------------------------


@dataclass
class Scorer:
    """The scores of all items for some queries.

    Of PNFRec the logits; of a joint model ``log p(next) + aversion log p(liked | next)``. Where
    the encoder has nothing to read, the popular and well-liked score high.

    Parameters
    ----------
    model : Model
    likes, dislikes : int arrays of shape (N,)
        How often each item was liked and disliked.
    queries : Queries
    aversion : float, default=1.0
        Weight >= 0 of the log probability to be liked, in a joint model.
    exclude_seen : bool, default=True
        Whether items that the query has seen score -inf.
    allowed : bool array of shape (N,), default=None
        All others score -inf.
    """

    model: Model
    likes: NDArray[np.int64]
    dislikes: NDArray[np.int64]
    queries: Queries
    aversion: float = 1.0
    exclude_seen: bool = True
    allowed: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        """Encode what the queries read."""
        self._states = self.model.encode(self.queries.inputs)  # (U, d)

    def top_k(self, k: int) -> tuple[NDArray[np.int64], Array]:
        """Find the best items of each query, best first, equal scores by item code.

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
        k = min(k, len(self.likes))
        codes = np.full((len(self.queries.rows), k), -1)
        best = np.full(codes.shape, -np.inf, dtype=np.float32)

        def fill(block: slice) -> None:
            found, top = codes[block], best[block]  # views
            floor, log_mass = top[:, -1], self._no_mass(block)
            for rows, items, scores in self._tiles(block, floor, log_mass):
                # What was found before has lower codes and so goes before its equals.
                places, top[rows] = top_k(np.concatenate([top[rows], scores], axis=1), k)
                kept = np.take_along_axis(found[rows], np.minimum(places, k - 1), 1)
                found[rows] = np.where(places < k, kept, places + (items.start - k))
            top -= log_mass[:, None]

        _for_each(fill, self._blocks(_TILE_QUERIES))
        return codes, best

    def ranks(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the place of each query's target among all items, as :func:`target_ranks` does.

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

        _for_each(fill, self._blocks(min(_TILE_QUERIES, _MAX_ROW_SCORES // len(self.likes))))
        return ranks

    def row(self, query: int) -> Array:
        """Score all items, (N,), for one query."""
        with _one_thread_each:
            scores, log_mass = self._whole_rows(slice(query, query + 1))
        return scores[0] - log_mass

    def _blocks(self, size: int) -> list[slice]:
        n, size = len(self.queries.rows), max(1, size)
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def _no_mass(self, block: slice) -> Array:
        nothing = -np.inf if self.model.is_joint else 0.0
        return np.full(block.stop - block.start, nothing, dtype=np.float32)

    def _whole_rows(self, block: slice) -> tuple[Array, Array]:
        log_mass = self._no_mass(block)
        whole = np.full((len(log_mass), len(self.likes)), -np.inf, dtype=np.float32)
        for rows, items, scores in self._tiles(block, np.full_like(log_mass, -np.inf), log_mass):
            whole[rows, items] = scores
        return whole, log_mass

    def _tiles(
        self, block: slice, floor: Array, log_mass: Array
    ) -> Iterator[tuple[NDArray[np.int64], slice, Array]]:
        """Score one tile after the other, in ascending order of the items.

        Yields the rows (positions in the block) that may score above their `floor` in the tile,
        the items, and the scores of these rows, the caller's to change. The caller may raise the
        floor in between. The scores lack ``- log_mass``, what makes probabilities of the logits
        and is complete after the last tile: the same for a whole row, it changes no rank.
        """
        inputs = self.queries.rows[block]
        states = self._states[inputs]  # (Q, d)
        empty = np.flatnonzero(self.queries.inputs.lengths[inputs] == 0)
        aversion = np.full((len(inputs), 1), self.aversion, dtype=np.float32)
        aversion[empty] = 0
        seen_rows, seen = self._seen(block)
        n_items = len(self.likes)
        step = max(1, _TILE_SCORES // len(inputs))
        for start in range(0, n_items, step):
            items = slice(start, min(start + step, n_items))
            scores = self.model.logits(states, items)  # (Q, n)
            top = scores.max(1)
            if self.model.is_joint:
                mass = np.exp(scores - top[:, None]).sum(1)
                np.logaddexp(log_mass, top + np.log(mass), out=log_mass)
            if len(empty):
                scores[empty] = self._fallback[items]  # negative, while their logits were 0
            if self.allowed is not None:
                scores[:, ~self.allowed[items]] = -np.inf
                top = scores.max(1)
            first, last = np.searchsorted(seen, [items.start, items.stop])
            scores[seen_rows[first:last], seen[first:last] - start] = -np.inf
            # A log probability is never positive: from their logits on scores only go down.
            rows = np.flatnonzero(top > floor)
            if len(rows) < len(top):
                scores = scores[rows]
            if self.model.is_joint and self.aversion:
                scores += aversion[rows] * self.model.log_liked(states[rows], items)
            yield rows, items, scores
        log_mass[empty] = 0

    @functools.cached_property
    def _fallback(self) -> Array:
        """Log of the share of all likes times log of the like rate, (N,)."""
        likes, dislikes = self.likes + 1.0, self.dislikes + 1.0
        fallback = np.log(likes / likes.sum()) + np.log(likes / (likes + dislikes))
        return fallback.astype(np.float32)

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
    >>> from posneg_rec.serving import top_k
    >>> codes, _ = top_k(np.array([[0.0, 2.0, 2.0, -np.inf]], dtype=np.float32), k=4)
    >>> codes
    array([[ 1,  2,  0, -1]])
    """
    n_queries, n_items = scores.shape
    width = min(k, n_items)
    places = np.argpartition(scores, n_items - width, axis=1)[:, n_items - width :]
    tops = np.take_along_axis(scores, places, 1)
    # Where the k-th score occurs again beyond the k best, the partition chose among equals at
    # will: take the lowest codes instead.
    kth = tops.min(1)
    equals = (scores == kth[:, None]).sum(1) > (tops == kth[:, None]).sum(1)
    for row in np.flatnonzero(equals & (kth > -np.inf)):
        above = np.flatnonzero(scores[row] > kth[row])
        equal = np.flatnonzero(scores[row] == kth[row])[: width - len(above)]
        places[row] = np.concatenate([above, equal])
        tops[row] = scores[row, places[row]]
    order = np.lexsort((places, -tops), axis=1)
    codes = np.full((n_queries, k), -1)
    best = np.full((n_queries, k), -np.inf, dtype=scores.dtype)
    best[:, :width] = np.take_along_axis(tops, order, 1)
    codes[:, :width] = np.take_along_axis(places, order, 1)
    codes[best == -np.inf] = -1
    return codes, best


def target_ranks(scores: Array, targets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the place of each row's target in that row's ranking: 1 is the top.

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
