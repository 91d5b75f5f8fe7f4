"""From histories to scores to the top k, ties by item code.

One history goes through NumPy alone, so that a loaded model answers without torch; many at once
go through the batched torch encoder. The two agree up to float32 rounding.

Shapes use these letters: ``Q`` queries (histories), ``N`` items, ``d`` the embedding dimension,
``L`` events of one history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posneg_rec.interactions import Histories, PackedSequences

__all__ = ["Queries", "encode", "score_blocks", "target_ranks", "top_k"]

Array = NDArray[np.float32]
Weights = Mapping[str, Array]

# A block of scores holds at most this many numbers (256 MiB).
_MAX_BLOCK_SCORES = 2**26
# Tokens that go through the torch encoder at once.
_MAX_BATCH_TOKENS = 2**16


@dataclass(frozen=True)
class Queries:
    """What Q histories are to the model: encoder inputs, and items that were met already.

    Queries with the same input share it: query ``q`` reads ``inputs[rows[q]]``.
    """

    inputs: PackedSequences  # tokens, see `_token_vectors`
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
    ) -> Queries:
        """Take the histories of `users` (positions) before the events `stops`.

        Items that the catalogue lacks are left out. The encoder gets the last `max_len` events:
        liked items alone, or all events tagged with their sign.
        """
        starts = histories.offsets[:-1][users]

        def events(kept: NDArray[np.bool_]) -> tuple[NDArray[np.int64], ...]:
            n_before = np.concatenate([[0], np.cumsum(kept)])
            return np.flatnonzero(kept), n_before[starts], n_before[stops]

        known = histories.items >= 0
        read, first, last = events(known & (histories.signs == 1) if likes_only else known)
        tokens = histories.items[read]
        if not likes_only:
            tokens = tokens + n_items * (histories.signs[read].astype(np.int64) + 1)
        # Where a user's input ends tells which user and how much: one key for equal inputs.
        key = np.where(last > first, last, -1)
        _, distinct, rows = np.unique(key, return_index=True, return_inverse=True)
        first, last = first[distinct], last[distinct]
        inputs = PackedSequences.slices(tokens, np.maximum(first, last - max_len), last)
        seen, first, last = events(known)
        return cls(inputs, rows, PackedSequences.slices(histories.items[seen], first, last))


def _is_joint(weights: Weights) -> bool:
    return "item_taste" in weights


def _encoder_prefix(weights: Weights) -> str:
    return "encoder." if _is_joint(weights) else "positive."


def _token_vectors(weights: Weights, tokens: NDArray[np.int64]) -> Array:
    """Input vectors (T, d): a token is an item code, for a joint model plus N (sign + 1)."""
    table = weights["item_embedding"]
    tags, items = np.divmod(tokens, len(table))
    vectors = table[items]
    if _is_joint(weights):
        vectors += weights["sign_embedding"][tags]
    return vectors * np.float32(np.sqrt(table.shape[1]))


def _layer_norm(x: Array, weights: Weights, name: str) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    scale = np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(1e-5))
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _linear(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def _encode_one(weights: Weights, tokens: NDArray[np.int64], n_heads: int) -> Array:
    """Encode one history (L,) to (d,): a plain twin of ``nn.SequenceEncoder``."""
    prefix = _encoder_prefix(weights)
    x = _token_vectors(weights, tokens)  # (L, d)
    x += weights[f"{prefix}position_embedding"][: len(x)][::-1]
    hidden = np.triu(np.full((len(x), len(x)), -np.inf, dtype=np.float32), 1)  # (L, L)
    n_layers = sum(name.endswith("attention_norm.weight") for name in weights if prefix in name)
    for layer in range(n_layers):
        block = f"{prefix}blocks.{layer}"
        qkv = _linear(
            _layer_norm(x, weights, f"{block}.attention_norm"), weights, f"{block}.attention_in"
        )
        qkv = qkv.reshape(len(qkv), 3, n_heads, -1).transpose(1, 2, 0, 3)  # (3, H, L, d/H)
        if layer == n_layers - 1:  # from here on only the last event's state matters
            x, hidden, query = x[-1:], hidden[-1:], qkv[0][:, -1:]
        else:
            query = qkv[0]
        logits = query @ qkv[1].transpose(0, 2, 1) / np.float32(np.sqrt(query.shape[-1])) + hidden
        attention = np.exp(logits - logits.max(-1, keepdims=True))  # (H, L, L)
        attention /= attention.sum(-1, keepdims=True)
        attended = (attention @ qkv[2]).transpose(1, 0, 2).reshape(len(x), -1)  # (L, d)
        x = x + _linear(attended, weights, f"{block}.attention_out")
        inner = _linear(
            _layer_norm(x, weights, f"{block}.feedforward_norm"), weights, f"{block}.feedforward_in"
        )
        x = x + _linear(np.maximum(inner, 0), weights, f"{block}.feedforward_out")
    return _layer_norm(x[-1], weights, f"{prefix}norm")


def _encode_many(weights: Weights, sequences: PackedSequences, n_heads: int) -> Array:
    """Encode many non-empty histories to (Q, d), through torch."""
    import torch

    from posneg_rec.nn import SequenceEncoder

    prefix = _encoder_prefix(weights)
    state = {
        name.removeprefix(prefix): torch.from_numpy(value)
        for name, value in weights.items()
        if name.startswith(prefix)
    }
    max_len, dim = state["position_embedding"].shape
    n_layers = sum(name.endswith("attention_norm.weight") for name in state)
    with torch.device("meta"):
        encoder = SequenceEncoder(
            dim, n_layers=n_layers, n_heads=n_heads, max_len=max_len, dropout=0.0
        )
    encoder.load_state_dict(state, assign=True)
    last = np.empty((len(sequences), dim), dtype=np.float32)
    # By length, so that histories which are padded together in the attention need little of it.
    order = np.argsort(sequences.lengths, kind="stable")
    step = max(1, _MAX_BATCH_TOKENS // max_len)
    with torch.inference_mode():
        for start in range(0, len(order), step):
            rows = order[start : start + step]
            batch = sequences.take(rows)
            x = torch.from_numpy(_token_vectors(weights, batch.values))
            hidden = encoder(x, torch.from_numpy(batch.offsets))
            last[rows] = hidden[batch.offsets[1:] - 1].numpy()
    return last


def encode(weights: Weights, sequences: PackedSequences, n_heads: int) -> Array:
    """Encode each history to its last hidden state.

    Parameters
    ----------
    weights : mapping of str to float32 array
        A trained model's parameters by name.
    sequences : PackedSequences of Q histories
        Tokens (see :class:`Queries`), oldest first, each at most ``max_len`` long.
    n_heads : int

    Returns
    -------
    float32 array of shape (Q, d)
        0 where the history is empty.
    """
    states = np.zeros((len(sequences), weights["item_embedding"].shape[1]), np.float32)
    filled = np.flatnonzero(sequences.lengths > 0)
    if len(filled) == 1:
        states[filled[0]] = _encode_one(weights, sequences[int(filled[0])], n_heads)
    elif len(filled):
        states[filled] = _encode_many(weights, sequences.take(filled), n_heads)
    return states


def _scores(weights: Weights, states: Array, aversion: float) -> Array:
    """Scores (Q, N) of all items, from states (Q, d).

    Of PNFRec the logits; of a joint model ``log p(next) + aversion log p(liked | next)``.
    """
    table = weights["item_embedding"]
    scores = states @ table.T
    if not _is_joint(weights):
        return scores
    scores -= scores.max(1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    if aversion:
        logits = _linear(states, weights, "taste_query") @ table.T
        logits += weights["item_taste"] + _linear(states, weights, "taste_level")
        scores -= np.float32(aversion) * np.logaddexp(np.float32(0), -logits)
    return scores


def score_blocks(
    weights: Weights,
    queries: Queries,
    n_heads: int,
    fallback: Array,
    *,
    aversion: float = 1.0,
    exclude_seen: bool = True,
) -> Iterator[tuple[slice, Array]]:
    """Score all items for one block of queries after the other, never for all at once.

    Parameters
    ----------
    weights, n_heads
        See :func:`encode`.
    queries : Queries
    fallback : float32 array of shape (N,)
        The scores where the encoder has nothing to read.
    aversion : float, default=1.0
        Weight of the log probability to be liked, in a joint model.
    exclude_seen : bool, default=True
        Whether items that the query has seen score -inf.

    Yields
    ------
    block : slice of the queries
    scores : float32 array of shape (len(block), N), the caller's to change
    """
    states = encode(weights, queries.inputs, n_heads)
    step = max(1, _MAX_BLOCK_SCORES // len(weights["item_embedding"]))
    for start in range(0, len(queries.rows), step):
        block = slice(start, min(start + step, len(queries.rows)))
        rows = queries.rows[block]
        scores = _scores(weights, states[rows], aversion)
        scores[queries.inputs.lengths[rows] == 0] = fallback
        if exclude_seen:
            values = queries.seen.values[
                queries.seen.offsets[block.start] : queries.seen.offsets[block.stop]
            ]
            scores[np.repeat(np.arange(len(rows)), queries.seen.lengths[block]), values] = -np.inf
        yield block, scores


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
    n_items = scores.shape[1]
    width = min(k, n_items)
    codes = np.argpartition(scores, n_items - width, axis=1)[:, n_items - width :]
    best = np.take_along_axis(scores, codes, 1)
    # Where the k-th score occurs again beyond the k best, the partition chose among equals at
    # will: take the lowest codes instead.
    kth = best.min(1)
    for row in np.flatnonzero((scores == kth[:, None]).sum(1) > (best == kth[:, None]).sum(1)):
        above = np.flatnonzero(scores[row] > kth[row])
        equal = np.flatnonzero(scores[row] == kth[row])[: width - len(above)]
        codes[row] = np.concatenate([above, equal])
        best[row] = scores[row, codes[row]]
    order = np.lexsort((codes, -best), axis=1)
    codes = np.take_along_axis(codes, order, 1)
    best = np.take_along_axis(best, order, 1)
    codes = np.where(best == -np.inf, -1, codes)
    missing = ((0, 0), (0, k - width))
    return (
        np.pad(codes, missing, constant_values=-1).astype(np.int64, copy=False),
        np.pad(best, missing, constant_values=-np.inf),
    )


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
