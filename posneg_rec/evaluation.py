"""Reports on likes and dislikes: means of gains with bootstrap intervals over users."""

from __future__ import annotations

import inspect
import numbers
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from posneg_rec._sklearn import check_scalar
from posneg_rec.ranks import (
    FEEDBACKS,
    GAINS,
    SIGNS,
    Feedback,
    Metric,
    TargetRanks,
    Targets,
    as_id_array,
    check_option,
    last_step,
    metric_name,
    ranks_of_targets,
    share_covered,
)

__all__ = [
    "AversionCurve",
    "Evaluation",
    "aversion_curve",
    "choose_aversion",
    "compare",
    "evaluate",
    "summarize",
]

_COUNTS = ("n_liked", "n_disliked", "n_users", "k", "confidence_level", "n_bootstraps")
# From no regard for dislikes to one that costs likes; closer where most of the change is.
_AVERSIONS = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)


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
        return {**self.values, **bounds, **{name: getattr(self, name) for name in _COUNTS}}

    @classmethod
    def from_dict(cls, values: Mapping[str, float], *, is_difference: bool = False) -> Evaluation:
        """Put together what :meth:`to_dict` took apart, read from a JSON file, say.

        Parameters
        ----------
        values : mapping of str to float
        is_difference : bool, default=False
            Whether they came from :func:`compare`.
        """
        names = [f"{metric}_{feedback}" for metric in GAINS for feedback in FEEDBACKS]
        missing = [name for name in (*names, *_COUNTS) if name not in values]
        if missing:
            raise ValueError(f"values is not of Evaluation.to_dict: it lacks {missing[0]!r}.")
        coverage = {name: values[name] for name in ("coverage",) if name in values}
        counts: dict[str, Any] = {name: values[name] for name in _COUNTS}
        return cls(
            values={name: values[name] for name in names} | coverage,
            intervals={name: (values[f"{name}_low"], values[f"{name}_high"]) for name in names},
            is_difference=is_difference,
            **counts,
        )

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
    exclude_seen: bool | int | None = None,
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
    exclude_seen : bool or int, default=None
        Whether items of the user's history are left out of the ranking, or those of how many of
        its last events. None: as the model does by itself.
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


@dataclass(frozen=True)
class AversionCurve:
    """What each aversion to dislikes gains and costs: one fit, asked again and again.

    Made by :func:`aversion_curve`; printed as a table. ``curve["ndcg_liked"]`` has a value for each
    aversion, :meth:`to_dict` all of them as columns, and
    :class:`posneg_rec.plotting.TradeoffDisplay` draws it.

    Parameters
    ----------
    aversions : ndarray of shape (n_aversions,), float64
        In ascending order.
    evaluations : tuple of n_aversions Evaluation
        Of each aversion, with intervals of the same resampled users.
    ranks : tuple of n_aversions TargetRanks
        Of the same targets, so that any two can be compared, see :func:`compare`. None of a curve
        that was put together from evaluations alone; it can be drawn, but nothing chosen by it.
    own_aversion : float or None
        The one that the model has now.
    """

    aversions: NDArray[np.float64]
    evaluations: tuple[Evaluation, ...]
    ranks: tuple[TargetRanks, ...] = ()
    own_aversion: float | None = None

    @property
    def k(self) -> int:
        """Length of the recommended list."""
        return self.evaluations[0].k

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """Values by their name, such as ``"ndcg_liked"``, one for each aversion."""
        return np.array([evaluation[name] for evaluation in self.evaluations])

    def interval(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bounds of the values of a name, one for each aversion."""
        bounds = np.array([evaluation.intervals[name] for evaluation in self.evaluations])
        return bounds[:, 0], bounds[:, 1]

    def to_dict(self) -> dict[str, list[float]]:
        """Everything as columns, for ``pandas.DataFrame``, say."""
        rows = [evaluation.to_dict() for evaluation in self.evaluations]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        return {"aversion": self.aversions.tolist(), **columns}

    def __str__(self) -> str:
        """Return the table as text."""
        rows = [
            "".join(cell.rjust(26 if i else 8) for i, cell in enumerate(row)).rstrip()
            for row in self._rows()
        ]
        return "\n".join([*rows, self.evaluations[0]._caption()])

    def _repr_html_(self) -> str:
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._rows()
        )
        caption = escape(self.evaluations[0]._caption())
        return f"<table><caption>{caption}</caption>{rows}</table>"

    def _rows(self) -> Iterator[tuple[str, ...]]:
        names = [
            f"{metric}_{feedback}" for metric in ("hit_rate", "ndcg") for feedback in FEEDBACKS[:2]
        ]
        titles = (f"{name.rpartition('_')[0]}@{self.k} {name.rpartition('_')[2]}" for name in names)
        yield "aversion", *titles
        for aversion, evaluation in zip(self.aversions, self.evaluations, strict=True):
            yield f"{aversion:g}", *map(evaluation._cell, names)


def aversion_curve(
    model: Any,
    interactions: Any,
    feedback: ArrayLike | None = None,
    aversions: ArrayLike | None = None,
    *,
    k: int = 10,
    targets: Targets | NDArray[np.bool_] = "last",
    exclude_seen: bool | None = None,
    n_bootstraps: int = 1000,
    confidence_level: float = 0.95,
    random_state: int | np.random.RandomState | None = None,
) -> AversionCurve:
    """Tell likes found and dislikes shown at each aversion to dislikes, without a new fit.

    How much a likely dislike counts, `dislike_aversion`, is read at each request. Here one fitted
    model is asked under many of them; what comes next and what is liked is computed once.

    Parameters
    ----------
    model : estimator with ``target_ranks(..., dislike_aversion=)``
        Fitted recommender, or a pipeline that ends in one.
    interactions, feedback
        Rows to rank, as in :func:`evaluate`. To choose an aversion by the curve, take rows that
        were not trained on and that the final judgement does not see.
    aversions : array-like of float, default=None
        Numbers >= 0, of which equal ones count once. None: 0, 0.5, 1, 2, 3, 5, 8, 12 and the
        model's own.
    k, targets, exclude_seen, n_bootstraps, confidence_level, random_state
        As in :func:`evaluate`. All aversions are resampled with the same users, so that the
        curve is as smooth in the intervals as in the values.

    Returns
    -------
    curve : AversionCurve

    Raises
    ------
    TypeError
        If the model has no aversion that could be varied.
    ValueError
        If an aversion is no finite number >= 0, or as in :func:`evaluate`.

    Warns
    -----
    UserWarning
        If the aversion changes no rank.

    See Also
    --------
    choose_aversion : Take one from the curve by a rule.

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> from posneg_rec.metrics import aversion_curve, choose_aversion
    >>> from posneg_rec.model_selection import UserHoldoutSplit
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> X, y = world.interactions, world.feedback
    >>> train, test = next(UserHoldoutSplit(n_splits=2, random_state=0).split(X))
    >>> model = ContrastiveSeqRecommender(embedding_dim=16, max_epochs=3, random_state=0)
    >>> curve = aversion_curve(
    ...     model.fit(X[train], y[train]), X[test], y[test], [0, 2, 8], random_state=0)
    >>> curve["hit_rate_disliked"].shape
    (3,)
    >>> model = model.set_params(dislike_aversion=choose_aversion(curve))
    """
    method = getattr(model, "target_ranks", None)
    if method is not None:
        accepted = inspect.signature(method).parameters.values()
        if not any(
            parameter.name == "dislike_aversion" or parameter.kind is parameter.VAR_KEYWORD
            for parameter in accepted
        ):
            raise TypeError(
                f"{type(model).__name__} has no aversion to vary: its target_ranks takes no "
                "dislike_aversion. Call evaluate, whose result is a point beside the curve."
            )
    own = _own_aversion(model)
    if aversions is None:
        aversions = [*_AVERSIONS, *([] if own is None else [own])]
    weights = np.unique(_numbers(aversions))
    if not weights.size:
        raise ValueError("aversions must hold at least one number >= 0, got none.")
    options = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    ranks: Any = ranks_of_targets(
        model,
        interactions,
        feedback,
        targets=targets,
        dislike_aversion=weights.tolist(),
        **options,
    )
    if len(ranks) > 1 and all(np.array_equal(one.ranks, ranks[0].ranks) for one in ranks):
        warnings.warn(
            f"The aversion changes none of {len(ranks[0])} ranks: no event of the fit was "
            "disliked, or the model's objective knows no aversion ('pnfrec' has none).",
            UserWarning,
            stacklevel=2,
        )
    # One seed for all, so that each aversion meets the same users.
    seed = int(check_random_state(random_state).randint(2**31 - 1))
    evaluations = tuple(
        summarize(
            one,
            k=k,
            n_bootstraps=n_bootstraps,
            confidence_level=confidence_level,
            random_state=seed,
        )
        for one in ranks
    )
    return AversionCurve(weights, evaluations, tuple(ranks), own)


def _numbers(aversions: ArrayLike) -> NDArray[np.float64]:
    """Read numbers alone: to NumPy text and switches are some as well."""
    values = np.asarray(aversions, dtype=object).ravel().tolist()
    return np.array([_number(value, "aversions") for value in values], dtype=np.float64)


def _number(value: Any, name: str) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number and 0 <= value < np.inf):
        raise ValueError(f"{name} must be finite numbers >= 0, got {value!r:.50}.")
    return float(value)


def choose_aversion(
    curve: AversionCurve,
    *,
    metric: Metric = "ndcg",
    feedback: Feedback = "liked",
    n_standard_errors: float = 1.0,
) -> float:
    """Choose the largest aversion that is about as good as the best.

    The largest whose mean gain lies no more than `n_standard_errors` below the best one's, as in
    the one-standard-error rule for pruning trees [1]_: dislikes are avoided as long as likes do
    not measurably suffer.

    Parameters
    ----------
    curve : AversionCurve
        Of users that chose nothing else, see :func:`aversion_curve`.
    metric : {"hit_rate", "ndcg", "mrr"} or callable, default="ndcg"
        What to average, see :func:`gain`; of lists as long as the curve's.
    feedback : {"liked", "delta"}, default="liked"
        Mean over the liked targets, or that minus the mean over the disliked ones.
    n_standard_errors : float, default=1.0
        Standard errors, over users, of the best mean that may be lost. 0 takes the best.

    Returns
    -------
    aversion : float
        One of the curve's.

    Raises
    ------
    ValueError
        If there is no target of the feedback, or only one user and so no standard error.

    References
    ----------
    .. [1] Breiman, Friedman, Olshen, Stone: "Classification and Regression Trees", 1984,
       section 3.4.3.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.metrics import AversionCurve, TargetRanks, choose_aversion, summarize
    >>> users, signs = np.arange(4), np.array([1, 1, 1, -1])
    >>> ranks = tuple(
    ...     TargetRanks(users, users, signs, np.array(places), n_items=100)
    ...     for places in ([1, 1, 20, 1], [1, 1, 30, 2], [1, 20, 20, 9], [20, 20, 20, 40]))
    >>> curve = AversionCurve(
    ...     np.array([0.0, 2.0, 5.0, 8.0]),
    ...     tuple(summarize(one, random_state=0) for one in ranks), ranks)
    >>> choose_aversion(curve), choose_aversion(curve, n_standard_errors=0)
    (5.0, 2.0)
    """
    check_option("feedback", feedback, ("liked", "delta"))
    check_scalar(n_standard_errors, "n_standard_errors", numbers.Real, min_val=0)
    if not curve.ranks:
        raise ValueError(
            "The curve holds evaluations without ranks, which have no standard errors: take what "
            "aversion_curve returned."
        )
    told = [_mean_and_error(ranks, metric, curve.k, feedback) for ranks in curve.ranks]
    means = np.array([mean for mean, _ in told])
    if np.isnan(means).any():
        signs = curve.ranks[0].signs
        raise ValueError(
            f"{metric_name(metric)} has no mean over {feedback}: of {len(signs)} targets "
            f"{np.count_nonzero(signs == 1)} are liked and {np.count_nonzero(signs == -1)} "
            "disliked. Pass rows of more users to aversion_curve, or another feedback."
        )
    best = int(means.argmax())
    floor = means[best]
    if n_standard_errors:
        error = told[best][1]
        if np.isnan(error):
            raise ValueError(
                "One user has no standard error: pass rows of more users to aversion_curve, or "
                "n_standard_errors=0."
            )
        floor -= n_standard_errors * error
    return float(curve.aversions[means >= floor].max())


def _mean_and_error(
    ranks: TargetRanks, metric: Metric, k: int, feedback: Feedback
) -> tuple[float, float]:
    """Mean gain, and its standard error over users: a mean of ratios' linear parts."""
    gains = ranks.gains(metric, k=k)
    users, codes = np.unique(ranks.users, return_inverse=True)
    value, parts = 0.0, np.zeros(len(users))
    for sign in (1, -1) if feedback == "delta" else (1,):
        of_sign = ranks.signs == sign
        if not of_sign.any():
            return float("nan"), float("nan")
        mean = float(gains[of_sign].mean())
        value += sign * mean
        rest = (gains - mean) * of_sign
        parts += sign * np.bincount(codes, rest, minlength=len(users)) / of_sign.sum()
    # Users without a target of either sign say nothing.
    signed = ranks.signs == 1 if feedback == "liked" else ranks.signs != 0
    n_users = len(np.unique(codes[signed]))
    if n_users < 2:
        return value, float("nan")
    return value, float(np.sqrt(n_users / (n_users - 1) * (parts**2).sum()))


def _own_aversion(model: Any) -> float | None:
    """Find the aversion of a recommender, or of the last step of a pipeline."""
    own = getattr(last_step(model), "dislike_aversion", None)
    return None if own is None else _number(own, "aversions, of which the model's own is one,")


def _target_gains(
    ranks: TargetRanks | Sequence[TargetRanks], k: int
) -> tuple[TargetRanks, NDArray[np.float64]]:
    """Targets in row order, and the gain of each in each metric, (n_targets, n_metrics)."""
    check_scalar(k, "k", numbers.Integral, min_val=1)
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
