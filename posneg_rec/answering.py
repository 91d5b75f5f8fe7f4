"""What a fitted recommender answers, whichever way it was opened.

:class:`AnsweringMixin` has the methods that need no more than a fitted model, :class:`EncoderMixin`
also those of a trained one. Estimators have them from there, baselines those of the first alone,
and so has :class:`ServedRecommender`, which is that and nothing else: it opens in processes that
import neither scikit-learn nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn, Unpack, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec._typing import Frame, Histories, History, Ranking, RecommendOptions
from posneg_rec.columns import columns_of
from posneg_rec.frames import as_frame, is_frame, is_history
from posneg_rec.parameters import DEFAULTS, check_parameters

if TYPE_CHECKING:
    from posneg_rec.explanation import Explanation
    from posneg_rec.fitted import FittedModel, Reranked, Weights

__all__ = ["AnsweringMixin", "EncoderMixin", "ServedRecommender"]


class AnsweringMixin:
    """The answers of any fitted model."""

    fitted_: FittedModel
    verbose: int | None = None  # of an estimator without the parameter: silent
    user_column: str | int | None
    item_column: str | int | None
    time_column: str | int | None

    def _checked(self) -> FittedModel:
        """Take the fitted model: once a call, so that another fit cannot change it in between."""
        return self.fitted_

    # ------------------------------------------------------------------------------ recommending

    @overload
    def recommend(
        self, interactions: Frame, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> Frame: ...

    # A str is a sequence of str: what fits both is one history, and the first to fit is taken.
    @overload
    def recommend(  # type: ignore[overload-overlap]
        self, interactions: History, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> Ranking: ...

    @overload
    def recommend(
        self, interactions: Histories, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> NDArray[np.void]: ...

    @overload
    def recommend(
        self, interactions: Any, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> Any: ...

    def recommend(
        self,
        interactions: Any,
        k: int = 10,
        *,
        feedback: Any = None,
        times: Any = None,
        exclude_seen: bool | int | None = None,
        allowed_items: Any = None,
        denied_items: Any = None,
        pinned_items: Any = None,
        boosts: Mapping[Any, float] | None = None,
        groups: Mapping[Any, Any] | ArrayLike | None = None,
        max_per_group: int | None = None,
        diversity: float = 0.0,
        dislike_aversion: float | None = None,
    ) -> Any:
        """Recommend the k items that each history is most likely to continue with.

        Parameters
        ----------
        interactions : one history, or a table or list of histories
            One history is a flat list or 1-D array of item ids, oldest first. A table (as in
            :meth:`fit`) or a list of histories asks for many users at once.
        k : int, default=10
            How many items.
        feedback : array-like, default=None
            As in :meth:`fit`, of the same length; None means that everything was liked.
        times : array-like, default=None
            When each event of one history happened, in the unit of the fit's time column: "joint"
            reads the time between events. None is understood, and a little less exact.
        exclude_seen : bool or int, default=None
            Leave out what is in the history, liked or not. None does as the model was fitted, see
            `excludes_seen_`. A number n >= 1 leaves out what is among the last n events of the
            history alone, so that 1 is not True.
        allowed_items, denied_items : for all users or for each, default=None
            Recommend only from, or never from, these items. For all: an array-like or a set of
            item ids. For each user: a list with one such collection per user, in the order of the
            answer (a table's users in ascending order, a list's histories as they come); a dict
            {user id: collection}; or a boolean matrix of shape (n_users, n_items), SciPy's sparse
            or an array, whose columns are ``items_``. None in place of a user's collection is no
            limit. A dict may name others who are not asked for; who is asked for and not named has
            nothing denied, and is an error in `allowed_items`.
        pinned_items : for all users or for each, default=None
            Come first, in this order, where they are candidates: neither denied nor left out as
            seen, and with room in their group. Lists or dicts as above.
        boosts : dict of item id to float, default=None
            Added to the scores of these items, on the scale of the answer.
        groups : dict of item id to group, or array-like of shape (n_items,), default=None
            A category of each item, in an array of each of ``items_``. Items without one (not in
            the dict, None, NaN) are not limited.
        max_per_group : int, default=None
            Recommend at most so many items of one group, the best of them, pinned ones first.
            Goes with `groups`.
        diversity : float in [0, 1], default=0.0
            Weight of being unlike what stands higher in the list, see Notes. 0 changes nothing.
        dislike_aversion : float, default=None
            Instead of the constructor's, for this call.

        Returns
        -------
        items, scores : arrays of shape (k,)
            For one history: raw ids, best first, and their scores: ``log p(next)`` plus the log of
            what an item is worth, ``p(liked) - (dislike_aversion - 1) / 6 p(disliked)`` (up to an
            aversion of 1 ``p(liked)`` to its power), of "pnfrec" logits; they compare within one
            history alone. Boosts are part of them; pinned items and variety change the order, not
            the scores.
        table : frame, or structured array
            For many: columns user, item, score and rank (1 = best), of the kind of frame that was
            passed (a NumPy structured array for arrays and lists), users in sorted order.

        Warns
        -----
        UserWarning
            If fewer than k candidates are left; then the answer is shorter. If an item is pinned
            or boosted that the model does not know.

        Raises
        ------
        ValueError
            If a filter's number of users is not that of the answer, or its ids are of a type that
            the model does not have; if a baseline gets a `dislike_aversion` or `diversity`, for it
            knows no probability to be liked and no vectors.

        Notes
        -----
        Items that the model does not know are ignored (:meth:`unknown_items` names them). A
        history without a known item ("pnfrec": a known liked item) gets the popular and
        well-liked items. Equal scores rank by item code, the position in ``items_``.

        With `diversity` the list is made by maximal marginal relevance [1]_. Of the best
        ``max(10 k, 100)`` candidates (more where groups leave too few of them), the next item is
        that of the largest ``(1 - diversity) r - diversity max cos``: ``r`` is its score, brought
        to [0, 1] between the worst and the best of these candidates, and the maximum is over the
        cosines of its vector with those of the items before it, 0 for the first. Pinned items
        come before all others, which keep away from them as well, and a group that is full is
        passed over.

        References
        ----------
        .. [1] Carbonell, Goldstein: "The Use of MMR, Diversity-Based Reranking for Reordering
           Documents and Producing Summaries", SIGIR 1998. doi:10.1145/290941.291025.

        Examples
        --------
        >>> from posneg_rec import ContrastiveSeqRecommender
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=40, random_state=0)
        >>> model = ContrastiveSeqRecommender(embedding_dim=8, max_epochs=1, random_state=0)
        >>> model = model.fit(world.interactions, world.feedback)
        >>> items, _ = model.recommend([2, 72], k=3, pinned_items=[5, 2, 9], denied_items=[9])
        >>> items[0], len(items)  # 2 was seen
        (np.int64(5), 3)
        >>> table = model.recommend([[2], [72]], k=1, allowed_items={0: [7], 1: [8]})
        >>> table["item"]
        array([7, 8])
        """
        fitted, interactions = self._checked(), as_frame(interactions)
        if not (is_history(interactions) or is_frame(interactions)):
            # A frame's names say what its columns are; an array's positions need the fit's.
            fitted.check_width(interactions)
        return fitted.recommend(
            interactions,
            k,
            feedback=feedback,
            times=times,
            exclude_seen=exclude_seen,
            allowed_items=allowed_items,
            denied_items=denied_items,
            pinned_items=pinned_items,
            boosts=boosts,
            groups=groups,
            max_per_group=max_per_group,
            diversity=diversity,
            dislike_aversion=self._aversion(dislike_aversion),
            columns=columns_of(self),
            device=self._device(),
            verbose=self.verbose,
        )

    def score_items(
        self,
        history: Any,
        items: ArrayLike | None = None,
        *,
        feedback: Any = None,
        times: Any = None,
        dislike_aversion: float | None = None,
    ) -> NDArray[np.float32]:
        """Score given items after one history, whether seen or not.

        Parameters
        ----------
        history : list or 1-D array of item ids
            Oldest first.
        items : array-like of shape (n,), default=None
            Item ids; None means the whole catalogue in the order of ``items_``.
        feedback : array-like, default=None
            Of each event of the history; None means that everything was liked.
        times : array-like, default=None
            As in :meth:`recommend`.
        dislike_aversion : float, default=None
            Instead of the constructor's, for this call.

        Returns
        -------
        float32 array of shape (n,)
            NaN for items that the model does not know.
        """
        return self._checked().score_items(
            history,
            items,
            feedback=feedback,
            times=times,
            dislike_aversion=self._aversion(dislike_aversion),
        )

    def explain(
        self,
        history: Any,
        item: Any,
        *,
        feedback: Any = None,
        times: Any = None,
        dislike_aversion: float | None = None,
    ) -> Explanation:
        """Tell which events of a history raise an item, and which hold it down.

        Each event is left out in turn, and the item scored again: the difference is what the event
        does to the score, exactly. All are scored in one batch.

        Parameters
        ----------
        history : list or 1-D array of item ids
            Oldest first.
        item : item id
            Recommended or not, seen or not.
        feedback, times : array-like, default=None
            As in :meth:`recommend`.
        dislike_aversion : float, default=None
            Instead of the constructor's, for this call.

        Returns
        -------
        Explanation
            Arrays of effects, one of each event, split into what they do to ``log p(next)`` and
            to the log of the item's worth, and how much of it is the memory's. Shown, a short
            table.

        Raises
        ------
        ValueError
            If the model does not know the item.

        Examples
        --------
        >>> from posneg_rec import ContrastiveSeqRecommender
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=100, random_state=0)
        >>> model = ContrastiveSeqRecommender(
        ...     embedding_dim=16, max_epochs=5, batch_size=32, random_state=0)
        >>> model = model.fit(world.interactions, world.feedback)
        >>> history, feedback = [2, 72, 52, 44], [1, 1, 1, -1]
        >>> why = model.explain(history, 40, feedback=feedback)
        >>> without = model.score_items([2, 72, 52], [40], feedback=[1, 1, 1])
        >>> abs(why.effects[3] - (why.score - without[0])) < 1e-4
        np.True_
        """
        return self._checked().explain(
            history,
            item,
            feedback=feedback,
            times=times,
            dislike_aversion=self._aversion(dislike_aversion),
        )

    def unknown_items(self, interactions: Any) -> NDArray[Any]:
        """Name the items of a history, table or list of histories that the model does not know.

        Parameters
        ----------
        interactions : history, table or list of histories
            As in :meth:`recommend`.

        Returns
        -------
        array of shape (n_unknown,)
            Raw ids in sorted order.
        """
        return self._checked().unknown_items(as_frame(interactions), columns_of(self))

    # ------------------------------------------------------------------------------ shared parts

    def _aversion(self, of_call: float | None) -> float:
        """Tell how much the probability to be liked weighs in a call."""
        if of_call is not None:
            raise ValueError(
                f"A {type(self).__name__} knows no probability to be liked that an aversion could "
                f"weigh: leave dislike_aversion out, got {of_call!r:.50}."
            )
        return 0.0

    def _device(self) -> str:
        """Tell where many histories are answered."""
        return "cpu"

    @property
    def items_(self) -> NDArray[Any]:
        """Raw item ids by code."""
        return self._attribute("items")

    @property
    def item_likes_(self) -> NDArray[np.int64]:
        """How often each item was liked."""
        return self._attribute("likes")

    @property
    def feedback_coding_(self) -> str:
        """How the feedback was read."""
        return self._attribute("feedback_coding")

    @property
    def excludes_seen_(self) -> bool:
        """Whether seen items are no candidates."""
        return self._attribute("excludes_seen")

    @property
    def n_features_in_(self) -> int:
        """Number of columns of the table seen in fit."""
        return self._attribute("n_features_in")

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the columns of the table seen in fit."""
        return self._attribute("feature_names_in")

    def _attribute(self, name: str) -> Any:
        # As scikit-learn expects: an attribute that a fit did not leave behind does not exist.
        value = getattr(vars(self).get("fitted_"), name, None)
        if value is None:
            raise AttributeError(f"{type(self).__name__} has no fitted {name}.")
        return value


class EncoderMixin(AnsweringMixin):
    """The answers of a trained model, which has vectors of items and can weigh dislikes."""

    dislike_aversion: float

    def encode(
        self,
        interactions: Any,
        *,
        feedback: Any = None,
        times: Any = None,
        dislike_aversion: float | None = None,
    ) -> NDArray[np.float32]:
        """Make vectors of histories, whose products with ``item_vectors_`` rank the items.

        Parameters
        ----------
        interactions : one history, or a table or list of histories
            As in :meth:`recommend`.
        feedback, times : array-like, default=None
            As in :meth:`recommend`.
        dislike_aversion : float, default=None
            Instead of the constructor's, for this call. The vectors of the items are the same for
            all aversions.

        Returns
        -------
        float32 array of shape (n_histories, d')
            In the order of :meth:`recommend`'s answer: users sorted, lists as they came.

        See Also
        --------
        rerank : Exact scores of what an index found by these vectors.

        Notes
        -----
        ``encode(history) @ item_vectors_.T`` is

        - of "pnfrec" the score, exactly;
        - of "joint" never below the score, but for one number that is the same for all items of a
          history, and for what the neighbours of a memory of items add, which no few numbers hold.
          In place of the log of an item's worth stands its tangent at the logit that items mostly
          have.

        Items that a history holds already are found as well: ask an index for so many more.
        """
        fitted, interactions = self._checked(), as_frame(interactions)
        if not (is_history(interactions) or is_frame(interactions)):
            fitted.check_width(interactions)
        return fitted.encode(
            interactions,
            feedback=feedback,
            times=times,
            dislike_aversion=self._aversion(dislike_aversion),
            columns=columns_of(self),
        )

    def rerank(
        self,
        history: Any,
        candidates: ArrayLike,
        k: int = 10,
        *,
        feedback: Any = None,
        times: Any = None,
        exclude_seen: bool | int | None = None,
        dislike_aversion: float | None = None,
    ) -> Reranked:
        """Rank what an index of ``item_vectors_`` found for one history by its exact scores.

        To the candidates come the items that the memory raises as neighbours of the history's.
        Only these are scored, so this takes no longer for a large catalogue, but for what a
        memory adds up.

        Parameters
        ----------
        history : list or 1-D array of item ids
            Oldest first.
        candidates : array-like of shape (n_candidates,)
            Item ids. For `is_exact` to be true of the answer they must be the items of the
            greatest inner products with :meth:`encode`'s vector, seen ones included, in any order.
        k : int, default=10
            How many items.
        feedback, times : array-like, default=None
            As in :meth:`recommend`.
        exclude_seen : bool or int, default=None
            As in :meth:`recommend`.
        dislike_aversion : float, default=None
            Instead of the constructor's, for this call; the same as in :meth:`encode`.

        Returns
        -------
        Reranked
            A named tuple of items, scores and whether the items are certainly the best k of all.

        Raises
        ------
        ValueError
            If the model does not know a candidate.

        Warns
        -----
        UserWarning
            If fewer than k candidates are left; then the answer is shorter.

        Examples
        --------
        >>> import numpy as np
        >>> from posneg_rec import ContrastiveSeqRecommender
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=100, random_state=0)
        >>> model = ContrastiveSeqRecommender(
        ...     embedding_dim=16, max_epochs=5, batch_size=32, random_state=0)
        >>> model = model.fit(world.interactions, world.feedback)
        >>> history, feedback = [2, 72, 52, 44], [1, 1, 1, -1]
        >>> products = model.encode(history, feedback=feedback) @ model.item_vectors_.T
        >>> found = model.items_[np.argsort(-products[0])[:40]]  # as an index would
        >>> items, _, is_exact = model.rerank(history, found, k=3, feedback=feedback)
        >>> exact, _ = model.recommend(history, k=3, feedback=feedback)
        >>> is_exact, items.tolist() == exact.tolist()
        (True, True)
        """
        return self._checked().rerank(
            history,
            candidates,
            k,
            feedback=feedback,
            times=times,
            exclude_seen=exclude_seen,
            dislike_aversion=self._aversion(dislike_aversion),
        )

    def similar_items(self, item: Any, k: int = 10) -> tuple[NDArray[Any], NDArray[np.float32]]:
        """Find the k items whose vectors point most nearly in an item's direction.

        Parameters
        ----------
        item : item id
        k : int, default=10

        Returns
        -------
        items, similarities : arrays of shape (min(k, n_items - 1),)
            Raw ids and cosines in [-1, 1], best first; the item itself is left out.

        Raises
        ------
        ValueError
            If the model does not know the item.
        """
        return self._checked().similar_items(item, k)

    def _aversion(self, of_call: float | None) -> float:
        return self.dislike_aversion if of_call is None else of_call

    @property
    def item_vectors_(self) -> NDArray[np.float32]:
        """Vectors of items for an index, (n_items, d'), in the order of ``items_``; made anew."""
        return self._attribute("item_vectors")

    @property
    def weights_(self) -> Weights:
        """The parameters by name."""
        return self._attribute("weights")

    @property
    def item_dislikes_(self) -> NDArray[np.int64]:
        """How often each item was disliked."""
        return self._attribute("dislikes")

    @property
    def history_(self) -> dict[str, list[Any]]:
        """The log of all epochs."""
        return self._attribute("history")

    @property
    def n_iter_(self) -> int:
        """Epochs run."""
        return self._attribute("n_iter")

    @property
    def gap_edges_(self) -> NDArray[np.float64]:
        """Bounds between the ranges of time between events."""
        return self._attribute("gap_edges")

    @property
    def precision_(self) -> str:
        """Number format of the products in training."""
        return self._attribute("precision")


class ServedRecommender(EncoderMixin):
    """A recommender that answers, and does no more; made by :func:`posneg_rec.serving.load`.

    It has the methods, the arguments and the answers of :class:`ContrastiveSeqRecommender`, and
    the attributes of a fitted one. It cannot fit, score or save, and answers on the processor
    whatever the file says: another device would take torch.

    Parameters
    ----------
    **params : object
        Those of :class:`ContrastiveSeqRecommender`, of which answers depend on `dislike_aversion`
        and the names of columns.

    Attributes
    ----------
    fitted_ : FittedModel
        What all answers depend on; it never changes.
    """

    def __init__(self, **params: Any) -> None:
        vars(self).update(DEFAULTS | params)

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return list(DEFAULTS)

    def _validate_params(self) -> None:
        check_parameters({name: getattr(self, name) for name in DEFAULTS})

    def __repr__(self) -> str:
        """Return a short description."""
        return f"{type(self).__name__}({vars(self).get('fitted_')!r})"

    def __getattr__(self, name: str) -> NoReturn:
        """Say where to find what only the estimator has."""
        if name in _OF_THE_ESTIMATOR:
            raise AttributeError(
                f"A {type(self).__name__} answers and does no more. For {name} open the file with "
                "ContrastiveSeqRecommender.load(path), which takes scikit-learn."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


_OF_THE_ESTIMATOR = {
    "fit",
    "forget_items",
    "get_params",
    "liked_probabilities",
    "partial_fit",
    "save",
    "score",
    "set_callbacks",
    "set_params",
    "target_ranks",
}
