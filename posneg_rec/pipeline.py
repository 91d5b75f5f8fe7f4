"""A scikit-learn pipeline that recommends: raw ids in, raw ids out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self, Unpack, overload

import narwhals.stable.v2 as nw
import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from posneg_rec import persistence
from posneg_rec._sklearn import available_if, final_estimator_has, name_estimators
from posneg_rec._typing import Frame, History, Ranking, RecommendOptions
from posneg_rec._typing import Histories as ManyHistories
from posneg_rec.columns import columns_of
from posneg_rec.frames import as_frame, is_frame, is_history, is_table
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    Interactions,
    build_histories,
    check_no_store,
    check_table,
    read_interactions,
    read_table,
    table_like,
)
from posneg_rec.metrics import TargetRanks, recommender_scorer
from posneg_rec.model_selection import LastSeen, find_targets, warn_if_future_leaks
from posneg_rec.sequences import Histories

__all__ = ["RecommenderPipeline", "make_recommender_pipeline"]

_VALIDATION_SET = ("X_val", "y_val")


class RecommenderPipeline(Pipeline):
    """A :class:`~sklearn.pipeline.Pipeline` whose last step recommends.

    Parameters and attributes are those of ``Pipeline``. Tables go through the transformers
    before they reach the last step: what a transformer masks is neither history nor excluded as
    seen, and a user without a row left gets no answer. A single history, and a list of histories,
    holds no rows to transform and goes to the last step as it is.

    Transformers give one row out per row in. Users, targets and times are read as the first step
    that knows its columns reads them (one with `user_column`, as those of this library have),
    after the steps before it.

    See Also
    --------
    make_recommender_pipeline : Builds one without naming the steps.
    """

    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Fit the transformers one after the other, then the recommender.

        Parameters
        ----------
        X : frame or array of shape (n_rows, >= 2)
            Interactions, as in :meth:`ContrastiveSeqRecommender.fit`. A list of histories only if
            there is no transformer.
        y : array-like of shape (n_rows,), default=None
            Feedback.
        **params : dict of str to object
            `X_val` and `y_val`, the recommender's validation set: whichever way `X_val` comes, it
            goes through the fitted transformers first, as `transform_input` would have it. Other
            metadata such as `sample_weight`, as in :meth:`sklearn.pipeline.Pipeline.fit`
            (``step__sample_weight=``, or by its name where metadata routing is on).

        Returns
        -------
        self : RecommenderPipeline
        """
        if not sklearn.get_config()["enable_metadata_routing"]:
            last, _ = self.steps[-1]
            params = {
                f"{last}__{name}" if name in _VALIDATION_SET else name: value
                for name, value in params.items()
            }
        if not is_table(X) and self._transformers():
            # To a transformer a list is a list of rows.
            raise TypeError(
                "The transformers of a pipeline take tables (user, item[, time]), got a "
                f"{type(X).__name__}: pass an array or frame, or fit the recommender alone on a "
                "list of histories."
            )
        X = as_frame(X)
        super().fit(X, y, **params)
        if self._transformers():
            # Of the users as they are passed: a SequenceBuilder makes sessions of them.
            self._trained_until = LastSeen.of(_histories(self._read(X)))
        return self

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
        self, interactions: ManyHistories, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> NDArray[np.void]: ...

    @overload
    def recommend(
        self, interactions: Any, k: int = 10, **options: Unpack[RecommendOptions]
    ) -> Any: ...

    @available_if(final_estimator_has("recommend"))
    def recommend(self, interactions: Any, k: int = 10, **options: Any) -> Any:
        """Recommend k items, see :meth:`ContrastiveSeqRecommender.recommend`.

        Parameters
        ----------
        interactions : history, table or list of histories
        k : int, default=10
        **options
            `feedback`, `times`, `exclude_seen`, `allowed_items`, `denied_items`,
            `pinned_items`, `boosts`, `groups`, `max_per_group`, `diversity`, `dislike_aversion`.
            Filters by user are by those of the answer.

        Returns
        -------
        (items, scores) or table
            A table is of the kind that was passed, whatever the transformers made of it. Its
            users are those of the transformed table: after a
            :class:`~posneg_rec.SequenceBuilder` with `session_gap`, the sessions.

        Warns
        -----
        UserWarning
            If the transformers mask all rows: then the answer is empty.
        """
        interactions = as_frame(interactions)
        transformed = self._transformed(interactions)
        if self._is_masked(interactions, transformed):
            return self._no_answer(interactions, k, **options)
        answer = self._final_estimator.recommend(transformed, k, **options)
        if isinstance(answer, tuple) or type(answer) is type(interactions):
            return answer
        return table_like(interactions, _columns(answer), self._columns_as_passed() or None)

    @available_if(final_estimator_has("score_items"))
    def score_items(self, history: Any, items: Any = None, **options: Any) -> NDArray[np.float32]:
        """Score items, see :meth:`ContrastiveSeqRecommender.score_items`."""
        return self._final_estimator.score_items(history, items, **options)

    @available_if(final_estimator_has("explain"))
    def explain(self, history: Any, item: Any, **options: Any) -> Any:
        """Explain an item's score, see :meth:`ContrastiveSeqRecommender.explain`."""
        return self._final_estimator.explain(history, item, **options)

    @available_if(final_estimator_has("encode"))
    def encode(self, interactions: Any, **options: Any) -> Any:
        """Make vectors of histories, see :meth:`ContrastiveSeqRecommender.encode`."""
        return self._final_estimator.encode(self._transformed(as_frame(interactions)), **options)

    @available_if(final_estimator_has("rerank"))
    def rerank(self, history: Any, candidates: Any, k: int = 10, **options: Any) -> Any:
        """Rank an index's candidates, see :meth:`ContrastiveSeqRecommender.rerank`."""
        return self._final_estimator.rerank(history, candidates, k, **options)

    @available_if(final_estimator_has("similar_items"))
    def similar_items(self, item: Any, k: int = 10) -> Ranking:
        """Find similar items, see :meth:`ContrastiveSeqRecommender.similar_items`."""
        return self._final_estimator.similar_items(item, k)

    @available_if(final_estimator_has("unknown_items"))
    def unknown_items(self, interactions: Any) -> NDArray[Any]:
        """Name unknown items, see :meth:`ContrastiveSeqRecommender.unknown_items`."""
        if not is_history(interactions) and is_table(interactions):
            # Untransformed: a RareItemMasker masks just what the recommender does not know.
            interactions = self._read(as_frame(interactions)).item_ids
        return self._final_estimator.unknown_items(interactions)

    @available_if(final_estimator_has("liked_probabilities"))
    def liked_probabilities(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
    ) -> Any:
        """See :meth:`ContrastiveSeqRecommender.liked_probabilities`; of the rows left unmasked."""
        transformed = self._transformed(as_frame(interactions))
        return self._final_estimator.liked_probabilities(transformed, feedback, targets=targets)

    @available_if(final_estimator_has("target_ranks"))
    def score(self, X: Any, y: Any = None) -> float:
        """NDCG@10 on liked minus NDCG@10 on disliked last events; greater is better.

        Parameters
        ----------
        X, y
            Interactions and feedback; each user's last row is to be predicted, as in
            :meth:`target_ranks`.

        Returns
        -------
        float in [-1, 1]
        """
        return recommender_scorer()(self, X, y)

    @available_if(final_estimator_has("target_ranks"))
    def target_ranks(
        self,
        interactions: Any,
        feedback: Any = None,
        *,
        targets: Literal["last", "all"] | ArrayLike = "last",
        exclude_seen: bool | int | None = None,
        dislike_aversion: float | Sequence[float] | NDArray[Any] | None = None,
    ) -> Any:
        """Rank what came next, see :meth:`ContrastiveSeqRecommender.target_ranks`.

        What is to be predicted is read from the rows as they are passed, so that no transformer
        moves the goal: of a masked last row, no earlier one takes the place. If its item is
        unknown to the recommender the target counts as missed, as it does without a pipeline; if
        it was masked for another reason there is no target.

        Parameters
        ----------
        interactions : table or list of histories
        feedback : array-like, default=None
        targets : {"last", "all"} or bool array of shape (n_rows,), default="last"
        exclude_seen : bool or int, default=None
            None: as the recommender does by itself.
        dislike_aversion : float or sequence of float, default=None
            None: as the recommender does by itself.

        Returns
        -------
        TargetRanks, or a list of them
            Their users are those of the rows passed. Of a sequence of aversions one each.

        Warns
        -----
        FutureLeakWarning
            If last rows lie before rows of the same user that this object was trained on.
        UserWarning
            If the transformers mask all rows.
        """
        interactions = as_frame(interactions)
        transformed = self._transformed(interactions)
        recommender = self._final_estimator
        given = {"exclude_seen": exclude_seen, "dislike_aversion": dislike_aversion}
        options = {name: value for name, value in given.items() if value is not None}
        if not (is_table(interactions) and self._transformers()):
            return recommender.target_ranks(transformed, feedback, targets=targets, **options)
        events = self._read(
            interactions,
            feedback,
            positive_threshold=getattr(recommender, "positive_threshold", None),
            feedback_coding=getattr(recommender, "feedback_coding_", None),
        )
        histories = _histories(events)
        stops = find_targets(histories, targets, events.n_rows)
        # What was trained on is gone from a loaded pipeline.
        warn_if_future_leaks(
            self.__dict__.get("_trained_until"),
            histories,
            stops,
            self._columns_as_passed(),
            of_each_last=isinstance(targets, str) and targets == "last",
        )
        mask = np.zeros(events.n_rows, dtype=bool)
        mask[histories.rows[stops]] = True
        if self._is_masked(interactions, transformed):
            nothing = np.empty(0, dtype=np.int64)
            signs = np.empty(0, dtype=np.int8)
            none = TargetRanks(nothing, nothing, signs, nothing, len(recommender.items_))
            several: Any = dislike_aversion
            answered = [none for _ in several] if np.ndim(several) == 1 else none
        else:
            answered = recommender.target_ranks(transformed, feedback, targets=mask, **options)
        entries = np.flatnonzero(mask[events.rows])
        unknown = ItemVocabulary(recommender.items_).encode(events.item_ids) < 0

        def as_passed(answered: TargetRanks) -> TargetRanks:
            is_answered = np.isin(events.rows[entries], answered.rows)
            ranks = np.full(len(entries), answered.n_items + 1)
            ranks[is_answered] = answered.ranks  # both are in the order of the rows
            kept = is_answered | unknown[events.item_codes[entries]]
            told = entries[kept]
            return replace(
                answered,
                users=events.users[told],
                rows=events.rows[told],
                signs=events.signs[told],
                ranks=ranks[kept],
            )

        return list(map(as_passed, answered)) if isinstance(answered, list) else as_passed(answered)

    def _get_metadata_for_step(
        self, *, step_idx: int, step_params: Any, all_params: dict[str, Any]
    ) -> Any:
        """Let the recommender's validation set go through the transformers, once fitted."""
        params = super()._get_metadata_for_step(
            step_idx=step_idx, step_params=step_params, all_params=all_params
        )
        name, _ = _VALIDATION_SET
        if step_idx < len(self.steps) - 1 or name in (self.transform_input or ()):
            return params
        of_fit = params.get("fit", {})
        interactions = as_frame(of_fit.get(name))
        if interactions is None or not self._transformers():
            return params
        if not is_table(interactions):
            raise TypeError(
                f"The transformers of a pipeline take tables, but {name} is a "
                f"{type(interactions).__name__}: pass it as an array or frame, as X."
            )
        for transformer in self._transformers():
            interactions = transformer.transform(interactions)
        return dict(params) | {"fit": dict(of_fit) | {name: interactions}}

    def _transformers(self) -> list[Any]:
        return [transformer for _, _, transformer in self._iter(with_final=False)]

    def _transformed(self, interactions: Any) -> Any:
        check_is_fitted(self)
        if is_history(interactions) or not is_table(interactions):
            return interactions
        for transformer in self._transformers():
            interactions = transformer.transform(interactions)
        return interactions

    def _read(self, interactions: Any, feedback: Any = None, **options: Any) -> Interactions:
        """Read a table as the first step does that knows its columns."""
        check_no_store(interactions)
        check_table(interactions)
        n_before, reader = self._reader()
        n_rows = interactions.shape[0]
        for transformer in self._transformers()[:n_before]:
            interactions = transformer.transform(interactions)
            if interactions.shape[0] != n_rows:
                raise ValueError(
                    f"{type(transformer).__name__} made {interactions.shape[0]} rows of {n_rows}, "
                    "but the transformers of a pipeline must leave one row per row, so that "
                    "feedback stays aligned: make all fields of a row missing instead."
                )
        return read_interactions(interactions, feedback, **columns_of(reader), **options)

    def _reader(self) -> tuple[int, Any]:
        """Return the first step that knows its columns, and how many transformers precede it."""
        steps = [*self._transformers(), self._final_estimator]
        known = [hasattr(step, "user_column") for step in steps]
        place = known.index(True) if any(known) else len(steps) - 1
        return place, steps[place]

    def _columns_as_passed(self) -> dict[str, Any]:
        """Return the columns of a table as it is passed, where a step tells them."""
        n_before, reader = self._reader()
        return {} if n_before else columns_of(reader)

    def _is_masked(self, interactions: Any, transformed: Any) -> bool:
        """Tell, with a warning, whether the transformers left no row of a table."""
        if is_history(interactions) or not is_table(interactions) or not self._transformers():
            return False
        table = read_table(transformed, **columns_of(self._final_estimator))
        if len(table.user_codes):
            return False
        warnings.warn(
            f"The transformers mask all {table.n_rows} rows, so no user is left to answer.",
            UserWarning,
            stacklevel=3,
        )
        return True

    def _no_answer(self, interactions: Any, k: int, **options: Any) -> Any:
        """Make the answer to nobody, of the columns and types of any other."""
        # Of one user without a history, less that user.
        options = {name: value for name, value in options.items() if name not in _OF_USERS}
        answer = _columns(self._final_estimator.recommend([[]], k, **options))
        users = self._read(interactions).user_ids
        none = {name: values[:0] for name, values in (answer | {"user": users}).items()}
        return table_like(interactions, none)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out users and, once fitted, set callbacks, as the recommender does."""
        state: dict[str, Any] = super().__getstate__()
        dropped = {"_trained_until"}
        if self.__sklearn_is_fitted__():
            dropped.add("_skl_callbacks")
        return {name: value for name, value in state.items() if name not in dropped}

    def save(self, path: persistence.File) -> None:
        """Write the fitted pipeline to a file without pickle, readable by any later version.

        `memory`, a folder of this machine, is left out.

        Parameters
        ----------
        path : path-like or binary file object
            ``pipeline.posneg``, say. An existing file is replaced in one step.

        Raises
        ------
        TypeError
            If a step is none of this library and not "passthrough", or holds ids or parameters
            of a kind that needs pickle; use ``joblib.dump`` then.
        """
        for _, _, step in self._iter():
            check_is_fitted(step)
        persistence.write_pipeline(path, self, _saved_classes())

    @classmethod
    def load(cls, path: persistence.File, *, mmap: bool = False) -> Self:
        """Read a pipeline that :meth:`save` wrote; nothing in the file is executed.

        Parameters
        ----------
        path : path-like or binary file object
        mmap : bool, default=False
            As in :meth:`ContrastiveSeqRecommender.load`.

        Returns
        -------
        RecommenderPipeline

        Raises
        ------
        posneg_rec.persistence.ModelFileError
            If the file is no model file, damaged, made by a newer version or made up; a
            ValueError.
        """
        return persistence.read_pipeline(path, cls, _saved_classes(), mmap=mmap)


# What a request says of users and their events.
_OF_USERS = ("feedback", "allowed_items", "denied_items", "pinned_items")


def _saved_classes() -> dict[str, type]:
    """Return the classes that may be steps in a model file, by name."""
    from posneg_rec.preprocessing import RareItemMasker, SequenceBuilder
    from posneg_rec.recommender import ContrastiveSeqRecommender

    kinds = (ContrastiveSeqRecommender, RareItemMasker, SequenceBuilder)
    return {kind.__name__: kind for kind in kinds}


def _histories(events: Interactions) -> Histories:
    return build_histories(events, ItemVocabulary(events.item_ids))


def _columns(table: Any) -> dict[str, NDArray[Any]]:
    """Return the columns of an answer."""
    if is_frame(table):
        frame = nw.from_native(table, eager_only=True)
        return {name: frame[name].to_numpy() for name in frame.columns}
    return {name: table[name] for name in table.dtype.names}


def make_recommender_pipeline(
    *steps: BaseEstimator, memory: Any = None, verbose: bool = False
) -> RecommenderPipeline:
    """Chain transformers and a recommender, named by their classes.

    Parameters
    ----------
    *steps : estimators
        Row-aligned transformers (:class:`~posneg_rec.SequenceBuilder`,
        :class:`~posneg_rec.RareItemMasker`, ...), then the recommender.
    memory : str or joblib.Memory, default=None
        Caches fitted transformers, as in :func:`sklearn.pipeline.make_pipeline`.
    verbose : bool, default=False
        Print the time of each step.

    Returns
    -------
    RecommenderPipeline

    Examples
    --------
    >>> from posneg_rec import ContrastiveSeqRecommender, SequenceBuilder
    >>> from posneg_rec import make_recommender_pipeline
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> pipeline = make_recommender_pipeline(
    ...     SequenceBuilder(max_length=20),
    ...     ContrastiveSeqRecommender(embedding_dim=16, max_epochs=2, random_state=0))
    >>> items, scores = pipeline.fit(world.interactions, world.feedback).recommend([2, 72], k=3)
    >>> len(items)
    3
    """
    return RecommenderPipeline(name_estimators(steps), memory=memory, verbose=verbose)
