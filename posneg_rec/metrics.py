"""Ranking metrics on likes, on dislikes and their difference; scorers; bootstrap intervals.

Every metric is a function of *ranks*: the position a target takes among all items of the
catalogue. :func:`gain` turns ranks into values, and all that follows in this module is an average
of gains, so a metric has one definition whether it is called on recommended ids
(:func:`ndcg_at_k`), used by a search (:func:`recommender_scorer`) or reported with intervals
(:func:`evaluate`). Metrics are never computed on sampled items.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import chain
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length, check_random_state, check_scalar

from posneg_rec._sklearn import check_sample_weight
from posneg_rec.frames import MISSING_ID, is_table
from posneg_rec.ids import missing_objects
from posneg_rec.interactions import read_history

__all__ = [
    "Evaluation",
    "TargetRanks",
    "compare",
    "coverage_at_k",
    "evaluate",
    "gain",
    "hit_rate_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "recall_at_k",
    "recommender_scorer",
    "recommender_scores",
    "summarize",
]

MetricName = Literal["hit_rate", "ndcg", "mrr"]
Metric: TypeAlias = MetricName | Callable[[NDArray[np.int64]], ArrayLike]
Feedback = Literal["liked", "disliked", "delta"]
Targets = Literal["last", "all"]
_Option = TypeVar("_Option", bound=str)

_GAINS: dict[MetricName, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "hit_rate": lambda ranks: np.ones(ranks.shape),
    "ndcg": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "mrr": lambda ranks: 1.0 / ranks,
}
_TARGETS: tuple[Targets, ...] = ("last", "all")
_FEEDBACKS: tuple[Feedback, ...] = ("liked", "disliked", "delta")
_SIGNS: dict[Feedback, int] = {"liked": 1, "disliked": -1}


def gain(ranks: ArrayLike, metric: Metric, k: int) -> NDArray[np.float64]:
    """Value of finding a relevant item at each rank, cut off after the first `k`.

    Parameters
    ----------
    ranks : array-like of int
        Ranks, 1 = top, of any shape.
    metric : {"hit_rate", "ndcg", "mrr"} or callable
        ``hit_rate``: 1; ``ndcg``: ``1 / log2(rank + 1)``; ``mrr``: ``1 / rank``. With one relevant
        item the ideal DCG is 1, so the discount is the NDCG itself. A function gets the array of
        ranks and returns the gain of each.
    k : int
        Ranks greater than `k` gain 0.

    Returns
    -------
    gains : ndarray of float64, the shape of `ranks`

    Raises
    ------
    ValueError
        If a rank is below 1, or what a function returns is not one finite number per rank.

    Examples
    --------
    >>> from posneg_rec.metrics import gain
    >>> gain([1, 3, 11], "ndcg", k=10)
    array([1. , 0.5, 0. ])
    >>> gain([1, 3, 11], lambda ranks: 0.9 ** (ranks - 1), k=10)  # rank-biased precision
    array([1.  , 0.81, 0.  ])
    """
    _check_metric(metric)
    check_scalar(k, "k", numbers.Integral, min_val=1)
    ranks = np.asarray(ranks)
    # Not `ranks < 1`: NaN is no rank either.
    if not (ranks >= 1).all():
        raise ValueError(f"ranks count from 1 (top), got {ranks[~(ranks >= 1)][0]}.")
    if not callable(metric):
        return np.where(ranks <= k, _GAINS[metric](ranks), 0.0)
    gains = np.asarray(metric(ranks), dtype=np.float64)
    if gains.shape != ranks.shape or not np.isfinite(gains[ranks <= k]).all():
        raise ValueError(
            f"metric must return one finite gain per rank, shape {ranks.shape}, but "
            f"{_metric_name(metric)} returned {gains!r:.50} of shape {gains.shape}."
        )
    return np.where(ranks <= k, gains, 0.0)


@dataclass(frozen=True)
class TargetRanks:
    """Rank of every target among all items of the catalogue.

    What ``model.target_ranks(interactions, feedback)`` returns, and all that scorers,
    :func:`evaluate` and :func:`compare` need from a model: any estimator with that method can be
    scored and compared by this module.

    Parameters
    ----------
    users : ndarray of shape (n_targets,)
        Raw user id of each target.
    rows : ndarray of shape (n_targets,), int64
        Row of each target in the table that was ranked.
    signs : ndarray of shape (n_targets,), int8
        Feedback of each target: 1 liked, -1 disliked, 0 neutral.
    ranks : ndarray of shape (n_targets,), int64
        Rank of each target given the rows before it, 1 = top. An item that cannot be recommended
        (unknown to the model, or excluded because already seen) has rank ``n_items + 1``.
    n_items : int
        Number of items in the catalogue.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.metrics import TargetRanks
    >>> ranks = TargetRanks(
    ...     users=np.array(["ann", "bob", "cat"]), rows=np.array([3, 5, 9]),
    ...     signs=np.array([1, 1, -1]), ranks=np.array([1, 40, 3]), n_items=100,
    ... )
    >>> ranks.mean("ndcg", k=10, feedback="liked")
    0.5
    >>> ranks.mean("ndcg", k=10, feedback="delta")
    0.0
    """

    users: NDArray[Any]
    rows: NDArray[np.int64]
    signs: NDArray[np.int8]
    ranks: NDArray[np.int64]
    n_items: int

    def __post_init__(self) -> None:
        """Check lengths and range."""
        check_consistent_length(self.users, self.rows, self.signs, self.ranks)
        outside = (self.ranks < 1) | (self.ranks > self.n_items + 1)
        if outside.any():
            raise ValueError(
                f"ranks must lie between 1 (top) and n_items + 1 = {self.n_items + 1} (not "
                f"recommendable), got {self.ranks[outside][0]} at target {outside.argmax()}."
            )

    def __len__(self) -> int:
        """Return the number of targets."""
        return len(self.ranks)

    def gains(self, metric: Metric, *, k: int = 10) -> NDArray[np.float64]:
        """:func:`gain` of each target, shape (n_targets,)."""
        # Rank n_items + 1 means "cannot be recommended": no k is large enough to reach it.
        return gain(self.ranks, metric, min(k, self.n_items))

    def mean(self, metric: Metric = "ndcg", *, k: int = 10, feedback: Feedback = "delta") -> float:
        """Mean gain over the liked or the disliked targets, or their difference.

        Parameters
        ----------
        metric : {"hit_rate", "ndcg", "mrr"} or callable, default="ndcg"
            What to average, see :func:`gain`.
        k : int, default=10
            Length of the recommended list.
        feedback : {"liked", "disliked", "delta"}, default="delta"
            Targets to average over; ``delta`` is liked minus disliked.

        Returns
        -------
        mean : float
            The mean over no targets is 0, so that a score is always finite.
        """
        _check_option("feedback", feedback, _FEEDBACKS)
        if feedback == "delta":
            liked, disliked = (self.mean(metric, k=k, feedback=sign) for sign in _SIGNS)
            return liked - disliked
        gains = self.gains(metric, k=k)[self.signs == _SIGNS[feedback]]
        return float(gains.mean()) if gains.size else 0.0


# ---------------------------------------------------------------------------------------------
# Metrics on recommended ids
# ---------------------------------------------------------------------------------------------


def hit_rate_at_k(
    y_true: ArrayLike | Sequence[Collection[Any]],
    y_pred: ArrayLike,
    *,
    k: int = 10,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Share of rows with at least one relevant item among the first `k` recommended.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or list of n_samples collections
        The relevant item id of each row or, for several relevant items per row, a list, tuple,
        set or array of ids.
    y_pred : array-like of shape (n_samples, n_recommended)
        Recommended item ids, best first, with ``n_recommended >= k``. A list shorter than that is
        padded with missing values (None, NaN, NA, or the smallest integer), which never match.
        Ids are compared as they are: ``1`` and ``"1"`` differ, and large integers stay exact.
    k : int, default=10
        Number of recommendations looked at.
    sample_weight : array-like of shape (n_samples,), default=None
        Weight of each row.

    Returns
    -------
    hit_rate : float in [0, 1]

    Raises
    ------
    ValueError
        If `y_pred` has fewer than `k` columns, a row of `y_true` is empty or missing, or the
        lengths differ.

    Examples
    --------
    >>> from posneg_rec.metrics import hit_rate_at_k
    >>> hit_rate_at_k(["tea", "rice"], [["soup", "tea"], ["soup", "tea"]], k=2)
    0.5
    >>> hit_rate_at_k([{"tea", "rice"}, {"rice"}], [["soup", "tea"], ["rice", None]], k=2)
    1.0
    """
    ranks, starts = _relevant_ranks(y_true, y_pred, k)
    return _mean(gain(np.minimum.reduceat(ranks, starts), "hit_rate", k), sample_weight)


def mrr_at_k(
    y_true: ArrayLike | Sequence[Collection[Any]],
    y_pred: ArrayLike,
    *,
    k: int = 10,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean reciprocal rank of the first relevant item, 0 where none is among the first `k`.

    Parameters
    ----------
    y_true, y_pred, k, sample_weight
        As in :func:`hit_rate_at_k`.

    Returns
    -------
    mrr : float in [0, 1]

    Examples
    --------
    >>> from posneg_rec.metrics import mrr_at_k
    >>> mrr_at_k(["tea", "rice"], [["soup", "tea"], ["soup", "tea"]], k=2)
    0.25
    """
    ranks, starts = _relevant_ranks(y_true, y_pred, k)
    return _mean(gain(np.minimum.reduceat(ranks, starts), "mrr", k), sample_weight)


def ndcg_at_k(
    y_true: ArrayLike | Sequence[Collection[Any]],
    y_pred: ArrayLike,
    *,
    k: int = 10,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean normalised discounted cumulative gain of the first `k` recommendations.

    Relevance is binary. The ideal list holds the row's relevant items, as many as fit into `k`,
    at its top.

    Parameters
    ----------
    y_true, y_pred, k, sample_weight
        As in :func:`hit_rate_at_k`.

    Returns
    -------
    ndcg : float in [0, 1]

    Examples
    --------
    >>> from posneg_rec.metrics import ndcg_at_k
    >>> ndcg_at_k(["tea", "rice"], [["tea", "soup", "rice"], ["tea", "soup", "rice"]], k=3)
    0.75
    """
    ranks, starts = _relevant_ranks(y_true, y_pred, k)
    ideal = np.cumsum(gain(np.arange(1, k + 1), "ndcg", k))
    n_relevant = np.diff(starts, append=len(ranks))
    found = np.add.reduceat(gain(ranks, "ndcg", k), starts)
    return _mean(found / ideal[np.minimum(n_relevant, k) - 1], sample_weight)


def recall_at_k(
    y_true: ArrayLike | Sequence[Collection[Any]],
    y_pred: ArrayLike,
    *,
    k: int = 10,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Mean share of a row's relevant items that are among the first `k` recommended.

    With one relevant item per row this is :func:`hit_rate_at_k`.

    Parameters
    ----------
    y_true, y_pred, k, sample_weight
        As in :func:`hit_rate_at_k`.

    Returns
    -------
    recall : float in [0, 1]

    Examples
    --------
    >>> from posneg_rec.metrics import recall_at_k
    >>> recall_at_k([{"tea", "rice"}, {"rice"}], [["soup", "tea"], ["rice", None]], k=2)
    0.75
    """
    ranks, starts = _relevant_ranks(y_true, y_pred, k)
    found = np.add.reduceat(gain(ranks, "hit_rate", k), starts)
    return _mean(found / np.diff(starts, append=len(ranks)), sample_weight)


def coverage_at_k(y_pred: ArrayLike, *, n_items: int, k: int = 10) -> float:
    """Share of the catalogue that appears among the first `k` recommendations of any row.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples, n_recommended)
        Recommended item ids, as in :func:`hit_rate_at_k`. Missing values do not count.
    n_items : int
        Number of items in the catalogue.
    k : int, default=10
        Number of recommendations looked at.

    Returns
    -------
    coverage : float in [0, 1]

    Raises
    ------
    ValueError
        If `y_pred` holds more different items than `n_items`.

    Examples
    --------
    >>> from posneg_rec.metrics import coverage_at_k
    >>> coverage_at_k([[1, 2], [2, 3]], n_items=6, k=2)
    0.5
    """
    check_scalar(n_items, "n_items", numbers.Integral, min_val=1)
    return _coverage(_recommended(y_pred, k), n_items)


def _relevant_ranks(
    y_true: ArrayLike | Sequence[Collection[Any]], y_pred: ArrayLike, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank of each relevant item (`k` + 1 = not found), row by row, and where each row starts."""
    recommended = _recommended(y_pred, k)
    relevant, lengths = _relevant(y_true)
    check_consistent_length(lengths, recommended)
    if not lengths.all():
        raise ValueError(
            f"Row {lengths.argmin()} of y_true has no relevant item, for which no metric is "
            "defined; leave such rows out."
        )
    rows = np.repeat(np.arange(len(lengths)), lengths)
    missing = _is_missing(relevant)
    if missing.any():
        raise ValueError(f"Row {rows[missing.argmax()]} of y_true holds a missing item id.")
    if relevant.dtype.kind != recommended.dtype.kind:
        # NumPy would compare int64 with float64 as floats; Python compares exactly.
        relevant, recommended = relevant.astype(object), recommended.astype(object)
    match = recommended[rows] == relevant[:, np.newaxis]  # (n_relevant, k)
    ranks = np.where(match.any(axis=1), match.argmax(axis=1) + 1, k + 1)
    return ranks, np.cumsum(lengths) - lengths


def _relevant(y_true: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Relevant items of all rows in one array, and how many each row has."""
    rows = y_true if isinstance(y_true, list | tuple) else np.atleast_1d(y_true)
    if len(rows) == 0:
        raise ValueError("Found array with 0 sample(s) in y_true; at least one row is needed.")
    collections = [isinstance(row, list | tuple | set | frozenset | np.ndarray) for row in rows]
    if not any(collections):
        return _ids(rows, "y_true"), np.ones(len(rows), dtype=np.int64)
    if not all(collections):
        raise ValueError(
            "y_true must hold one item id in every row or a collection of ids in every row, got "
            f"both: row {collections.index(not collections[0])} differs from row 0."
        )
    # An item named twice in one row is still one relevant item.
    unique = [dict.fromkeys(row) for row in rows]
    lengths = np.fromiter(map(len, unique), dtype=np.int64, count=len(unique))
    return _ids(list(chain.from_iterable(unique)), "y_true"), lengths


def _recommended(y_pred: ArrayLike, k: int) -> NDArray[Any]:
    """Return the first `k` columns of `y_pred`, checked."""
    check_scalar(k, "k", numbers.Integral, min_val=1)
    ids = _ids(y_pred, "y_pred")
    if ids.ndim != 2:
        raise ValueError(
            "y_pred must have shape (n_samples, n_recommended), every row of the same length, got "
            f"an array of shape {ids.shape}. Pad short lists with None."
        )
    if ids.shape[1] < k:
        raise ValueError(
            f"y_pred has {ids.shape[1]} recommendations per row but k={k}. Pass at least k, padded "
            "with None where there are fewer, or lower k."
        )
    ids = ids[:, :k]
    if ids.dtype.kind == "O":
        ids = ids.copy()
        ids[_is_missing(ids)] = None
    return ids


def _ids(values: Any, name: str) -> NDArray[Any]:
    """Return an array of raw ids. What is not an array yet stays Python objects, hence exact."""
    dtype = None if hasattr(values, "dtype") or hasattr(values, "__array__") else object
    try:
        ids = np.asarray(values, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: pad short lists with None.") from error
    if ids.dtype.kind == "b":
        raise TypeError(f"{name} must hold item ids, got booleans.")
    return ids


def _is_missing(ids: NDArray[Any]) -> NDArray[np.bool_]:
    match ids.dtype.kind:
        case "f":
            return np.isnan(ids)
        case "i":
            return ids == MISSING_ID
        case "O":
            missing = missing_objects(ids.ravel())
            return np.zeros(ids.shape, bool) if missing is None else missing.reshape(ids.shape)
    return np.zeros(ids.shape, dtype=bool)


def _coverage(ids: NDArray[Any], n_items: int) -> float:
    present = ids[~_is_missing(ids)]
    n_found = len(set(present.tolist()) if present.dtype.kind == "O" else np.unique(present))
    if n_found > n_items:
        raise ValueError(f"y_pred holds {n_found} different items but n_items={n_items}.")
    return n_found / n_items


def _mean(values: NDArray[np.float64], sample_weight: ArrayLike | None) -> float:
    return float(np.average(values, weights=check_sample_weight(sample_weight, values)))


def _check_metric(metric: Metric) -> None:
    if not callable(metric) and not (isinstance(metric, str) and metric in _GAINS):
        raise ValueError(
            f"metric must be one of {list(_GAINS)} or a function of ranks, got {metric!r:.50}."
        )


def _metric_name(metric: Metric) -> str:
    return getattr(metric, "__name__", repr(metric)) if callable(metric) else repr(metric)


def _check_option(name: str, value: _Option, allowed: Collection[_Option]) -> _Option:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}.")
    return value


# ---------------------------------------------------------------------------------------------
# Scorers
# ---------------------------------------------------------------------------------------------


Threshold: TypeAlias = float | tuple[float, float] | None


@dataclass(frozen=True)
class _RecommenderScorer:
    metric: Metric
    k: int
    feedback: Feedback
    targets: Targets
    positive_threshold: Threshold

    def __call__(self, estimator: Any, X: Any, y: Any = None) -> float:
        sides = _SIGNS if self.feedback == "delta" else [self.feedback]
        ranks = _scored_ranks(estimator, X, y, self.targets, self.positive_threshold, sides)
        mean = ranks.mean(self.metric, k=self.k, feedback=self.feedback)
        return 0.0 - mean if self.feedback == "disliked" else mean

    def __repr__(self) -> str:
        threshold = self.positive_threshold
        return (
            f"recommender_scorer({_metric_name(self.metric)}, k={self.k}, "
            f"feedback={self.feedback!r}, targets={self.targets!r}"
            f"{'' if threshold is None else f', positive_threshold={threshold!r}'})"
        )


def recommender_scorer(
    metric: Metric = "ndcg",
    *,
    k: int = 10,
    feedback: Feedback = "delta",
    targets: Targets = "last",
    positive_threshold: Threshold = None,
) -> _RecommenderScorer:
    """Make a scorer for any ``scoring=`` of scikit-learn.

    Greater is always better. So, as with scikit-learn's ``neg_`` scorers,
    ``feedback="disliked"`` returns the *negated* metric: the best model recommends fewest of the
    items its users are about to dislike.

    Parameters
    ----------
    metric : {"hit_rate", "ndcg", "mrr"} or callable, default="ndcg"
        What to average over the targets, see :func:`gain`.
    k : int, default=10
        Length of the recommended list.
    feedback : {"liked", "disliked", "delta"}, default="delta"
        Targets to average over. ``delta``, liked minus disliked, is what ``score`` of the
        recommender returns.
    targets : {"last", "all"}, default="last"
        ``last`` ranks each user's last row, ``all`` every row that has an earlier row of its user.
        Splitters that cut a user's history in two, such as
        :class:`~posneg_rec.model_selection.TemporalSplit`, put rows that were trained on in the
        test fold as history: only ``last`` leaves those out.
    positive_threshold : float or (low, high), default=None
        Which targets count as liked and as disliked, as in the recommender. None: as the
        estimator reads the feedback. A search over the recommender's own `positive_threshold`
        must pass it. Without it each candidate is scored on likes and dislikes of its own, and
        the lowest threshold, which leaves nothing disliked, tends to win. Histories are read by
        the estimator in any case.

    Returns
    -------
    scorer : callable with the signature ``scorer(estimator, X, y=None) -> float``
        Picklable, if a function as `metric` is. The estimator must have ``target_ranks``, see
        :class:`TargetRanks`.

    Warns
    -----
    UserWarning
        When it is called, if there are no targets, or if a threshold of the estimator's own
        leaves none of a side that is averaged over, which counts as a mean of 0. Whether the
        candidates of a search differ in their thresholds, a scorer cannot see.

    See Also
    --------
    recommender_scores : All metrics from one ranking of the targets.

    Examples
    --------
    >>> from posneg_rec.metrics import recommender_scorer
    >>> recommender_scorer("hit_rate", k=5, feedback="disliked")
    recommender_scorer('hit_rate', k=5, feedback='disliked', targets='last')
    """
    _check_metric(metric)
    _check_option("feedback", feedback, _FEEDBACKS)
    _check_option("targets", targets, _TARGETS)
    check_scalar(k, "k", numbers.Integral, min_val=1)
    if positive_threshold is not None:
        read_history([0], [0], positive_threshold=positive_threshold)  # checks it
    return _RecommenderScorer(metric, k, feedback, targets, positive_threshold)


def recommender_scores(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    k: int = 10,
    targets: Targets = "last",
    positive_threshold: Threshold = None,
) -> dict[str, float]:
    """Score by all metrics at once: a multi-metric ``scoring=`` callable.

    Several :func:`recommender_scorer` on one fold each rank the targets anew; this ranks them
    once. Use :func:`functools.partial` to set `k`, `targets` or `positive_threshold`.

    Parameters
    ----------
    estimator : estimator with ``target_ranks``
        Fitted recommender.
    X : table of interactions or list of histories
        As for ``estimator.score``.
    y : array-like of shape (n_samples,), default=None
        Feedback of each row.
    k : int, default=10
        Length of the recommended list.
    targets : {"last", "all"}, default="last"
        As in :func:`recommender_scorer`.
    positive_threshold : float or (low, high), default=None
        Which targets count as liked and as disliked, as in :func:`recommender_scorer`: to be
        passed in a search over the recommender's own `positive_threshold`.

    Returns
    -------
    scores : dict of str to float
        ``{metric}_liked``, ``neg_{metric}_disliked`` (negated) and ``{metric}_delta`` for
        ``hit_rate``, ``ndcg`` and ``mrr``: greater is better throughout.

    Warns
    -----
    UserWarning
        As :func:`recommender_scorer` does, of both sides.

    Examples
    --------
    >>> from functools import partial
    >>> from sklearn.model_selection import GridSearchCV
    >>> from posneg_rec.metrics import recommender_scores
    >>> from posneg_rec.model_selection import TemporalSplit
    >>> def search(model):
    ...     grid = {"positive_threshold": [3, 4, 5]}  # what the model learns from ...
    ...     scoring = partial(recommender_scores, k=20, positive_threshold=4)  # ... to what end
    ...     return GridSearchCV(model, grid, cv=TemporalSplit(), scoring=scoring,
    ...                         refit="ndcg_delta")
    """
    _check_option("targets", targets, _TARGETS)
    ranks = _scored_ranks(estimator, X, y, targets, positive_threshold, _SIGNS)
    scores = {}
    for metric in _GAINS:
        liked, disliked = (ranks.mean(metric, k=k, feedback=feedback) for feedback in _SIGNS)
        scores[f"{metric}_liked"] = liked
        scores[f"neg_{metric}_disliked"] = 0.0 - disliked
        scores[f"{metric}_delta"] = liked - disliked
    return scores


def _scored_ranks(
    estimator: Any,
    X: Any,
    y: Any,
    targets: Targets,
    positive_threshold: Threshold,
    sides: Iterable[Feedback],
) -> TargetRanks:
    """Rank the targets, their signs by the threshold if there is one; warn of means of nothing."""
    if positive_threshold is not None and y is None:
        raise ValueError(
            f"positive_threshold={positive_threshold!r} reads the feedback of the targets, but y "
            "is None: pass it, or leave positive_threshold out."
        )
    ranks = _target_ranks(estimator, X, y, targets=targets)
    if len(ranks) == 0:
        warnings.warn(
            "No user has two events, of which the later could be predicted: the score is 0.",
            UserWarning,
            stacklevel=3,
        )
    elif positive_threshold is not None:
        values = np.asarray(y if is_table(X) else list(chain.from_iterable(y)))[ranks.rows]
        # The signs alone: it does not matter to them what the items are.
        _, signs = read_history(ranks.rows, values, positive_threshold=positive_threshold)
        return replace(ranks, signs=signs)
    elif y is not None:
        missing = [side for side in sides if not (ranks.signs == _SIGNS[side]).any()]
        if missing and (own := _own_threshold(estimator)) is not None:
            warnings.warn(
                f"{own[0]}={own[1]!r:.50} leaves none of {len(ranks)} targets {missing[0]}, whose "
                "mean counts as 0. Another threshold would be scored on other targets: to compare "
                "thresholds, pass positive_threshold to the scorer (recommender_scorer or "
                "recommender_scores).",
                UserWarning,
                stacklevel=3,
            )
    return ranks


def _own_threshold(estimator: Any) -> tuple[str, Any] | None:
    """Find the threshold by which an estimator, or a step of a pipeline, reads feedback."""
    parameters = estimator.get_params() if hasattr(estimator, "get_params") else {}
    for name, value in parameters.items():
        if name.split("__")[-1] == "positive_threshold" and value is not None:
            return name, value
    return None


def _target_ranks(model: Any, *args: Any, **kwargs: Any) -> TargetRanks:
    if not hasattr(model, "target_ranks"):
        raise TypeError(
            f"{type(model).__name__} has no method target_ranks(interactions, feedback, "
            "targets=...) that returns TargetRanks. A scikit-learn Pipeline does not forward it: "
            "build the pipeline with posneg_rec.make_recommender_pipeline."
        )
    return model.target_ranks(*args, **kwargs)


# ---------------------------------------------------------------------------------------------
# Reports
# ---------------------------------------------------------------------------------------------


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
        yield "", *_FEEDBACKS
        yield "targets", str(self.n_liked), str(self.n_disliked), ""
        for metric in _GAINS:
            names = [f"{metric}_{feedback}" for feedback in _FEEDBACKS]
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
    ranks = _target_ranks(model, interactions, feedback, targets=targets, **options)
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
    coverage = _coverage(_ids(table["item"], "item"), ranks.n_items)
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
    gains = [np.stack([run.gains(metric, k=k) for metric in _GAINS], axis=1) for run in runs]
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
    names = [f"{metric}_{feedback}" for metric in _GAINS for feedback in _FEEDBACKS]
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
            for sign in _SIGNS.values()
            for column in columns.T
        ]
    )


def _bootstrap_sums(
    totals: NDArray[np.float64],
    n_bootstraps: int,
    random_state: int | np.random.RandomState | None,
) -> NDArray[np.float64]:
    """Sum the rows of `totals` over users drawn with replacement, once per bootstrap."""
    generator = check_random_state(random_state)
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
    by_sign = sums.reshape(len(sums), len(_SIGNS), -1)
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
