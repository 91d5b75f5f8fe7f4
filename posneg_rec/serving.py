"""From histories to scores to the top k, ties by item code, with NumPy alone.

Scores are made a tile at a time, some queries by some items, and never stand in memory for all of
both: a tile is finished while it is in the cache, and what is kept of it is small.

What a method is to answering is a subclass of :class:`Model`, found by its name in
:data:`METHODS`.

Shapes use these letters: ``Q`` queries (histories), ``N`` items, ``n`` items of a tile, ``d`` the
embedding dimension, ``H`` heads, ``U`` histories of the same length ``L``.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from posneg_rec._lazy import lazy
from posneg_rec.memory import (
    ItemMemory,
    Recalled,
    TasteWeights,
    WeighedMemory,
)
from posneg_rec.selection import NO_FILTERS, Filters, Pool, select, take_out
from posneg_rec.sequences import (
    Histories,
    PackedSequences,
    latest_of_each_sign,
    offsets_of,
    pair_tags,
    ranges,
)

if TYPE_CHECKING:
    from posneg_rec.answering import ServedRecommender
    from posneg_rec.archive import File
    from posneg_rec.progress import Watch

__all__ = [
    "METHODS",
    "Catalogue",
    "Inputs",
    "JointModel",
    "Model",
    "PNFRecModel",
    "Queries",
    "Scorer",
    "load",
    "log_sigmoid",
    "n_stages",
    "of_one_length",
    "target_ranks",
    "top_k",
]

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

# What fits a core's cache: events encoded at once, and scores of one tile (1 MiB).
_MAX_EVENTS = 2**10
_TILE_SCORES = 2**18
# Queries of a tile: enough for a matrix product to run at full speed.
_TILE_QUERIES = 2**8
# Where whole rows of scores are needed, so many numbers at once (64 MiB).
_MAX_ROW_SCORES = 2**24
# Where queries have lists of their own, so many marks of theirs at once (64 MiB).
_MAX_MARKS = 2**26
# Answers that are put together from pools: so many candidates in memory, and in a thread, at once.
_MAX_POOLED, _MAX_SELECTED = 2**22, 2**14
# For a product of so many multiplications OpenBLAS starts no threads.
_SMALL_PRODUCT = 2**18
# What no history is scored by is small in the vectors of items, for an index sorts them by all
# their numbers; a power of 2, which changes no digit.
_SELDOM_ASKED = np.float32(64)
# So few queries are multiplied with the items one by one.
_FEW_QUERIES = 8


def load(path: File, *, mmap: bool = False) -> ServedRecommender:
    """Open a saved model to answer with, in a process that needs NumPy and narwhals alone.

    What it returns has the methods, arguments and answers of
    :class:`posneg_rec.ContrastiveSeqRecommender`, and neither scikit-learn nor torch is imported
    for it. SciPy is where many histories are answered in one call.

    Parameters
    ----------
    path : path-like or binary file object
        What :meth:`ContrastiveSeqRecommender.save` wrote. Nothing in it is executed.
    mmap : bool, default=False
        Map the arrays of a file on disk into memory, so that all processes of a host share one
        copy of them.

    Returns
    -------
    ServedRecommender

    Raises
    ------
    posneg_rec.persistence.ModelFileError
        If the file is no model file, damaged, made by a newer version or made up; a ValueError.

    Examples
    --------
    >>> import io
    >>> from posneg_rec import ContrastiveSeqRecommender, serving
    >>> model = ContrastiveSeqRecommender(embedding_dim=4, n_heads=1, max_epochs=1, random_state=0)
    >>> model = model.fit([["a", "b", "c"], ["b", "c", "a"]], [[1, 0, 1], [1, 1, 0]])
    >>> file = io.BytesIO()
    >>> model.save(file)
    >>> served = serving.load(file)
    >>> sorted(served.recommend(["a"], k=2, feedback=[True])[0])
    ['b', 'c']
    """
    # What reads a file and answers stands on this module.
    from posneg_rec.answering import ServedRecommender
    from posneg_rec.persistence import read_model

    return read_model(path, ServedRecommender, mmap=mmap)


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


# -- Threads and products ----------------------------------------------------------------------

_Job = TypeVar("_Job")


@functools.cache
def _blas() -> Any:
    from threadpoolctl import ThreadpoolController  # which one history never needs

    return ThreadpoolController().select(user_api="blas")


def _n_threads() -> int:
    """Tell how many threads BLAS would take for a large product, as the caller limited them."""
    return max((library.num_threads for library in _blas().lib_controllers), default=1)


def _for_each(
    function: Callable[[_Job], None], jobs: Sequence[_Job], watch: Watch | None = None
) -> None:
    """Call a function with each job, on as many threads as one matrix product would take."""

    def go_through(done: Iterable[None]) -> None:
        for _ in done if watch is None else watch(done, len(jobs)):
            pass

    n_threads = min(_n_threads(), len(jobs)) if len(jobs) > 1 else 1
    if n_threads == 1:
        go_through(map(function, jobs))
    else:
        with ThreadPoolExecutor(n_threads) as pool:
            go_through(pool.map(function, jobs))


def _product(a: Array, b: Array) -> Array:
    """Return ``a @ b``, (..., m, n), made of products that are too small for BLAS to share out.

    Threads that meet after each small product spend more time on meeting than on the product, and
    on a machine with other work they wait for each other a hundred times as long. To limit their
    number would change it for the whole process; small products, which NumPy multiplies in one
    call, take no longer than a large one.
    """
    m, k, n = *a.shape[-2:], b.shape[-1]
    if m == 1:  # a vector times a matrix is shared out much earlier than two of them
        return _product(np.repeat(a, 2, axis=-2), b)[..., :1, :]
    n_columns = min(n, max(16, _SMALL_PRODUCT // (16 * max(1, k))))
    most = max(2, _SMALL_PRODUCT // max(1, k * n_columns))
    if m <= most and n_columns == n:
        return a @ b
    n_rows = next((rows for rows in range(most, most // 2, -1) if m % rows == 0), most)
    n_pieces = m // n_rows
    whole = n_pieces * n_rows
    stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.empty((*stack, m, n), dtype=a.dtype)
    pieces = a[..., :whole, :].reshape(*a.shape[:-2], n_pieces, n_rows, k)
    for start in range(0, n, n_columns):
        columns = slice(start, start + n_columns)
        part, found = b[..., columns], out[..., columns]
        into = found[..., :whole, :].reshape(*stack, n_pieces, n_rows, part.shape[-1])  # a view
        np.matmul(pieces, part[..., None, :, :], out=into)
        if whole < m:
            found[..., whole:, :] = _product(a[..., whole:, :], part)
    return out


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
    distance: Array  # (H or 1, 2 * max_len - 1): the biases by distance, farthest first, then -inf
    gap: Array  # (H, N_GAP_TAGS), or (H, 0) of a block without biases

    @classmethod
    def of(cls, weights: Weights, name: str, n_heads: int, max_len: int) -> _Block:
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
        distances = weights.get(f"{name}.distance_bias", np.zeros((1, max_len), np.float32))
        later = np.full((len(distances), max_len - 1), -np.inf)
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
            "distance": np.concatenate([distances[:, ::-1], later], axis=1),
            "gap": weights.get(f"{name}.gap_bias", np.empty((n_heads, 0))),
        }
        return cls(
            **{part: np.ascontiguousarray(value, np.float32) for part, value in parts.items()}
        )

    def __call__(self, x: Array, n_asked: int, tags: NDArray[np.int8] | None) -> Array:
        """Turn states (U, L, d) into those of the last `n_asked` events, (U, n_asked, d).

        `tags` (U, L, L) class the time between events; None where it is unknown.
        """
        n_users, length, dim = x.shape
        gated = self.gate.size > 0
        last = slice(length - n_asked, length)
        events = _standardised(x)
        asked, x = events[:, last].reshape(-1, dim), x[:, last].reshape(-1, dim)  # (U n_asked, d)
        queries = _affine(asked, self.query, self.query_bias)  # (H, U n_asked, d)
        # In one piece, for small products by a transposed matrix take twice as long.
        keys = np.ascontiguousarray(events.mT)  # (U, d, L)
        attention = _product(queries.reshape(-1, n_users, n_asked, dim), keys)
        # Now (H, U, n_asked, L). Of the rows of biases each is the one before it, a step on.
        rows = sliding_window_view(self.distance, length, axis=1)
        first = (self.distance.shape[1] + 1) // 2 - length
        attention += rows[:, None, first : first + n_asked][:, :, ::-1]
        if tags is not None and self.gap.size:
            attention += self.gap.take(tags[:, last], axis=1)
        attention -= attention.max(-1, keepdims=True)
        np.exp(attention, out=attention)
        attention /= attention.sum(-1, keepdims=True)
        taken = _product(attention, events).reshape(len(attention), -1, dim)  # (H, U n_asked, d)
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


def log_sigmoid(x: Array) -> Array:
    """Turn logits into log probabilities, in place."""
    # min(x, 0) - log(1 + exp(-|x|)), by functions that NumPy has vectorised.
    rest = np.abs(x)
    np.exp(np.negative(rest, out=rest), out=rest)
    rest += 1
    np.minimum(x, 0, out=x)
    x -= np.log(rest, out=rest)
    return x


def _affine(x: Array, matrix: Array, bias: Array) -> Array:
    y = _product(x, matrix)
    y += bias
    return y


def _sigmoid(x: Array) -> Array:
    y: Array = np.tanh(x * np.float32(0.5))  # which cannot overflow
    y += 1
    y *= np.float32(0.5)
    return y


class Model:
    """What a trained model computes, from its parameters, made ready once.

    Subclasses say what a method reads and how its scores are made.

    Parameters
    ----------
    weights : mapping of str to float32 array
        The parameters by name.
    n_heads : int
    gap_edges : float64 array, default=None
        Bounds of the ranges of time between events (:func:`sequences.gap_edges`); None for a
        model that reads no times.
    """

    #: Its name in :data:`METHODS`, and that of the encoder that answers.
    method: ClassVar[str]
    encoder: ClassVar[str]
    #: Whether it reads the liked events alone, or all of them.
    likes_only: ClassVar[bool]
    #: Whether scores are log probabilities, to which that of being liked is added.
    is_likelihood: ClassVar[bool]

    def __init__(
        self, weights: Weights, n_heads: int, gap_edges: NDArray[np.float64] | None = None
    ) -> None:
        self.weights, self.n_heads = weights, n_heads
        self.gap_edges = np.empty(0) if gap_edges is None else gap_edges
        self.items = weights["item_embedding"]  # (N, d)
        self._scale = np.float32(np.sqrt(self.items.shape[1]))
        self.blocks = [
            _Block.of(
                weights,
                f"{self.encoder}.blocks.{layer}",
                n_heads,
                len(weights[f"{self.encoder}.position_embedding"]),
            )
            for layer in range(self.n_layers(weights))
        ]

    @classmethod
    def n_layers(cls, weights: Weights) -> int:
        """Count the blocks of the encoder that answers."""
        prefix = f"{cls.encoder}.blocks."
        return len({name.split(".")[2] for name in weights if name.startswith(prefix)})

    def encode(self, inputs: Inputs, watch: Watch | None = None) -> Array:
        """Encode histories to the state after the last event.

        Parameters
        ----------
        inputs : Inputs
            Of U histories, each at most ``max_len`` long.

        Returns
        -------
        float32 array of shape (U, d)
            0 where the history is empty.
        """
        states = np.zeros((len(inputs), self.items.shape[1]), np.float32)
        lengths, starts = inputs.lengths, inputs.offsets[:-1]

        def fill(rows: NDArray[np.int64]) -> None:
            events = starts[rows, None] + np.arange(lengths[rows[0]])  # (U, L)
            with np.errstate(under="ignore"):
                states[rows] = self._encode(
                    inputs.items[events],
                    inputs.signs[events],
                    inputs.gap_tags[events],
                    inputs.elapsed[events],
                )

        _for_each(fill, of_one_length(lengths, _MAX_EVENTS), watch)
        return states

    def _encode(
        self,
        items: NDArray[np.int64],
        signs: NDArray[np.int8],
        gap_tags: NDArray[np.int64],
        elapsed: NDArray[np.float64],
    ) -> Array:
        """Encode histories of one length, (U, L) to (U, d)."""
        x = self._vectors(items, signs, gap_tags)  # (U, L, d)
        x += self.weights[f"{self.encoder}.position_embedding"][: x.shape[1]][::-1]
        tags = None
        # Where all times are unknown, what is the same for all events changes no attention.
        if len(self.gap_edges) and not np.isnan(elapsed).all():
            tags = pair_tags(elapsed, self.gap_edges)
        for block in self.blocks[:-1]:
            x = block(x, x.shape[1], tags)
        for block in self.blocks[-1:]:  # of which only the last event's state is read
            x = block(x, 1, tags)
        states = _standardised(x[:, -1])
        states *= self.weights[f"{self.encoder}.norm.weight"]
        states += self.weights[f"{self.encoder}.norm.bias"]
        return states

    def _vectors(
        self,
        items: NDArray[np.int64],
        signs: NDArray[np.int8],
        gap_tags: NDArray[np.int64],
    ) -> Array:
        """Make input vectors (U, L, d) of events (U, L)."""
        vectors: Array = self.items[items]
        vectors *= self._scale
        return vectors

    def logits(self, states: Array, items: slice | NDArray[np.int64]) -> Array:
        """Of what comes next, (Q, n) from states (Q, d): log probabilities but for a constant."""
        vectors = self.items[items]
        if len(states) < _FEW_QUERIES:
            logits: Array = np.vecdot(vectors, states[:, None, :])
            return logits
        return _product(states, np.ascontiguousarray(vectors.T))

    def liked_logits(self, states: Array, items: slice | NDArray[np.int64]) -> Array:
        """Of being liked, (Q, n) from states (Q, d), of a model of likelihoods."""
        raise NotImplementedError

    def taste_queries(self, states: Array) -> tuple[Array, Array]:
        """Return what makes these logits linear: vectors (Q, d) and levels (Q,).

        The logit is vector times item vector, plus the item's own taste, plus the level.
        """
        raise NotImplementedError


class PNFRecModel(Model):
    """The positive transformer of PNFRec, which reads the liked items; scores are logits."""

    method = "pnfrec"
    encoder = "positive"
    likes_only = True
    is_likelihood = False


class JointModel(Model):
    """The transformer over all events; scores are likelihoods of what comes, and is liked."""

    method = "joint"
    encoder = "encoder"
    likes_only = False
    is_likelihood = True

    def __init__(
        self, weights: Weights, n_heads: int, gap_edges: NDArray[np.float64] | None = None
    ) -> None:
        super().__init__(weights, n_heads, gap_edges)
        # Of each gap tag and sign, (G, 3, d).
        self._tags = self._scale * (weights["gap_embedding"][:, None] + weights["sign_embedding"])
        self._taste_query = np.ascontiguousarray(weights["taste_query.weight"].T)
        latest = weights.get("latest.weight")
        self._latest = None if latest is None else np.ascontiguousarray(latest.T)

    def _vectors(
        self,
        items: NDArray[np.int64],
        signs: NDArray[np.int8],
        gap_tags: NDArray[np.int64],
    ) -> Array:
        vectors = super()._vectors(items, signs, gap_tags)
        if self._latest is not None:
            n_users, length, dim = vectors.shape
            flat = vectors.reshape(-1, dim)  # a view
            offsets = np.arange(n_users + 1) * length
            latest = latest_of_each_sign(signs.ravel(), offsets)  # (U L, 2)
            parts = np.split(_product(flat, self._latest), 2, axis=-1)
            for found, shown in zip(latest.T, parts, strict=True):
                event = np.flatnonzero(found >= 0)
                flat[event] += shown[found[event]]
        vectors += self._tags[gap_tags, signs + 1]
        return vectors

    def liked_logits(self, states: Array, items: slice | NDArray[np.int64]) -> Array:
        """Of being liked, (Q, n) from states (Q, d)."""
        x, level = self.taste_queries(states)
        x = self.logits(x, items)
        x += self.weights["item_taste"][items]
        x += level[:, None]
        return x

    def taste_queries(self, states: Array) -> tuple[Array, Array]:
        """Return vectors (Q, d) and levels (Q,) that make the logits of being liked linear."""
        weights = self.weights
        level = states @ weights["taste_level.weight"][0] + weights["taste_level.bias"]
        return _affine(states, self._taste_query, weights["taste_query.bias"]), level


#: What each method is to answering, by the name that the fitted model carries.
METHODS: dict[str, type[Model]] = {kind.method: kind for kind in (JointModel, PNFRecModel)}


# -- Scores of queries by items ----------------------------------------------------------------


# Lists of more than this share of the catalogue are made from whole rows of scores.
_LONG_LIST = 1 / 16

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _quietly(function: _Function) -> _Function:
    """Let tiny numbers become 0, whatever the caller's ``np.errstate`` says."""
    return np.errstate(under="ignore")(function)


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

    Logits, or of a model of likelihoods ``log p(next) + aversion log p(liked | next)``. A memory
    adds what it knows to the logits of both. Where the
    encoder has nothing to read, the popular and well-liked score high.

    Parameters
    ----------
    model : Model
    likes, dislikes : int arrays of shape (N,)
        How often each item was liked and disliked.
    queries : Queries
    aversion : float, default=1.0
        Weight >= 0 of the log probability to be liked, in a model of likelihoods.
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

        _for_each(fill, asked._blocks(_MAX_SELECTED // size), self.watch)
        return queries[is_short & (size < len(self.likes))]

    def _of(self, queries: NDArray[np.int64]) -> Scorer:
        """Return the scorer of some of the queries, whose inputs are encoded already."""
        asked = copy.copy(self)
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

        @_quietly
        def fill(block: slice) -> None:
            found, top = codes[block], best[block]  # views
            floor, log_normaliser = top[:, -1], self._no_normaliser(block)
            for rows, items, scores in self._tiles(block, floor, log_normaliser):
                take_out(scores, rows, items, pinned[block], pinned_scores[block])
                # What was found before has lower codes and so goes before its equals.
                positions, top[rows] = top_k(np.concatenate([top[rows], scores], axis=1), k)
                kept = np.take_along_axis(found[rows], np.minimum(positions, k - 1), 1)
                found[rows] = np.where(positions < k, kept, positions + (items.start - k))
            top -= log_normaliser[:, None]
            pinned_scores[block] -= log_normaliser[:, None]

        # Tile after tile, long lists would be sorted over and over.
        if k > _LONG_LIST * n_items:
            _for_each(fill_whole, self._blocks(_MAX_ROW_SCORES // n_items), self.watch)
        else:
            has_rows = self.filters.allowed_rows is not None or self.filters.denied_rows
            most = _MAX_MARKS // n_items if has_rows else _TILE_QUERIES
            _for_each(fill, self._blocks(min(_TILE_QUERIES, most)), self.watch)
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
        _for_each(fill, self._blocks(size), self.watch)
        return ranks

    def ranks_by_aversion(
        self, targets: NDArray[np.int64], aversions: Sequence[float]
    ) -> NDArray[np.int64]:
        """Find the same under several aversions instead of the scorer's own.

        What an aversion weighs is made once for all of them.

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
        _for_each(fill, self._blocks(size), self.watch)
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

    @_quietly
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

    @_quietly
    def _whole_rows(self, block: slice) -> tuple[Array, Array]:
        log_normaliser = self._no_normaliser(block)
        whole = np.full((len(log_normaliser), len(self.likes)), -np.inf, dtype=np.float32)
        for rows, items, scores in self._tiles(
            block, np.full_like(log_normaliser, -np.inf), log_normaliser
        ):
            whole[rows, items] = scores
        return whole, log_normaliser

    @_quietly
    def _whole_parts(self, block: slice) -> tuple[Array, Array | None]:
        """Return what rank by any aversion: scores without one, and what it is to weigh."""
        log_normaliser = self._no_normaliser(block)
        floor = np.full_like(log_normaliser, -np.inf)
        whole = np.full((len(log_normaliser), len(self.likes)), -np.inf, dtype=np.float32)
        whole_liked = np.zeros_like(whole) if self.model.is_likelihood else None
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
        change: without an aversion, and the log probabilities that it weighs, of a model of
        likelihoods and on request. The caller may raise the floor in between. The scores lack
        ``- log_normaliser``, what makes probabilities of the logits and is complete after the last
        tile: the same for a whole row, it changes no rank.
        """
        inputs = self.queries.rows[block]
        states = self._states[inputs]  # (Q, d)
        empty = np.flatnonzero(self.queries.inputs.lengths[inputs] == 0)
        is_read = np.ones((len(inputs), 1), dtype=np.float32)
        is_read[empty] = 0
        seen_rows, seen = self._seen(block)
        filters, pinned = self.filters, self._pinned[block]
        blocked = filters.blocked(block, len(self.likes))
        recalled = None if self.memory is None else self.queries.recall(self.memory.items, block)
        n_items = len(self.likes)
        step = max(1, _TILE_SCORES // len(inputs))
        for start in range(0, n_items, step):
            items = slice(start, min(start + step, n_items))
            scores = self.model.logits(states, items)  # (Q, n)
            if self.memory is not None and recalled is not None:
                scores += self.memory.next_weight * recalled.next_scores(items)
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
            if filters is not NO_FILTERS:
                top = scores.max(1)
            first, last = np.searchsorted(seen, [items.start, items.stop])
            scores[seen_rows[first:last], seen[first:last] - start] = -np.inf
            # A log probability is never positive: from their logits on scores only go down.
            is_pinned = (pinned >= items.start) & (pinned < items.stop)
            rows = np.flatnonzero((top > floor) | is_pinned.any(1))
            if len(rows) < len(top):
                scores = scores[rows]
            liked = None
            if self.model.is_likelihood and with_liked:
                liked = self.model.liked_logits(states[rows], items)
                if self.memory is not None and recalled is not None:
                    taste = recalled.taste_scores(items)[rows]
                    liked = self.memory.taste_weights.logit(liked, taste)
                liked += np.float32(self.liked_shift)
                liked = log_sigmoid(liked)
                if len(empty):
                    liked *= is_read[rows]
            yield rows, items, scores, liked
        log_normaliser[empty] = 0

    @_quietly
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
            takes the whole catalogue: see :meth:`log_normalisers`. The second is weighed by the
            aversion, and 0 where there is none.
        """
        rows = self.queries.rows
        states, empty = self._states[rows], self._empty
        following = self.model.logits(states, items)
        liked = np.zeros_like(following)
        if self.memory is not None and self._recalled is not None:
            following += self.memory.next_weight * self._recalled.next_scores(items)
        if self.model.is_likelihood and self.aversion:
            logits = self.model.liked_logits(states, items)
            if self.memory is not None and self._recalled is not None:
                taste = self._recalled.taste_scores(items)
                logits = self.memory.taste_weights.logit(logits, taste)
            logits += np.float32(self.liked_shift)
            liked = np.float32(self.aversion) * log_sigmoid(logits)
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

    @property
    def _empty(self) -> NDArray[np.bool_]:
        """Which queries the encoder has nothing to read of, (Q,)."""
        empty: NDArray[np.bool_] = self.queries.inputs.lengths[self.queries.rows] == 0
        return empty

    @_quietly
    def query_vectors(self) -> Array:
        """Make vectors whose products with :meth:`Catalogue.vectors` rank as the scores do.

        The product is the score of a model of logits. Of a model of likelihoods it is an upper
        bound of the score before ``log_normaliser`` is taken from it, for ``log p(liked)`` is
        replaced by its tangent at the logit that items mostly have: it is concave, so no tangent
        lies below. What the neighbours of a memory add is left out, see :meth:`of_neighbours`.

        Returns
        -------
        float32 array of shape (Q, d'), as :meth:`Catalogue.vectors`
        """
        states, empty = self._states[self.queries.rows], self._empty
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

    @_quietly
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
        """Make the tangents of ``aversion log p(liked)``, one of each query."""
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
        slopes = np.float32(self.aversion) * _sigmoid(-point)
        heights = slopes * (constant - point)
        heights += np.float32(self.aversion) * log_sigmoid(point)
        return _Tangents(queries, slopes, heights)

    @lazy
    def _recalled(self) -> Recalled | None:
        """Let a memory read what all queries have met."""
        if self.memory is None:
            return None
        return self.queries.recall(self.memory.items, slice(0, len(self.queries.rows)))

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


def _weighed(
    scores: Array, liked: Array | None, aversion: float, out: Array | None = None
) -> Array:
    """Return scores plus an aversion times the log probability to be liked."""
    if liked is None or not aversion:
        return scores
    weighed: Array = np.add(scores, np.float32(aversion) * liked, out=out)
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
    >>> from posneg_rec.serving import top_k
    >>> codes, _ = top_k(np.array([[0.0, 2.0, 2.0, -np.inf]], dtype=np.float32), k=4)
    >>> codes
    array([[ 1,  2,  0, -1]])
    """
    n_queries, n_items = scores.shape
    width = min(k, n_items)
    positions = np.argpartition(scores, n_items - width, axis=1)[:, n_items - width :]
    tops = np.take_along_axis(scores, positions, 1)
    # Where the k-th score occurs again beyond the k best, the partition chose among equals at
    # will: take the lowest codes instead.
    kth = tops.min(1)
    equals = (scores == kth[:, None]).sum(1) > (tops == kth[:, None]).sum(1)
    for row in np.flatnonzero(equals & (kth > -np.inf)):
        above = np.flatnonzero(scores[row] > kth[row])
        equal = np.flatnonzero(scores[row] == kth[row])[: width - len(above)]
        positions[row] = np.concatenate([above, equal])
        tops[row] = scores[row, positions[row]]
    order = np.lexsort((positions, -tops), axis=1)
    codes = np.full((n_queries, k), -1)
    best = np.full((n_queries, k), -np.inf, dtype=scores.dtype)
    best[:, :width] = np.take_along_axis(tops, order, 1)
    codes[:, :width] = np.take_along_axis(positions, order, 1)
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
