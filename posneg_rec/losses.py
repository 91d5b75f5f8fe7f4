"""The losses as pure functions on packed tensors.

Shapes use these letters: ``T`` positions (tokens) of a batch, ``N`` catalogue items, ``d`` the
embedding dimension, ``U`` users of a batch, ``M`` disliked events of a batch. Sequences are packed:
``offsets`` of shape ``(U + 1,)`` say which rows of a ``(T, ...)`` tensor belong to which user.

Every function returns a scalar, is >= 0, and is 0 over nothing: a batch in which nobody disliked
anything trains like any other.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from posneg_rec.nn import Ragged, product_dtype, to_device

__all__ = [
    "CompositeLoss",
    "ContrastLayout",
    "Dislikes",
    "Draws",
    "Positions",
    "composite_loss",
    "contrastive_loss",
    "feedback_loss",
    "item_loss",
    "laid_out_contrastive_loss",
    "next_item_loss",
    "sampled_next_item_loss",
]

# Rows of logits that are made at a time. On a CPU those of 512 rows of a few thousand items stay
# in its caches between the three products; but so few rows of a large catalogue would read and
# write the gradient of all items too often: there a chunk is more rows of some items only.
_CPU_ROWS, _CPU_ITEMS = 512, 2**16
_CPU_TILE = 2048, 2048
# A GPU needs more rows to fill its cores; so many logits are 128 MiB in bfloat16.
_ACCELERATOR_ROWS, _ACCELERATOR_ITEMS, _ACCELERATOR_LOGITS = 2**13, 2**15, 2**26


def _chunk_shape(n_items: int, device: torch.device) -> tuple[int, int]:
    """Choose of how many rows and items the logits are made at a time."""
    if device.type == "cpu":
        return (_CPU_ROWS, _CPU_ITEMS) if n_items <= _CPU_ITEMS else _CPU_TILE
    n_items = max(1, min(n_items, _ACCELERATOR_ITEMS))
    return min(_ACCELERATOR_ROWS, _ACCELERATOR_LOGITS // n_items), n_items


def _row_maximum(x: Tensor) -> Tensor:
    """Return ``x.amax(1)``, several times faster for bfloat16 on a CPU."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu":
        return x.amax(1)
    # Read as whole numbers, which torch compares fast, numbers from 0 on keep their order, those
    # below turn it round.
    whole = x.view(torch.int16)
    most, least = whole.amax(1), whole.amin(1)
    return torch.where(most < 0, least, most).view(torch.bfloat16)


def _softmax(hidden: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Return probabilities (rows, n) among some items, and their log-normaliser (rows,)."""
    logits = hidden @ table.T
    p = logits.softmax(1)
    wide = torch.promote_types(hidden.dtype, torch.float32)
    # Of the likeliest item both are known without a sum over the items.
    return p, _row_maximum(logits).to(wide) - _row_maximum(p).to(wide).log()


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to `total`, which may be of a wider dtype."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


class _CatalogueCrossEntropy(torch.autograd.Function):
    """``sum_t w_t (logsumexp(h_t E') - h_t . e_target)``; gradients made in the same pass.

    Kept logits would cost ``T x N`` numbers; recomputed ones a fourth product. Here a chunk of
    logits turns into probabilities while it is still in the cache, enters the two gradient
    products and is forgotten. Weights and targets touch ``T x d`` numbers only. If the chunk has
    some items only, the normaliser of all must be known first: all but the last chunk are made
    twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        embedding: Tensor,
        targets: Tensor,
        weights: Tensor,
        chunk_shape: tuple[int, int],
    ) -> Tensor:
        need_hidden, need_embedding = ctx.needs_input_grad[:2]
        table = embedding.to(hidden.dtype)  # (N, d) in the dtype of the products
        wide = torch.promote_types(hidden.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_table = torch.zeros_like(embedding, dtype=wide) if need_embedding else None
        n_rows, n_items = chunk_shape
        tiles = [slice(start, start + n_items) for start in range(0, len(table), n_items)]
        for start in range(0, len(hidden), n_rows):
            rows = slice(start, start + n_rows)
            h, scale = hidden[rows], weights[rows, None]
            # In one array: small ones kept between large ones that go tear holes into the memory.
            log_normalisers = h.new_empty(len(tiles), len(h), dtype=wide)
            for tile, own_normaliser in zip(tiles, log_normalisers, strict=True):
                p, found = _softmax(h, table[tile])
                own_normaliser.copy_(found)
            log_normaliser = log_normalisers.logsumexp(0)  # (rows,) of all items
            own = table[targets[rows]].to(wide)  # (rows, d)
            loss += weights[rows] @ (log_normaliser - (h.to(wide) * own).sum(1))
            if not (need_hidden or need_embedding):
                continue
            moved, scaled = own.neg_(), h * scale.to(h.dtype)
            for tile, own_normaliser in zip(reversed(tiles), log_normalisers.flip(0), strict=True):
                if tile != tiles[-1]:  # whose probabilities are still there
                    p, _ = _softmax(h, table[tile])
                share = (own_normaliser - log_normaliser).exp_()[
                    :, None
                ]  # (rows, 1) of all items' total
                if need_hidden:
                    moved.addcmul_((p @ table[tile]).to(wide), share)
                if grad_table is not None:
                    _add_product(grad_table[tile], p.T, scaled * share.to(p.dtype))
            if grad_hidden is not None:
                grad_hidden[rows] = moved.mul_(scale)
            if grad_table is not None:
                grad_table.index_add_(0, targets[rows], scaled.to(wide), alpha=-1)
        ctx.save_for_backward(grad_hidden, grad_table)
        ctx.dtypes = hidden.dtype, embedding.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grad_outputs
        # A copy of a large catalogue's gradient costs; reading the scale on a device would wait.
        unscaled = scale.device.type == "cpu" and float(scale) == 1.0
        grads = (
            None if grad is None else (grad if unscaled else grad * scale).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*grads, None, None, None)


def _position_weights(like: Tensor, weights: Tensor | None, reduction: str) -> Tensor:
    """Weights whose dot product with the positions' losses is the reduced loss."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}.")
    dtype = torch.promote_types(like.dtype, torch.float32)
    if weights is None:
        weights = torch.ones(len(like), dtype=dtype, device=like.device)
    weights = weights.to(dtype)
    if reduction == "sum":
        return weights
    # The smallest normal number keeps 0 / 0 (no position, or none with weight) at 0.
    return weights / weights.sum().clamp_min(torch.finfo(dtype).tiny)


def next_item_loss(
    hidden: Tensor,
    item_embedding: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    chunk_shape: tuple[int, int] | None = None,
) -> Tensor:
    """Next-item cross-entropy over the whole catalogue (``CE_p`` and ``CE_n`` of the paper).

    Position ``t`` costs ``logsumexp_i(h_t . e_i) - h_t . e_{target_t}``. At most one chunk of
    logits exists at any time, whatever ``T`` and ``N`` are.

    Parameters
    ----------
    hidden : Tensor of shape (T, d)
        Encoder outputs. Their dtype is the dtype of the products; sums run in float32 or wider.
    item_embedding : Tensor of shape (N, d)
        The item vectors, which are the output layer as well (tied).
    targets : int64 Tensor of shape (T,)
        The code of the item that came next, ``0 <= target < N``.
    weights : Tensor of shape (T,), default=None
        Non-negative weights of the positions; None weighs all alike. They get no gradient.
    reduction : {"mean", "sum"}, default="mean"
        The (weighted) mean over positions, as in the paper, or the sum.
    chunk_shape : (int, int), default=None
        Positions and items of a chunk; None takes a shape that suits the device and ``N``. It
        changes memory and time, never the result beyond rounding.

    Returns
    -------
    Tensor of shape ()
        The loss in nats; 0 if there is no position.

    Examples
    --------
    >>> import torch
    >>> from posneg_rec.losses import next_item_loss
    >>> loss = next_item_loss(torch.zeros(3, 4), torch.zeros(8, 4), torch.tensor([0, 1, 2]))
    >>> round(float(loss), 4)  # nothing is known yet: log 8
    2.0794
    """
    weights = _position_weights(hidden, weights, reduction)
    shape = chunk_shape or _chunk_shape(len(item_embedding), hidden.device)
    hidden = hidden.to(product_dtype(hidden))
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _CatalogueCrossEntropy.apply(hidden, item_embedding, targets, weights, shape)
    return loss


def sampled_next_item_loss(
    hidden: Tensor,
    item_embedding: Tensor,
    targets: Tensor,
    negatives: Tensor,
    log_expected: Tensor,
    *,
    weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Next-item cross-entropy against a few drawn items instead of the whole catalogue.

    Position ``t`` costs ``log(exp s_target + sum_j exp(s_j - log n q_j)) - s_target`` over the
    drawn items ``j`` that are not its target, ``s_i = h_t . e_i``. All positions share the draws.
    The correction by the expected number of draws (logQ [1]_) makes the sum an unbiased estimate
    of the full softmax's, whatever the items were drawn by.

    Parameters
    ----------
    hidden : Tensor of shape (T, d)
    item_embedding : Tensor of shape (C, d)
        Vectors of at least the items that are named.
    targets : int64 Tensor of shape (T,)
        Rows of `item_embedding`.
    negatives : int64 Tensor of shape (M,)
        The drawn items, as rows of `item_embedding`; an item drawn twice occurs twice.
    log_expected : Tensor of shape (M,)
        For each of them the log of how often it was to be drawn, ``log n q_j``.
    weights, reduction
        As in :func:`next_item_loss`.

    Returns
    -------
    Tensor of shape ()
        The loss in nats; 0 if there is no position.

    References
    ----------
    .. [1] Bengio, Senecal: "Adaptive importance sampling to accelerate training of a neural
       probabilistic language model", IEEE Transactions on Neural Networks 19(4), 2008.

    Examples
    --------
    >>> import torch
    >>> from posneg_rec.losses import sampled_next_item_loss
    >>> loss = sampled_next_item_loss(  # two of eight items, each to be drawn 2 / 8 times
    ...     torch.zeros(1, 4), torch.zeros(8, 4), targets=torch.tensor([0]),
    ...     negatives=torch.tensor([5, 3]), log_expected=torch.tensor([0.25, 0.25]).log())
    >>> round(float(loss), 4)  # one target and two draws that stand for four items each: log 9
    2.1972
    """
    position_weights = _position_weights(hidden, weights, reduction)
    wide = position_weights.dtype
    hidden = hidden.to(product_dtype(hidden))
    table = item_embedding.to(hidden.dtype)
    own = (hidden * F.embedding(targets, table)).sum(1, dtype=wide)  # (T,)
    others = (hidden @ F.embedding(negatives, table).T).to(wide) - log_expected.to(wide)  # (T, M)
    others = others.masked_fill(negatives == targets[:, None], -torch.inf)
    costs = torch.cat([own[:, None], others], 1).logsumexp(1) - own
    return (position_weights * costs).sum()


def contrastive_loss(
    hidden: Tensor,
    item_embedding: Tensor,
    targets: Tensor,
    offsets: Tensor,
    negatives: Tensor,
    negative_offsets: Tensor,
    *,
    n_visible: Tensor | None = None,
    similarity: Literal["dot", "cosine"] = "dot",
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Contrast of the next liked item against the same user's disliked items (``L_c``).

    Position ``t`` of user ``u`` costs ``log(1 + sum_j exp(f(h_t, e_j) - f(h_t, e_target)))`` over
    the disliked items ``j`` of ``u``. A disliked item that is the target itself is left out of
    the sum: it would be pulled and pushed at once.

    Parameters
    ----------
    hidden : Tensor of shape (T, d)
        Outputs of the positive encoder, packed by user.
    item_embedding : Tensor of shape (N, d)
        The item vectors.
    targets : int64 Tensor of shape (T,)
        The code of the next liked item.
    offsets : int64 Tensor of shape (U + 1,)
        User ``u`` owns the positions ``offsets[u]:offsets[u + 1]``.
    negatives : int64 Tensor of shape (M,)
        Codes of the disliked items, packed by user and oldest first.
    negative_offsets : int64 Tensor of shape (U + 1,)
        User ``u`` owns ``negatives[negative_offsets[u]:negative_offsets[u + 1]]``.
    n_visible : int64 Tensor of shape (T,), default=None
        How many of its user's disliked items, oldest first, a position is contrasted with: the
        causal choice passes the number of dislikes before the target. None takes them all.
    similarity : {"dot", "cosine"}, default="dot"
        ``f``. The paper writes cosine; its published numbers come from the dot product.
    temperature : float, default=1.0
        Divides ``f``. Cosine needs about 0.1: at 1, fifty negatives cannot push the term below
        ``log(1 + 50 exp(-2)) = 2.05``.
    weights, reduction
        As in :func:`next_item_loss`. The mean counts every position, also of users without
        dislikes, whose cost is 0.

    Returns
    -------
    Tensor of shape ()
        The loss in nats; 0 without dislikes.

    Examples
    --------
    >>> import torch
    >>> from posneg_rec.losses import contrastive_loss
    >>> loss = contrastive_loss(
    ...     hidden=torch.zeros(2, 4), item_embedding=torch.zeros(8, 4),
    ...     targets=torch.tensor([0, 1]), offsets=torch.tensor([0, 2]),
    ...     negatives=torch.tensor([5, 6, 7]), negative_offsets=torch.tensor([0, 3]))
    >>> round(float(loss), 4)  # one liked against three disliked items, nothing known: log 4
    1.3863
    """
    layout = ContrastLayout.of(offsets, Dislikes(negatives, negative_offsets, n_visible))
    return laid_out_contrastive_loss(
        hidden,
        item_embedding,
        targets,
        layout,
        similarity=similarity,
        temperature=temperature,
        weights=weights,
        reduction=reduction,
    )


def laid_out_contrastive_loss(
    hidden: Tensor,
    item_embedding: Tensor,
    targets: Tensor,
    layout: ContrastLayout,
    *,
    similarity: Literal["dot", "cosine"] = "dot",
    temperature: float = 1.0,
    weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """:func:`contrastive_loss` of what was laid out before, without waiting for a device.

    Parameters
    ----------
    layout : ContrastLayout
        Of T positions.
    hidden, item_embedding, targets, similarity, temperature, weights, reduction
        As there.

    Returns
    -------
    Tensor of shape ()
    """
    position_weights = _position_weights(hidden, weights, reduction)
    if len(hidden) == 0 or layout.negatives.numel() == 0:
        return hidden.sum() * 0.0 + item_embedding[:0].sum()  # 0, still part of the graph
    wide = torch.promote_types(hidden.dtype, torch.float32)
    scale = 1.0 / temperature
    if similarity == "cosine":
        hidden = F.normalize(hidden.to(wide), dim=-1)
    elif similarity != "dot":
        raise ValueError(f"similarity must be 'dot' or 'cosine', got {similarity!r}.")

    def vectors(codes: Tensor) -> Tensor:
        rows = F.embedding(codes, item_embedding)
        return F.normalize(rows.to(wide), dim=-1) if similarity == "cosine" else rows

    liked = (hidden * vectors(targets).to(hidden.dtype)).sum(-1, dtype=wide)  # (T,)
    padding, users = layout.positions.padding(), layout.positions.owners()
    products = torch.bmm(
        padding.pad(hidden).unflatten(0, (-1, layout.positions.longest)),  # (U, t, d)
        vectors(layout.negatives).to(hidden.dtype).transpose(1, 2),  # (U, d, m)
    )
    disliked = padding.unpad(products.flatten(0, 1)).to(wide)  # (T, m)

    n_counted = layout.n_negatives[users]  # (T,)
    if layout.n_visible is not None:
        n_counted = n_counted.minimum(layout.n_visible)
    places = torch.arange(layout.negatives.shape[1], device=hidden.device)
    counted = places < n_counted[:, None]  # (T, m)
    counted = counted & (layout.negatives[users] != targets[:, None])
    disliked = disliked.masked_fill(~counted, -torch.inf)
    logits = torch.cat([liked[:, None], disliked], 1) * scale  # (T, 1 + m)
    costs = logits.logsumexp(1) - logits[:, 0]  # finite: the liked logit always counts
    return (position_weights * costs).sum()


def feedback_loss(
    logits: Tensor,
    signs: Tensor,
    *,
    weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Binary cross-entropy on whether what came next was liked.

    Position ``t`` costs ``-log sigmoid(z_t)`` if its target was liked, ``-log sigmoid(-z_t)`` if
    it was disliked.

    Parameters
    ----------
    logits : Tensor of shape (T,)
        ``z``: greater for what will be liked.
    signs : Tensor of shape (T,)
        Feedback of the targets: 1 liked, -1 disliked; a neutral one (0) needs weight 0.
    weights, reduction
        As in :func:`next_item_loss`.

    Returns
    -------
    Tensor of shape ()
        The loss in nats; 0 if there is no position.

    Examples
    --------
    >>> import torch
    >>> from posneg_rec.losses import feedback_loss
    >>> round(float(feedback_loss(torch.zeros(2), torch.tensor([1, -1]))), 4)  # log 2
    0.6931
    """
    weights = _position_weights(logits, weights, reduction)
    return (weights * F.softplus(-signs * logits.to(weights.dtype))).sum()


class Positions(NamedTuple):
    """What one encoder put out for a batch, and what should have come next."""

    hidden: Tensor  # (T, d)
    targets: Tensor  # (T,) item codes
    offsets: Tensor | None = None  # (U + 1,) of each user; a `ContrastLayout` has its own
    weights: Tensor | None = None  # (T,)


class Dislikes(NamedTuple):
    """The disliked items of a batch's users, oldest first (see :func:`contrastive_loss`)."""

    items: Tensor  # (M,) item codes
    offsets: Tensor  # (U + 1,) dislikes of each user
    n_visible: Tensor | None = None  # (T,) of the positive positions


class ContrastLayout(NamedTuple):
    """Which dislikes each position is contrasted with, laid out for products by user.

    It is made on the host, so that the loss waits for no device.
    """

    positions: Ragged  # T of them, of U users
    negatives: Tensor  # (U, m) item codes, oldest first; padding repeats one
    n_negatives: Tensor  # (U,) how many of them are none
    n_visible: Tensor | None  # (T,)

    @classmethod
    def of(cls, offsets: Tensor, dislikes: Dislikes) -> ContrastLayout:
        """Lay out the dislikes of users who own the positions ``offsets[u]:offsets[u + 1]``.

        Both offsets are on the host.
        """
        negatives, negative_offsets, n_visible = dislikes
        positions, disliked = (
            Ragged.of(bounds, negatives.device) for bounds in (offsets, negative_offsets)
        )
        # Of the device's shape, but from the host's offsets: one copy instead of several kernels.
        rows = disliked._replace(offsets=negative_offsets).rows().squeeze(1)  # (U, m)
        padded = negatives[to_device(rows, negatives.device)]
        return cls(positions, padded, disliked.offsets.diff(), n_visible)


class Draws(NamedTuple):
    """Items drawn to stand for the catalogue (see :func:`sampled_next_item_loss`)."""

    items: Tensor  # (M,) item codes
    log_expected: Tensor  # (M,)


def item_loss(
    hidden: Tensor,
    item_embedding: Tensor,
    targets: Tensor,
    draws: Draws | None,
    *,
    weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Next-item cross-entropy over all items or, with `draws`, against those.

    See :func:`next_item_loss` and :func:`sampled_next_item_loss`.
    """
    arguments = (hidden, item_embedding, targets)
    if draws is None:
        return next_item_loss(*arguments, weights=weights, reduction=reduction)
    return sampled_next_item_loss(*arguments, *draws, weights=weights, reduction=reduction)


class CompositeLoss(NamedTuple):
    """The loss to differentiate, and its three unweighted terms, detached, to log."""

    total: Tensor
    positive: Tensor
    negative: Tensor
    contrastive: Tensor


def composite_loss(
    item_embedding: Tensor,
    positive: Positions,
    negative: Positions | None = None,
    dislikes: Dislikes | ContrastLayout | None = None,
    *,
    draws: Draws | None = None,
    negative_weight: float,
    contrastive_weight: float,
    similarity: Literal["dot", "cosine"] = "dot",
    temperature: float = 1.0,
    reduction: Literal["mean", "sum"] = "mean",
) -> CompositeLoss:
    """``CE_p + a CE_n + b L_c``, the training loss of PNFRec; a weight of 0 skips the work.

    Parameters
    ----------
    item_embedding : Tensor of shape (N, d)
    positive, negative : Positions
        The positive encoder on the liked, the negative encoder on the disliked sequences.
        `negative` may be None where `negative_weight` is 0.
    dislikes : Dislikes or ContrastLayout
        What the positive positions are contrasted with, laid out before or not. May be None
        where `contrastive_weight` is 0.
    draws : Draws, default=None
        Both cross-entropies run against these items; None runs them over the whole catalogue.
    negative_weight, contrastive_weight : float
        ``a`` and ``b``, >= 0. The paper's variants: both positive = full, only ``a`` = pn, only
        ``b`` = pc, neither = SASRec on likes.
    similarity, temperature
        See :func:`contrastive_loss`.
    reduction : {"mean", "sum"}, default="mean"
        Of each of the three terms, over its positions.

    Returns
    -------
    CompositeLoss

    Examples
    --------
    >>> import torch
    >>> from posneg_rec.losses import Positions, composite_loss
    >>> liked = Positions(torch.zeros(3, 4), torch.tensor([0, 1, 2]), torch.tensor([0, 3]))
    >>> loss = composite_loss(
    ...     torch.zeros(8, 4), liked, liked, negative_weight=0.5, contrastive_weight=0.0)
    >>> round(float(loss.total), 4)  # 1.5 log 8
    3.1192
    """

    def cross_entropy(positions: Positions) -> Tensor:
        hidden, targets, _, weights = positions
        return item_loss(
            hidden, item_embedding, targets, draws, weights=weights, reduction=reduction
        )

    ce_positive = cross_entropy(positive)
    total = ce_positive
    ce_negative = contrast = ce_positive.detach().new_zeros(())
    if negative_weight > 0:
        assert negative is not None, "negative_weight > 0 needs negative positions"
        ce_negative = cross_entropy(negative)
        total = total + negative_weight * ce_negative
    if contrastive_weight > 0:
        assert dislikes is not None, "contrastive_weight > 0 needs dislikes"
        if isinstance(dislikes, Dislikes):
            assert positive.offsets is not None, "dislikes are those of the users of positions"
            dislikes = ContrastLayout.of(positive.offsets, dislikes)
        contrast = laid_out_contrastive_loss(
            positive.hidden,
            item_embedding,
            positive.targets,
            dislikes,
            similarity=similarity,
            temperature=temperature,
            weights=positive.weights,
            reduction=reduction,
        )
        total = total + contrastive_weight * contrast
    return CompositeLoss(total, ce_positive.detach(), ce_negative.detach(), contrast.detach())
