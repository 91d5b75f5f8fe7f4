"""What a trained model computes, with NumPy alone: a plain twin of what :mod:`nn` trains.

What a method is to answering is a subclass of :class:`Model`, found by its name in
:data:`METHODS`.

Shapes use these letters: ``Q`` queries (histories), ``N`` items, ``n`` items of a tile, ``d`` the
embedding dimension, ``H`` heads, ``U`` histories of the same length ``L``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from posneg_rec.linalg import affine, for_each, product, raised, row_sums, standardised
from posneg_rec.queries import Inputs
from posneg_rec.sequences import latest_of_each_sign, pair_tags

if TYPE_CHECKING:
    from posneg_rec.progress import Watch

__all__ = ["METHODS", "JointModel", "Model", "PNFRecModel", "of_one_length"]

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

# What fits a core's cache: events encoded at once.
_MAX_EVENTS = 2**10
# So few queries are multiplied with the items one by one.
_FEW_QUERIES = 8


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


class _Block(NamedTuple):
    """A transformer block in as few products as give the same numbers.

    Scale and shift of each norm are part of what follows it, and keys and values are never made.
    A query times a key, ``(Q x) . (K y)``, is ``(K' Q x) . y``, and what all keys of a query share
    leaves a softmax as it is; the values taken, ``sum a V y``, are ``V (sum a y)``. With one head
    that is a product less, and where only the last event asks, hardly any work. A gate is
    ``sigmoid(x) = (1 + tanh(x / 2)) / 2``; its halves are part of the matrices.
    """

    query: Array  # (H, d, d)
    query_bias: Array  # (H, 1, d)
    value: Array  # (H, d, d/H)
    value_bias: Array  # (H, 1, d/H)
    gate: Array  # (d, d), or (d, 0) of a block without gates
    gate_bias: Array
    out: Array  # (d, d)
    out_bias: Array
    inner: Array  # (d, d), with gates (d, 2d): what is gated, and what it is multiplied with
    inner_bias: Array
    outer: Array  # (d, d)
    outer_bias: Array
    # (H or 1, max_len, max_len), a view: of each event, oldest first, the biases of all; then -inf.
    distance: Array
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
        gate, gate_bias = matrix[3 * dim :] / 2, bias[3 * dim :] / 2
        gated = len(gate) > 0
        if gated:
            inner[:dim] /= 2
            inner_bias[:dim] /= 2
        distances = weights.get(f"{name}.distance_bias", np.zeros((1, max_len), np.float32))
        later = np.full((len(distances), max_len - 1), -np.inf)
        parts = {
            "query": q.mT @ k,
            "query_bias": q_bias @ k,
            "value": v.mT,
            "value_bias": v_bias,
            "gate": gate.T,
            "gate_bias": gate_bias,
            "out": exact("attention_out.weight").T / (2 if gated else 1),
            "out_bias": exact("attention_out.bias"),
            "inner": inner.T,
            "inner_bias": inner_bias,
            "outer": exact("feedforward_out.weight").T,
            "outer_bias": exact("feedforward_out.bias"),
            "distance": np.concatenate([distances[:, ::-1], later], axis=1),
            "gap": weights.get(f"{name}.gap_bias", np.empty((n_heads, 0))),
        }
        made = {part: np.ascontiguousarray(value, np.float32) for part, value in parts.items()}
        # Of the rows each is the one before it, a step on.
        made["distance"] = sliding_window_view(made["distance"], max_len, axis=1)[:, ::-1]
        return cls(**made)

    def __call__(self, x: Array, n_asked: int, tags: NDArray[np.int8] | None) -> Array:
        """Turn states (U, L, d) into those of the last `n_asked` events, (U, n_asked, d).

        `tags` (U, L, L) class the time between events; None where it is unknown.
        """
        n_users, length, dim = x.shape
        gated = self.gate.size > 0
        last = slice(length - n_asked, length)
        events = standardised(x)
        asked, x = events[:, last].reshape(-1, dim), x[:, last].reshape(-1, dim)  # (U n_asked, d)
        queries = affine(asked, self.query, self.query_bias)  # (H, U n_asked, d)
        # In one piece, for small products by a transposed matrix take twice as long.
        keys = np.ascontiguousarray(events.mT)  # (U, d, L)
        attention = product(queries.reshape(-1, n_users, n_asked, dim), keys)
        attention += self.distance[:, None, last, :length]  # (H, U, n_asked, L)
        if tags is not None and self.gap.size:
            attention += self.gap.take(tags[:, last], axis=1)
        attention -= attention.max(-1, keepdims=True)
        np.exp(attention, out=attention)
        attention /= row_sums(attention)
        taken = product(attention, events).reshape(len(attention), -1, dim)  # (H, U n_asked, d)
        taken = affine(taken, self.value, self.value_bias).swapaxes(0, 1).reshape(asked.shape)
        if gated:
            taken *= raised(affine(asked, self.gate, self.gate_bias))
        x = x + affine(taken, self.out, self.out_bias)
        inner = affine(standardised(x), self.inner, self.inner_bias)
        if gated:
            half, others = inner[:, :dim], inner[:, dim:]
            inner = half * others
            inner *= raised(half)
        else:
            np.maximum(inner, 0, out=inner)
        x += affine(inner, self.outer, self.outer_bias)
        return x.reshape(n_users, n_asked, dim)


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

        for_each(fill, of_one_length(lengths, _MAX_EVENTS), watch)
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
        # Of the last one only the last event's state is read; see `product` of a single row.
        for block in self.blocks[-1:]:
            x = block(x, min(2, x.shape[1]), tags)
        states = standardised(x[:, -1])
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
        return product(states, np.ascontiguousarray(vectors.T))

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
            parts = np.split(product(flat, self._latest), 2, axis=-1)
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
        return affine(states, self._taste_query, weights["taste_query.bias"]), level


#: What each method is to answering, by the name that the fitted model carries.
METHODS: dict[str, type[Model]] = {kind.method: kind for kind in (JointModel, PNFRecModel)}
