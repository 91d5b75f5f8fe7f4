"""Data to try the recommender on: a synthetic world with a known answer, and MovieLens."""

import hashlib
import http.client
import os
import sys
import time
import warnings
import zipfile
from dataclasses import dataclass
from io import TextIOWrapper
from numbers import Integral, Real
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal, NamedTuple
from urllib.error import ContentTooShortError, URLError
from urllib.request import urlopen

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

__all__ = ["OpposingPatterns", "fetch_movielens", "make_opposing_patterns"]


# ---------------------------------------------------------------------------------------------
# A synthetic world
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OpposingPatterns:
    """The rules of a world made by :func:`make_opposing_patterns`, and so its right answers.

    Group 0 is neutral; groups ``2 * p + 1`` and ``2 * p + 2`` are the two sides of pair ``p``.

    Parameters
    ----------
    item_group, item_step : ndarray of shape (n_items,), dtype int64
        The group of each item and its place in the group's cycle.
    neutral_share, focus, majority : float
        As in :func:`make_opposing_patterns`.
    informative_dislikes : bool
        As in :func:`make_opposing_patterns`.
    """

    item_group: NDArray[np.int64]
    item_step: NDArray[np.int64]
    neutral_share: float
    focus: float
    majority: float
    informative_dislikes: bool

    def next_item_probabilities(
        self, history: ArrayLike, feedback: ArrayLike | None = None, *, sign: Literal[-1, 1] = 1
    ) -> NDArray[np.float64]:
        """Give the exact distribution of a user's next liked (or next disliked) item.

        Parameters
        ----------
        history : array-like of shape (n_events,)
            The user's items, oldest first; may be empty.
        feedback : array-like of shape (n_events,), default=None
            +1 for a liked, -1 for a disliked item. None: all liked.
        sign : {1, -1}, default=1
            1: where the next liked event falls; -1: where the next disliked one does.

        Returns
        -------
        probabilities : ndarray of shape (n_items,), dtype float64
            Sums to one; items of the history have probability zero.

        Raises
        ------
        ValueError
            If the history cannot happen in this world, as when both sides of a pair are liked.

        Examples
        --------
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> truth = make_opposing_patterns(n_users=10, random_state=0).truth
        >>> probabilities = truth.next_item_probabilities([3, 5], [1, -1])
        >>> probabilities.shape, round(probabilities.sum(), 6)
        ((90,), np.float64(1.0))
        """
        items = np.asarray(history, dtype=np.int64)
        signs = np.ones(len(items)) if feedback is None else np.asarray(feedback)
        groups = self.item_group[items]
        n_groups = int(self.item_group.max()) + 1
        group_size = len(self.item_group) // n_groups

        seen = np.zeros((1, n_groups, group_size), dtype=bool)
        seen[0, groups, self.item_step[items]] = True
        liked_items = items[signs > 0]
        last_step = self.item_step[liked_items[-1:]] if len(liked_items) else np.array([-1])
        slots = _slot_probabilities(seen, self.neutral_share)[0]

        taste = self._taste_posterior(groups, signs)
        by_step = _step_probabilities(
            np.repeat(last_step, n_groups), seen.reshape(n_groups, group_size), self.focus
        )
        if sign > 0:
            by_group = np.append(slots[0], (slots[1:, None] / 2 * taste).ravel())
            joint = by_group[:, None] * by_step
        elif self.informative_dislikes:
            by_group = np.append(0.0, (slots[1:, None] / 2 * taste[:, ::-1]).ravel())
            joint = by_group[:, None] * by_step
        else:
            joint = ~seen[0] * 1.0
        return (joint / joint.sum())[self.item_group, self.item_step]

    def best_ranking(
        self, history: ArrayLike, feedback: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Rank all unseen items as well as any recommender could.

        Sorting by the probability to be the next liked item less that to be the next disliked
        one maximises every rank-discounted metric on likes minus the same metric on dislikes.

        Parameters
        ----------
        history : array-like of shape (n_events,)
            The user's items, oldest first; may be empty.
        feedback : array-like of shape (n_events,), default=None
            +1 for a liked, -1 for a disliked item. None: all liked.

        Returns
        -------
        items : ndarray of shape (n_unseen_items,), dtype int64
            Best first, ties by item id.

        Examples
        --------
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=10, random_state=0)
        >>> best = world.truth.best_ranking([3])[0]
        >>> world.truth.item_step[best] == (world.truth.item_step[3] + 1) % 10
        np.True_
        """
        gain = self.next_item_probabilities(history, feedback) - self.next_item_probabilities(
            history, feedback, sign=-1
        )
        ranking = np.argsort(-gain, kind="stable")
        return ranking[~np.isin(ranking, np.asarray(history, dtype=np.int64))]

    def _taste_posterior(
        self, groups: NDArray[np.int64], signs: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Give each pair's two sides the probability (n_pairs, 2) to be the user's."""
        n_pairs = int(self.item_group.max()) // 2
        telling = groups > 0
        if not self.informative_dislikes:
            telling &= signs > 0
        pair, side = np.divmod(groups[telling] - 1, 2)
        ruled_out = np.zeros((n_pairs, 2), dtype=bool)
        ruled_out[pair, np.where(signs[telling] > 0, 1 - side, side)] = True
        if ruled_out.all(axis=1).any():
            raise ValueError(
                "This history cannot happen here: within one pair of groups, a user likes items "
                "of one side and dislikes items of the other."
            )
        taste = np.where(ruled_out, 0.0, [self.majority, 1 - self.majority])
        return taste / taste.sum(axis=1, keepdims=True)


def _slot_probabilities(seen: NDArray[np.bool_], neutral_share: float) -> NDArray[np.float64]:
    """Probabilities (n, 1 + n_pairs) that the next event is neutral, or of each pair.

    A pair closes with its first used-up side: were it to close side by side, what is offered
    would depend on the user's taste and no longer only on what has been seen.
    """
    used_up = seen.all(axis=2)
    n_pairs = (seen.shape[1] - 1) // 2
    weights = np.append(neutral_share, np.full(n_pairs, (1 - neutral_share) / n_pairs))
    closed = np.column_stack([used_up[:, 0], used_up[:, 1::2] | used_up[:, 2::2]])
    open_weights = np.where(closed, 0.0, weights)
    return open_weights / open_weights.sum(axis=1, keepdims=True)


def _step_probabilities(
    last_step: NDArray[np.int64], seen: NDArray[np.bool_], focus: float
) -> NDArray[np.float64]:
    """Probabilities (n, group_size) of the next step, given the last liked one (-1: none yet)."""
    group_size = seen.shape[1]
    weights = np.full(seen.shape, (1 - focus) / (group_size - 1))
    weights[np.arange(len(seen)), (last_step + 1) % group_size] = focus
    weights[last_step < 0] = 1.0
    weights[seen] = 0.0
    totals = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)


def _draw(probabilities: NDArray[np.float64], rng: np.random.RandomState) -> NDArray[np.int64]:
    """Draw one column index from each row of probabilities."""
    edges = probabilities.cumsum(axis=1)
    return (rng.uniform(size=(len(edges), 1)) * edges[:, -1:] >= edges).sum(axis=1)


@validate_params(
    {
        "n_users": [Interval(Integral, 1, None, closed="left")],
        "n_pairs": [Interval(Integral, 1, None, closed="left")],
        "group_size": [Interval(Integral, 2, None, closed="left")],
        "min_events": [Interval(Integral, 1, None, closed="left")],
        "max_events": [Interval(Integral, 1, None, closed="left")],
        "neutral_share": [Interval(Real, 0, 1, closed="neither")],
        "focus": [Interval(Real, 0, 1, closed="neither")],
        "majority": [Interval(Real, 0, 1, closed="neither")],
        "informative_dislikes": ["boolean"],
        "as_frame": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_opposing_patterns(
    n_users: int = 300,
    *,
    n_pairs: int = 4,
    group_size: int = 10,
    min_events: int = 10,
    max_events: int = 20,
    neutral_share: float = 0.3,
    focus: float = 0.9,
    majority: float = 0.7,
    informative_dislikes: bool = True,
    as_frame: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """TODO."""
    if max_events < min_events or max_events > (n_pairs + 1) * group_size:
        raise ValueError(
            f"max_events={max_events} must lie between min_events={min_events} and "
            f"(n_pairs + 1) * group_size = {(n_pairs + 1) * group_size}, the number of events "
            "after which a user may have nothing left to see."
        )
    rng = check_random_state(random_state)
    n_groups = 2 * n_pairs + 1
    # Ids say nothing of the group, so that no tie broken by id helps a model.
    item_at = rng.permutation(n_groups * group_size).reshape(n_groups, group_size)
    item_group, item_step = np.divmod(np.argsort(item_at.ravel()), group_size)
    taste = (rng.uniform(size=(n_users, n_pairs)) >= majority).astype(np.int64)
    n_events = rng.randint(min_events, max_events + 1, size=n_users)

    everyone = np.arange(n_users)
    seen = np.zeros((n_users, n_groups, group_size), dtype=bool)
    last_step = np.full(n_users, -1)
    items = np.empty((n_users, max_events), dtype=np.int64)
    liked = np.empty((n_users, max_events), dtype=bool)
    for event in range(max_events):
        slot = _draw(_slot_probabilities(seen, neutral_share), rng)
        neutral, pair = slot == 0, np.maximum(slot - 1, 0)
        likes = neutral | (rng.uniform(size=n_users) < 0.5)
        side = np.where(likes, taste[everyone, pair], 1 - taste[everyone, pair])
        group = np.where(neutral, 0, 2 * pair + 1 + side)
        step = _draw(_step_probabilities(last_step, seen[everyone, group], focus), rng)
        if not informative_dislikes:
            anything = _draw(~seen.reshape(n_users, -1) * 1.0, rng)
            group = np.where(likes, group, anything // group_size)
            step = np.where(likes, step, anything % group_size)
        items[:, event], liked[:, event] = item_at[group, step], likes
        seen[everyone, group, step] = True
        last_step = np.where(likes, step, last_step)

    users, times = np.nonzero(np.arange(max_events) < n_events[:, None])
    interactions = np.column_stack([users, items[users, times], times])
    feedback = np.where(liked[users, times], 1, -1)
    truth = OpposingPatterns(item_group, item_step, neutral_share, focus, majority, informative_dislikes)
    return Bunch(interactions=interactions, feedback=feedback, taste=taste, truth=truth)
