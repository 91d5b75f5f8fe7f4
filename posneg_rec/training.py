"""From packed sequences to trained weights: windows, batches and ONE loop.

Arrays go in, a flat dictionary of NumPy arrays comes out; torch modules, devices and optimisers
live and die inside :func:`train`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posneg_rec.interactions import Histories, PackedSequences
from posneg_rec.losses import CompositeLoss, Dislikes, Positions, composite_loss
from posneg_rec.nn import TwoSidedEncoder

__all__ = ["EpochLog", "Settings", "TrainingSequences", "resolve_precision", "train"]

Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Settings:
    """How :func:`train` trains; the estimator's constructor documents each."""

    embedding_dim: int
    n_layers: int
    n_heads: int
    max_len: int
    dropout: float
    negative_weight: float
    contrastive_weight: float
    contrastive_similarity: Literal["dot", "cosine"]
    contrastive_negatives: Literal["window", "past"]
    temperature: float
    windows: Literal["recent", "random"]
    learning_rate: float
    batch_size: int
    max_epochs: int
    n_iter_no_change: int
    device: str
    precision: str


@dataclass(frozen=True)
class EpochLog:
    """What one epoch brought: mean losses in nats, validation score (None without), seconds."""

    epoch: int
    loss: float
    positive_loss: float
    negative_loss: float
    contrastive_loss: float
    validation_score: float | None
    seconds: float


@dataclass(frozen=True)
class TrainingSequences:
    """The liked and the disliked sequence of each user, on one user axis.

    ``n_dislikes_before[i]`` counts the dislikes of the user that precede the liked event ``i`` of
    ``liked.values``; ``*_weights`` weigh each event as a target.
    """

    liked: PackedSequences
    disliked: PackedSequences
    n_dislikes_before: NDArray[np.int64]
    liked_weights: NDArray[np.float32] | None = None
    disliked_weights: NDArray[np.float32] | None = None

    @classmethod
    def from_histories(
        cls, histories: Histories, sample_weight: NDArray[np.float32] | None = None
    ) -> TrainingSequences:
        """Split each history by sign. `sample_weight` has one entry per row of the caller."""
        liked, liked_events = histories.of_sign(1)
        disliked, disliked_events = histories.of_sign(-1)
        n_dislikes = np.concatenate([[0], np.cumsum(histories.signs == -1)])
        first = np.repeat(histories.offsets[:-1], liked.lengths)
        before = n_dislikes[liked_events] - n_dislikes[first]
        if sample_weight is None:
            return cls(liked, disliked, before)
        weights = sample_weight[histories.rows]
        return cls(liked, disliked, before, weights[liked_events], weights[disliked_events])


@dataclass(frozen=True)
class _Windows:
    """The part of each batch user's sequence that an epoch trains on, as packed indices."""

    index: NDArray[np.int64]  # into the values of the whole set
    offsets: NDArray[np.int64]  # (U + 1,)
    starts: NDArray[np.int64]  # (U,) events of the user before its window

    @classmethod
    def draw(
        cls,
        sequences: PackedSequences,
        users: NDArray[np.int64],
        length: int,
        rng: np.random.Generator | None,
    ) -> _Windows:
        """Take at most `length` events of each user: the last ones, or (with `rng`) any run."""
        lengths = sequences.lengths[users]
        starts = np.maximum(lengths - length, 0)
        if rng is not None:
            starts = rng.integers(starts, endpoint=True)
        taken = np.minimum(lengths, length)
        offsets = np.concatenate([[0], np.cumsum(taken)])
        first = sequences.offsets[users] + starts
        index = np.arange(offsets[-1]) + np.repeat(first - offsets[:-1], taken)
        return cls(index, offsets, starts)

    def shifted(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return inputs (all but the last event), targets (all but the first) and offsets."""
        lengths = np.diff(self.offsets)
        is_first = np.zeros(len(self.index), dtype=bool)
        is_last = np.zeros(len(self.index), dtype=bool)
        filled = lengths > 0
        is_first[self.offsets[:-1][filled]] = True
        is_last[self.offsets[1:][filled] - 1] = True
        offsets = np.concatenate([[0], np.cumsum(np.maximum(lengths - 1, 0))])
        return self.index[~is_last], self.index[~is_first], offsets


@dataclass(frozen=True)
class _Side:
    """One encoder's share of a batch, on the device."""

    inputs: Tensor  # (T,) item codes
    targets: Tensor  # (T,) item codes
    offsets: Tensor  # (U + 1,)
    weights: Tensor | None  # (T,)


def _side(
    sequences: PackedSequences,
    weights: NDArray[np.float32] | None,
    windows: _Windows,
    device: torch.device,
) -> _Side:
    inputs, targets, offsets = windows.shifted()
    return _Side(
        torch.from_numpy(sequences.values[inputs]).to(device),
        torch.from_numpy(sequences.values[targets]).to(device),
        torch.from_numpy(offsets).to(device),
        None if weights is None else torch.from_numpy(weights[targets]).to(device),
    )


def _batch_loss(
    model: TwoSidedEncoder,
    data: TrainingSequences,
    users: NDArray[np.int64],
    settings: Settings,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> CompositeLoss:
    device = model.item_embedding.device
    window_rng = rng if settings.windows == "random" else None
    liked = _Windows.draw(data.liked, users, settings.max_len + 1, window_rng)
    side = _side(data.liked, data.liked_weights, liked, device)

    def encode(encoder: Any, side: _Side) -> Positions:
        hidden = encoder(model.embed(side.inputs), side.offsets, generator)
        return Positions(hidden, side.targets, side.offsets, side.weights)

    positive = encode(model.positive, side)
    negative = dislikes = None
    if model.negative is not None or settings.contrastive_weight > 0:
        disliked = _Windows.draw(data.disliked, users, settings.max_len + 1, window_rng)
        negative_side = _side(data.disliked, data.disliked_weights, disliked, device)
        if model.negative is not None:
            negative = encode(model.negative, negative_side)
        if settings.contrastive_negatives == "window":
            # What the published code contrasts with: the inputs of the negative encoder, so
            # without the latest dislike and with those that came after the target.
            dislikes = Dislikes(negative_side.inputs, negative_side.offsets)
        else:
            _, targets, offsets = liked.shifted()
            user = np.repeat(np.arange(len(users)), np.diff(offsets))
            dislikes = Dislikes(
                torch.from_numpy(data.disliked.values[disliked.index]).to(device),
                torch.from_numpy(disliked.offsets).to(device),
                torch.from_numpy(data.n_dislikes_before[targets] - disliked.starts[user]).to(
                    device
                ),
            )
    return composite_loss(
        model.item_embedding,
        positive,
        negative,
        dislikes,
        negative_weight=settings.negative_weight,
        contrastive_weight=settings.contrastive_weight,
        similarity=settings.contrastive_similarity,
        temperature=settings.temperature,
    )


def _resolve_device(device: str) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Choose the dtype of the matrix products: bfloat16 where the hardware is fast at it."""
    if precision != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # AVX512-BF16 without AMX tiles was measured slower than float32 (140 against 230
        # GFLOP/s), so only tiles count.
        tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        fast = device.type == "cpu" and tiles()
    return torch.bfloat16 if fast else torch.float32


def _to_numpy(model: TwoSidedEncoder) -> Weights:
    return {
        name: parameter.detach().to("cpu", torch.float32, copy=True).numpy()
        for name, parameter in model.named_parameters()
    }


def train(
    data: TrainingSequences,
    n_items: int,
    settings: Settings,
    *,
    rng: np.random.Generator,
    initial_weights: Mapping[str, NDArray[np.float32]] | None = None,
    validate: Callable[[Weights], float] | None = None,
    on_epoch: Callable[[EpochLog, Callable[[], Weights]], bool] | None = None,
) -> tuple[Weights, list[EpochLog]]:
    """Minimise the composite loss; return the best weights and the log of all epochs.

    Parameters
    ----------
    data : TrainingSequences
    n_items : int
    settings : Settings
    rng : numpy Generator
        The source of everything random: initial values, user order, windows, dropout.
    initial_weights : mapping of str to array, default=None
        Values of parameters to start from, by name.
    validate : callable, default=None
        Weights to a score, greater is better, after each epoch. With it, training stops after
        `settings.n_iter_no_change` epochs without a better score and the best weights come
        back; without it, all `settings.max_epochs` epochs run and the last weights do.
    on_epoch : callable, default=None
        Called with each epoch's log and a function that copies the current weights; training
        stops when it returns True.

    Returns
    -------
    weights : dict of str to float32 array
    history : list of EpochLog
        Empty if no user has two events of one sign: there is nothing to learn an order from.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    """
    device = _resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    seed = int(rng.integers(2**63))
    model = TwoSidedEncoder(
        n_items,
        settings.embedding_dim,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        max_len=settings.max_len,
        dropout=settings.dropout,
        two_sided=settings.negative_weight > 0,
        generator=torch.Generator().manual_seed(seed),
    )
    if initial_weights is not None:
        model.load_state_dict(
            {name: torch.from_numpy(np.array(value)) for name, value in initial_weights.items()},
            strict=False,
        )
    model.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    optimizer = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, fused=device.type in ("cpu", "cuda")
    )
    history: list[EpochLog] = []
    trainable = data.liked.lengths > 1
    if settings.negative_weight > 0:
        trainable |= data.disliked.lengths > 1
    users = np.flatnonzero(trainable)
    n_epochs = settings.max_epochs if len(users) else 0
    n_batches = -(-len(users) // settings.batch_size)
    best_weights: Weights | None = None
    best_score, best_epoch = -np.inf, 0
    for epoch in range(1, n_epochs + 1):
        start = time.perf_counter()
        # Summed on the device and read once an epoch: reading waits for the device.
        sums = torch.zeros(4, device=device)
        for batch in np.array_split(rng.permutation(users), n_batches):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                losses = _batch_loss(model, data, batch, settings, rng, generator)
            optimizer.zero_grad(set_to_none=True)
            losses.total.backward()
            optimizer.step()
            sums += torch.stack([term.detach().float() for term in losses])
        loss, positive, negative, contrastive = means = (sums / n_batches).tolist()
        if not np.isfinite(means).all():
            raise FloatingPointError(
                f"The loss is not finite in epoch {epoch} (total, positive, negative, contrastive:"
                f" {means}). Lower learning_rate (now {settings.learning_rate:g}), or pass "
                f"precision='float32'; with contrastive_similarity='cosine' raise temperature "
                f"(now {settings.temperature:g})."
            )
        score = None if validate is None else validate(_to_numpy(model))
        seconds = time.perf_counter() - start
        history.append(EpochLog(epoch, loss, positive, negative, contrastive, score, seconds))
        if score is not None and score > best_score:
            best_score, best_epoch, best_weights = score, epoch, _to_numpy(model)
        stop = on_epoch is not None and on_epoch(history[-1], lambda: _to_numpy(model))
        if stop or (score is not None and epoch - best_epoch >= settings.n_iter_no_change):
            break
    return best_weights or _to_numpy(model), history
