"""A scikit-learn pipeline that recommends: raw ids in, raw ids out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline, _name_estimators
from sklearn.utils.metaestimators import available_if

from posneg_rec.interactions import is_frame, is_history, is_table, table_like

__all__ = ["RecommenderPipeline", "make_recommender_pipeline"]


def _final_has(method: str) -> Callable[[Any], bool]:
    """Whether the last step can do it; asking for a method it lacks raises AttributeError."""

    def check(pipeline: Any) -> bool:
        getattr(pipeline.steps[-1][1], method)
        return True

    return check


class RecommenderPipeline(Pipeline):
    """A :class:`~sklearn.pipeline.Pipeline` whose last step recommends.

    Parameters and attributes are those of ``Pipeline``. Tables go through the transformers
    before they reach the last step; a single history, and a list of histories, holds no rows to
    transform and goes to it as it is.
    """

    def _transformed(self, interactions: Any) -> Any:
        if is_history(interactions) or not is_table(interactions):
            return interactions
        for _, _, transformer in self._iter(with_final=False):
            interactions = transformer.transform(interactions)
        return interactions

    @property
    def _recommender(self) -> Any:
        return self.steps[-1][1]

    @available_if(_final_has("recommend"))
    def recommend(self, interactions: Any, k: int = 10, **options: Any) -> Any:
        """Recommend k items, see :meth:`ContrastiveSeqRecommender.recommend`.

        Parameters
        ----------
        interactions : history, table or list of histories
        k : int, default=10
        **options
            `feedback`, `exclude_seen`, `allowed_items`, `denied_items`.

        Returns
        -------
        (items, scores) or table
        """
        answer = self._recommender.recommend(self._transformed(interactions), k, **options)
        if not is_frame(interactions) or is_frame(answer):
            return answer
        # A transformer turned the frame into an array; the caller gets a frame back.
        return table_like(interactions, {name: answer[name] for name in answer.dtype.names})

    @available_if(_final_has("score_items"))
    def score_items(self, history: Any, items: Any = None, **options: Any) -> Any:
        """Score items, see :meth:`ContrastiveSeqRecommender.score_items`."""
        return self._recommender.score_items(history, items, **options)

    @available_if(_final_has("similar_items"))
    def similar_items(self, item: Any, k: int = 10) -> Any:
        """Find similar items, see :meth:`ContrastiveSeqRecommender.similar_items`."""
        return self._recommender.similar_items(item, k)

    @available_if(_final_has("unknown_items"))
    def unknown_items(self, interactions: Any) -> Any:
        """Name unknown items, see :meth:`ContrastiveSeqRecommender.unknown_items`."""
        return self._recommender.unknown_items(self._transformed(interactions))

    @available_if(_final_has("target_ranks"))
    def target_ranks(self, interactions: Any, feedback: Any = None, **options: Any) -> Any:
        """Rank what came next, see :meth:`ContrastiveSeqRecommender.target_ranks`."""
        return self._recommender.target_ranks(self._transformed(interactions), feedback, **options)


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
    return RecommenderPipeline(_name_estimators(steps), memory=memory, verbose=verbose)
