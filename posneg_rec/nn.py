"""The encoders: causal transformers over packed sequences.

Shapes use these letters: ``T`` tokens of a batch, ``U`` sequences, ``L`` tokens of the longest
sequence, ``d`` the embedding dimension, ``H`` heads. Whatever must be padded, attention and the
contrast of :mod:`losses`, goes through :class:`Padding`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from posneg_rec.sequences import N_GAP_TAGS

if torch.__version__ >= "2.11":  # compared as a version
    from torch.nn.attention.varlen import varlen_attn

__all__ = [
    "ENCODERS",
    "ITEM_PARAMETERS",
    "AttentionBias",
    "AttentionPlan",
    "Clock",
    "ItemModel",
    "Items",
    "JointEncoder",
    "Padding",
    "Ragged",
    "SequenceEncoder",
    "TwoSidedEncoder",
    "attention_plan",
    "dropout",
    "packed_attention",
]

# Attention matrices of one group hold at most this many numbers (2 MiB in bfloat16).
_MAX_GROUP_LOGITS = 2**20
_LENGTH_MULTIPLE = 16
# Those with a row per item, see `ItemModel.items`.
ITEM_PARAMETERS = ("item_embedding", "item_taste")
_BITS_OF_ONE = 0x3F80  # 1.0 in bfloat16
_LARGE_CHIPS = {(8, 0), (9, 0), (10, 0)}  # compute capabilities


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the host, without waiting for a CUDA device to have it."""
    if device.type != "cuda":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class _Gather(torch.autograd.Function):
    """Rows by index; the gradient is gathered too, where torch would add up row by row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, empty: Tensor | None) -> Tensor:
        ctx.save_for_backward(back, empty)
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        back, empty = ctx.saved_tensors
        grad = grads[0].index_select(0, back)
        if empty is not None:
            grad.index_fill_(0, empty, 0)
        return grad, None, None, None


class Padding(NamedTuple):
    """How the rows of a packed tensor ``(T, ...)`` stand in a padded one ``(P, ...)``."""

    rows: Tensor  # (P,) int64, the packed row at each position; padding repeats one
    positions: Tensor  # (T,) int64, the position of each packed row
    empty: Tensor  # (E,) int64, the positions of padding

    @classmethod
    def of(cls, rows: NDArray[np.int64], filled: NDArray[np.bool_]) -> Padding:
        """Take packed rows and, of the same shape, which of them are no padding."""
        rows, filled = rows.ravel(), filled.ravel()
        positions = np.flatnonzero(filled)
        order = np.empty_like(positions)
        order[rows[positions]] = positions
        return cls(*map(torch.from_numpy, (rows, order, np.flatnonzero(~filled))))

    def pad(self, packed: Tensor) -> Tensor:
        """(T, ...) to (P, ...). No gradient comes from padding: nothing may depend on it."""
        padded: Tensor = _Gather.apply(packed, self.rows, self.positions, None)
        return padded

    def unpad(self, padded: Tensor) -> Tensor:
        """(P, ...) to (T, ...)."""
        packed: Tensor = _Gather.apply(padded, self.positions, self.rows, self.empty)
        return packed


class Ragged(NamedTuple):
    """Packed sequences, but for their tokens: where each stands, and what shapes follow.

    On a CUDA device the lengths themselves are known to the device alone. What is made of them is
    the same work for all that have the numbers below in common, and nothing waits for it.
    """

    offsets: Tensor  # (U + 1,) int64, on the device of the tokens
    n_tokens: int
    longest: int  # on a device, of unequal lengths, up to a few more
    is_even: bool  # whether all are of one length

    @classmethod
    def of(cls, offsets: Tensor, device: torch.device) -> Ragged:
        """Take offsets that are on the host."""
        lengths = np.diff(offsets.numpy())
        longest = int(lengths.max(initial=0))
        is_even = longest == lengths.min(initial=longest)
        if device.type != "cpu" and not is_even:
            longest = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        return cls(to_device(offsets, device), int(offsets[-1]), longest, bool(is_even))

    def owners(self) -> Tensor:
        """Tell whose each token is, (T,)."""
        return _repeated(self.offsets.diff(), self.n_tokens)

    def ages(self) -> Tensor:
        """Count the tokens that follow each in its sequence, (T,)."""
        last = self.offsets[1:] - 1
        return last[self.owners()] - torch.arange(self.n_tokens, device=last.device)

    def rows(self, n_heads: int = 1) -> Tensor:
        """Pad to (U, H, longest), H vectors of each token, to the right: which is where; 0 pads."""
        starts, lengths = self.offsets[:-1, None, None], self.offsets.diff()[:, None, None]
        places, heads = (torch.arange(n, device=starts.device) for n in (self.longest, n_heads))
        rows = (starts + places) * n_heads + heads[:, None]  # (U, H, L)
        return rows.masked_fill(places >= lengths, 0)

    def padding(self, n_heads: int = 1) -> Padding:
        """Pad as :meth:`rows` says, and back.

        Nothing is searched for: tokens and padding before a sequence follow from the offsets.
        """
        starts, lengths = self.offsets[:-1], self.offsets.diff()
        device, n_sequences = starts.device, len(starts)
        heads = torch.arange(n_heads, device=device)

        def positions(counts: Tensor, before: Tensor, first: Tensor | int, n: int) -> Tensor:
            own = _repeated(counts, n)  # (n,)
            place = torch.arange(n, device=device) - (before - first)[own]
            return ((own * n_heads)[:, None] + heads) * self.longest + place[:, None]  # (n, H)

        filled = positions(lengths, starts, 0, self.n_tokens)
        n_empty = n_sequences * self.longest - self.n_tokens
        n_before = torch.arange(n_sequences, device=device) * self.longest - starts
        empty = positions(self.longest - lengths, n_before, lengths, n_empty)
        return Padding(self.rows(n_heads).flatten(), filled.flatten(), empty.flatten())


def _repeated(counts: Tensor, total: int) -> Tensor:
    """Repeat each index as often as `counts` say, which sum up to `total`."""
    if counts.device.type == "cpu":  # NumPy is several times faster
        return torch.from_numpy(np.repeat(np.arange(len(counts)), counts.numpy()))
    return torch.arange(len(counts), device=counts.device).repeat_interleave(
        counts, output_size=total
    )


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Tell the dtype of matrix products with a tensor: inside ``torch.autocast`` its own."""
    device = tensor.device.type
    if torch.is_autocast_enabled(device) and tensor.dtype == torch.float32:
        return torch.get_autocast_dtype(device)
    return tensor.dtype


class Clock(NamedTuple):
    """When the tokens of packed sequences happened."""

    elapsed: Tensor  # (T,) float64, as from `Histories.elapsed`
    edges: NDArray[np.float64]  # of the ranges of time, as from `sequences.gap_edges`

    def tags(self, tokens: Tensor) -> Tensor:
        """Classify the time between tokens (U, L) as :func:`sequences.pair_tags`, (U, L, L)."""
        times = self.elapsed[tokens]
        since = times[:, :, None] - times[:, None, :]
        tags = torch.full_like(since, 2, dtype=torch.int32)
        for edge in self.edges.tolist():
            tags += since > edge
        tags.masked_fill_(since <= 0, 1)
        return tags.masked_fill_(since.isnan(), 0)


class AttentionPlan(NamedTuple):
    """Groups of neighbouring sequences that are attended together, padded to their longest."""

    shapes: list[tuple[int, int]]  # (U, L) of each group
    heads: Padding  # of T * H vectors, to (U, H, L) of one group after the other
    qkv: Padding  # of T * 3 * H vectors, to queries, keys and values, each as `heads`
    tags: list[Tensor] | None = None  # (U, L, L) of each group, the time between its tokens

    def timed(self, clock: Clock, n_heads: int) -> AttentionPlan:
        """Add the time between the tokens of each group."""
        groups = self.split(self.heads.rows // n_heads)  # (U * H, L) tokens, alike in all heads
        return self._replace(tags=[clock.tags(tokens[::n_heads]) for tokens in groups])

    def split(self, padded: Tensor) -> list[Tensor]:
        """Cut what `heads` or a part of `qkv` padded into groups (U * H, L, d / H)."""
        n_heads = len(padded) // max(1, sum(u * length for u, length in self.shapes))
        parts = padded.split([u * n_heads * length for u, length in self.shapes])
        return [
            part.unflatten(0, (u * n_heads, length))
            for part, (u, length) in zip(parts, self.shapes, strict=True)
        ]


class PackedPlan(NamedTuple):
    """Sequences that are attended without padding."""

    longest: int  # or, of unequal lengths, a few more
    offsets: Tensor | None  # (U + 1,) int32, on the device; None if all are of one length


def _takes_any_lengths(device: torch.device, dtype: torch.dtype, head_size: int) -> bool:
    """Tell whether torch's kernel for variable lengths takes heads of a size there."""
    if device.type != "cuda" or dtype != torch.bfloat16 or torch.__version__ < "2.11":
        return False
    capability = torch.cuda.get_device_capability(device)
    # Large heads have gradients on the large chips only.
    return capability >= (8, 0) and head_size <= (256 if capability in _LARGE_CHIPS else 192)


def attention_plan(
    sequences: Ragged,
    n_heads: int,
    dtype: torch.dtype = torch.float32,
    head_size: int = 1,
    *,
    padded: bool = False,
) -> AttentionPlan | PackedPlan:
    """Plan :func:`packed_attention`: which sequences share a padded product.

    On a CPU a group's attention matrices fit its caches, and sequences in order of length need
    hardly any padding. An accelerator takes all at once, without padding if they are of one
    length or CUDA's kernel for variable lengths takes the dtype.

    Parameters
    ----------
    sequences : Ragged
    n_heads : int
    dtype, head_size
        Of the queries, keys and values of a head.
    padded : bool, default=False
        Whether attention has biases, which kernels without padding do not take.
    """
    offsets, device, longest = sequences.offsets, sequences.offsets.device, sequences.longest
    if device.type != "cpu":
        if longest and not padded and sequences.is_even:
            return PackedPlan(longest, None)
        if longest and not padded and _takes_any_lengths(device, dtype, head_size):
            return PackedPlan(longest, offsets.to(torch.int32))
        return _of_one_group(sequences, n_heads)
    # In NumPy, whose sums of whole numbers are several times faster.
    bounds, heads = offsets.numpy(), np.arange(n_heads)[:, None]
    lengths = np.diff(bounds).tolist()
    start, shapes = 0, []
    rows, filled = [np.empty(0, np.int64)], [np.empty(0, np.bool_)]
    while start < len(lengths):
        size = len(lengths) - start
        # The last sequence of a group is its longest, if they come in order.
        while size > 1 and size * max(lengths[start : start + size]) ** 2 > _MAX_GROUP_LOGITS:
            size //= 2
        # A product of a new shape takes longer and leaves its kernel in torch's cache: sizes are
        # powers of two, and unequal lengths are padded to a multiple of a few.
        size = 1 << (size.bit_length() - 1)
        stop = start + size
        longest = max(lengths[start:stop])
        if sum(lengths[start:stop]) < size * longest:
            longest = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        if longest:
            shapes.append((size, longest))
            own, positions = bounds[start : stop + 1, None, None], np.arange(longest)
            is_filled = np.broadcast_to(positions < np.diff(own, axis=0), (size, n_heads, longest))
            filled.append(is_filled.ravel())
            row = (own[:-1] + positions) * n_heads + heads  # (U, H, L)
            rows.append(np.where(is_filled, row, 0).ravel())
        start = stop
    row = np.concatenate(rows)  # (P * H,)
    of_heads = Padding.of(row, np.concatenate(filled))
    parts = _of_parts(row, of_heads.positions.numpy(), np.arange(3), n_heads)
    return AttentionPlan(shapes, of_heads, _one_way(*map(torch.from_numpy, parts)))


def _of_one_group(sequences: Ragged, n_heads: int) -> AttentionPlan:
    """Plan all sequences as one group, where they are."""
    of_heads = sequences.padding(n_heads)
    three = torch.arange(3, device=of_heads.rows.device)
    parts = _of_parts(of_heads.rows, of_heads.positions, three, n_heads)
    shape = len(sequences.offsets) - 1, sequences.longest
    return AttentionPlan([shape] if sequences.longest else [], of_heads, _one_way(*parts))


def _one_way(rows: Tensor, positions: Tensor) -> Padding:
    """Make a padding by which nothing is unpadded."""
    return Padding(rows, positions, positions[:0])


def _of_parts(rows: Any, positions: Any, parts: Any, n_heads: int) -> tuple[Any, Any]:
    """Lay out queries, keys and values, 3 H vectors of one token in a row, as H of one part.

    `rows` and `positions` are those of the padding of one part, `parts` are 0, 1, 2, of NumPy or
    torch alike.
    """
    parts = parts[:, None]
    thrice = rows + (rows // n_heads * 2 + parts) * n_heads  # (3, P * H)
    return thrice.ravel(), (positions.reshape(-1, 1, n_heads) + parts * len(rows)).ravel()


def _counts_in_order(device: torch.device) -> bool:
    """Tell whether bincount adds up the same way each time."""
    return device.type == "cpu"


class AttentionBias(NamedTuple):
    """What is added to attention's logits, by what lies between two events of a history."""

    distance: Tensor  # (H, max_len), by the number of events from one to the other
    gap: Tensor  # (H, N_GAP_TAGS), by the class of the time between them

    def to(self, dtype: torch.dtype) -> AttentionBias:
        """Cast, without a gradient."""
        return AttentionBias(*(part.detach().to(dtype) for part in self))

    def logits(self, length: int, tags: Tensor | None) -> Tensor:
        """Lay the biases out for sequences of one length: (1 or U, H, L, L), -inf from later ones.

        `tags` (U, L, L) are None where no times are known.
        """
        n_heads, longest = self.distance.shape
        # Padded sequences may be longer than any that there are.
        known = F.pad(self.distance[:, :length], (0, max(0, length - longest)))
        line = F.pad(known.flip(1), (0, length), value=-torch.inf)  # (H, 2L)
        # Entry (i, j) is that of the distance i - j: each row is the one below it, a step on.
        by_distance = line.unfold(1, length, 1)[:, :length].flip(1)  # (H, L, L)
        if tags is None:
            return by_distance[None]
        out = self.gap.new_empty(len(tags), n_heads, length, length)
        for head, row in enumerate(self.gap):
            by_gap = row.index_select(0, tags.view(-1)).view(tags.shape)
            torch.add(by_gap, by_distance[head], out=out[:, head])
        return out

    def gradients(self, grad: Tensor, tags: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sum the gradient of the logits, (U, H, L, L), into that of either bias."""
        length = grad.shape[2]
        of_distance, of_gap = torch.zeros_like(self.distance), torch.zeros_like(self.gap)
        # The diagonals of a matrix, its columns reversed, are columns of one with rows longer by
        # one: what is summed in them has one distance.
        skewed = F.pad(grad.sum(0, dtype=of_distance.dtype).flip(2), (0, length))  # (H, L, 2L)
        skewed = skewed.flatten(1)[:, :-length].unflatten(1, (length, 2 * length - 1))
        found = skewed.sum(1)[:, length - 1 :][:, : of_distance.shape[1]]
        of_distance[:, : found.shape[1]] = found
        if tags is None:
            return of_distance, of_gap
        by_head = grad.to(of_gap).transpose(0, 1).flatten(1)  # (H, U L L)
        if _counts_in_order(grad.device):
            for row, weights in zip(of_gap, by_head, strict=True):
                row += torch.bincount(tags.view(-1), weights, minlength=len(row))
        else:
            of_gap += by_head @ F.one_hot(tags.view(-1).long(), of_gap.shape[1]).to(of_gap)
        return of_distance, of_gap


class _GroupedAttention(torch.autograd.Function):
    """Softmax attention by plain batched products, of queries, keys, values (3, P * H, d / H).

    Several times faster on a CPU than torch's fused kernel, whose blocks suit long sequences, and
    it takes biases.
    """

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        plan: AttentionPlan,
        distance: Tensor | None = None,
        gap: Tensor | None = None,
    ) -> Tensor:
        out = torch.empty_like(qkv[0])  # (P * H, d / H)
        attentions = []
        ctx.bias = None
        if distance is not None and gap is not None:
            ctx.bias = AttentionBias(distance, gap)
        for place, (q, k, v, attended) in enumerate(
            zip(*map(plan.split, (*qkv, out)), strict=True)
        ):
            length = q.shape[1]
            # Padding stands to the right of every token of its sequence, so the causal mask
            # hides it.
            if ctx.bias is None:
                bias = q.new_full((length, length), -torch.inf).triu(1)
            else:
                tags = None if plan.tags is None else plan.tags[place]
                bias = ctx.bias.to(q.dtype).logits(length, tags)
                bias = bias.expand(plan.shapes[place][0], -1, -1, -1).flatten(0, 1)
            logits = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
            attentions.append(logits.softmax(-1))  # (U * H, L, L)
            torch.bmm(attentions[-1], v, out=attended)
        ctx.save_for_backward(qkv, *attentions)
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv, *attentions = ctx.saved_tensors
        plan, bias = ctx.plan, ctx.bias
        grad_qkv = torch.empty_like(qkv)
        of_bias = (None, None) if bias is None else tuple(map(torch.zeros_like, bias))
        parts = zip(*map(plan.split, (*qkv, *grad_qkv, grads[0])), attentions, strict=True)
        for place, (q, k, v, grad_q, grad_k, grad_v, grad, attention) in enumerate(parts):
            torch.bmm(attention.transpose(1, 2), grad, out=grad_v)
            grad_logits = grad @ v.transpose(1, 2)  # of the attention, soon of the logits
            grad_logits.sub_((grad_logits * attention).sum(-1, keepdim=True))
            grad_logits.mul_(attention)
            if bias is not None:
                found = bias.gradients(
                    grad_logits.unflatten(0, (plan.shapes[place][0], -1)),
                    None if plan.tags is None else plan.tags[place],
                )
                for total, part in zip(of_bias, found, strict=True):
                    total += part
            grad_logits.mul_(q.shape[2] ** -0.5)
            torch.bmm(grad_logits, k, out=grad_q)
            torch.bmm(grad_logits.transpose(1, 2), q, out=grad_k)
        return grad_qkv, None, *of_bias


def _attend_plainly(qkv: Tensor, plan: AttentionPlan, bias: AttentionBias | None) -> Tensor:
    with torch.autocast(qkv.device.type, enabled=False):
        attended: Tensor = _GroupedAttention.apply(qkv, plan, *(bias or ()))
    return attended


def _attend_fused(qkv: Tensor, plan: AttentionPlan) -> Tensor:
    out = [qkv[0, :0]]
    for (n_sequences, _), *group in zip(plan.shapes, *map(plan.split, qkv), strict=True):
        q, k, v = (part.unflatten(0, (n_sequences, -1)) for part in group)  # (U, H, L, d / H)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out.append(attended.flatten(0, 2))
    return torch.cat(out)


def _attend_packed(qkv: Tensor, plan: PackedPlan) -> Tensor:
    size = qkv.shape[-1]
    if plan.offsets is None:
        q, k, v = qkv.unflatten(0, (-1, plan.longest)).permute(2, 0, 3, 1, 4)  # (U, H, L, d / H)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return attended.transpose(1, 2).flatten(0, 1)
    # The kernel wants vectors of a multiple of eight; zeros change no product.
    q, k, v = F.pad(qkv, (0, -size % 8)).unbind(1)  # (T, H, .)
    of_both = (plan.offsets, plan.offsets, plan.longest, plan.longest)  # queries and keys
    found = varlen_attn(q, k, v, *of_both, window_size=(-1, 0), scale=size**-0.5)
    assert isinstance(found, Tensor)  # nothing else was asked for
    return found[..., :size]


def packed_attention(
    qkv: Tensor, plan: AttentionPlan | PackedPlan, bias: AttentionBias | None = None
) -> Tensor:
    """Causal self-attention within each packed sequence; no token sees another sequence.

    Parameters
    ----------
    qkv : Tensor of shape (T, 3, H, d / H)
        Queries, keys and values.
    plan : AttentionPlan or PackedPlan
        From :func:`attention_plan`, padded where there is a bias.
    bias : AttentionBias, default=None

    Returns
    -------
    Tensor of shape (T, H, d / H)
    """
    if isinstance(plan, PackedPlan):
        assert bias is None
        return _attend_packed(qkv, plan)
    n_tokens, _, n_heads, size = qkv.shape
    padded = plan.qkv.pad(qkv.reshape(-1, size)).view(3, -1 if n_tokens else 0, size)
    if qkv.device.type == "cpu" or bias is not None:
        attended = _attend_plainly(padded, plan, bias)
    else:
        attended = _attend_fused(padded, plan)
    return plan.heads.unpad(attended).view(n_tokens, n_heads, size)


class _Dropout(torch.autograd.Function):
    """``x * keep * scale``; `keep` has the dtype of `x`, for mixed products are slow on CPUs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return (x * keep).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        return (grads[0] * keep).mul_(ctx.scale), None, None


def dropout(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Dropout that draws from `generator`, so that the global state stays untouched.

    `generator=None` means evaluation: `x` comes back. `rate` is rounded to 2**-16. On a CPU one
    64-bit draw decides four numbers, many times faster than a Bernoulli draw for each.
    """
    level = min(round(rate * 2**16), 2**16 - 1)
    if generator is None or level == 0:
        return x
    if x.device.type == "cpu":
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        words.random_(-(2**63), None, generator=generator)
        # Whole numbers all the way, since comparing and converting booleans takes longer than
        # drawing: 0 below the level and 1 from there on, then the bits of 0.0 and 1.0.
        first = level - 2**15
        keep = words.view(torch.int16)[: x.numel()].clamp_(first - 1, first).sub_(first - 1)
        keep = keep.mul_(_BITS_OF_ONE).view(torch.bfloat16).view(x.shape).to(x.dtype)
    else:
        keep = torch.empty_like(x).bernoulli_(1 - level / 2**16, generator=generator)
    kept: Tensor = _Dropout.apply(x, keep, 2**16 / (2**16 - level))
    return kept


class _Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward net of width d, both added.

    Plain as in SASRec, or `gated`: what attention found passes ``sigmoid(G x)``, and the net is
    ``W (silu(U x) * V x)`` for ``W relu(U x)``. With `bias_len` attention has biases, by up to so
    many events between two, and by the time.
    """

    def __init__(
        self, dim: int, n_heads: int, dropout: float, gated: bool, bias_len: int | None
    ) -> None:
        super().__init__()
        self.n_heads, self.dropout, self.gated = n_heads, dropout, gated
        self.attention_norm = nn.LayerNorm(dim)
        self.attention_in = nn.Linear(dim, (4 if gated else 3) * dim)  # Q, K, V (and G)
        self.attention_out = nn.Linear(dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward_in = nn.Linear(dim, (2 if gated else 1) * dim)  # U (and V)
        self.feedforward_out = nn.Linear(dim, dim)
        self.biased = bias_len is not None
        if bias_len is not None:
            self.distance_bias = nn.Parameter(torch.empty(n_heads, bias_len))
            self.gap_bias = nn.Parameter(torch.empty(n_heads, N_GAP_TAGS))

    def forward(
        self, x: Tensor, plan: AttentionPlan | PackedPlan, generator: torch.Generator | None
    ) -> Tensor:
        dim = x.shape[1]
        inputs = self.attention_in(self.attention_norm(x))  # (T, 3d or 4d)
        # Split, not sliced: the gradients of the parts are put together, not padded and added.
        qkv, *gate = inputs.split([3 * dim, dim] if self.gated else 3 * dim, 1)
        bias = AttentionBias(self.distance_bias, self.gap_bias) if self.biased else None
        attended = packed_attention(qkv.unflatten(1, (3, self.n_heads, -1)), plan, bias).flatten(1)
        if self.gated:
            attended = attended * gate[0].sigmoid()  # (T, d)
        # Under autocast the products are bfloat16. The stream stays float32, which keeps gradients
        # several times more exact; cast before adding, for mixed sums take far longer on a CPU.
        x = x + dropout(self.attention_out(attended), self.dropout, generator).to(x)
        inner = self.feedforward_in(self.feedforward_norm(x))
        if self.gated:
            u, v = inner.chunk(2, 1)
            inner = F.silu(u) * v
        else:
            inner = F.relu(inner)
        return x + dropout(self.feedforward_out(inner), self.dropout, generator).to(x)


class SequenceEncoder(nn.Module):
    """A causal transformer over packed token vectors, positions counted from the last token.

    Parameters
    ----------
    dim, n_layers, n_heads, max_len : int
        `dim` divides by `n_heads`; no sequence is longer than `max_len`.
    dropout : float
        Of the input and of what each block adds.
    gated : bool, default=False
        Whether blocks are gated or SASRec's.
    biased : bool, default=False
        Whether attention is biased by the events and the time between two events.
    """

    def __init__(
        self,
        dim: int,
        *,
        n_layers: int,
        n_heads: int,
        max_len: int,
        dropout: float,
        gated: bool = False,
        biased: bool = False,
    ) -> None:
        super().__init__()
        self.dropout, self.n_heads, self.biased = dropout, n_heads, biased
        self.position_embedding = nn.Parameter(torch.empty(max_len, dim))
        bias_len = max_len if biased else None
        self.blocks = nn.ModuleList(
            _Block(dim, n_heads, dropout, gated, bias_len) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        x: Tensor,
        sequences: Ragged,
        generator: torch.Generator | None = None,
        clock: Clock | None = None,
    ) -> Tensor:
        """Encode each token with what came before it in its sequence.

        Parameters
        ----------
        x : Tensor of shape (T, d)
        sequences : Ragged
            Of T tokens. In order of length they need the least work.
        generator : torch.Generator, default=None
            Source of the dropout masks (training); None means evaluation.
        clock : Clock, default=None
            When the tokens happened, for biased attention; None where that is unknown.

        Returns
        -------
        Tensor of shape (T, d)
        """
        # Counted from the end, the most recent event always has position 0, however long the
        # history is: "the last one" is what a next-item model must recognise.
        x = x + F.embedding(sequences.ages(), self.position_embedding)
        x = dropout(x, self.dropout, generator)
        head_size = x.shape[1] // self.n_heads
        plan = attention_plan(
            sequences, self.n_heads, product_dtype(x), head_size, padded=self.biased
        )
        if clock is not None and isinstance(plan, AttentionPlan):
            plan = plan.timed(clock, self.n_heads)
        for block in self.blocks:
            x = block(x, plan, generator)
        return self.norm(x)


class Items(NamedTuple):
    """Parameters of the items that a batch works with; codes are rows of these."""

    vectors: Tensor  # (C, d)
    taste: Tensor | None  # (C,)

    def embed(self, codes: Tensor) -> Tensor:
        """Turn item codes of shape (T,) into input vectors (T, d), scaled as in SASRec."""
        return self.lookup(codes) * math.sqrt(self.vectors.shape[1])

    def lookup(self, codes: Tensor) -> Tensor:
        """Take the vectors (T, d) of item codes (T,)."""
        # A sparse gradient joins the softmax's without a matrix of zeros of its own. A device fills
        # one in no time, but waits where sparse ones are added up.
        sparse = self.vectors.is_leaf and self.vectors.device.type == "cpu"
        return F.embedding(codes, self.vectors, sparse=sparse)


class ItemModel(nn.Module):
    """Item vectors, input and output layer in one; subclasses add encoders in `_build`.

    There is no padding row: row ``i`` is item ``i``. `answering` names the encoder whose states
    say what comes next.

    Parameters
    ----------
    n_items, dim : int
    generator : torch.Generator, default=None
        Draws the initial values on the CPU. None leaves the parameters without storage, to be
        loaded with ``load_state_dict(..., assign=True)``.
    **parts
        Sizes of the encoders, as in :class:`SequenceEncoder`, and what a subclass may leave out.
    """

    answering: ClassVar[str]

    def __init__(
        self, n_items: int, dim: int, *, generator: torch.Generator | None = None, **parts: Any
    ) -> None:
        super().__init__()
        # Made without storage, then filled: torch's own constructors draw from the global state.
        with torch.device("meta"):
            self.item_embedding = nn.Parameter(torch.empty(n_items, dim))
            self._build(n_items, dim, **parts)
        self.float()  # whatever torch's default dtype is
        if generator is not None:
            self.to_empty(device="cpu")
            self._initialise(generator)

    def _build(self, n_items: int, dim: int, **sizes: Any) -> None:
        raise NotImplementedError

    @classmethod
    def options_of(cls, weights: Mapping[str, Any]) -> dict[str, Any]:
        """Read off trained parameters (arrays or tensors by name) which parts a model has."""
        raise NotImplementedError

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], n_heads: int) -> Self:
        """Make a trained model of its parameters, which it shares."""
        n_items, dim = weights["item_embedding"].shape
        blocks = [
            name
            for name in weights
            if name.startswith(f"{cls.answering}.") and name.endswith("attention_in.weight")
        ]
        model = cls(
            n_items,
            dim,
            n_layers=len(blocks),
            n_heads=n_heads,
            max_len=len(weights[f"{cls.answering}.position_embedding"]),
            dropout=0.0,
            **cls.options_of(weights),
        )
        model.load_state_dict(dict(weights), assign=True)
        return model

    def embed_events(
        self,
        items: Items,
        codes: Tensor,
        signs: Tensor,
        gaps: Tensor,
        latest: Tensor | None = None,
    ) -> Tensor:
        """Turn events, all (T,), into input vectors (T, d) of the answering encoder."""
        raise NotImplementedError

    def encode(self, x: Tensor, offsets: Tensor, clock: Clock | None = None) -> Tensor:
        """Turn input vectors (T, d) into the states of the answering encoder, (T, d)."""
        sequences = Ragged.of(offsets, x.device)
        states: Tensor = getattr(self, self.answering)(x, sequences, clock=clock)
        return states

    def liked_logits(self, hidden: Tensor) -> Tensor | None:
        """Of all items, (Q, N) from states (Q, d), if the model tells what will be liked."""
        return None

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        for name, parameter in self.named_parameters():
            if name.endswith("_embedding"):
                parameter.normal_(0.0, 0.02, generator=generator)
            elif name.endswith("weight") and parameter.ndim == 2:
                nn.init.xavier_uniform_(parameter, generator=generator)
            elif name.endswith("norm.weight"):
                parameter.fill_(1.0)
            else:
                parameter.zero_()

    def items(self, in_batch: Tensor | None = None) -> Items:
        """Take the item parameters, or only those of the items `in_batch`, shape (C,), say.

        Then their gradients are sparse: a step costs what the items cost that it touches,
        whatever the catalogue holds.
        """
        taste = getattr(self, "item_taste", None)
        if in_batch is None:
            return Items(self.item_embedding, taste)
        return Items(
            F.embedding(in_batch, self.item_embedding, sparse=True),
            None if taste is None else taste.gather(0, in_batch, sparse_grad=True),
        )


class TwoSidedEncoder(ItemModel):
    """A positive encoder and, if wanted, a negative one over shared item vectors (PNFRec).

    Every parameter belongs to one encoder alone except the item embedding. The positive one
    answers.

    Parameters
    ----------
    n_items, dim, generator, **sizes
        As in the base class.
    two_sided : bool
        Whether there is a negative encoder.
    """

    answering = "positive"

    def _build(self, n_items: int, dim: int, *, two_sided: bool = True, **sizes: Any) -> None:
        self.positive = SequenceEncoder(dim, **sizes)
        self.negative = SequenceEncoder(dim, **sizes) if two_sided else None

    @classmethod
    def options_of(cls, weights: Mapping[str, Any]) -> dict[str, bool]:
        """Read off trained parameters whether there is a negative encoder."""
        return {"two_sided": any(name.startswith("negative.") for name in weights)}

    def embed_events(
        self,
        items: Items,
        codes: Tensor,
        signs: Tensor,
        gaps: Tensor,
        latest: Tensor | None = None,
    ) -> Tensor:
        """Turn the items (T,) of one sign into input vectors (T, d)."""
        return items.embed(codes)


class JointEncoder(ItemModel):
    """One encoder over all events, each with its sign and the time since the one before.

    From the state ``h`` after an event, item ``i`` comes next with logit ``h . e_i`` and is liked
    with logit ``(A h + a) . e_i + c_i + w . h + w_0``.

    Parameters
    ----------
    n_items, dim, generator, **sizes
        As in the base class.
    shows_latest : bool
        Whether each event is also shown with the latest liked and the latest disliked item.
        Attention finds them by itself, but only after having seen many histories.
    gated, biased : bool
        Whether blocks are gated, and attention biased; those of the first model files are not.
    """

    answering = "encoder"

    def _build(
        self,
        n_items: int,
        dim: int,
        *,
        shows_latest: bool = True,
        gated: bool = True,
        biased: bool = True,
        **sizes: Any,
    ) -> None:
        self.sign_embedding = nn.Parameter(torch.empty(3, dim))  # disliked, neutral, liked
        self.gap_embedding = nn.Parameter(torch.empty(N_GAP_TAGS, dim))
        self.latest = nn.Linear(dim, 2 * dim, bias=False) if shows_latest else None
        self.encoder = SequenceEncoder(dim, gated=gated, biased=biased, **sizes)
        self.taste_query = nn.Linear(dim, dim)  # A, a
        self.taste_level = nn.Linear(dim, 1)  # w, w_0
        self.item_taste = nn.Parameter(torch.empty(n_items))  # c

    @classmethod
    def options_of(cls, weights: Mapping[str, Any]) -> dict[str, bool]:
        """Read off trained parameters which parts a model has."""
        dim = weights["item_embedding"].shape[1]
        first = weights.get("encoder.blocks.0.attention_in.weight")
        return {
            "shows_latest": "latest.weight" in weights,
            "gated": first is None or len(first) == 4 * dim,
            "biased": "encoder.blocks.0.distance_bias" in weights,
        }

    def embed_events(
        self,
        items: Items,
        codes: Tensor,
        signs: Tensor,
        gaps: Tensor,
        latest: Tensor | None = None,
    ) -> Tensor:
        """Turn events into input vectors (T, d).

        Of each event, all of shape (T,): item code, sign (-1, 0, 1) and gap tag; and in `latest`,
        (T, 2), where the latest liked and the latest disliked event stand, -1 for none; it is
        None for a model that is not shown them.
        """
        scale = math.sqrt(self.sign_embedding.shape[1])
        vectors = items.lookup(codes)  # (T, d)
        tags = F.embedding(signs + 1, self.sign_embedding) + F.embedding(gaps, self.gap_embedding)
        if self.latest is not None:
            assert latest is not None
            parts = self.latest(vectors).to(tags).chunk(2, 1)
            for position, shown in zip(latest.T, parts, strict=True):
                shown = F.pad(shown, (0, 0, 1, 0))  # (1 + T, d), the first of them for none
                tags = tags + F.embedding(position + 1, shown)
        return (vectors + tags) * scale

    def like_logits(
        self,
        hidden: Tensor,
        items: Items,
        codes: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Tell from states (T, d) how well one item each, (T,), will be liked: logits (T,).

        A generator drops some numbers of the states (training): what is liked overfits long
        before what comes next.
        """
        assert items.taste is not None
        hidden = dropout(hidden, self.encoder.dropout, generator)
        vectors = items.lookup(codes)  # (T, d)
        logits = (self.taste_query(hidden).to(vectors) * vectors).sum(-1) + items.taste[codes]
        return logits + self.taste_level(hidden).squeeze(-1)

    def liked_logits(self, hidden: Tensor) -> Tensor:
        """Tell from states (Q, d) how well each item will be liked: logits (Q, N)."""
        queries = self.taste_query(hidden)  # (Q, d)
        logits = torch.addmm(self.item_taste, queries, self.item_embedding.T)
        return logits.add_(self.taste_level(hidden))


#: The module that each method trains, by the name that the fitted model carries.
ENCODERS: dict[str, type[ItemModel]] = {"joint": JointEncoder, "pnfrec": TwoSidedEncoder}
