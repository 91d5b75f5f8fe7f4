"""Reports on likes and dislikes: means of gains with bootstrap intervals over users."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state, check_scalar

from posneg_rec.ranks import (
    FEEDBACKS,
    GAINS,
    SIGNS,
    TargetRanks,
    Targets,
    as_id_array,
    ranks_of_targets,
    share_covered,
)

__all__ = ["Evaluation", "compare", "evaluate", "summarize"]


@dataclass(frozen=True)
class Evaluation:
    """Metrics on likes and on dislikes, their difference, and how certain they are.

    Made by :func:`evaluate`, :func:`summarize` and :func:`compare`; printed as a table.
    ``evaluation["ndcg_delta"]`` is a value, ``evaluation.intervals["ndcg_delta"]`` its interval.

    Parameters
    ----------
    values : dict of str to float
        ``{metric}_liked``, ``{metric}_disliked`` and ``{metric}_delta`` (liked minus disliked) for
        ``hit_rate``, ``ndcg`` and ``mrr``; plus ``coverage`` from :func:`evaluate`. NaN where no
        target has that feedback.
    intervals : dict of str to (float, float)
        Lower and upper bound of each value but the coverage.
    n_liked, n_disliked, n_users : int
        Numbers of targets by feedback, and of the users they belong to.
    k : int
        Length of the recommended list.
    confidence_level : float
        Of the intervals.
    n_bootstraps : int
        Number of times the users were resampled.
    is_difference : bool, default=False
        Whether the values are differences of two models.
    """

    values: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    n_liked: int
    n_disliked: int
    n_users: int
    k: int
    confidence_level: float
    n_bootstraps: int
    is_difference: bool = False

    def __getitem__(self, name: str) -> float:
        """Value by its name, such as ``"ndcg_liked"``."""
        return self.values[name]

    def to_dict(self) -> dict[str, float]:
        """Everything in one flat dictionary, bounds as ``{name}_low`` and ``{name}_high``."""
        bounds = {
            f"{name}_{side}": bound
            for name, interval in self.intervals.items()
            for side, bound in zip(("low", "high"), interval, strict=True)
        }
        counts = ("n_liked", "n_disliked", "n_users", "k", "confidence_level", "n_bootstraps")
        return {**self.values, **bounds, **{name: getattr(self, name) for name in counts}}

    def __str__(self) -> str:
        """Return the table as text."""
        rows = [
            (title.ljust(12), *(cell.rjust(26) for cell in row)) for title, *row in self._rows()
        ]
        return "\n".join(["".join(row).rstrip() for row in rows] + [self._caption()])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        return f"<table><caption>{escape(self._caption())}</caption>{rows}</table>"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        yield "", *FEEDBACKS
        yield "targets", str(self.n_liked), str(self.n_disliked), ""
        for metric in GAINS:
            names = [f"{metric}_{feedback}" for feedback in FEEDBACKS]
            yield f"{metric}@{self.k}", *map(self._cell, names)

    def _cell(self, name: str) -> str:
        low, high = self.intervals[name]
        return "-" if np.isnan(self[name]) else f"{self[name]:.4f} [{low:.4f}, {high:.4f}]"

    def _caption(self) -> str:
        caption = (
            f"{'Differences, ' if self.is_difference else ''}"
            f"{self.confidence_level:.0%} intervals from {self.n_bootstraps} resamples of "
            f"{self.n_users} users"
        )
        coverage = self.values.get("coverage")
        return caption if coverage is None else f"{caption}; coverage@{self.k} {coverage:.4f}"


def evaluate(
    model: Any,
    interactions: Any,
    feedback: ArrayLike | None = None,
    *,
    k: int = 10,
    targets: Targets | NDArray[np.bool_] = "last",
    exclude_seen: bool | None = None,
    n_bootstraps: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Evaluation:
    """Evaluate a fitted recommender on likes and dislikes, with intervals over users.

    Parameters
    ----------
    model : estimator with ``target_ranks``
        Fitted recommender. If it also has ``recommend``, what it would recommend to the same users
        next gives the coverage.
    interactions : table of interactions or list of histories
        Rows to rank, with the rows before each target as history. As for ``model.score``.
    feedback : array-like of shape (n_samples,), default=None
        Feedback of each row; None means that all are liked.
    k : int, default=10
        Length of the recommended list.
    targets : {"last", "all"} or bool ndarray of shape (n_samples,), default="last"
        Rows to rank: each user's last, every row with an earlier row of its user, or those that
        a mask names. Of a test fold that brings histories along, ``"all"`` also ranks rows that
        were trained on; :func:`~posneg_rec.model_selection.held_out_mask` names the others.
    exclude_seen : bool, default=None
        Whether items of the user's history are left out of the ranking. None: as the model does
        by itself.
    n_bootstraps : int, default=1000
        Number of resamples behind the intervals.
    confidence_level : float, default=0.95
        Confidence level of the intervals.
    random_state : int, RandomState instance or None, default=None
        Controls the resampling of users.

    Returns
    -------
    evaluation : Evaluation

    See Also
    --------
    summarize : The same from target ranks that are already there.
    compare : Difference of two models on the same targets.

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> from posneg_rec.metrics import evaluate
    >>> from posneg_rec.model_selection import TemporalSplit, held_out_mask
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> X, y = world.interactions, world.feedback
    >>> train, test = next(TemporalSplit(quantile=0.5).split(X))
    >>> model = ContrastiveSeqRecommender(embedding_dim=16, max_epochs=2, random_state=0)
    >>> evaluation = evaluate(
    ...     model.fit(X[train], y[train]), X[test], y[test],
    ...     targets=held_out_mask(train, test), random_state=0)
    >>> evaluation.n_liked + evaluation.n_disliked == len(set(test) - set(train))
    True
    """
    options = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    ranks = ranks_of_targets(model, interactions, feedback, targets=targets, **options)
    evaluation = summarize(
        ranks,
        k=k,
        n_bootstraps=n_bootstraps,
        confidence_level=confidence_level,
        random_state=random_state,
    )
    if not hasattr(model, "recommend"):
        return evaluation
    table = model.recommend(interactions, k=k, feedback=feedback, **options)
    coverage = share_covered(as_id_array(table["item"], "item"), ranks.n_items)
    return replace(evaluation, values={**evaluation.values, "coverage": coverage})


def summarize(
    ranks: TargetRanks | Sequence[TargetRanks],
    *,
    k: int = 10,
    n_bootstraps: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Evaluation:
    """Summarize the ranks of targets as metrics with percentile bootstrap intervals.

    Users are resampled, not targets: the targets of one user are alike, and an interval that
    took them for independent would be too narrow.

    Parameters
    ----------
    ranks : TargetRanks or sequence of TargetRanks
        What ``model.target_ranks`` returned. Several of them are runs of one model (different
        seeds, say) on the same targets, of which each target's mean gain is taken.
    k, n_bootstraps, confidence_level, random_state
        As in :func:`evaluate`.

    Returns
    -------
    evaluation : Evaluation

    Raises
    ------
    TypeError, ValueError
        If there are no ranks, no target is liked or disliked, or the runs have different targets.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.metrics import TargetRanks, summarize
    >>> ranks = TargetRanks(
    ...     users=np.arange(6), rows=np.arange(6), signs=np.array([1, 1, 1, -1, -1, -1]),
    ...     ranks=np.array([1, 2, 30, 4, 50, 60]), n_items=100,
    ... )
    >>> print(summarize(ranks, random_state=0))
                                     liked                  disliked                     delta
    targets                              3                         3
    hit_rate@10    0.6667 [0.0000, 1.0000]   0.3333 [0.0000, 1.0000]  0.3333 [-0.5000, 1.0000]
    ndcg@10        0.5436 [0.0000, 1.0000]   0.1436 [0.0000, 0.4307]  0.4001 [-0.2153, 0.9016]
    mrr@10         0.5000 [0.0000, 1.0000]   0.0833 [0.0000, 0.2500]  0.4167 [-0.1250, 0.9375]
    95% intervals from 1000 resamples of 6 users
    """
    return _evaluation(*_target_gains(ranks, k), k, n_bootstraps, confidence_level, random_state)


def compare(
    ranks_a: TargetRanks | Sequence[TargetRanks],
    ranks_b: TargetRanks | Sequence[TargetRanks],
    *,
    k: int = 10,
    n_bootstraps: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> Evaluation:
    """Compare two models on the same targets: the difference a - b of every metric.

    Both are resampled with the same users (a paired bootstrap), so what is hard for both cancels.
    A difference whose interval excludes zero is more than chance at that confidence level.

    Parameters
    ----------
    ranks_a, ranks_b : TargetRanks or sequence of TargetRanks
        Ranks that the two models give the same targets; a sequence is runs of one model, as in
        :func:`summarize`.
    k, n_bootstraps, confidence_level, random_state
        As in :func:`evaluate`.

    Returns
    -------
    evaluation : Evaluation
        Its values are differences.

    Raises
    ------
    TypeError, ValueError
        If the targets differ, or as in :func:`summarize`.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.metrics import TargetRanks, compare
    >>> users, signs = np.arange(4), np.array([1, 1, -1, -1])
    >>> a = TargetRanks(users, users, signs, np.array([1, 2, 50, 60]), n_items=100)
    >>> b = TargetRanks(users, users, signs, np.array([9, 80, 50, 1]), n_items=100)
    >>> compare(a, b, random_state=0)["hit_rate_delta"]
    1.0
    """
    targets, gains_a = _target_gains(ranks_a, k)
    other_targets, gains_b = _target_gains(ranks_b, k)
    _check_same_targets(targets, other_targets)
    evaluation = _evaluation(
        targets, gains_a - gains_b, k, n_bootstraps, confidence_level, random_state
    )
    return replace(evaluation, is_difference=True)


def _target_gains(
    ranks: TargetRanks | Sequence[TargetRanks], k: int
) -> tuple[TargetRanks, NDArray[np.float64]]:
    """Targets in row order, and the gain of each in each metric, (n_targets, n_metrics)."""
    given = [ranks] if isinstance(ranks, TargetRanks) else list(ranks)
    for run in given:
        if not isinstance(run, TargetRanks):
            raise TypeError(
                "Expected what target_ranks of a model returns, TargetRanks or a list of them, "
                f"got {run!r:.50} of type {type(run).__name__}."
            )
    if not given:
        raise ValueError("Expected the TargetRanks of at least one run, got an empty sequence.")
    runs = [_in_row_order(run) for run in given]
    for run in runs:
        _check_same_targets(runs[0], run)
    gains = [np.stack([run.gains(metric, k=k) for metric in GAINS], axis=1) for run in runs]
    return runs[0], np.mean(gains, axis=0)


def _in_row_order(ranks: TargetRanks) -> TargetRanks:
    order = np.argsort(ranks.rows, kind="stable")
    return replace(
        ranks,
        users=ranks.users[order],
        rows=ranks.rows[order],
        signs=ranks.signs[order],
        ranks=ranks.ranks[order],
    )


def _check_same_targets(a: TargetRanks, b: TargetRanks) -> None:
    for name in ("rows", "users", "signs"):
        if not np.array_equal(getattr(a, name), getattr(b, name)):
            raise ValueError(
                f"Only ranks of the same targets can be compared, but their {name} differ "
                f"({len(a)} and {len(b)} targets). Call target_ranks of both models with the same "
                "interactions, feedback and targets."
            )


def _evaluation(
    targets: TargetRanks,
    gains: NDArray[np.float64],
    k: int,
    n_bootstraps: int,
    confidence_level: float,
    random_state: int | np.random.RandomState | None,
) -> Evaluation:
    check_scalar(n_bootstraps, "n_bootstraps", numbers.Integral, min_val=1)
    check_scalar(
        confidence_level,
        "confidence_level",
        numbers.Real,
        min_val=0,
        max_val=1,
        include_boundaries="neither",
    )
    if len(targets) == 0:
        raise ValueError(
            "There is no target: a target needs an earlier row of its user, or a mask that names "
            "it, and no transformer that masks it."
        )
    if not targets.signs.any():
        raise ValueError(f"None of the {len(targets)} targets is liked or disliked.")
    totals = _user_totals(targets, gains)
    (values,) = _signed_means(totals.sum(axis=0, keepdims=True))
    resampled = _signed_means(_bootstrap_sums(totals, n_bootstraps, random_state))
    tail = (1 - confidence_level) / 2
    names = [f"{metric}_{feedback}" for metric in GAINS for feedback in FEEDBACKS]
    return Evaluation(
        values=dict(zip(names, values.tolist(), strict=True)),
        intervals={
            name: _interval(column, tail) for name, column in zip(names, resampled.T, strict=True)
        },
        n_liked=int(np.count_nonzero(targets.signs == 1)),
        n_disliked=int(np.count_nonzero(targets.signs == -1)),
        n_users=len(totals),
        k=k,
        confidence_level=confidence_level,
        n_bootstraps=n_bootstraps,
    )


def _user_totals(targets: TargetRanks, gains: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per user: number of targets and sums of gains, (n_users, n_signs * (1 + n_metrics))."""
    signed = targets.signs != 0
    codes = np.unique(targets.users[signed], return_inverse=True)[1]
    columns = np.column_stack([np.ones(signed.sum()), gains[signed]])
    return np.column_stack(
        [
            np.bincount(codes, weights=column * (targets.signs[signed] == sign))
            for sign in SIGNS.values()
            for column in columns.T
        ]
    )


def _bootstrap_sums(
    totals: NDArray[np.float64],
    n_bootstraps: int,
    random_state: int | np.random.RandomState | None,
) -> NDArray[np.float64]:
    """Sum the rows of `totals` over users drawn with replacement, once per bootstrap."""
    # None draws from the system: the global state is nobody's to change.
    generator = check_random_state(
        np.random.RandomState() if random_state is None else random_state
    )
    n_users = len(totals)
    sums = np.empty((n_bootstraps, totals.shape[1]))
    # How often each user is drawn is a matrix (bootstraps, users); blocks keep it small.
    block = max(1, 2**22 // n_users)
    for start in range(0, n_bootstraps, block):
        size = min(block, n_bootstraps - start)
        draws = generator.randint(n_users, size=(size, n_users))
        draws += n_users * np.arange(size)[:, np.newaxis]
        counts = np.bincount(draws.ravel(), minlength=size * n_users).reshape(size, n_users)
        sums[start : start + size] = counts @ totals
    return sums


def _signed_means(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means by metric and (liked, disliked, delta), (n, n_metrics * 3); NaN over no targets."""
    by_sign = sums.reshape(len(sums), len(SIGNS), -1)
    with np.errstate(invalid="ignore"):
        liked, disliked = np.moveaxis(by_sign[:, :, 1:] / by_sign[:, :, :1], 1, 0)
    return np.stack([liked, disliked, liked - disliked], axis=2).reshape(len(sums), -1)


def _interval(resampled: NDArray[np.float64], tail: float) -> tuple[float, float]:
    # A resample without a target of one sign has no mean and says nothing.
    defined = resampled[~np.isnan(resampled)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
