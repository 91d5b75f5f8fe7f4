"""Baselines that cost nothing to fit: what is popular, and what is liked together.

What a model is worth shows beside them, by the same metrics and on the same rows. They have the
face of :class:`~posneg_rec.ContrastiveSeqRecommender`, answer through the same fitted model and
need no torch.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, validate_data

from posneg_rec._lazy import lazy
from posneg_rec._sklearn import Interval, StrOptions, fit_context
from posneg_rec.columns import ROLES
from posneg_rec.fitted import FittedModel
from posneg_rec.fitting import resolve_exclude_seen, warn_of_unread
from posneg_rec.frames import as_frame, is_frame, is_history, is_table
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    Interactions,
    build_histories,
    check_not_empty,
    check_table,
    one_of,
    read_interactions,
)
from posneg_rec.memory import ItemMemory, WeighedMemory
from posneg_rec.metrics import TargetRanks, recommender_scorer
from posneg_rec.model_selection import LastSeen, find_targets, warn_if_future_leaks
from posneg_rec.sequences import Histories
from posneg_rec.serving import Inputs, Model

__all__ = ["ItemItemRecommender", "PopularityRecommender"]

_COLUMN = [str, Integral, None]
# What likes count beside what goes with the history: they order what nothing goes with.
_TIE = 1e-6


class _ConstantModel(Model):
    """One score an item, whatever the history; a memory adds to it."""

    method = encoder = "constant"
    likes_only = False
    is_likelihood = False

    def __init__(self, scores: NDArray[np.float32]) -> None:
        self.scores = scores

    def encode(self, inputs: Inputs, watch: Any = None) -> NDArray[np.float32]:
        return np.zeros((len(inputs), 1), np.float32)

    def logits(
        self, states: NDArray[np.float32], items: slice | NDArray[np.int64]
    ) -> NDArray[np.float32]:
        return np.tile(self.scores[items], (len(states), 1))


@dataclass(frozen=True, eq=False)
class _FittedBaseline(FittedModel):
    """A fitted model without parameters: likes, and maybe a memory.

    A history without a known item gets the popular and liked items, as from any model; with
    `reads_history` False every history does.
    """

    reads_history: bool = True

    def __repr__(self) -> str:
        return f"FittedModel({self.method!r}, n_items={len(self.items)})"

    @lazy
    def model(self) -> Model:
        return _ConstantModel(self.weights["scores"])

    @property
    def n_iter(self) -> int:
        return 1

    @property
    def sizes(self) -> dict[str, Any]:
        return {"max_len": int(self.reads_history)}


class _BaselineRecommender(BaseEstimator):
    """What baselines share: all but what they count."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "positive_threshold": [Real, tuple, list, None],
        "exclude_seen": ["boolean", StrOptions({"auto"})],
        "user_column": _COLUMN,
        "item_column": _COLUMN,
        "time_column": _COLUMN,
    }

    # X and y by their names here, no metadata to route.
    __metadata_request__fit: ClassVar = {"interactions": UNUSED, "feedback": UNUSED}
    __metadata_request__score: ClassVar = {"interactions": UNUSED, "feedback": UNUSED}

    fitted_: FittedModel
    positive_threshold: float | tuple[float, float] | None
    exclude_seen: bool | Literal["auto"]

    def _counted(self, histories: Histories, n_items: int, parts: dict[str, Any]) -> dict[str, Any]:
        """Return what of a fitted model depends on the baseline."""
        raise NotImplementedError

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, interactions: Any, y: Any = None, *, feedback: Any = None) -> Self:
        """Count.

        Parameters
        ----------
        interactions : frame, array of shape (n_rows, >= 2) or list of histories
            As in :meth:`ContrastiveSeqRecommender.fit`.
        y : array-like of shape (n_rows,), list of lists, or None
            How each event was received; None means that everything was liked.
        feedback : array-like, default=None
            The same by its own name.

        Returns
        -------
        self : estimator

        Raises
        ------
        ValueError
            If the data or a parameter is malformed.

        Warns
        -----
        UserWarning
            If nothing is liked, or a column looks like feedback and none was passed.
        """
        interactions, feedback = as_frame(interactions), one_of(y, feedback)
        events = read_interactions(
            interactions, feedback, positive_threshold=self.positive_threshold, **self._columns()
        )
        check_not_empty(events)
        vocabulary = ItemVocabulary.from_ids(events.item_ids)
        histories = build_histories(events, vocabulary)
        n_items = len(vocabulary)
        likes, dislikes = (
            np.bincount(histories.items[histories.signs == sign], minlength=n_items)
            for sign in (1, -1)
        )
        parts: dict[str, Any] = {
            "method": type(self).__name__,
            "n_heads": 1,
            "items": vocabulary.items,
            "weights": {"scores": np.zeros(n_items, np.float32)},
            "likes": likes,
            "dislikes": dislikes,
            "gap_edges": np.empty(0),
            "feedback_coding": events.feedback_coding,
            "positive_threshold": self.positive_threshold,
            "excludes_seen": resolve_exclude_seen(
                self.exclude_seen, histories, histories.repeats()
            ),
            "precision": "float32",
            "history": {"epoch": []},
            "last_seen": LastSeen.of(histories),
        }
        fitted = _FittedBaseline(**self._counted(histories, n_items, parts))
        _warn_of_feedback(events, feedback, has_likes=bool(likes.any()))
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
        if is_table(interactions):
            validate_data(self, interactions, skip_check_array=True)
        self.fitted_ = fitted
        return self

    def recommend(
        self,
        interactions: Any,
        k: int = 10,
        *,
        feedback: Any = None,
        exclude_seen: bool | None = None,
        allowed_items: ArrayLike | None = None,
        denied_items: ArrayLike | None = None,
    ) -> Any:
        """Recommend the k items that score highest after each history.

        Parameters
        ----------
        interactions, k, feedback, exclude_seen, allowed_items, denied_items
            As in :meth:`ContrastiveSeqRecommender.recommend`.

        Returns
        -------
        items, scores : arrays of shape (k,)
            For one history.
        table : frame, or structured array
            For many: columns user, item, score and rank.

        Warns
        -----
        UserWarning
            If fewer than k candidates are left; then the answer is shorter.
        """
        fitted, interactions = self._checked(), as_frame(interactions)
        if not (is_history(interactions) or is_frame(interactions)):
            self._check_columns(interactions)
        return fitted.recommend(
            interactions,
            k,
            feedback=feedback,
            times=None,
            exclude_seen=exclude_seen,
            allowed_items=allowed_items,
            denied_items=denied_items,
            dislike_aversion=0.0,
            columns=self._columns(),
            device="cpu",
        )

    def score_items(
        self, history: Any, items: ArrayLike | None = None, *, feedback: Any = None
    ) -> NDArray[np.float32]:
        """Score given items after one history, whether seen or not.

        Parameters
        ----------
        history : list or 1-D array of item ids
            Oldest first.
        items : array-like of shape (n,), default=None
            Item ids; None means all, in the order of ``items_``.
        feedback : array-like, default=None
            Of each event of the history; None means that everything was liked.

        Returns
        -------
        float32 array of shape (n,)
            NaN for items that the model does not know.
        """
        return self._checked().score_items(
            history, items, feedback=feedback, times=None, dislike_aversion=0.0
        )

    def score(self, interactions: Any, y: Any = None, *, feedback: Any = None) -> float:
        """Return NDCG@10 on liked minus NDCG@10 on disliked last events; greater is better.

        Parameters
        ----------
        interactions, y, feedback
            As in :meth:`fit`.

        Returns
        -------
        float in [-1, 1]
        """
        return recommender_scorer()(self, interactions, one_of(y, feedback))

    def target_ranks(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
        exclude_seen: bool | None = None,
    ) -> TargetRanks:
        """Rank what did happen next among the whole catalogue.

        Parameters
        ----------
        interactions, feedback, targets, exclude_seen
            As in :meth:`ContrastiveSeqRecommender.target_ranks`.

        Returns
        -------
        TargetRanks
            In the order of the rows.
        """
        fitted, interactions = self._checked(), as_frame(interactions)
        self._check_columns(interactions)
        events = fitted.read(interactions, feedback, self._columns())
        histories = build_histories(events, fitted.vocabulary)
        fitted.check_rows(events.item_ids, histories)
        stops = find_targets(histories, targets, events.n_rows)
        users = np.searchsorted(histories.offsets, stops, side="right") - 1
        warn_if_future_leaks(
            fitted.last_seen,
            histories,
            stops,
            self._columns(),
            of_each_last=isinstance(targets, str) and targets == "last",
        )
        ranks = fitted.ranks(
            histories, users, stops, exclude_seen=exclude_seen, dislike_aversion=0.0
        )
        return TargetRanks(
            users=histories.users[users],
            rows=histories.rows[stops],
            signs=histories.signs[stops],
            ranks=ranks,
            n_items=len(fitted.items),
        )

    @property
    def items_(self) -> NDArray[Any]:
        """Raw item ids by code."""
        return self._fitted().items

    @property
    def item_likes_(self) -> NDArray[np.int64]:
        """How often each item was liked."""
        return self._fitted().likes

    @property
    def excludes_seen_(self) -> bool:
        """Whether seen items are no candidates."""
        return self._fitted().excludes_seen

    def _fitted(self) -> FittedModel:
        # As scikit-learn expects: an attribute that a fit did not leave behind does not exist.
        if "fitted_" not in vars(self):
            raise AttributeError(f"{type(self).__name__} is not fitted yet.")
        return self.fitted_

    def _checked(self) -> FittedModel:
        check_is_fitted(self)
        return self.fitted_

    def _columns(self) -> dict[str, Any]:
        return {f"{role}_column": getattr(self, f"{role}_column") for role in ROLES}

    def _check_columns(self, interactions: Any) -> None:
        if is_table(interactions):
            check_table(interactions)  # to which scikit-learn's errors would be another's
            validate_data(self, interactions, reset=False, skip_check_array=True)

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there is something to recommend by."""
        return "fitted_" in vars(self)

    def __sklearn_tags__(self) -> Tags:
        """Say that ids may be strings."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


class PopularityRecommender(_BaselineRecommender):
    """Recommend what is liked most, to everybody alike.

    Equal counts rank by item code. To count the last days alone, pass their rows alone.

    Parameters
    ----------
    positive_threshold : float, (low, high) or None, default=None
        How graded feedback reads, as in the recommender.
    likes_only : bool, default=True
        Count likes; False counts all events.
    exclude_seen : bool or "auto", default="auto"
        Whether items of a history are no candidates; "auto" as in the recommender.
    user_column, item_column, time_column : str or int, default=None
        Columns of the table, as in the recommender. None finds them by name or position.

    Attributes
    ----------
    items_ : ndarray of shape (n_items,)
        Raw item ids by code.
    item_likes_ : int64 ndarray of shape (n_items,)
        What was counted of each.
    excludes_seen_ : bool
        Whether seen items are no candidates.

    See Also
    --------
    ItemItemRecommender : Reads the history.

    Notes
    -----
    Scores are the logarithm of an item's share of the counts, less a little for few.

    Examples
    --------
    >>> from posneg_rec.baselines import PopularityRecommender
    >>> histories = [["tea", "rice"], ["tea", "soup"], ["tea", "rice", "soup"]]
    >>> liked = [[1, 1], [1, 0], [1, 1, 0]]
    >>> items, scores = PopularityRecommender().fit(histories, liked).recommend(["tea"], k=2)
    >>> items.tolist()
    ['rice', 'soup']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_BaselineRecommender._parameter_constraints,
        "likes_only": ["boolean"],
    }

    def __init__(
        self,
        *,
        positive_threshold: float | tuple[float, float] | None = None,
        likes_only: bool = True,
        exclude_seen: bool | Literal["auto"] = "auto",
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        self.positive_threshold = positive_threshold
        self.likes_only = likes_only
        self.exclude_seen = exclude_seen
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    def _counted(self, histories: Histories, n_items: int, parts: dict[str, Any]) -> dict[str, Any]:
        counts = parts["likes"]
        if not self.likes_only:
            counts = np.bincount(histories.items, minlength=n_items)
        # Beside dislikes, what is popular would be what is well liked, too.
        nothing = np.zeros(n_items, np.int64)
        return parts | {"likes": counts, "dislikes": nothing, "reads_history": False}


class ItemItemRecommender(_BaselineRecommender):
    """Recommend what was liked together with what the history likes.

    Ridge regression of each item's likes on those of all other items, EASE [1]_ with at most so
    many neighbours an item: a closed form without order or time, and on small data often ahead
    of models that read both. Dislikes in a history count for nothing.

    Parameters
    ----------
    positive_threshold : float, (low, high) or None, default=None
        How graded feedback reads, as in the recommender.
    n_neighbours : int, default=50
        The most weights that speak for an item; more predict hardly better on MovieLens-1M.
    penalty : float, default=250.0
        Of the squares of the weights, in users: there is hardly any difference from 100 to 600 on
        MovieLens-100K and 1M. Data with few likes an item want less.
    exclude_seen : bool or "auto", default="auto"
        Whether items of a history are no candidates; "auto" as in the recommender.
    user_column, item_column, time_column : str or int, default=None
        Columns of the table, as in the recommender. None finds them by name or position.

    Attributes
    ----------
    items_ : ndarray of shape (n_items,)
        Raw item ids by code.
    item_likes_ : int64 ndarray of shape (n_items,)
        How often each item was liked; it orders items of equal scores.
    excludes_seen_ : bool
        Whether seen items are no candidates.

    See Also
    --------
    PopularityRecommender : Reads no history.
    posneg_rec.memory : The same weights as a part of a model.

    References
    ----------
    .. [1] Steck: "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019.
       arXiv:1905.03375.

    Examples
    --------
    >>> from posneg_rec.baselines import ItemItemRecommender
    >>> histories = [["tea", "scone"]] * 3 + [["rice", "soup"]] * 4 + [["tea", "soup"]]
    >>> model = ItemItemRecommender(penalty=1.0).fit(histories)
    >>> items, scores = model.recommend(["tea"], k=2)
    >>> items.tolist()
    ['scone', 'soup']
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_BaselineRecommender._parameter_constraints,
        "n_neighbours": [Interval(Integral, 1, None, closed="left")],
        "penalty": [Interval(Real, 0, np.inf, closed="neither")],
    }

    def __init__(
        self,
        *,
        positive_threshold: float | tuple[float, float] | None = None,
        n_neighbours: int = 50,
        penalty: float = 250.0,
        exclude_seen: bool | Literal["auto"] = "auto",
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        self.positive_threshold = positive_threshold
        self.n_neighbours = n_neighbours
        self.penalty = penalty
        self.exclude_seen = exclude_seen
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    def _counted(self, histories: Histories, n_items: int, parts: dict[str, Any]) -> dict[str, Any]:
        memory = ItemMemory.fit(
            histories, n_items, n_neighbours=self.n_neighbours, next_penalty=self.penalty
        )
        memory = replace(memory, fading=0.0)  # as the method is known: all likes count alike
        likes = parts["likes"]
        scores = (_TIE * likes / max(likes.max(), 1)).astype(np.float32)
        return parts | {"weights": {"scores": scores}, "memory": WeighedMemory(memory, 1.0)}


def _warn_of_feedback(events: Interactions, feedback: Any, *, has_likes: bool) -> None:
    warn_of_unread(events, feedback, stacklevel=5)
    if not has_likes:
        warnings.warn(
            f"None of the {events.n_rows} events is liked, so there is nothing to recommend by. If "
            "some are meant to be liked, check the feedback and positive_threshold.",
            UserWarning,
            stacklevel=4,
        )
