"""Answers for very many histories on an accelerator: the scorer of :mod:`scoring` on torch.

A graphics processor has no cache to fit tiles to but much memory: whole rows of scores are made,
some queries at a time. Shapes use the letters of :mod:`scoring`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from posneg_rec.inference import of_one_length
from posneg_rec.nn import ENCODERS, Clock, to_device
from posneg_rec.queries import Inputs
from posneg_rec.scoring import Array, Scorer, Worth
from posneg_rec.selection import Pool
from posneg_rec.sequences import latest_of_each_sign, offsets_of

__all__ = ["AcceleratedScorer"]

_MAX_SCORES = 2**27  # made at a time, 512 MiB; three more arrays are as large
_MAX_EVENTS = 2**17  # encoded at a time


@dataclass
class AcceleratedScorer(Scorer):
    """:class:`scoring.Scorer` with the same answers, but for the rounding of float32 products.

    Parameters
    ----------
    device : torch.device or str, default="cuda"
        Where to compute; the others are those of the base class.
    """

    device: torch.device | str = "cuda"

    def __post_init__(self) -> None:
        """Encode what the queries read."""
        self._device = torch.device(self.device)
        weights = self.model.weights.items()
        with torch.inference_mode():
            on_device = {name: self._to(np.array(value)) for name, value in weights}
            self._torch_model = ENCODERS[self.model.method].of(on_device, self.model.n_heads)
            self._items = self._torch_model.items()
            self._device_states = self._encode(self.queries.inputs)  # (U, d)

    def _to(self, array: NDArray[np.generic]) -> Tensor:
        return to_device(torch.from_numpy(array), self._device)

    def _encode(self, inputs: Inputs) -> Tensor:
        """Encode histories to the state after the last event, 0 where there is none."""
        states = torch.zeros(
            len(inputs), self._items.vectors.shape[1], dtype=torch.float32, device=self._device
        )
        lengths = inputs.lengths
        for rows in self._watched(of_one_length(lengths, _MAX_EVENTS)):
            length = int(lengths[rows[0]])
            events = (inputs.offsets[rows, None] + np.arange(length)).ravel()  # (U L,)
            signs, offsets = inputs.signs[events], offsets_of(np.full(len(rows), length))
            x = self._torch_model.embed_events(
                self._items,
                self._to(inputs.items[events]),
                self._to(signs.astype(np.int64)),
                self._to(inputs.gap_tags[events]),
                self._to(latest_of_each_sign(signs, offsets)),
            )
            clock = None
            if len(self.model.gap_edges):
                clock = Clock(self._to(inputs.elapsed[events]), self.model.gap_edges)
            found = self._torch_model.encode(x, torch.from_numpy(offsets), clock)  # (U L, d)
            states[self._to(rows)] = found[length - 1 :: length]
        return states

    @torch.inference_mode()
    def _best(self, k: int) -> Pool:
        n_items = len(self.likes)
        found, pinned_scores = [], []
        for queries in self._watched(self._portions(np.arange(len(self.queries.rows)))):
            scores, log_normaliser = self._scores(queries)
            pinned_scores.append(self._take_out(scores, queries) - log_normaliser[:, None])
            top, codes = scores.topk(min(k + 1, n_items))
            is_tied = (top[:, k - 1] == top[:, -1]) & (k < n_items)
            top, codes = top[:, :k], codes[:, :k]
            # Equals by code: torch leaves their order open.
            codes, by_code = codes.sort(1)
            top, by_score = top.gather(1, by_code).sort(dim=1, descending=True, stable=True)
            found.append((codes.gather(1, by_score), top, log_normaliser, is_tied))
        codes, top, log_normaliser, is_tied = (
            torch.cat(parts) for parts in zip(*found, strict=True)
        )
        # Where more items than were found share the last score, the lowest codes of all come in.
        tied = (is_tied & (top[:, -1] > -torch.inf)).nonzero().squeeze(1).cpu().numpy()
        for queries in self._portions(tied):
            scores, _ = self._scores(queries)
            self._take_out(scores, queries)
            rows = self._to(queries)
            codes[rows] = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
        codes = codes.masked_fill(top == -torch.inf, -1)
        best = top - log_normaliser[:, None]
        return Pool(codes.cpu().numpy(), best.cpu().numpy(), torch.cat(pinned_scores).cpu().numpy())

    def _take_out(self, scores: Tensor, queries: NDArray[np.int64]) -> Tensor:
        """Move the scores of pinned items from `scores` (Q, N) to what is returned, (Q, m)."""
        pinned = self._pinned[queries]
        row, place = np.nonzero(pinned >= 0)
        at = self._to(row), self._to(pinned[row, place])
        found = scores.new_full(pinned.shape, -torch.inf)
        found[at[0], self._to(place)] = scores[at]
        scores[at] = -torch.inf
        return found

    def ranks(self, targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """As in the base class."""
        return self.ranks_by_aversion(targets, [self.aversion])[0]

    @torch.inference_mode()
    def ranks_by_aversion(
        self, targets: NDArray[np.int64], aversions: Sequence[float]
    ) -> NDArray[np.int64]:
        """As in the base class."""
        n_items = len(self.likes)
        codes = torch.arange(n_items, device=self._device)
        found = []
        for queries in self._watched(self._portions(np.arange(len(targets)))):
            parts, liked, _ = self._parts(queries, with_liked=any(aversions))
            target = self._to(targets[queries])[:, None]  # (Q, 1)
            portion = []
            for aversion in aversions:
                scores = parts if liked is None else parts + _log_worth(liked, aversion)
                own = scores.gather(1, target.clamp_min(0))
                before = (scores > own) | ((scores == own) & (codes < target))
                is_candidate = (target >= 0) & (own > -torch.inf)
                portion.append(torch.where(is_candidate[:, 0], 1 + before.sum(1), n_items + 1))
            found.append(torch.stack(portion))
        return torch.cat(found, dim=1).cpu().numpy()

    def _whole_rows(self, block: slice) -> tuple[Array, Array]:
        with torch.inference_mode():
            scores, log_normaliser = self._scores(np.arange(block.start, block.stop))
        return scores.cpu().numpy(), log_normaliser.cpu().numpy()

    def _portions(self, queries: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        size = max(1, _MAX_SCORES // len(self.likes))
        return [queries[start : start + size] for start in range(0, max(1, len(queries)), size)]

    def _watched(self, jobs: list[NDArray[np.int64]]) -> Iterable[NDArray[np.int64]]:
        return jobs if self.watch is None else self.watch(jobs, len(jobs))

    @torch.inference_mode()
    def _scores(self, queries: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Score all items for some queries, (Q, N) but for ``- log_normaliser``, (Q,)."""
        scores, liked, log_normaliser = self._parts(queries, with_liked=self.aversion > 0)
        if liked is not None:
            scores += _log_worth(liked, self.aversion)
        return scores, log_normaliser

    def _parts(
        self, queries: NDArray[np.int64], *, with_liked: bool
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the scores without an aversion, what it is to weigh, and the normaliser."""
        liked = None
        states = self._device_states[self._to(self.queries.rows[queries])]  # (Q, d)
        scores = states @ self._items.vectors.T
        log_normaliser = scores.new_zeros(len(queries))
        recalled = None
        if self.model.is_likelihood:
            if self.memory is not None:
                recalled = self.queries.recall(self.memory.items, queries)
                scores += self.memory.next_weight * self._to(recalled.next_scores())
            log_normaliser = scores.logsumexp(1)
        boosts = None if self.filters.boosts is None else self._to(self.filters.boosts)
        if boosts is not None:
            scores += boosts
        if self.model.is_likelihood:
            liked = self._torch_model.liked_logits(states) if with_liked else None
            if liked is not None:
                if self.memory is not None and recalled is not None:
                    weights = self.memory.taste_weights
                    taste = self._to(recalled.taste_scores())
                    liked = weights.model * liked + weights.memory * taste + weights.offset
                liked = liked + self.liked_shift
        empty = np.flatnonzero(self.queries.is_unread[queries])
        if len(empty):
            rows, fallback = self._to(empty), self._to(self._fallback)
            scores[rows] = fallback if boosts is None else fallback + boosts
            log_normaliser[rows] = 0
            if liked is not None:
                liked[rows] = torch.inf
        if self.filters.allowed is not None:
            scores.masked_fill_(self._to(~self.filters.allowed), -torch.inf)
        blocked = self.filters.blocked(queries, len(self.likes))
        if blocked is not None:
            scores.masked_fill_(self._to(blocked), -torch.inf)
        if self.exclude_seen:
            seen = self.queries.seen.take(queries)
            by_row = np.repeat(np.arange(len(queries)), seen.lengths)
            scores[self._to(by_row), self._to(seen.values)] = -torch.inf
        return scores, liked, log_normaliser


def _log_worth(logits: Tensor, aversion: float) -> Tensor:
    """Return the log of the worth, as :class:`scoring.Worth` does."""
    worth = Worth(aversion)
    if worth.loss is None:
        return aversion * F.logsigmoid(logits)
    logs = (-logits).sigmoid_().clamp_max_(float(worth.most_disliked))
    logs.mul_(-worth.loss).log1p_()
    below = (logits - float(worth.knee)).clamp_max_(0)
    return logs.add_(below, alpha=float(worth.steepest))
