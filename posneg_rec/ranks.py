"""Ranks of what did come, and what they gain: the ground of all metrics."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length

from posneg_rec._sklearn import check_scalar
from posneg_rec.frames import MISSING_ID, as_numbers
from posneg_rec.ids import missing_objects

__all__ = [
    "FEEDBACKS",
    "GAINS",
    "SIGNS",
    "TARGETS",
    "Feedback",
    "Metric",
    "MetricName",
    "TargetRanks",
    "Targets",
    "as_id_array",
    "check_metric",
    "check_n_different",
    "check_option",
    "first_recommended",
    "gain",
    "is_missing",
    "last_step",
    "metric_name",
    "ranks_of_targets",
    "share_covered",
]

MetricName = Literal["hit_rate", "ndcg", "mrr"]
Metric: TypeAlias = MetricName | Callable[[NDArray[np.int64]], ArrayLike]
Feedback = Literal["liked", "disliked", "delta"]
Targets = Literal["last", "all"]
_Option = TypeVar("_Option", bound=str)

GAINS: dict[MetricName, Callable[[NDArray[np.int64]], NDArray[np.float64]]] = {
    "hit_rate": lambda ranks: np.ones(ranks.shape),
    "ndcg": lambda ranks: 1.0 / np.log2(ranks + 1.0),
    "mrr": lambda ranks: 1.0 / ranks,
}
TARGETS: tuple[Targets, ...] = ("last", "all")
FEEDBACKS: tuple[Feedback, ...] = ("liked", "disliked", "delta")
SIGNS: dict[Feedback, int] = {"liked": 1, "disliked": -1}


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
    TypeError
        If the ranks are no numbers; text is none.

    Examples
    --------
    >>> from posneg_rec.metrics import gain
    >>> gain([1, 3, 11], "ndcg", k=10)
    array([1. , 0.5, 0. ])
    >>> gain([1, 3, 11], lambda ranks: 0.9 ** (ranks - 1), k=10)  # rank-biased precision
    array([1.  , 0.81, 0.  ])
    """
    check_metric(metric)
    check_scalar(k, "k", numbers.Integral, min_val=1)
    ranks = as_numbers(ranks, "ranks")
    # Not `ranks < 1`: NaN is no rank either.
    if not (ranks >= 1).all():
        raise ValueError(f"ranks count from 1 (top), got {ranks[~(ranks >= 1)][0]}.")
    if not callable(metric):
        return np.where(ranks <= k, GAINS[metric](ranks), 0.0)
    gains = np.asarray(metric(ranks), dtype=np.float64)
    if gains.shape != ranks.shape or not np.isfinite(gains[ranks <= k]).all():
        raise ValueError(
            f"metric must return one finite gain per rank, shape {ranks.shape}, but "
            f"{metric_name(metric)} returned {gains!r:.50} of shape {gains.shape}."
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
        for name in ("rows", "signs", "ranks"):
            as_numbers(getattr(self, name), name)
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
        check_option("feedback", feedback, FEEDBACKS)
        if feedback == "delta":
            liked, disliked = (self.mean(metric, k=k, feedback=sign) for sign in SIGNS)
            return liked - disliked
        gains = self.gains(metric, k=k)[self.signs == SIGNS[feedback]]
        return float(gains.mean()) if gains.size else 0.0


def check_metric(metric: Metric) -> None:
    """Refuse what is neither a metric's name nor a function."""
    if not callable(metric) and not (isinstance(metric, str) and metric in GAINS):
        raise ValueError(
            f"metric must be one of {list(GAINS)} or a function of ranks, got {metric!r:.50}."
        )


def metric_name(metric: Metric) -> str:
    """Name a metric in a report."""
    return getattr(metric, "__name__", repr(metric)) if callable(metric) else repr(metric)


def check_option(name: str, value: _Option, allowed: Collection[_Option]) -> _Option:
    """Return an option, if it is one."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}.")
    return value


def as_id_array(values: Any, name: str) -> NDArray[Any]:
    """Return an array of raw ids. What is not an array yet stays Python objects, hence exact."""
    dtype = None if hasattr(values, "dtype") or hasattr(values, "__array__") else object
    try:
        ids = np.asarray(values, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"{name} is ragged: pad short lists with None.") from error
    if ids.dtype.kind == "b":
        raise TypeError(f"{name} must hold item ids, got booleans.")
    return ids


def is_missing(ids: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which ids stand for none."""
    match ids.dtype.kind:
        case "f":
            return np.isnan(ids)
        case "i":
            return ids == MISSING_ID
        case "O":
            missing = missing_objects(ids.ravel())
            return np.zeros(ids.shape, bool) if missing is None else missing.reshape(ids.shape)
    return np.zeros(ids.shape, dtype=bool)


def share_covered(ids: NDArray[Any], n_items: int) -> float:
    """Tell which share of a catalogue some recommended ids hold."""
    present = ids[~is_missing(ids)]
    n_found = len(set(present.tolist()) if present.dtype.kind == "O" else np.unique(present))
    check_n_different(n_found, n_items)
    return n_found / n_items


def check_n_different(n_found: int, n_items: int) -> None:
    """Refuse a catalogue of fewer items than were recommended."""
    if n_found > n_items:
        raise ValueError(f"y_pred holds {n_found} different items but n_items={n_items}.")


def first_recommended(y_pred: ArrayLike, k: int) -> NDArray[Any]:
    """Return the first `k` columns of recommended ids, checked."""
    check_scalar(k, "k", numbers.Integral, min_val=1)
    ids = as_id_array(y_pred, "y_pred")
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
        ids[is_missing(ids)] = None
    return ids


def ranks_of_targets(model: Any, *args: Any, **kwargs: Any) -> TargetRanks:
    """Ask a model for the ranks of targets."""
    if not hasattr(model, "target_ranks"):
        raise TypeError(
            f"{type(model).__name__} has no method target_ranks(interactions, feedback, "
            "targets=...) that returns TargetRanks. A scikit-learn Pipeline does not forward it: "
            "build the pipeline with posneg_rec.make_recommender_pipeline."
        )
    return model.target_ranks(*args, **kwargs)


def last_step(model: Any) -> Any:
    """Return the recommender that a pipeline ends in, or the model itself if it is none."""
    return model[-1] if hasattr(model, "steps") else model
