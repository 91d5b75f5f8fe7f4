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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length

from posneg_rec._sklearn import check_sample_weight, check_scalar
from posneg_rec.beyond_accuracy import (
    beyond_accuracy,
    calibration_error,
    gini_at_k,
    intra_list_distance_at_k,
    list_change_at_k,
    novelty_at_k,
    responsiveness,
)
from posneg_rec.evaluation import (
    AversionCurve,
    Evaluation,
    aversion_curve,
    choose_aversion,
    compare,
    evaluate,
    summarize,
)
from posneg_rec.frames import is_table
from posneg_rec.interactions import read_history
from posneg_rec.ranks import (
    FEEDBACKS,
    GAINS,
    SIGNS,
    TARGETS,
    Feedback,
    Metric,
    TargetRanks,
    Targets,
    as_id_array,
    check_metric,
    check_option,
    first_recommended,
    gain,
    is_missing,
    metric_name,
    ranks_of_targets,
    share_covered,
)

__all__ = [
    "AversionCurve",
    "Evaluation",
    "TargetRanks",
    "aversion_curve",
    "beyond_accuracy",
    "calibration_error",
    "choose_aversion",
    "compare",
    "coverage_at_k",
    "evaluate",
    "gain",
    "gini_at_k",
    "hit_rate_at_k",
    "intra_list_distance_at_k",
    "list_change_at_k",
    "mrr_at_k",
    "ndcg_at_k",
    "novelty_at_k",
    "recall_at_k",
    "recommender_scorer",
    "recommender_scores",
    "responsiveness",
    "summarize",
]

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
    return share_covered(first_recommended(y_pred, k), n_items)


def _relevant_ranks(
    y_true: ArrayLike | Sequence[Collection[Any]], y_pred: ArrayLike, k: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rank of each relevant item (`k` + 1 = not found), row by row, and where each row starts."""
    recommended = first_recommended(y_pred, k)
    relevant, lengths = _relevant(y_true)
    check_consistent_length(lengths, recommended)
    if not lengths.all():
        raise ValueError(
            f"Row {lengths.argmin()} of y_true has no relevant item, for which no metric is "
            "defined; leave such rows out."
        )
    rows = np.repeat(np.arange(len(lengths)), lengths)
    missing = is_missing(relevant)
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
        return as_id_array(rows, "y_true"), np.ones(len(rows), dtype=np.int64)
    if not all(collections):
        raise ValueError(
            "y_true must hold one item id in every row or a collection of ids in every row, got "
            f"both: row {collections.index(not collections[0])} differs from row 0."
        )
    # An item named twice in one row is still one relevant item.
    unique = [dict.fromkeys(row) for row in rows]
    lengths = np.fromiter(map(len, unique), dtype=np.int64, count=len(unique))
    return as_id_array(list(chain.from_iterable(unique)), "y_true"), lengths


def _mean(values: NDArray[np.float64], sample_weight: ArrayLike | None) -> float:
    return float(np.average(values, weights=check_sample_weight(sample_weight, values)))


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
        sides = SIGNS if self.feedback == "delta" else [self.feedback]
        ranks = _scored_ranks(estimator, X, y, self.targets, self.positive_threshold, sides)
        mean = ranks.mean(self.metric, k=self.k, feedback=self.feedback)
        return 0.0 - mean if self.feedback == "disliked" else mean

    def __repr__(self) -> str:
        threshold = self.positive_threshold
        return (
            f"recommender_scorer({metric_name(self.metric)}, k={self.k}, "
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
    check_metric(metric)
    check_option("feedback", feedback, FEEDBACKS)
    check_option("targets", targets, TARGETS)
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
    check_option("targets", targets, TARGETS)
    ranks = _scored_ranks(estimator, X, y, targets, positive_threshold, SIGNS)
    scores = {}
    for metric in GAINS:
        liked, disliked = (ranks.mean(metric, k=k, feedback=feedback) for feedback in SIGNS)
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
    ranks = ranks_of_targets(estimator, X, y, targets=targets)
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
        missing = [side for side in sides if not (ranks.signs == SIGNS[side]).any()]
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
