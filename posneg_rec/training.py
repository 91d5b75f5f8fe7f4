"""From packed sequences to trained weights: windows, batches and ONE loop.

Arrays go in, a flat dictionary of NumPy arrays comes out; torch modules, devices and optimisers
live and die inside :func:`train`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from posneg_rec.losses import (
    Dislikes,
    Draws,
    Positions,
    composite_loss,
    feedback_loss,
    item_loss,
)
from posneg_rec.nn import (
    ITEM_PARAMETERS,
    Items,
    JointEncoder,
    SequenceEncoder,
    TwoSidedEncoder,
    to_device,
)
from posneg_rec.sequences import Histories, PackedSequences

__all__ = [
    "EpochLog",
    "JointObjective",
    "PNFRecObjective",
    "Settings",
    "resolve_precision",
    "train",
]

Weights = dict[str, NDArray[np.float32]]

# Of the windows of a joint model, so many hide the times of their events.
_TIMELESS_SHARE = 0.1
# With fewer users than that batches are smaller, for an epoch of so many steps (patience counts
# epochs), and a joint model shows the latest items. Of many users attention learns to find them:
# on MovieLens-1M the model that is shown them overfits sooner.
_FEW_USERS, _MIN_STEPS = 2000, 32
# Positions that go through the model at once: at most so many (an accelerator needs more of them
# to be busy), and a multiple of so many.
_MAX_POSITIONS, _ACCELERATOR_POSITIONS = 3 * 2**11, 2**16
_POSITIONS_MULTIPLE = 256


@dataclass(frozen=True)
class Settings:
    """How to train; the estimator's constructor documents each."""

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
    n_negatives: int | None
    learning_rate: float
    ema_decay: float
    batch_size: int
    max_epochs: int
    n_iter_no_change: int
    device: str
    precision: str

    def encoder_sizes(self) -> dict[str, Any]:
        """Return the sizes of one encoder."""
        names = ("n_layers", "n_heads", "max_len", "dropout")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class EpochLog:
    """What one epoch brought.

    ``losses`` holds the means over the batches, in nats: "loss", the total, and each term of the
    objective. ``validation_score`` is None without validation.
    """

    epoch: int
    losses: dict[str, float]
    validation_score: float | None
    seconds: float


# -- Windows ---------------------------------------------------------------------------------


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

    def by_length(self) -> _Windows:
        """Put the shortest first, which the attention is fastest at."""
        order = np.argsort(np.diff(self.offsets), kind="stable")
        taken = PackedSequences(self.index, self.offsets).take(order)
        return _Windows(taken.values, taken.offsets, self.starts[order])

    def part(self, users: slice) -> _Windows:
        """Take the windows of some of the batch's users."""
        offsets = self.offsets[users.start : users.stop + 1]
        index = self.index[offsets[0] : offsets[-1]]
        return _Windows(index, offsets - offsets[0], self.starts[users])

    def shifted(self, longest: int | None = None) -> _Shifted:
        """Return inputs (all but each user's last event) and targets (all but the first).

        With `longest` filler follows, in sequences of at most that length, until the number of
        positions is a multiple of 256: a matrix product of a new shape takes torch's CPU kernels
        longer, and each shape stays in their cache.
        """
        lengths = np.diff(self.offsets)
        is_first = np.zeros(len(self.index), dtype=bool)
        is_last = np.zeros(len(self.index), dtype=bool)
        filled = lengths > 0
        is_first[self.offsets[:-1][filled]] = True
        is_last[self.offsets[1:][filled] - 1] = True
        lengths = np.maximum(lengths - 1, 0)
        n_targets, n_filler = int(lengths.sum()), 0
        if longest is not None and n_targets:
            n_filler = -n_targets % _POSITIONS_MULTIPLE
            full, rest = divmod(n_filler, longest)
            lengths = np.concatenate([lengths, np.full(full, longest), [rest] if rest else []])
        filler = np.zeros(n_filler, dtype=np.int64)
        return _Shifted(
            np.concatenate([self.index[~is_last], filler]),
            np.concatenate([self.index[~is_first], filler]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            n_targets,
        )


class _Shifted(NamedTuple):
    """Positions of a batch, packed; those from `n_targets` on are filler of no weight."""

    inputs: NDArray[np.int64]  # (T,) events read
    targets: NDArray[np.int64]  # (T,) events to predict
    offsets: NDArray[np.int64]  # (U + 1,), filler included
    n_targets: int

    def total(self, of_events: NDArray[np.float32] | None) -> float:
        """Sum the weights of the targets; where it is 0, any other number does as well."""
        return float(self.weights(of_events).sum(dtype=np.float64)) or 1.0

    def weights(self, of_events: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Give the weights of the targets (T,), by default 1."""
        weights = np.ones(len(self.targets), dtype=np.float32)
        if of_events is not None:
            weights = of_events[self.targets]
        weights[self.n_targets :] = 0
        return weights


def _parts(n_positions: NDArray[np.int64], most: int) -> list[slice]:
    """Cut a batch, with so many positions of each user, into parts of at most (if it can) `most`.

    Parts are trained one after the other before a step: they take a part of the memory, and what
    a layer leaves is still in the cache when the next one reads it.
    """
    part = np.maximum(np.cumsum(n_positions) - 1, 0) // most
    bounds = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(part)]
    return [slice(*bound) for bound in pairwise(bounds)]


def _most_positions(table: Tensor) -> int:
    # Each part makes a gradient of all items, so that many of them ask for large parts.
    most = _MAX_POSITIONS if table.device.type == "cpu" else _ACCELERATOR_POSITIONS
    return max(most, len(table) // 2)


# -- Items of a batch ------------------------------------------------------------------------


class _BatchItems:
    """The items that a batch works with, all or (with `n_negatives`) those that it touches.

    Parameters
    ----------
    model : module with ``items``
    touched : int64 array, default=None
        Sorted codes of the items; None stands for all.
    """

    def __init__(self, model: Any, touched: NDArray[np.int64] | None = None) -> None:
        self._device = model.item_embedding.device
        self._touched = touched
        self.parameters: Items = model.items(
            None if touched is None else _to(self._device, touched)
        )

    def codes(self, items: NDArray[np.int64]) -> Tensor:
        """Tell which rows of the parameters are those of `items`."""
        if self._touched is not None:
            items = np.searchsorted(self._touched, items)
        return _to(self._device, items)


class _NegativeSampler:
    """Draws items that stand for the catalogue in :func:`losses.sampled_next_item_loss`.

    A third of the draws are items of the catalogue, a third are events of the training data and
    a third are dislikes of the batch: rare items, popular ones, and those that a liked item must
    be told from are always among them, and the correction keeps the estimate unbiased.

    Parameters
    ----------
    items : int64 array of shape (n_events,)
        Codes of the training events.
    n_negatives : int
    """

    def __init__(self, items: NDArray[np.int64], n_negatives: int) -> None:
        self.items, self.n_negatives = items, n_negatives
        self.ordered = np.sort(items)

    def draw(
        self, rng: np.random.Generator, n_items: int, dislikes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return codes (M,) and the log of how often each was to be drawn (M,)."""
        n_disliked = self.n_negatives // 3 if len(dislikes) else 0
        n_events = (self.n_negatives - n_disliked) // 2
        n_uniform = self.n_negatives - n_disliked - n_events
        drawn = [
            rng.integers(n_items, size=n_uniform),
            self.items[rng.integers(len(self.items), size=n_events)],
        ]
        if n_disliked:
            drawn.append(dislikes[rng.integers(len(dislikes), size=n_disliked)])
        codes = np.concatenate(drawn).astype(np.int64)
        expected = n_uniform / n_items + n_events * _share(self.ordered, codes)
        if n_disliked:
            expected += n_disliked * _share(np.sort(dislikes), codes)
        return codes, np.log(expected).astype(np.float32)


def _sampler(histories: Histories, settings: Settings) -> _NegativeSampler | None:
    if settings.n_negatives is None:
        return None
    return _NegativeSampler(histories.items, settings.n_negatives)


def _share(ordered: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Tell which share of `ordered`, sorted, equals each of `values`."""
    ends = (np.searchsorted(ordered, values, side) for side in ("right", "left"))
    return np.subtract(*ends) / len(ordered)


def _items_of_batch(
    model: Any,
    sampler: _NegativeSampler | None,
    rng: np.random.Generator,
    named: NDArray[np.int64],
    dislikes: NDArray[np.int64],
) -> tuple[_BatchItems, Draws | None]:
    """Take all items or, with a sampler, those that a batch names and draws."""
    if sampler is None:
        return _BatchItems(model), None
    codes, log_expected = sampler.draw(rng, len(model.item_embedding), dislikes)
    items = _BatchItems(model, np.unique(np.concatenate([named, codes])))
    return items, Draws(items.codes(codes), _to(model.item_embedding.device, log_expected))


# -- Objectives ------------------------------------------------------------------------------


class Objective(Protocol):
    """What :func:`train` minimises: a model, who can train it, and the losses of a batch."""

    terms: ClassVar[tuple[str, ...]]

    def model(self, n_items: int, generator: torch.Generator) -> nn.Module:
        """Make the model with its initial values."""

    def trainable_users(self) -> NDArray[np.int64]:
        """Return the positions of the users with at least one target."""

    def losses(
        self,
        model: Any,
        users: NDArray[np.int64],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield, for each part of a batch of users, what it adds to the loss and to its terms.

        All are scalars; the first is to be differentiated before the next part is asked for.
        """


class PNFRecObjective:
    """``CE_p + a CE_n + b L_c`` on the liked and the disliked sequence of each user.

    Parameters
    ----------
    histories : Histories
    settings : Settings
    sample_weight : float32 array with one entry per row of the caller, default=None
        Weights of the events as targets.
    """

    terms: ClassVar[tuple[str, ...]] = ("positive_loss", "negative_loss", "contrastive_loss")

    def __init__(
        self,
        histories: Histories,
        settings: Settings,
        sample_weight: NDArray[np.float32] | None = None,
    ) -> None:
        self.settings = settings
        self.sampler = _sampler(histories, settings)
        self.liked, liked_events = histories.of_sign(1)
        self.disliked, disliked_events = histories.of_sign(-1)
        # How many dislikes of the user precede each liked event.
        n_dislikes = np.concatenate([[0], np.cumsum(histories.signs == -1)])
        first = np.repeat(histories.offsets[:-1], self.liked.lengths)
        self.n_dislikes_before = n_dislikes[liked_events] - n_dislikes[first]
        self.liked_weights = self.disliked_weights = None
        if sample_weight is not None:
            weights = sample_weight[histories.rows]
            self.liked_weights = weights[liked_events]
            self.disliked_weights = weights[disliked_events]

    def model(self, n_items: int, generator: torch.Generator) -> TwoSidedEncoder:
        """Make the model with its initial values."""
        return TwoSidedEncoder(
            n_items,
            self.settings.embedding_dim,
            two_sided=self.settings.negative_weight > 0,
            generator=generator,
            **self.settings.encoder_sizes(),
        )

    def trainable_users(self) -> NDArray[np.int64]:
        """Return the users with two likes or, if the negative encoder trains, two dislikes."""
        trainable = self.liked.lengths > 1
        if self.settings.negative_weight > 0:
            trainable |= self.disliked.lengths > 1
        return np.flatnonzero(trainable)

    def losses(
        self,
        model: TwoSidedEncoder,
        users: NDArray[np.int64],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the composite loss of each part of a batch, then its three terms."""
        settings, device = self.settings, model.item_embedding.device
        both_signs = settings.negative_weight > 0 or settings.contrastive_weight > 0
        window_rng = rng if settings.windows == "random" else None
        users = _by_length(users, self.liked, settings.max_len + 1)

        def windows(sequences: PackedSequences) -> _Windows:
            return _Windows.draw(sequences, users, settings.max_len + 1, window_rng)

        def encode(
            encoder: SequenceEncoder,
            sequences: PackedSequences,
            weights: NDArray[np.float32] | None,
            shifted: _Shifted,
            total: float,
        ) -> Positions:
            packed = torch.from_numpy(shifted.offsets)
            x = items.parameters.embed(items.codes(sequences.values[shifted.inputs]))
            return Positions(
                encoder(x, packed, generator),
                items.codes(sequences.values[shifted.targets]),
                packed,
                _to(device, shifted.weights(weights) / total),
            )

        all_liked = windows(self.liked)
        n_positions, total_disliked = np.diff(all_liked.offsets), 1.0
        total_liked = all_liked.shifted().total(self.liked_weights)
        if both_signs:
            all_disliked = windows(self.disliked)
            n_positions = n_positions + np.diff(all_disliked.offsets)
            total_disliked = all_disliked.shifted().total(self.disliked_weights)
        for part in _parts(n_positions, _most_positions(model.item_embedding)):
            liked = all_liked.part(part)
            likes, dislikes = self.liked.values[liked.index], self.liked.values[:0]
            if both_signs:
                disliked = all_disliked.part(part)
                dislikes = self.disliked.values[disliked.index]
            named = np.concatenate([likes, dislikes])
            items, draws = _items_of_batch(model, self.sampler, rng, named, dislikes)
            positions = liked.shifted(settings.max_len)
            positive = encode(
                model.positive, self.liked, self.liked_weights, positions, total_liked
            )
            negative = contrasted = None
            if both_signs:
                if model.negative is not None:
                    # The liked windows are in order of their own lengths.
                    shifted = disliked.by_length().shifted(settings.max_len)
                    negative = encode(
                        model.negative,
                        self.disliked,
                        self.disliked_weights,
                        shifted,
                        total_disliked,
                    )
                contrasted = self._dislikes(positions, disliked, items, device)
            yield composite_loss(
                items.parameters.vectors,
                positive,
                negative,
                contrasted,
                draws=draws,
                negative_weight=settings.negative_weight,
                contrastive_weight=settings.contrastive_weight,
                similarity=settings.contrastive_similarity,
                temperature=settings.temperature,
                reduction="sum",
            )

    def _dislikes(
        self, positions: _Shifted, disliked: _Windows, items: _BatchItems, device: torch.device
    ) -> Dislikes:
        """Return what the positive `positions` are contrasted with: filler with nothing."""
        if self.settings.contrastive_negatives == "window":
            # What the published code contrasts with: the inputs of the negative encoder, so
            # without the latest dislike and with those that came after the target.
            index, _, offsets, _ = disliked.shifted()
            n_visible = None
        else:
            index, offsets = disliked.index, disliked.offsets
            real = positions.targets[: positions.n_targets]
            user = np.searchsorted(positions.offsets, np.arange(len(real)), "right") - 1
            before = self.n_dislikes_before[real] - disliked.starts[user]
            n_visible = _to(device, np.pad(before, (0, len(positions.targets) - len(real))))
        n_filler = len(positions.offsets) - len(offsets)
        offsets = np.pad(offsets, (0, n_filler), mode="edge")
        codes = items.codes(self.disliked.values[index])
        return Dislikes(codes, torch.from_numpy(offsets), n_visible)


class JointObjective:
    """Negative log-likelihood of the next event: which item, and whether it is liked.

    Parameters
    ----------
    histories, settings, sample_weight
        As in :class:`PNFRecObjective`.
    gap_tags : int64 array of shape (n_events,), default=None
        Time since the user's event before, in classes (:func:`interactions.gap_tags`); None if no
        times are known.
    shows_latest : bool, default=None
        As in :class:`nn.JointEncoder`; None decides by the number of users.
    """

    terms: ClassVar[tuple[str, ...]] = ("item_loss", "feedback_loss")

    def __init__(
        self,
        histories: Histories,
        settings: Settings,
        sample_weight: NDArray[np.float32] | None = None,
        *,
        gap_tags: NDArray[np.int64] | None = None,
        shows_latest: bool | None = None,
    ) -> None:
        self.settings = settings
        self.sampler = _sampler(histories, settings)
        self.gap_tags = np.zeros(len(histories.items), np.int64) if gap_tags is None else gap_tags
        self.events = PackedSequences(histories.items, histories.offsets)
        self.signs = histories.signs.astype(np.int64)
        # A neutral event is context, never a target.
        self.weights = (self.signs != 0).astype(np.float32)
        if sample_weight is not None:
            self.weights *= sample_weight[histories.rows]
        if shows_latest is None:
            shows_latest = len(self.trainable_users()) < _FEW_USERS
        self.shows_latest = shows_latest

    def model(self, n_items: int, generator: torch.Generator) -> JointEncoder:
        """Make the model with its initial values."""
        return JointEncoder(
            n_items,
            self.settings.embedding_dim,
            shows_latest=self.shows_latest,
            generator=generator,
            **self.settings.encoder_sizes(),
        )

    def trainable_users(self) -> NDArray[np.int64]:
        """Return the users with two events."""
        return np.flatnonzero(self.events.lengths > 1)

    def losses(
        self,
        model: JointEncoder,
        users: NDArray[np.int64],
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield the loss of each part of a batch of users, then its two terms."""
        settings = self.settings
        window_rng = rng if settings.windows == "random" else None
        users = _by_length(users, self.events, settings.max_len + 1)
        drawn = _Windows.draw(self.events, users, settings.max_len + 1, window_rng)
        total = drawn.shifted().total(self.weights)
        most = _most_positions(model.item_embedding)
        for part in _parts(np.diff(drawn.offsets), most):
            yield self._losses(model, drawn.part(part), total, rng, generator)

    def _losses(
        self,
        model: JointEncoder,
        drawn: _Windows,
        total: float,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[Tensor, ...]:
        device = model.item_embedding.device
        inputs, targets, offsets, _ = shifted = drawn.shifted(self.settings.max_len)
        values, signs = self.events.values, self.signs
        named, dislikes = values[drawn.index], signs[drawn.index] == -1
        items, draws = _items_of_batch(model, self.sampler, rng, named, named[dislikes])
        # Some windows go without times, so that a history without them is read as well.
        timeless = rng.random(len(offsets) - 1) < _TIMELESS_SHARE
        gaps = np.where(np.repeat(timeless, np.diff(offsets)), 0, self.gap_tags[inputs])
        x = model.embed_events(
            items.parameters,
            items.codes(values[inputs]),
            _to(device, signs[inputs]),
            _to(device, gaps),
            _to(device, _latest(signs[inputs], offsets)) if self.shows_latest else None,
        )
        hidden = model.encoder(x, torch.from_numpy(offsets), generator)  # (T, d)
        next_items = items.codes(values[targets])
        weights = _to(device, shifted.weights(self.weights) / total)
        item = item_loss(
            hidden, items.parameters.vectors, next_items, draws, weights=weights, reduction="sum"
        )
        feedback = feedback_loss(
            model.like_logits(hidden, items.parameters, next_items, generator),
            _to(device, signs[targets]),
            weights=weights,
            reduction="sum",
        )
        return item + feedback, item.detach(), feedback.detach()


def _latest(signs: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find each user's latest liked and latest disliked event so far, (T, 2), -1 for none."""
    place = np.arange(len(signs))
    first = np.repeat(offsets[:-1], np.diff(offsets))
    latest = [np.maximum.accumulate(np.where(signs == sign, place, -1)) for sign in (1, -1)]
    return np.stack([np.where(found >= first, found, -1) for found in latest], axis=1)


def _by_length(
    users: NDArray[np.int64], sequences: PackedSequences, longest: int
) -> NDArray[np.int64]:
    """Put users in order of their windows' length, which the attention is fastest at."""
    lengths = np.minimum(sequences.lengths[users], longest)
    return users[np.argsort(lengths, kind="stable")]


def _to(device: torch.device, array: NDArray[Any]) -> Tensor:
    return to_device(torch.from_numpy(array), device)


# -- Training --------------------------------------------------------------------------------


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
        fast = device.type == "cpu" and _bfloat16_is_fast_on_cpu()
    return torch.bfloat16 if fast else torch.float32


@functools.cache
def _bfloat16_is_fast_on_cpu() -> bool:
    """Multiply once in either dtype and compare.

    A processor's flags do not tell: of two with AVX512-BF16, one was measured at 0.6 times
    float32's speed, another at 4.7 times.
    """
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(512, 512, dtype=dtype)
        runs = []
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(a, a)
            runs.append(time.perf_counter() - start)
        seconds[dtype] = min(runs)
    # Casts cost time as well: a small lead is none, and a clear one is found in every process.
    return seconds[torch.float32] > 1.5 * seconds[torch.bfloat16]


def _optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """Adam; with sampled negatives a lazy one for the items, which moves only those touched."""
    device = next(model.parameters()).device
    sparse = settings.n_negatives is not None
    items = [p for name, p in model.named_parameters() if sparse and name in ITEM_PARAMETERS]
    others = [p for name, p in model.named_parameters() if not (sparse and name in ITEM_PARAMETERS)]
    fused = device.type in ("cpu", "cuda")
    made: list[torch.optim.Optimizer] = [
        torch.optim.Adam(others, lr=settings.learning_rate, fused=fused)
    ]
    if items:
        made.append(torch.optim.SparseAdam(items, lr=settings.learning_rate))
    return made


class _Average:
    """Exponential moving average of the weights over the steps; decay 0 is the last weights.

    The first steps count for less than the decay says, or the initial values would linger. Each
    row of a sparse gradient counts its own steps, so that a rare item does not lag behind.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.n_steps = 0
        self.n_touched: dict[str, Tensor] = {}
        named = model.named_parameters()
        self.values = {name: p.detach().clone() for name, p in named} if decay else {}

    @torch.no_grad()
    def update(self) -> None:
        """Count the weights after a step, whose gradients are still there."""
        if not self.decay:
            return
        self.n_steps += 1
        share = max(9 / (self.n_steps + 9), 1 - self.decay)
        averages, parameters = [], []
        for name, parameter in self.model.named_parameters():
            value, grad = self.values[name], parameter.grad
            if grad is None or not grad.is_sparse:
                averages.append(value)
                parameters.append(parameter)
                continue
            rows = grad.coalesce().indices()[0]
            if name not in self.n_touched:
                self.n_touched[name] = torch.zeros(len(value), device=value.device)
            steps = self.n_touched[name][rows] + 1
            self.n_touched[name][rows] = steps
            own_share = (9.0 / (steps + 9.0)).clamp_min(1 - self.decay)
            own_share = own_share.view(-1, *[1] * (value.ndim - 1))
            value[rows] = value[rows].lerp(parameter[rows], own_share)
        if averages:
            get_ema_multi_avg_fn(1 - share)(averages, parameters, self.n_steps)

    def to_numpy(self) -> Weights:
        """Copy the averaged weights."""
        values = self.values or dict(self.model.named_parameters())
        return {
            name: value.detach().to("cpu", torch.float32, copy=True).numpy()
            for name, value in values.items()
        }


def train(
    objective: Objective,
    n_items: int,
    settings: Settings,
    *,
    rng: np.random.Generator,
    initial_weights: Mapping[str, NDArray[np.float32]] | None = None,
    validate: Callable[[Weights], float] | None = None,
    on_epoch: Callable[[EpochLog, Callable[[], Weights]], bool] | None = None,
) -> tuple[Weights, list[EpochLog]]:
    """Minimise an objective; return the best weights and the log of all epochs.

    Parameters
    ----------
    objective : PNFRecObjective or JointObjective
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
        Empty if no user has a target: there is nothing to learn an order from.

    Raises
    ------
    FloatingPointError
        If the loss or a weight is not finite.
    """
    device = _resolve_device(settings.device)
    dtype = resolve_precision(settings.precision, device)
    seed = int(rng.integers(2**63))
    model = objective.model(n_items, torch.Generator().manual_seed(seed))
    if initial_weights is not None:
        model.load_state_dict(
            {name: torch.from_numpy(np.array(value)) for name, value in initial_weights.items()},
            strict=False,
        )
    model.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    optimizers = _optimizers(model, settings)
    average = _Average(model, settings.ema_decay)
    history: list[EpochLog] = []
    users = objective.trainable_users()
    n_epochs = settings.max_epochs if len(users) else 0
    n_batches = -(-len(users) // settings.batch_size)
    if len(users) < _FEW_USERS:
        n_batches = max(n_batches, min(_MIN_STEPS, len(users)))
    best_weights: Weights | None = None
    best_score, best_epoch = -np.inf, 0
    for epoch in range(1, n_epochs + 1):
        start = time.perf_counter()
        # Summed on the device and read once an epoch: reading waits for the device.
        sums = torch.zeros(1 + len(objective.terms), device=device)
        for batch in np.array_split(rng.permutation(users), n_batches):
            parts = objective.losses(model, batch, rng, generator)
            while True:
                with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                    losses = next(parts, None)
                if losses is None:
                    break
                losses[0].backward()
                sums += torch.stack([loss.detach().float() for loss in losses])
            for optimizer in optimizers:
                optimizer.step()
            average.update()
            model.zero_grad(set_to_none=True)
        names = ("loss", *objective.terms)
        means = dict(zip(names, (sums / n_batches).tolist(), strict=True))
        # The weights too: the last step may have spoilt them without a loss to show it.
        weights_finite = torch.stack([p.isfinite().all() for p in model.parameters()]).all()
        if not (np.isfinite(list(means.values())).all() and weights_finite):
            raise FloatingPointError(
                f"Training diverged in epoch {epoch} ({means}). Lower learning_rate (now "
                f"{settings.learning_rate:g}), or pass precision='float32'; with "
                f"contrastive_similarity='cosine' raise temperature (now {settings.temperature:g})."
            )
        score = None if validate is None else validate(average.to_numpy())
        history.append(EpochLog(epoch, means, score, time.perf_counter() - start))
        if score is not None and score > best_score:
            best_score, best_epoch, best_weights = score, epoch, average.to_numpy()
        stop = on_epoch is not None and on_epoch(history[-1], lambda: average.to_numpy())
        if stop or (score is not None and epoch - best_epoch >= settings.n_iter_no_change):
            break
    return best_weights or average.to_numpy(), history
