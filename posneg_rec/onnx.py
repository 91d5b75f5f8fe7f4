"""The scores of a fitted model as an ONNX graph, for runtimes without Python.

The graph is the arithmetic of :mod:`posneg_rec.inference` and of the memory, written down once more
for one history of any length; a property test binds the two. What is no arithmetic stays outside:
ids are codes, unknown items are left out, and filters and the top k are the caller's.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

import posneg_rec
from posneg_rec.memory import LEFT, LEVEL_PRIOR, ItemWeights, WeighedMemory
from posneg_rec.recommender import ContrastiveSeqRecommender
from posneg_rec.scoring import COST, LEAST_WORTH

__all__ = ["to_onnx"]

# Of ScatterElements with a reduction, and LayerNormalization.
_OPSET = 18
# Two gigabytes, which is as much as a protobuf holds.
_MOST_BYTES = 2**31 - 2**20


def to_onnx(model: ContrastiveSeqRecommender, path: str | os.PathLike[str]) -> None:
    """Write what scores all items after one history as an ONNX model.

    Its inputs, of which the first three have the length of the history (any, also 0):

    - ``items``, int64: codes, positions in ``items_``, oldest first; -1 for an item that the model
      does not know. The metadata entry ``items`` of the file holds the ids by code, as JSON.
    - ``signs``, int64: 1 liked, -1 disliked, 0 neutral.
    - ``times``, float64: when it happened, since any moment, in seconds for datetimes, else in the
      unit of the fit's time column. All NaN where no times are known.
    - ``dislike_aversion``, float32 of shape ().

    Its output is ``scores``, float32 of shape (n_items,): what
    :meth:`~posneg_rec.ContrastiveSeqRecommender.score_items` returns for the whole catalogue, but
    for rounding. "pnfrec" reads neither times nor aversion.

    Parameters
    ----------
    model : ContrastiveSeqRecommender
        Fitted. Its memory of items is part of the graph.
    path : path-like
        ``model.onnx``, say.

    Raises
    ------
    TypeError
        If the model is none.
    ValueError
        If the model is larger than an ONNX file can be, 2 GB.
    ImportError
        If the package `onnx` is not installed (``pip install "posneg-rec[onnx]"``).

    Examples
    --------
    >>> from posneg_rec.onnx import to_onnx
    >>> to_onnx(model, "model.onnx")  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession("model.onnx")  # doctest: +SKIP
    >>> (scores,) = session.run(None, {  # doctest: +SKIP
    ...     "items": np.array([3, 7]),
    ...     "signs": np.array([1, -1]),
    ...     "times": np.array([0.0, 60.0]),
    ...     "dislike_aversion": np.array(5.0, dtype=np.float32),
    ... })
    """
    if not isinstance(model, ContrastiveSeqRecommender):
        raise TypeError(
            "model must be a ContrastiveSeqRecommender (of a pipeline, its last step), got "
            f"{type(model).__name__}."
        )
    check_is_fitted(model)
    try:
        import onnx
    except ImportError as error:
        raise ImportError(
            'To write ONNX takes the package onnx: pip install "posneg-rec[onnx]".'
        ) from error
    fitted = model.fitted_
    graph = _Graph()
    graph.scores(fitted)
    n_bytes = sum(tensor.nbytes for tensor in graph.constants.values())
    if n_bytes > _MOST_BYTES:
        raise ValueError(
            f"The model has {n_bytes / 2**30:.1f} GiB, and an ONNX file holds 2 at most: fit with "
            "a smaller embedding_dim, on fewer items, or without item_memory."
        )
    made = onnx.helper.make_model(
        graph.proto(len(fitted.items)),
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=9,  # of that opset's time: newer ones old runtimes refuse
        producer_name="posneg-rec",
        producer_version=posneg_rec.__version__,
    )
    ids = [item.item() if isinstance(item, np.generic) else item for item in fitted.items]
    onnx.helper.set_model_props(made, {"items": json.dumps(ids, default=str)})
    onnx.checker.check_model(made, full_check=True)
    onnx.save_model(made, os.fspath(path))


class _Graph:
    """Nodes and constants of a graph; each method adds some and returns the names of results."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def proto(self, n_items: int) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        def value(name: str, kind: int, shape: list[int | str]) -> Any:
            return helper.make_tensor_value_info(name, kind, shape)

        return helper.make_graph(
            self.nodes,
            "scores",
            [
                value("items", TensorProto.INT64, ["length"]),
                value("signs", TensorProto.INT64, ["length"]),
                value("times", TensorProto.DOUBLE, ["length"]),
                value("dislike_aversion", TensorProto.FLOAT, []),
            ],
            [value("scores", TensorProto.FLOAT, [n_items])],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )

    # -- Operators -------------------------------------------------------------------------------

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.array(value, dtype=dtype)  # a copy, in one piece
        return name

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        from onnx import helper

        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def sum(self, x: str) -> str:
        return self.op("ReduceSum", x, keepdims=0)

    def affine(self, x: str, matrix: Any, bias: Any) -> str:
        return self.op("Add", self.op("MatMul", x, self.constant(matrix)), self.constant(bias))

    def standardised(self, x: str, dim: int) -> str:
        ones = self.constant(np.ones(dim))
        return self.op("LayerNormalization", x, ones, axis=-1, epsilon=1e-5)

    # -- The walk of one history -----------------------------------------------------------------

    def scores(self, fitted: Any) -> None:
        model, weights = fitted.model, fitted.weights
        ints = np.int64
        # The time before an event counts from the one before it, known or not.
        gaps = self.gaps("times")
        known = self.op("GreaterOrEqual", "items", self.constant(0, ints))
        events = [self.op("Compress", x, known) for x in ("items", "signs", "times", gaps)]
        met, met_signs = events[:2]
        if model.likes_only:
            liked = self.op("Equal", events[1], self.constant(1, ints))
            events = [self.op("Compress", x, liked) for x in events]
        # The latest events; of nothing one that is not used, as no event can attend to none.
        first = self.constant([-fitted.sizes["max_len"]], ints)
        end, zero = self.constant([2**62], ints), self.constant([0], ints)
        n_read = self.op("Shape", events[0])
        is_empty = self.op("Equal", n_read, zero)
        if not fitted.n_iter:  # weights that no epoch has trained say nothing
            is_empty = self.op("Equal", zero, zero)
        stop = self.op("Max", n_read, self.constant([1], ints))

        def read(x: str, dtype: Any) -> str:
            padded = self.op("Concat", x, self.constant([0], dtype), axis=0)
            some = self.op("Slice", padded, zero, stop)
            return self.op("Slice", some, first, end)

        dtypes = ints, ints, np.float64, np.float64
        state = self.encoded(fitted, *map(read, events, dtypes))
        logits = self.op("MatMul", self.constant(model.items), state)  # (N,)
        if model.is_likelihood:
            liked_logits = self.liked_logits(weights, state)
            if fitted.memory is not None:
                logits, liked_logits = self.recalled(
                    fitted.memory, met, met_signs, logits, liked_logits
                )
            logits = self.op("Sub", logits, self.op("ReduceLogSumExp", logits, keepdims=0))
            shifted = self.op("Add", liked_logits, self.constant(fitted.liked_shift))
            # Who never met a dislike cannot foretell one.
            aversion = self.op(
                "Mul", "dislike_aversion", self.constant(float(fitted.dislikes.any()))
            )
            logits = self.op("Add", logits, self.log_worth(shifted, aversion))
        fallback = self.constant(fitted.catalogue.fallback)
        self.op("Where", is_empty, fallback, logits, name="scores")

    def log_worth(self, logits: str, aversion: str) -> str:
        """Tell the log of what items are worth, (N,), as :class:`scoring.Worth` does."""
        one = self.constant(1.0)
        missed = self.op("Softplus", self.op("Neg", logits))  # - log p(liked | next)
        power = self.op("Neg", self.op("Mul", aversion, missed))
        above = self.op("Sub", self.op("Max", aversion, one), one)
        loss = self.op("Add", one, self.op("Mul", above, self.constant(COST)))
        most_disliked = self.op("Div", self.constant(1 - LEAST_WORTH), loss)
        rest = self.op("Sub", one, most_disliked)
        knee = self.op("Log", self.op("Div", rest, most_disliked))
        steepest = self.op("Mul", rest, self.constant((1 - LEAST_WORTH) / LEAST_WORTH))
        disliked = self.op("Sigmoid", self.op("Neg", logits))
        lost = self.op("Mul", loss, self.op("Min", disliked, most_disliked))
        below = self.op("Min", self.op("Sub", logits, knee), self.constant(0.0))
        logs = self.op("Log", self.op("Sub", one, lost))
        logs = self.op("Add", logs, self.op("Mul", steepest, below))
        return self.op("Where", self.op("LessOrEqual", aversion, one), power, logs)

    def gaps(self, times: str) -> str:
        """Tell the time since the event before, (L,), NaN for the first."""
        unknown = self.constant([np.nan], np.float64)
        before = self.op("Concat", unknown, times, axis=0)
        stop = self.op("Shape", times)
        before = self.op("Slice", before, self.constant([0], np.int64), stop)
        return self.op("Sub", times, before)

    def encoded(self, fitted: Any, items: str, signs: str, times: str, gaps: str) -> str:
        """Turn the events that are read, (L,) each, into the state after the last, (d,)."""
        model, weights = fitted.model, fitted.weights
        dim, ints = model.items.shape[1], np.int64
        zero, one = self.constant(0, ints), self.constant(1, ints)
        length = self.op("Squeeze", self.op("Shape", items))
        place = self.op("Range", zero, length, one)  # (L,)
        row, column = (self.op("Unsqueeze", place, self.constant([axis], ints)) for axis in (1, 0))
        is_later = self.op("Greater", column, row)  # (L, L): of two events, the second

        embedded = self.op("Gather", self.constant(model.items), items)
        x = self.op("Mul", embedded, self.constant(np.sqrt(dim)))
        if model.is_likelihood:
            if "latest.weight" in weights:
                x = self.shown_latest(weights["latest.weight"], x, signs, column, is_later)
            tags = np.sqrt(np.float32(dim)) * (
                weights["gap_embedding"][:, None] + weights["sign_embedding"]
            )
            index = self.op("Mul", self.gap_tags(fitted.gap_edges, gaps), self.constant(3, ints))
            index = self.op("Add", self.op("Add", index, signs), one)
            x = self.op("Add", x, self.op("Gather", self.constant(tags.reshape(-1, dim)), index))
        positions = weights[f"{model.encoder}.position_embedding"]
        back = self.op("Sub", self.op("Sub", length, one), place)
        x = self.op("Add", x, self.op("Gather", self.constant(positions), back))
        behind = self.op("Max", self.op("Sub", row, column), zero)  # (L, L)
        tags = self.pair_tags(fitted.gap_edges, times)
        for number, block in enumerate(model.blocks):
            name = f"{model.encoder}.blocks.{number}"
            bias = self.op("Where", is_later, self.constant(-np.inf), self.constant(0.0))
            if f"{name}.distance_bias" in weights:
                for part, index in (("distance_bias", behind), ("gap_bias", tags)):
                    table = self.constant(weights[f"{name}.{part}"])
                    bias = self.op("Add", bias, self.op("Gather", table, index, axis=1))
            x = self.block(block, x, bias, dim)  # of which (H or no H, L, L)
        last = self.op("Gather", x, self.constant(-1, ints))
        state = self.standardised(last, dim)
        state = self.op("Mul", state, self.constant(weights[f"{model.encoder}.norm.weight"]))
        return self.op("Add", state, self.constant(weights[f"{model.encoder}.norm.bias"]))

    def pair_tags(self, edges: NDArray[np.float64], times: str) -> str:
        """Classify the time from event to event, (L, L), as :func:`sequences.pair_tags` does."""
        to, since = (
            self.op("Unsqueeze", times, self.constant([axis], np.int64)) for axis in (1, 0)
        )
        return self.gap_tags(edges, self.op("Sub", to, since))

    def gap_tags(self, edges: NDArray[np.float64], gaps: str) -> str:
        """Classify times between events, of any shape, as :func:`sequences.gap_tags` does."""
        ints, double = np.int64, np.float64
        if not len(edges):  # not even those without time between them
            gaps = self.op("Mul", gaps, self.constant(np.nan, double))
        wide = self.op("Unsqueeze", gaps, self.constant([-1], ints))
        beyond = self.op("Cast", self.op("Less", self.constant(edges, double), wide), to=7)
        tags = self.op("ReduceSum", beyond, self.constant([-1], ints), keepdims=0)
        tags = self.op("Add", tags, self.constant(2, ints))
        none = self.op("LessOrEqual", gaps, self.constant(0, double))
        tags = self.op("Where", none, self.constant(1, ints), tags)
        return self.op("Where", self.op("IsNaN", gaps), self.constant(0, ints), tags)

    def shown_latest(self, weight: Any, x: str, signs: str, column: str, is_later: str) -> str:
        ints = np.int64
        nothing, shown = self.constant(-1, ints), x
        wide = self.op("Unsqueeze", signs, self.constant([0], ints))
        for sign, part in zip((1, -1), np.split(weight, 2), strict=True):
            is_sign = self.op("Equal", wide, self.constant(sign, ints))  # (1, L)
            found = self.op("Where", is_sign, column, nothing)
            found = self.op("Where", is_later, nothing, found)  # (L, L)
            latest = self.op("ReduceMax", found, self.constant([1], ints), keepdims=1)  # (L, 1)
            at = self.op("Squeeze", self.op("Max", latest, self.constant(0, ints)), self.one_axis)
            seen = self.op("Gather", self.op("MatMul", x, self.constant(part.T)), at)
            has = self.op("Cast", self.op("GreaterOrEqual", latest, self.constant(0, ints)), to=1)
            shown = self.op("Add", shown, self.op("Mul", seen, has))
        return shown

    @property
    def one_axis(self) -> str:
        return self.constant([1], np.int64)

    def block(self, block: Any, x: str, bias: str, dim: int) -> str:
        events = self.standardised(x, dim)  # (L, d)
        queries = self.affine(events, block.query, block.query_bias)  # (H, L, d)
        attention = self.op("MatMul", queries, self.op("Transpose", events, perm=[1, 0]))
        attention = self.op("Softmax", self.op("Add", attention, bias), axis=-1)  # (H, L, L)
        taken = self.affine(self.op("MatMul", attention, events), block.value, block.value_bias)
        taken = self.op("Transpose", taken, perm=[1, 0, 2])  # (L, H, d/H)
        taken = self.op("Reshape", taken, self.constant([-1, dim], np.int64))
        gated = block.gate.size > 0
        if gated:
            gate = self.affine(events, block.gate, block.gate_bias)
            taken = self.op("Mul", taken, self.raised(gate))
        x = self.op("Add", x, self.affine(taken, block.out, block.out_bias))
        inner = self.affine(self.standardised(x, dim), block.inner, block.inner_bias)
        if gated:
            ends = self.constant([0], np.int64), self.constant([dim], np.int64)
            rest = self.constant([dim], np.int64), self.constant([2 * dim], np.int64)
            half, others = (self.op("Slice", inner, *part, self.one_axis) for part in (ends, rest))
            inner = self.op("Mul", self.op("Mul", half, others), self.raised(half))
        else:
            inner = self.op("Relu", inner)
        return self.op("Add", x, self.affine(inner, block.outer, block.outer_bias))

    def raised(self, x: str) -> str:
        """Make ``1 + tanh(x)``, as :mod:`inference` gates."""
        return self.op("Add", self.op("Tanh", x), self.constant(1.0))

    def liked_logits(self, weights: Any, state: str) -> str:
        query = self.affine(state, weights["taste_query.weight"].T, weights["taste_query.bias"])
        level = self.affine(
            state, weights["taste_level.weight"][0][:, None], weights["taste_level.bias"]
        )
        logits = self.op("MatMul", self.constant(weights["item_embedding"]), query)
        logits = self.op("Add", logits, self.constant(weights["item_taste"]))
        return self.op("Add", logits, level)

    # -- The memory, of all that was met ---------------------------------------------------------

    def recalled(
        self, memory: WeighedMemory, items: str, signs: str, logits: str, liked_logits: str
    ) -> tuple[str, str]:
        """Add to both logits (N,) what the last sign of each item of the history tells."""
        ints, levels = np.int64, memory.items.levels
        n_items = len(levels)
        signed = self.op("Not", self.op("Equal", signs, self.constant(0, ints)))
        items, signs = (self.op("Compress", x, signed) for x in (items, signs))
        length = self.op("Squeeze", self.op("Shape", items))
        place = self.op("Range", self.constant(0, ints), length, self.constant(1, ints))
        nowhere = self.constant(np.full(n_items, -1), ints)
        last = self.op("ScatterElements", nowhere, items, place, reduction="max")  # (N,)
        unmet = self.op("Less", last, self.constant(0, ints))
        at = self.op("Where", unmet, length, last)  # of whom nobody met: beyond the end

        def of_items(x: str, dtype: Any) -> str:  # (L,) to (N,)
            return self.op("Gather", self.op("Concat", x, self.constant([0], dtype), axis=0), at)

        sign = self.op("Cast", of_items(signs, ints), to=1)
        met = self.op("Abs", sign)
        liked = self.op("Max", sign, self.constant(0.0))
        is_last = self.op("Equal", self.op("Gather", last, items), place)

        def faded(left: float, counts: str) -> str:  # by each that counts and comes after, (N,)
            counts = self.op("Cast", counts, to=1)
            n_after = self.op("CumSum", counts, self.constant(0, ints), exclusive=1, reverse=1)
            return self.op("Pow", self.constant(left), of_items(n_after, np.float32))

        is_like = self.op("And", is_last, self.op("Equal", signs, self.constant(1, ints)))
        left, fading = faded(LEFT, is_like), memory.items.fading
        left = self.op("Mul", self.constant(fading), left)
        left = self.op("Add", self.constant(1 - fading), left)
        following = self.product(memory.items.next, self.op("Mul", liked, left))
        logits = self.op(
            "Add", logits, self.op("Mul", following, self.constant(memory.next_weight))
        )
        rest = self.op("Mul", self.op("Sub", sign, self.constant(levels)), met)
        share = self.op("Mul", faded(memory.items.user_left, is_last), met)
        total = self.op("Add", self.sum(share), self.constant(LEVEL_PRIOR))
        of_user = self.op("Div", self.sum(self.op("Mul", share, rest)), total)
        rest = self.op("Mul", self.op("Sub", rest, of_user), met)
        taste = self.op("Add", self.product(memory.items.taste, rest), of_user)
        taste = self.op("Add", taste, self.constant(levels))
        parts = memory.taste_weights
        liked_logits = self.op("Mul", liked_logits, self.constant(parts.model))
        taste = self.op("Mul", taste, self.constant(parts.memory))
        liked_logits = self.op("Add", liked_logits, taste)
        return logits, self.op("Add", liked_logits, self.constant(parts.offset))

    def product(self, weights: ItemWeights, values: str) -> str:
        """Multiply values of all items, (N,), by the sparse matrix."""
        n_items = len(weights.evidence)
        rows = np.repeat(np.arange(n_items), np.diff(weights.offsets))
        nothing = self.constant(np.zeros(n_items))
        if not len(rows):
            return nothing
        taken = self.op("Gather", values, self.constant(rows, np.int32))
        added = self.op("Mul", taken, self.constant(weights.weights))
        into = self.constant(weights.items, np.int32)
        return self.op("ScatterElements", nothing, into, added, reduction="add")
