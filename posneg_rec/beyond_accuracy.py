"""What accuracy does not tell: novelty, exposure, variety, calibration, responsiveness.

First pure functions on recommended ids: novelty [1]_ [2]_, exposure, variety [3]_ and calibration
[4]_. Then two doors that ask a model, one of them for its responsiveness [5]_.

References
----------
.. [1] Zhou, Kuscsik, Liu, Medo, Wakeling, Zhang: "Solving the apparent diversity-accuracy dilemma
   of recommender systems", PNAS 107(10), 2010. doi:10.1073/pnas.1000488107.
.. [2] Castells, Hurley, Vargas: "Novelty and Diversity in Recommender Systems", in: Recommender
   Systems Handbook, 3rd ed., 2022. doi:10.1007/978-1-0716-2197-4_16.
.. [3] Ziegler, McNee, Konstan, Lausen: "Improving Recommendation Lists Through Topic
   Diversification", WWW 2005. doi:10.1145/1060745.1060754.
.. [4] Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017.
   arXiv:1706.04599.
.. [5] Wang, Halpern, Chang, Feng, Le, Li, Liang, Huang, Li, Beutel, Zhang, Bi: "Learning from
   Negative User Feedback and Measuring Responsiveness for Sequential Recommenders", RecSys 2023.
   arXiv:2308.12256.
"""

from __future__ import annotations

import numbers
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length

from posneg_rec._sklearn import check_scalar
from posneg_rec.frames import as_numbers, is_table
from posneg_rec.ids import ItemVocabulary, values_of
from posneg_rec.ranks import (
    TargetRanks,
    Targets,
    as_id_array,
    check_n_different,
    first_recommended,
    is_missing,
    last_step,
    ranks_of_targets,
    share_covered,
)
from posneg_rec.sequences import shorten

__all__ = [
    "beyond_accuracy",
    "calibration_error",
    "gini_at_k",
    "intra_list_distance_at_k",
    "list_change_at_k",
    "novelty_at_k",
    "responsiveness",
]


def novelty_at_k(y_pred: ArrayLike, *, items: ArrayLike, counts: ArrayLike, k: int = 10) -> float:
    """Mean self-information of what is recommended: how little known it is, in bits.

    The self-information of an item is ``-log2(count / sum of counts)`` [1]_: an item of half of
    all events has 1 bit, one of a thousandth 10. An item of no event counts as one of one event.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples, n_recommended)
        Recommended item ids, best first, short lists padded with missing values, as in
        :func:`~posneg_rec.metrics.hit_rate_at_k`.
    items : array-like of shape (n_items,)
        Ids of the catalogue, such as ``model.items_``.
    counts : array-like of shape (n_items,)
        How often each was met, such as ``model.item_likes_ + model.item_dislikes_``.
    k : int, default=10
        Number of recommendations looked at.

    Returns
    -------
    novelty : float
        The mean over lists of the mean over their items; empty lists are left out, and NaN is the
        mean of none.

    Raises
    ------
    ValueError
        If `y_pred` holds an item that is not among `items`, or the counts are negative or all 0.
    TypeError
        If the counts are no numbers; text is none.

    References
    ----------
    .. [1] Zhou et al.: "Solving the apparent diversity-accuracy dilemma of recommender systems",
       PNAS 107(10), 2010. doi:10.1073/pnas.1000488107.

    Examples
    --------
    >>> from posneg_rec.metrics import novelty_at_k
    >>> novelty_at_k([["tea", "soup"], ["tea", None]], items=["soup", "tea"], counts=[1, 3], k=2)
    0.811...
    """
    counts = as_numbers(counts, "counts").astype(np.float64)
    check_consistent_length(items, counts)
    if not (counts >= 0).all() or not counts.sum() > 0:
        raise ValueError(f"counts must not be negative, and not all 0, got {shorten(counts)}.")
    codes = _codes(y_pred, items, k)
    information = np.log2(counts.sum()) - np.log2(np.maximum(counts, 1))
    return _mean_of_lists(information[codes], codes >= 0)


def gini_at_k(y_pred: ArrayLike, *, n_items: int, k: int = 10) -> float:
    """Gini index of exposure: how unequally the catalogue is recommended.

    0 if every item is recommended equally often, ``1 - 1 / n_items`` if always the same one is
    [1]_.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples, n_recommended)
        Recommended item ids, as in :func:`~posneg_rec.metrics.hit_rate_at_k`. Missing values do
        not count.
    n_items : int
        Number of items in the catalogue: those that are never recommended count as well.
    k : int, default=10
        Number of recommendations looked at.

    Returns
    -------
    gini : float in [0, 1)
        NaN if nothing is recommended.

    Raises
    ------
    ValueError
        If `y_pred` holds more different items than `n_items`.

    References
    ----------
    .. [1] Castells, Hurley, Vargas: "Novelty and Diversity in Recommender Systems", Recommender
       Systems Handbook, 2022. doi:10.1007/978-1-0716-2197-4_16.

    Examples
    --------
    >>> from posneg_rec.metrics import gini_at_k
    >>> gini_at_k([["tea"], ["soup"]], n_items=2, k=1)
    0.0
    >>> gini_at_k([["tea"], ["tea"]], n_items=2, k=1)
    0.5
    """
    check_scalar(n_items, "n_items", numbers.Integral, min_val=1)
    ids = first_recommended(y_pred, k)
    present = ids[~is_missing(ids)]
    if not len(present):
        return float("nan")
    distinct = ItemVocabulary.from_ids(present)
    check_n_different(len(distinct), n_items)
    exposure = np.sort(np.bincount(distinct.encode(present)))
    # Of the items in ascending order of exposure; those of none, at the start, add nothing.
    place = np.arange(n_items - len(exposure) + 1, n_items + 1)
    return float(((2 * place - n_items - 1) * exposure).sum() / (n_items * exposure.sum()))


def intra_list_distance_at_k(
    y_pred: ArrayLike, *, items: ArrayLike, vectors: ArrayLike, k: int = 10
) -> float:
    """Mean distance between two items of a list, ``1 - cosine`` of their vectors.

    The intra-list similarity of [1]_, turned into a distance.

    Parameters
    ----------
    y_pred : array-like of shape (n_samples, n_recommended)
        Recommended item ids, as in :func:`~posneg_rec.metrics.hit_rate_at_k`.
    items : array-like of shape (n_items,)
        Ids of the catalogue, such as ``model.items_``.
    vectors : array-like of shape (n_items, n_dimensions)
        One for each of `items`: what is alike by them is alike. Vectors of what the items are
        (genres, texts) tell more than the model's own, ``model.weights_["item_embedding"]``.
    k : int, default=10
        Number of recommendations looked at.

    Returns
    -------
    distance : float in [0, 2]
        The mean over lists of the mean over their pairs. Lists of fewer than two items are left
        out, and NaN is the mean of none.

    Raises
    ------
    ValueError
        If `y_pred` holds an item that is not among `items`.
    TypeError
        If the vectors hold no numbers; text is none.

    References
    ----------
    .. [1] Ziegler, McNee, Konstan, Lausen: "Improving Recommendation Lists Through Topic
       Diversification", WWW 2005. doi:10.1145/1060745.1060754.

    Examples
    --------
    >>> from posneg_rec.metrics import intra_list_distance_at_k
    >>> vectors = [[1, 0], [0, 2], [3, 0]]
    >>> lists = [["soup", "tea"], ["soup", "rice"]]
    >>> intra_list_distance_at_k(lists, items=["soup", "tea", "rice"], vectors=vectors, k=2)
    0.5
    """
    vectors = as_numbers(vectors, "vectors").astype(np.float64)
    check_consistent_length(items, vectors)
    codes = _codes(y_pred, items, k)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    shown = units[codes] * (codes >= 0)[:, :, np.newaxis]  # (n_samples, k, d)
    n = (codes >= 0).sum(axis=1)
    # The square of a sum is twice the pairs' products, and those of each with itself.
    alike = (shown.sum(axis=1) ** 2).sum(axis=1) - (shown**2).sum(axis=(1, 2))
    several = n > 1
    if not several.any():
        return float("nan")
    return float(np.mean(1 - alike[several] / (n[several] * (n[several] - 1))))


def calibration_error(y_true: ArrayLike, y_prob: ArrayLike, *, n_bins: int = 10) -> float:
    """Tell how far probabilities are from the shares that came true: the expected error.

    Probabilities are sorted into `n_bins` bins of equal width, ``[0, 1/n], (1/n, 2/n], ...``; the
    error is the mean over bins of ``|share of likes - mean probability|``, each weighed by the
    events that it holds [1]_.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Whether each was liked: True or 1; False, 0 or -1 if not.
    y_prob : array-like of shape (n_samples,)
        The probability that it would be.
    n_bins : int, default=10
        Few enough for each to hold events: the error of small bins is noise, and adds up.

    Returns
    -------
    error : float in [0, 1]

    Raises
    ------
    ValueError
        If there are no samples, lengths differ, or a value is out of range.
    TypeError
        If a value is no number; text is none.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger: "On Calibration of Modern Neural Networks", ICML 2017.
       arXiv:1706.04599.

    Examples
    --------
    >>> from posneg_rec.metrics import calibration_error
    >>> calibration_error([1, 0, 1, 1], [0.75, 0.75, 0.75, 0.75])
    0.0
    >>> calibration_error([1, -1], [0.5, 0.75], n_bins=2)
    0.625
    """
    check_scalar(n_bins, "n_bins", numbers.Integral, min_val=1)
    told, probabilities = as_numbers(y_true, "y_true"), as_numbers(y_prob, "y_prob")
    check_consistent_length(told, probabilities)
    if not len(told):
        raise ValueError("Found array with 0 sample(s) in y_true; at least one is needed.")
    if not np.isin(told, (-1, 0, 1)).all():
        raise ValueError(f"y_true must hold 1, 0 and -1 alone, got {shorten(np.unique(told))}.")
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("y_prob must hold probabilities in [0, 1], none of them missing.")
    inner = np.linspace(0, 1, n_bins + 1)[1:-1]
    bins = np.searchsorted(inner, probabilities)
    # |share - mean| times the events of a bin is the difference of two sums.
    surplus = np.bincount(bins, weights=(told == 1) - probabilities)
    return float(np.abs(surplus).sum() / len(told))


def list_change_at_k(y_pred: ArrayLike, y_pred_after: ArrayLike, *, k: int = 10) -> float:
    """Share of each list that is not in the other: ``1 - |A and B| / max(|A|, |B|)``, the mean.

    Parameters
    ----------
    y_pred, y_pred_after : array-like of shape (n_samples, n_recommended)
        Recommended item ids of the same users, as in :func:`~posneg_rec.metrics.hit_rate_at_k`.
        The order within the first `k` does not matter.
    k : int, default=10
        Number of recommendations looked at.

    Returns
    -------
    change : float in [0, 1]
        Users with two empty lists are left out, and NaN is the mean of none.

    Examples
    --------
    >>> from posneg_rec.metrics import list_change_at_k
    >>> list_change_at_k([["tea", "soup"]], [["rice", "tea"]], k=2)
    0.5
    """
    one, other = first_recommended(y_pred, k), first_recommended(y_pred_after, k)
    check_consistent_length(one, other)
    present = [ids[~is_missing(ids)].tolist() for ids in (one, other)]
    distinct = ItemVocabulary.from_ids(list(chain(*present))).items
    a, b = (_codes(ids, distinct, k) for ids in (one, other))
    common = ((a[:, :, np.newaxis] == b[:, np.newaxis, :]) & (a >= 0)[:, :, np.newaxis]).sum((1, 2))
    longest = np.maximum((a >= 0).sum(axis=1), (b >= 0).sum(axis=1))
    some = longest > 0
    return float(np.mean(1 - common[some] / longest[some])) if some.any() else float("nan")


def _codes(y_pred: ArrayLike, items: ArrayLike, k: int) -> NDArray[np.int64]:
    """Encode the first `k` of each list, -1 where there is none."""
    ids = first_recommended(y_pred, k)
    missing = is_missing(ids)
    codes = np.full(ids.shape, -1)
    codes[~missing] = ItemVocabulary(items).encode(ids[~missing])
    unknown = (codes < 0) & ~missing
    if unknown.any():
        raise ValueError(
            f"y_pred holds {np.count_nonzero(unknown)} ids that are not among the items, such as "
            f"{shorten(ids[unknown].tolist()[0])}."
        )
    return codes


def _mean_of_lists(values: NDArray[np.float64], is_there: NDArray[np.bool_]) -> float:
    n = is_there.sum(axis=1)
    if not n.any():
        return float("nan")
    totals = np.where(is_there, values, 0).sum(axis=1)
    return float(np.mean(totals[n > 0] / n[n > 0]))


# -- Doors -----------------------------------------------------------------------------------


def responsiveness(
    model: Any,
    interactions: Any,
    feedback: Any,
    *,
    k: int = 10,
    dislike: Any = None,
    exclude_seen: bool | int | None = None,
) -> float:
    """Tell how far recommendations move had the last like been a dislike.

    Of all users whose last event is a like, what the model recommends next is compared with what
    it would recommend had they disliked just that item: the share of the first `k` that is another
    (:func:`list_change_at_k`). A model that does not read dislikes, but does read likes, moves as
    well: it then has one like less. What a "no" adds is the difference to such a model.

    Comparing a recommender's answers to two actions of one user on one item is the idea of [1]_,
    which counts items that are similar to the disliked one; this measure needs no similarity.

    Parameters
    ----------
    model : estimator with ``recommend`` and ``target_ranks``
        Fitted recommender.
    interactions : table of interactions or list of histories
        As for ``model.score``.
    feedback : array-like of shape (n_samples,)
        As for ``model.score``; a list of lists for a list of histories.
    k : int, default=10
        Length of the recommended list.
    dislike : value of feedback, default=None
        What a dislike is in `feedback`; None takes the lowest value that occurs.
    exclude_seen : bool or int, default=None
        As in ``model.recommend``; None: as the model does by itself.

    Returns
    -------
    responsiveness : float in [0, 1]
        0: nothing moves; 1: the whole list is another.

    Raises
    ------
    ValueError
        If no user's last event is a like, or `dislike` is not read as one.

    References
    ----------
    .. [1] Wang et al.: "Learning from Negative User Feedback and Measuring Responsiveness for
       Sequential Recommenders", RecSys 2023. arXiv:2308.12256.

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> from posneg_rec.metrics import responsiveness
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> model = ContrastiveSeqRecommender(embedding_dim=16, max_epochs=2, random_state=0)
    >>> model = model.fit(world.interactions, world.feedback)
    >>> 0 < responsiveness(model, world.interactions, world.feedback) < 1
    True
    """
    options = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    targets = ranks_of_targets(model, interactions, feedback, targets="last", **options)
    table = model.recommend(interactions, k=k, feedback=feedback, **options)
    return _responsiveness(model, interactions, feedback, k, dislike, options, targets, table)


def beyond_accuracy(
    model: Any,
    interactions: Any,
    feedback: Any = None,
    *,
    k: int = 10,
    targets: Targets | NDArray[np.bool_] = "last",
    exclude_seen: bool | int | None = None,
    n_bins: int = 10,
) -> dict[str, float]:
    """Measure what a model recommends to some users beyond how much of it they will like.

    Parameters
    ----------
    model : fitted ContrastiveSeqRecommender, or a pipeline that ends in one
    interactions : table of interactions or list of histories
        As for ``model.score``. What would be recommended after all of them is measured.
    feedback : array-like of shape (n_samples,), default=None
        Feedback of each row; None means that all are liked.
    k : int, default=10
        Length of the recommended list.
    targets : {"last", "all"} or bool ndarray of shape (n_samples,), default="last"
        Of which rows p(liked) is compared with what came, as in
        :func:`~posneg_rec.metrics.evaluate`: rows that were trained on would flatter it.
    exclude_seen : bool or int, default=None
        As in ``model.recommend``.
    n_bins : int, default=10
        Of :func:`calibration_error`.

    Returns
    -------
    values : dict of str to float
        ``coverage``, ``gini``, ``novelty`` (of the events of the fit that were liked or disliked),
        ``intra_list_distance`` (of the model's own item vectors), ``responsiveness``
        (:func:`responsiveness`), and ``calibration_error`` of p(liked). NaN where there is nothing
        to measure: without dislikes the last two, and p(liked) of "pnfrec", which has none.

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> from posneg_rec.metrics import beyond_accuracy
    >>> from posneg_rec.model_selection import TemporalSplit, held_out_mask
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> X, y = world.interactions, world.feedback
    >>> train, test = next(TemporalSplit(quantile=0.5).split(X))
    >>> model = ContrastiveSeqRecommender(embedding_dim=16, max_epochs=2, random_state=0)
    >>> model = model.fit(X[train], y[train])
    >>> values = beyond_accuracy(model, X[test], y[test], targets=held_out_mask(train, test))
    >>> list(values)  # doctest: +NORMALIZE_WHITESPACE
    ['coverage', 'gini', 'novelty', 'intra_list_distance', 'responsiveness',
     'calibration_error']
    """
    recommender = last_step(model)
    options = {} if exclude_seen is None else {"exclude_seen": exclude_seen}
    table = model.recommend(interactions, k=k, feedback=feedback, **options)
    lists = _lists(table, _users_of(table).items, k)
    items = recommender.items_
    values = {
        "coverage": share_covered(lists, len(items)),
        "gini": gini_at_k(lists, n_items=len(items), k=k),
        "novelty": novelty_at_k(
            lists, items=items, counts=recommender.item_likes_ + recommender.item_dislikes_, k=k
        ),
        "intra_list_distance": intra_list_distance_at_k(
            lists, items=items, vectors=recommender.weights_["item_embedding"], k=k
        ),
        "responsiveness": float("nan"),
        "calibration_error": float("nan"),
    }
    if feedback is None:
        return values
    last = ranks_of_targets(model, interactions, feedback, targets="last", **options)
    if (last.signs == 1).any() and recommender.item_dislikes_.any():
        values["responsiveness"] = _responsiveness(
            model, interactions, feedback, k, None, options, last, table
        )
    if recommender.objective == "joint":
        chances, signs = model.liked_probabilities(interactions, feedback, targets=targets)
        told = (signs != 0) & ~np.isnan(chances)
        if (signs[told] == -1).any():
            values["calibration_error"] = calibration_error(
                signs[told], chances[told], n_bins=n_bins
            )
    return values


def _responsiveness(
    model: Any,
    interactions: Any,
    feedback: Any,
    k: int,
    dislike: Any,
    options: dict[str, Any],
    targets: TargetRanks,
    table: Any,
) -> float:
    liked = targets.signs == 1
    if not liked.any():
        raise ValueError(
            f"Of {len(targets)} users with two events, no one's last event is a like, which could "
            "have been a dislike."
        )
    changed, dislike = _with_dislikes(interactions, feedback, targets.rows[liked], dislike)
    read = ranks_of_targets(model, interactions, changed, targets="last", **options)
    if (read.signs[np.isin(read.rows, targets.rows[liked])] != -1).any():
        raise ValueError(
            f"The model does not read {shorten(dislike)} as a dislike: pass as `dislike` what a "
            "dislike is in the feedback."
        )
    after = model.recommend(interactions, k=k, feedback=changed, **options)
    users = ItemVocabulary.from_ids(targets.users[liked]).items
    if (_users_of(table).encode(users) < 0).all():
        raise ValueError(
            f"The answers name none of the {len(users)} users: a transformer of the pipeline makes "
            "others of them."
        )
    return list_change_at_k(_lists(table, users, k), _lists(after, users, k), k=k)


def _with_dislikes(
    interactions: Any, feedback: Any, rows: NDArray[np.int64], dislike: Any
) -> tuple[Any, Any]:
    """Return the feedback with dislikes in some rows, and what a dislike is."""
    if feedback is None:
        raise ValueError("feedback is None, so that all are liked: pass what users said.")
    in_lists = not is_table(interactions)
    lists = [values_of(entry, "feedback") for entry in feedback] if in_lists else [feedback]
    flat = np.concatenate([values_of(part, "feedback") for part in lists])
    if dislike is None:
        dislike = flat[~is_missing(flat)].min()
    changed = flat.astype(np.result_type(flat, np.asarray(dislike)))
    changed[rows] = dislike
    if not in_lists:
        return changed, dislike
    return np.split(changed, np.cumsum(list(map(len, lists)))[:-1]), dislike


def _users_of(table: Any) -> ItemVocabulary:
    return ItemVocabulary.from_ids(as_id_array(table["user"], "user"))


def _lists(table: Any, users: NDArray[Any], k: int) -> NDArray[np.object_]:
    """Turn a table of recommendations into one row of ids for each of some users."""
    row = ItemVocabulary(users).encode(as_id_array(table["user"], "user"))
    place = np.asarray(table["rank"]) - 1
    lists = np.full((len(users), k), None, dtype=object)
    lists[row[row >= 0], place[row >= 0]] = as_id_array(table["item"], "item")[row >= 0]
    return lists
