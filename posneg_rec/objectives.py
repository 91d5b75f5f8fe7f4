"""What a method is to training: the windows of a batch, its items, and its losses.

An objective is found by its method's name in :data:`OBJECTIVES`; :func:`training.train` asks it
for the losses of one batch of users after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from posneg_rec.losses import (
    CompositeLoss,
    ContrastLayout,
    Dislikes,
    Draws,
    Positions,
    composite_loss,
    feedback_loss,
    item_loss,
)
from posneg_rec.nn import (
    Clock,
    ItemModel,
    JointEncoder,
    Ragged,
    SequenceEncoder,
    TwoSidedEncoder,
    to_device,
)
from posneg_rec.sequences import Histories, PackedSequences, gap_tags, latest_of_each_sign, ranges
from posneg_rec.training import WHOLE, Settings, Share

__all__ = ["OBJECTIVES", "JointObjective", "PNFRecObjective"]

# With fewer users than that, too few to teach attention to find them, a joint model shows the
# latest items. The 755 of a fold of MovieLens-100K teach it, and who is shown them learns by heart
# sooner.
_FEW_USERS = 500
# Of the windows of a joint model, so many hide the times of their events.
_TIMELESS_SHARE = 0.1
# Positions that go through the model at once: at most so many (an accelerator needs more of them
# to be busy), and a multiple of so many.
_MAX_POSITIONS, _ACCELERATOR_POSITIONS = 3 * 2**11, 2**16
_POSITIONS_MULTIPLE = 256
# Events that are counted at once.
_MANY_EVENTS = 2**20


# -- Windows ---------------------------------------------------------------------------------


class _Sequences(Protocol):
    """Where the sequences of users stand on one axis, whatever is there."""

    @property
    def offsets(self) -> NDArray[np.int64]:
        """Where each starts, (n_users,) or more."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How long each is, (n_users,)."""


class _Spans(NamedTuple):
    """The events of each user that are trained on, among all events."""

    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class _Windows:
    """The part of each batch user's sequence that an epoch trains on, as packed indices."""

    index: NDArray[np.int64]  # into the values of the whole set
    offsets: NDArray[np.int64]  # (U + 1,)
    starts: NDArray[np.int64]  # (U,) events of the user before its window

    @classmethod
    def draw(
        cls,
        sequences: _Sequences,
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
        return self.take(np.argsort(np.diff(self.offsets), kind="stable"))

    def take(self, users: NDArray[np.int64]) -> _Windows:
        """Take the windows of some of the batch's users, in that order."""
        taken = PackedSequences(self.index, self.offsets).take(users)
        return _Windows(taken.values, taken.offsets, self.starts[users])

    def first_of(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tell where the sequences start that some events of the windows, in any order, are of."""
        filled = np.diff(self.offsets) > 0
        first = np.sort(self.index[self.offsets[:-1][filled]] - self.starts[filled])
        return first[np.searchsorted(first, events, side="right") - 1]

    def part(self, users: slice) -> _Windows:
        """Take the windows of some of the batch's users."""
        offsets = self.offsets[users.start : users.stop + 1]
        index = self.index[offsets[0] : offsets[-1]]
        return _Windows(index, offsets - offsets[0], self.starts[users])

    def shifted(self, longest: int | None = None, *, few_shapes: bool = False) -> _Shifted:
        """Return inputs (all but each user's last event) and targets (all but the first).

        With `longest` padding follows, in sequences of at most that length, until the number of
        positions is a multiple of 256: a matrix product of a new shape takes torch's CPU kernels
        longer, and each shape stays in their cache. It repeats an event of the windows, whose
        item is in the batch whatever the batch holds. With `few_shapes` the numbers of positions
        and of sequences are of :func:`_few_sizes`, so that batches of a fit are of few shapes.
        """
        lengths = np.diff(self.offsets)
        is_first = np.zeros(len(self.index), dtype=bool)
        is_last = np.zeros(len(self.index), dtype=bool)
        filled = lengths > 0
        is_first[self.offsets[:-1][filled]] = True
        is_last[self.offsets[1:][filled] - 1] = True
        lengths = np.maximum(lengths - 1, 0)
        n_targets, n_padding = int(lengths.sum()), 0
        if longest is not None and n_targets:
            size = _few_sizes(n_targets) if few_shapes else n_targets
            n_padding = size - n_targets + -size % _POSITIONS_MULTIPLE
            full, rest = divmod(n_padding, longest)
            lengths = np.concatenate([lengths, np.full(full, longest), [rest] if rest else []])
            if few_shapes:
                lengths = np.pad(lengths, (0, _few_sizes(len(lengths)) - len(lengths)))
        padding = np.repeat(self.index[:1], n_padding)
        return _Shifted(
            np.concatenate([self.index[~is_last], padding]),
            np.concatenate([self.index[~is_first], padding]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            n_targets,
        )


def _few_sizes(n: int) -> int:
    """Round up to one of eight sizes between two powers of two, by an eighth at most."""
    step = 1 << max(0, (n - 1).bit_length() - 4)
    return -(-n // step) * step


class _Shifted(NamedTuple):
    """Positions of a batch, packed; those from `n_targets` on are padding of no weight."""

    inputs: NDArray[np.int64]  # (T,) events read
    targets: NDArray[np.int64]  # (T,) events to predict
    offsets: NDArray[np.int64]  # (U + 1,), padding included
    n_targets: int

    def total(self, of_targets: NDArray[np.float32] | None) -> float:
        """Sum the weights of the targets; where it is 0, any other number does as well."""
        return float(self.weights(of_targets).sum(dtype=np.float64)) or 1.0

    def weights(self, of_targets: NDArray[np.float32] | None) -> NDArray[np.float32]:
        """Give the weights of the targets (T,), by default 1: of the padding none."""
        weights = np.ones(len(self.targets), dtype=np.float32)
        if of_targets is not None:
            weights = of_targets.copy()
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
    device : torch.device
    in_batch : int64 array, default=None
        Sorted codes of the items; None stands for all.
    """

    def __init__(self, device: torch.device, in_batch: NDArray[np.int64] | None = None) -> None:
        self._device, self._in_batch = device, in_batch
        self.in_batch = None if in_batch is None else _to(device, in_batch)

    def codes(self, items: NDArray[np.int64]) -> Tensor:
        """Tell which rows of ``model.items(in_batch)`` are those of `items`."""
        if self._in_batch is not None:
            items = np.searchsorted(self._in_batch, items)
        return _to(self._device, items)


class _NegativeSampler:
    """Draws items that stand for the catalogue in :func:`losses.sampled_next_item_loss`.

    A third of the draws are items of the catalogue, a third are events of the training data and
    a third are dislikes of the batch: rare items, popular ones, and those that a liked item must
    be told from are always among them, and the correction keeps the estimate unbiased.

    Parameters
    ----------
    items : int array of shape (n_events,)
        Codes of the events.
    n_negatives : int
    spans : _Spans, default=None
        Those of them that are trained on; None for all.
    """

    def __init__(
        self, items: NDArray[np.integer], n_negatives: int, spans: _Spans | None = None
    ) -> None:
        self.items, self.n_negatives = items, n_negatives
        self.counts = np.zeros(int(items.max(initial=-1)) + 1, np.int64)
        for start in range(0, len(items), _MANY_EVENTS):
            np.add.at(self.counts, items[start : start + _MANY_EVENTS], 1)
        self.n_events = len(items)
        self._ends: NDArray[np.int64] | None = None
        if spans is not None:
            stops = spans.offsets + spans.lengths
            left_out = ranges(stops, np.append(spans.offsets[1:], len(items)) - stops)
            np.subtract.at(self.counts, items[left_out], 1)
            self.n_events -= len(left_out)
            self._ends = np.cumsum(spans.lengths)
            self._shifts = stops - self._ends

    def draw(
        self, rng: np.random.Generator, n_items: int, dislikes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return codes (M,) and the log of how often each was to be drawn (M,)."""
        n_disliked = self.n_negatives // 3 if len(dislikes) else 0
        n_events = (self.n_negatives - n_disliked) // 2
        n_uniform = self.n_negatives - n_disliked - n_events
        drawn = [
            rng.integers(n_items, size=n_uniform),
            self.items[self._events(rng.integers(self.n_events, size=n_events))],
        ]
        if n_disliked:
            drawn.append(dislikes[rng.integers(len(dislikes), size=n_disliked)])
        codes = np.concatenate(drawn).astype(np.int64)
        if len(self.counts) < n_items:
            self.counts = np.pad(self.counts, (0, n_items - len(self.counts)))
        expected = n_uniform / n_items + n_events * (self.counts[codes] / self.n_events)
        if n_disliked:
            ordered = np.sort(dislikes)
            ends = (np.searchsorted(ordered, codes, side) for side in ("right", "left"))
            expected += n_disliked * (np.subtract(*ends) / len(ordered))
        return codes, np.log(expected).astype(np.float32)

    def _events(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the events that stand at `places` of those that are trained on."""
        if self._ends is None:
            return places
        return places + self._shifts[np.searchsorted(self._ends, places, side="right")]


def _items_of_batch(
    model: Any,
    sampler: _NegativeSampler | None,
    rng: np.random.Generator,
    in_batch: NDArray[np.int64],
    dislikes: NDArray[np.int64],
) -> tuple[_BatchItems, Draws | None]:
    """Take all items or, with a sampler, those that a batch names and draws."""
    device = model.item_embedding.device
    if sampler is None:
        return _BatchItems(device), None
    codes, log_expected = sampler.draw(rng, len(model.item_embedding), dislikes)
    items = _BatchItems(device, np.unique(np.concatenate([in_batch, codes])))
    return items, Draws(items.codes(codes), _to(device, log_expected))


def _wants_few_shapes(device: torch.device) -> bool:
    """Tell whether parts are padded so that they have few shapes: a device records each once."""
    return device.type != "cpu"


# -- Objectives ------------------------------------------------------------------------------


class _Objective:
    """What the objectives share.

    Parameters
    ----------
    histories : Histories
        They may be longer than memory: what is read of an event is cast batch by batch, and
        nothing is kept of each event.
    settings : Settings
    sample_weight : float32 array with one entry per row of the caller, default=None
        Weights of the events as targets.
    gap_edges : float64 array, default=None
        Bounds of the ranges of time between events (:func:`sequences.gap_edges`); None for a
        model that reads no times.
    trained : mapping of str to array, default=None
        Parameters that training goes on from: the model has the parts that they have.
    stops : int64 array of shape (n_users,), default=None
        Where, among all events, those of each user end that are trained on; None trains on all.
    """

    terms: ClassVar[tuple[str, ...]]
    encoder: ClassVar[type[ItemModel]]
    #: Whether an item memory stands beside the model.
    has_memory: ClassVar[bool] = False

    def __init__(
        self,
        histories: Histories,
        settings: Settings,
        sample_weight: NDArray[np.float32] | None = None,
        *,
        gap_edges: NDArray[np.float64] | None = None,
        trained: Mapping[str, NDArray[np.float32]] | None = None,
        stops: NDArray[np.int64] | None = None,
    ) -> None:
        self.settings, self.histories, self.sample_weight = settings, histories, sample_weight
        self.stops = stops
        self.gap_edges = np.empty(0) if gap_edges is None else gap_edges
        starts = histories.offsets[:-1]
        self.spans = _Spans(starts, (histories.offsets[1:] if stops is None else stops) - starts)
        self.sampler = None
        if settings.n_negatives is not None:
            spans = None if stops is None else self.spans
            self.sampler = _NegativeSampler(histories.items, settings.n_negatives, spans)
        self._survey()
        self.options = self._options() if trained is None else self.encoder.options_of(trained)

    def _survey(self) -> None:
        """Pass over all events once, for what must be known of each user."""
        raise NotImplementedError

    def _options(self) -> dict[str, bool]:
        """Decide which parts a new model has."""
        raise NotImplementedError

    def model(self, n_items: int, generator: torch.Generator) -> ItemModel:
        """Make the model with its initial values."""
        settings = self.settings
        return self.encoder(
            n_items,
            settings.embedding_dim,
            generator=generator,
            n_layers=settings.n_layers,
            n_heads=settings.n_heads,
            max_len=settings.max_len,
            dropout=settings.dropout,
            **self.options,
        )

    def n_positions(self) -> int:
        """Count the events that an epoch reads."""
        longest = self.settings.max_len + 1
        return sum(int(np.minimum(lengths, longest).sum()) for lengths in self._lengths())

    def _lengths(self) -> tuple[NDArray[np.int64], ...]:
        """Tell how long the sequences of each user are that the encoders read."""
        raise NotImplementedError


def _has_target(
    sequences: PackedSequences, weights: NDArray[np.float32] | None
) -> NDArray[np.bool_]:
    """Tell which users have an event of weight that others precede."""
    if weights is None:
        return sequences.lengths > 1
    is_target = weights > 0
    is_target[sequences.offsets[:-1][sequences.lengths > 0]] = False
    n_targets = np.concatenate([[0], np.cumsum(is_target)])
    return np.diff(n_targets[sequences.offsets]) > 0


class _BySign(NamedTuple):
    """The liked and the disliked sequence of each of some users, and the weights of both."""

    liked: PackedSequences
    disliked: PackedSequences
    liked_weights: NDArray[np.float32] | None
    disliked_weights: NDArray[np.float32] | None
    n_dislikes_before: NDArray[np.int64]  # of the user, before each liked event

    @classmethod
    def of(cls, histories: Histories, sample_weight: NDArray[np.float32] | None) -> _BySign:
        liked, liked_events = histories.of_sign(1)
        disliked, disliked_events = histories.of_sign(-1)
        n_dislikes = np.concatenate([[0], np.cumsum(histories.signs == -1)])
        first = np.repeat(histories.offsets[:-1], liked.lengths)
        weights = None if sample_weight is None else sample_weight[histories.rows]
        return cls(
            liked,
            disliked,
            None if weights is None else weights[liked_events],
            None if weights is None else weights[disliked_events],
            n_dislikes[liked_events] - n_dislikes[first],
        )


class _Side(NamedTuple):
    """The positions of one sign of a part of a batch, on the model's device."""

    inputs: Tensor  # (T,) rows of the part's items
    sequences: Ragged
    targets: Tensor  # (T,) rows of the part's items
    weights: Tensor  # (T,) parts of the batch's total


class _PNFRecPart(NamedTuple):
    """What a part of a batch is to a two-sided model."""

    in_batch: Tensor | None  # (C,) codes of the part's items, None for all
    positive: _Side
    negative: _Side | None
    contrast: ContrastLayout | None
    draws: Draws | None


class PNFRecObjective(_Objective):
    """``CE_p + a CE_n + b L_c`` on the liked and the disliked sequence of each user."""

    terms = ("positive_loss", "negative_loss", "contrastive_loss")
    encoder = TwoSidedEncoder

    def _survey(self) -> None:
        n_users = len(self.histories)
        self._n_liked, self._n_disliked = np.zeros((2, n_users), np.int64)
        self._likes, self._dislikes = np.zeros((2, n_users), bool)
        for users, _, _ in self.histories.parts():
            events = self.read(np.arange(users.start, users.stop))
            self._n_liked[users] = events.liked.lengths
            self._n_disliked[users] = events.disliked.lengths
            self._likes[users] = _has_target(events.liked, events.liked_weights)
            self._dislikes[users] = _has_target(events.disliked, events.disliked_weights)

    def read(self, users: NDArray[np.int64]) -> _BySign:
        """Split the events of some users, in that order, by their signs."""
        return _BySign.of(self.histories.take(users, self.stops), self.sample_weight)

    def _options(self) -> dict[str, bool]:
        return {"two_sided": self.settings.negative_weight > 0}

    def _lengths(self) -> tuple[NDArray[np.int64], ...]:
        return self._n_liked, self._n_disliked

    def model(self, n_items: int, generator: torch.Generator) -> ItemModel:
        """Make the model with its initial values."""
        if self.settings.negative_weight > 0 and not self.options["two_sided"]:
            raise ValueError(
                "The model to go on from has no negative transformer, for it was fitted with "
                f"negative_weight=0, but now negative_weight={self.settings.negative_weight:g}. "
                "Set it back, or call fit to start a new model."
            )
        return super().model(n_items, generator)

    def trainable_users(self) -> NDArray[np.int64]:
        """Return the users with a liked target or, if the negative encoder trains, a disliked one.

        Nobody where nothing is a liked target: the encoder that answers would learn nothing.
        """
        trainable = self._likes
        if trainable.any() and self.settings.negative_weight > 0:
            trainable = trainable | self._dislikes
        return np.flatnonzero(trainable)

    def parts(
        self,
        model: TwoSidedEncoder,
        users: NDArray[np.int64],
        rng: np.random.Generator,
        share: Share = WHOLE,
    ) -> Iterator[_PNFRecPart]:
        """Yield what the model reads of each part of a batch, and what is to be predicted."""
        settings, device = self.settings, model.item_embedding.device
        both_signs = settings.negative_weight > 0 or settings.contrastive_weight > 0
        window_rng = rng if settings.windows == "random" else None
        few_shapes = _wants_few_shapes(device)
        events = self.read(_by_length(users, self._n_liked, settings.max_len + 1))

        def windows(sequences: PackedSequences) -> _Windows:
            everyone = np.arange(len(users))
            return _Windows.draw(sequences, everyone, settings.max_len + 1, window_rng)

        def total(weights: NDArray[np.float32] | None, shifted: _Shifted) -> float:
            return shifted.total(None if weights is None else weights[shifted.targets])

        def side(
            sequences: PackedSequences,
            weights: NDArray[np.float32] | None,
            shifted: _Shifted,
            total: float,
        ) -> _Side:
            of_targets = None if weights is None else weights[shifted.targets]
            return _Side(
                items.codes(sequences.values[shifted.inputs]),
                Ragged.of(torch.from_numpy(shifted.offsets), device),
                items.codes(sequences.values[shifted.targets]),
                _to(device, shifted.weights(of_targets) / total),
            )

        all_liked = windows(events.liked)
        mine = share.of(len(users))
        n_positions, total_disliked = np.diff(all_liked.offsets), 1.0
        total_liked = total(events.liked_weights, all_liked.shifted())
        if both_signs:
            all_disliked = windows(events.disliked)
            n_positions = n_positions + np.diff(all_disliked.offsets)
            total_disliked = total(events.disliked_weights, all_disliked.shifted())
            all_disliked = all_disliked.take(mine)
        all_liked, n_positions = all_liked.take(mine), n_positions[mine]
        draws_rng = share.draws or rng
        for part in _parts(n_positions, _most_positions(model.item_embedding)):
            liked = all_liked.part(part)
            likes, dislikes = events.liked.values[liked.index], events.liked.values[:0]
            if both_signs:
                disliked = all_disliked.part(part)
                dislikes = events.disliked.values[disliked.index]
            in_batch = np.concatenate([likes, dislikes])
            items, draws = _items_of_batch(model, self.sampler, draws_rng, in_batch, dislikes)
            positions = liked.shifted(settings.max_len, few_shapes=few_shapes)
            positive = side(events.liked, events.liked_weights, positions, total_liked)
            negative = contrast = None
            if both_signs:
                if model.negative is not None:
                    # The liked windows are in order of their own lengths.
                    shifted = disliked.by_length().shifted(settings.max_len, few_shapes=few_shapes)
                    negative = side(
                        events.disliked,
                        events.disliked_weights,
                        shifted,
                        total_disliked,
                    )
                contrast = self._contrast(events, positions, disliked, items, device)
            yield _PNFRecPart(items.in_batch, positive, negative, contrast, draws)

    def losses(
        self, model: TwoSidedEncoder, part: _PNFRecPart, generator: torch.Generator | None
    ) -> CompositeLoss:
        """Return the composite loss of a part of a batch, then its three terms."""
        settings, items = self.settings, model.items(part.in_batch)

        def encode(encoder: SequenceEncoder, side: _Side) -> Positions:
            hidden = encoder(items.embed(side.inputs), side.sequences, generator)
            return Positions(hidden, side.targets, weights=side.weights)

        positive, negative = encode(model.positive, part.positive), None
        if part.negative is not None:
            assert model.negative is not None
            negative = encode(model.negative, part.negative)
        return composite_loss(
            items.vectors,
            positive,
            negative,
            part.contrast,
            draws=part.draws,
            negative_weight=settings.negative_weight,
            contrastive_weight=settings.contrastive_weight,
            similarity=settings.contrastive_similarity,
            temperature=settings.temperature,
            reduction="sum",
        )

    def _contrast(
        self,
        events: _BySign,
        positions: _Shifted,
        disliked: _Windows,
        items: _BatchItems,
        device: torch.device,
    ) -> ContrastLayout:
        """Return what the positive `positions` are contrasted with: padding with nothing."""
        if self.settings.contrastive_negatives == "window":
            # What the published code contrasts with: the inputs of the negative encoder, so
            # without the latest dislike and with those that came after the target.
            index, _, offsets, _ = disliked.shifted()
            n_visible = None
        else:
            index, offsets = disliked.index, disliked.offsets
            real = positions.targets[: positions.n_targets]
            user = np.searchsorted(positions.offsets, np.arange(len(real)), "right") - 1
            before = events.n_dislikes_before[real] - disliked.starts[user]
            n_visible = _to(device, np.pad(before, (0, len(positions.targets) - len(real))))
        n_padding = len(positions.offsets) - len(offsets)
        offsets = np.pad(offsets, (0, n_padding), mode="edge")
        codes = items.codes(events.disliked.values[index])
        return ContrastLayout.of(
            torch.from_numpy(positions.offsets),
            Dislikes(codes, torch.from_numpy(offsets), n_visible),
        )


class _JointPart(NamedTuple):
    """What a part of a batch is to a joint model, on its device; but `in_batch`, all (T, ...)."""

    in_batch: Tensor | None  # (C,) codes of the part's items, None for all
    codes: Tensor  # rows of the part's items
    signs: Tensor
    gaps: Tensor  # tags
    latest: Tensor | None  # (T, 2)
    elapsed: Tensor | None  # float64, NaN where times are hidden
    sequences: Ragged
    targets: Tensor  # rows of the part's items
    target_signs: Tensor
    weights: Tensor  # parts of the batch's total
    draws: Draws | None


class JointObjective(_Objective):
    """Negative log-likelihood of the next event: which item, and whether it is liked."""

    terms = ("item_loss", "feedback_loss")
    encoder = JointEncoder
    has_memory = True

    def _survey(self) -> None:
        self._trainable = np.zeros(len(self.histories), bool)
        for users, events, part in self.histories.parts():
            spans = PackedSequences(np.arange(events.start, events.stop), part.offsets)
            if self.stops is not None:
                starts, stops = self.histories.offsets[users], self.stops[users]
                spans = PackedSequences.slices(
                    spans.values, starts - events.start, stops - events.start
                )
            weights = self.weights(spans.values)
            self._trainable[users] = _has_target(spans, weights)

    def weights(self, events: NDArray[np.int64]) -> NDArray[np.float32]:
        """Give the weights of some events as targets; a neutral one is context, never a target."""
        weights = (self.histories.signs[events] != 0).astype(np.float32)
        if self.sample_weight is not None:
            weights *= self.sample_weight[self.histories.rows[events]]
        return weights

    def _lengths(self) -> tuple[NDArray[np.int64], ...]:
        return (self.spans.lengths,)

    def _options(self) -> dict[str, bool]:
        return {"shows_latest": len(self.trainable_users()) < _FEW_USERS}

    def trainable_users(self) -> NDArray[np.int64]:
        """Return the users with a target: an event of weight after another."""
        return np.flatnonzero(self._trainable)

    def parts(
        self,
        model: JointEncoder,
        users: NDArray[np.int64],
        rng: np.random.Generator,
        share: Share = WHOLE,
    ) -> Iterator[_JointPart]:
        """Yield what the model reads of each part of a batch, and what is to be predicted."""
        settings = self.settings
        window_rng = rng if settings.windows == "random" else None
        users = _by_length(users, self.spans.lengths, settings.max_len + 1)
        drawn = _Windows.draw(self.spans, users, settings.max_len + 1, window_rng)
        shifted = drawn.shifted(settings.max_len)
        total = shifted.total(self.weights(shifted.targets))
        # Some windows go without times, so that a history without them is read as well. Padding
        # has none anyway, but has always taken its numbers: an old random_state stays good.
        timeless = rng.random(len(shifted.offsets) - 1)[: len(users)] < _TIMELESS_SHARE
        mine = share.of(len(users))
        drawn, timeless = drawn.take(mine), timeless[mine]
        most, draws = _most_positions(model.item_embedding), share.draws or rng
        for part in _parts(np.diff(drawn.offsets), most):
            yield self._part(model, drawn.part(part), timeless[part], total, draws)

    def _part(
        self,
        model: JointEncoder,
        drawn: _Windows,
        timeless: NDArray[np.bool_],
        total: float,
        rng: np.random.Generator,
    ) -> _JointPart:
        device = model.item_embedding.device
        inputs, targets, offsets, _ = shifted = drawn.shifted(
            self.settings.max_len, few_shapes=_wants_few_shapes(device)
        )
        histories = self.histories
        in_batch, dislikes = histories.codes(drawn.index), histories.signs[drawn.index] == -1
        items, draws = _items_of_batch(model, self.sampler, rng, in_batch, in_batch[dislikes])
        timeless = np.pad(timeless, (0, len(offsets) - 1 - len(timeless)))
        timeless = np.repeat(timeless, np.diff(offsets))
        gaps, elapsed = np.zeros(len(inputs), np.int64), None
        if len(self.gap_edges):
            first = drawn.first_of(inputs)
            passed = histories.gaps_at(inputs, first)
            if passed is not None:
                gaps = np.where(timeless, 0, gap_tags(passed, self.gap_edges))
            elapsed = _to(device, np.where(timeless, np.nan, histories.elapsed_at(inputs, first)))
        signs = histories.signs[inputs].astype(np.int64)
        latest = None
        if model.latest is not None:
            latest = _to(device, latest_of_each_sign(signs, offsets))
        return _JointPart(
            items.in_batch,
            items.codes(histories.codes(inputs)),
            _to(device, signs),
            _to(device, gaps),
            latest,
            elapsed,
            Ragged.of(torch.from_numpy(offsets), device),
            items.codes(histories.codes(targets)),
            _to(device, histories.signs[targets].astype(np.int64)),
            _to(device, shifted.weights(self.weights(targets)) / total),
            draws,
        )

    def losses(
        self, model: JointEncoder, part: _JointPart, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss of a part of a batch, then its two terms."""
        items = model.items(part.in_batch)
        clock = None if part.elapsed is None else Clock(part.elapsed, self.gap_edges)
        x = model.embed_events(items, part.codes, part.signs, part.gaps, part.latest)
        hidden = model.encoder(x, part.sequences, generator, clock)  # (T, d)
        item = item_loss(
            hidden, items.vectors, part.targets, part.draws, weights=part.weights, reduction="sum"
        )
        feedback = feedback_loss(
            model.like_logits(hidden, items, part.targets, generator),
            part.target_signs,
            weights=part.weights,
            reduction="sum",
        )
        return item + feedback, item.detach(), feedback.detach()


def _by_length(
    users: NDArray[np.int64], lengths: NDArray[np.int64], longest: int
) -> NDArray[np.int64]:
    """Put users in order of their windows' length, which the attention is fastest at."""
    return users[np.argsort(np.minimum(lengths[users], longest), kind="stable")]


def _to(device: torch.device, array: NDArray[Any]) -> Tensor:
    return to_device(torch.from_numpy(array), device)


#: What each method is to training, by the name that the estimator's ``objective`` takes.
OBJECTIVES: dict[str, type[JointObjective | PNFRecObjective]] = {
    "joint": JointObjective,
    "pnfrec": PNFRecObjective,
}
