"""A user's program, for type checkers: each claim is checked, and each ignored error must be one.

mypy and pyright read it; nothing runs it.
"""

from typing import Any, assert_type

import numpy as np
import polars as pl
from numpy.typing import NDArray

import posneg_rec
from posneg_rec import (
    ContrastiveSeqRecommender,
    RareItemMasker,
    SequenceBuilder,
    make_recommender_pipeline,
)
from posneg_rec.pipeline import RecommenderPipeline

Ranking = tuple[NDArray[Any], NDArray[np.float32]]

table = pl.DataFrame({"user": ["ann"], "item": ["tea"], "time": [1]})
feedback = [5]

# A fit is a recommender again, of a subclass, too.
model = ContrastiveSeqRecommender(positive_threshold=4, random_state=0)
assert_type(model.fit(table, feedback), ContrastiveSeqRecommender)
assert_type(model.partial_fit(table, feedback), ContrastiveSeqRecommender)


class Shop(ContrastiveSeqRecommender):
    """A recommender with a name of its own."""


assert_type(Shop().fit(table, feedback), Shop)
assert_type(Shop.load("shop.posneg"), Shop)

# What is answered depends on what was asked.
assert_type(model.recommend(["tea", "soup"], k=3), Ranking)
assert_type(model.recommend([1, 2], feedback=[True, False], times=[0, 9]), Ranking)
assert_type(model.recommend(table, k=3, feedback=feedback), pl.DataFrame)
assert_type(model.recommend([["tea"], ["soup", "tea"]], exclude_seen=False), NDArray[np.void])
assert_type(model.recommend([[1, 2], [3]], denied_items=[3]), NDArray[np.void])

items, scores = model.recommend(["tea"], k=3, allowed_items=["soup"], dislike_aversion=2.0)
assert_type(scores, NDArray[np.float32])
assert_type(model.similar_items("tea"), Ranking)
assert_type(model.score_items(["tea"], ["soup"]), NDArray[np.float32])
assert_type(model.score(table, feedback), float)
assert_type(model.target_ranks(table, feedback), posneg_rec.metrics.TargetRanks)

# What a fit leaves behind.
assert_type(model.items_, NDArray[Any])
assert_type(model.item_likes_, NDArray[np.int64])
assert_type(model.weights_, dict[str, NDArray[np.float32]])
assert_type(model.history_, dict[str, list[Any]])
assert_type(model.n_iter_, int)
assert_type(model.excludes_seen_, bool)

# The same through a pipeline.
assert_type(SequenceBuilder().fit(table), SequenceBuilder)
assert_type(RareItemMasker().fit(table), RareItemMasker)
pipeline = make_recommender_pipeline(SequenceBuilder(max_length=20), model)
assert_type(pipeline.fit(table, feedback), RecommenderPipeline)
assert_type(pipeline.recommend(["tea"], k=3), Ranking)
assert_type(pipeline.recommend(table, feedback=feedback), pl.DataFrame)

# Submodules come with the package.
assert_type(
    posneg_rec.metrics.evaluate(model, table, feedback, random_state=0),
    posneg_rec.metrics.Evaluation,
)
posneg_rec.model_selection.TemporalSplit(quantile=0.9)
posneg_rec.datasets.make_opposing_patterns(n_users=10)

# Errors that a type checker finds before a run does.
model.recommend(["tea"], n=3)  # type: ignore[call-overload]
pipeline.recommend(table, aversion=3.0)  # type: ignore[call-overload]
model.recommend(["tea"], dislike_aversion="much")  # type: ignore[call-overload]
ContrastiveSeqRecommender(objective="joined")  # type: ignore[arg-type]
posneg_rec.metric.evaluate  # type: ignore[attr-defined]  # noqa: B018
