"""A request that cannot be meant is told what it lacks, by the name of what was called."""

import uuid
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tiny import FEEDBACKS, HISTORIES, X, Y, tiny

from posneg_rec import (
    ContrastiveSeqRecommender,
    RareItemMasker,
    SequenceBuilder,
    make_recommender_pipeline,
)
from posneg_rec.baselines import ItemItemRecommender, PopularityRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import coverage_at_k, evaluate, gain
from posneg_rec.model_selection import TemporalSplit, UserHoldoutSplit


@pytest.fixture(scope="module")
def model():
    return tiny(max_epochs=1).fit(X, Y)


@pytest.fixture(scope="module")
def pipeline():
    return make_recommender_pipeline(SequenceBuilder(), tiny(max_epochs=1)).fit(X, Y)


@pytest.mark.parametrize("user", ["K23", b"K23", 23, np.int64(23), 2.5, uuid.UUID(int=3)], ids=repr)
def test_a_user_alone_is_no_question(model, pipeline, user):
    methods = (model.recommend, model.target_ranks, model.unknown_items, model.fit)
    for asked in (*methods, pipeline.recommend):
        with pytest.raises(TypeError, match="The model remembers no users: pass the user's items"):
            asked(user)
    with pytest.raises(ValueError, match="no user is remembered"):
        model.score_items(user)


@pytest.mark.parametrize("nothing", [None, np.array("K23"), {"K23": 1}, {1, 2}], ids=repr)
def test_what_is_no_table_is_told_what_a_table_is(model, pipeline, nothing):
    for asked in (model.recommend, model.target_ranks, pipeline.recommend):
        with pytest.raises((TypeError, ValueError), match=r"table|2D array|\[history\]"):
            asked(nothing)


@pytest.mark.parametrize("method", ["score", "target_ranks"])
@pytest.mark.parametrize("history", [range(3), {1: 2}.keys(), np.arange(3)], ids=repr)
def test_one_history_has_no_targets(model, pipeline, history, method):
    for asked in (model, pipeline):
        with pytest.raises((TypeError, ValueError), match=r"table|2D array|one dimension|history"):
            getattr(asked, method)(history)


@pytest.mark.parametrize("kind", [list, np.array, pd.Series])
def test_similar_items_speaks_of_itself(model, kind):
    with pytest.raises(ValueError, match=r"similar_items takes one item id, got .*0"):
        model.similar_items(kind([0, 1]))


def test_a_list_of_histories_is_still_one_question():
    model = tiny(max_epochs=1).fit(HISTORIES, FEEDBACKS)
    assert len(model.recommend(HISTORIES[:2], k=1)) == 2


def test_a_splitter_on_columns_in_another_order_names_their_parameters():
    times = pd.to_datetime(X[:, 2], unit="s")
    rows = pd.DataFrame({"who": X[:, 0], "when": times, "what": [f"i{k}" for k in X[:, 1]]})
    for table in (rows, rows.to_numpy()):
        with pytest.raises((TypeError, ValueError), match=r"TemporalSplit\(user_column=\.\.\."):
            next(TemporalSplit().split(table))


NUMBERS = {
    "penalty": lambda value, _: ItemItemRecommender(penalty=value).fit(X, Y),
    "n_neighbours": lambda value, _: ItemItemRecommender(n_neighbours=value).fit(X, Y),
    "min_events": lambda value, _: SequenceBuilder(min_events=value).fit(X, Y),
    "min_items_per_user": lambda value, _: RareItemMasker(min_items_per_user=value).fit(X),
    "max_len": lambda value, _: ContrastiveSeqRecommender(max_len=value).fit(X, Y),
    "learning_rate": lambda value, _: ContrastiveSeqRecommender(learning_rate=value).fit(X, Y),
    "n_users": lambda value, _: make_opposing_patterns(n_users=value),
    "n_splits": lambda value, _: TemporalSplit(n_splits=value),
    "quantile": lambda value, _: TemporalSplit(quantile=value),
    "test_size": lambda value, _: next(UserHoldoutSplit(test_size=value).split(X)),
    "k": lambda value, model: model.recommend([1], k=value),
    "k of a gain": lambda value, _: gain([1, 2], "ndcg", value),
    "n_items": lambda value, _: coverage_at_k([[1]], n_items=value),
    "n_bootstraps": lambda value, model: evaluate(model, X, Y, n_bootstraps=value),
}


@pytest.mark.parametrize("value", [True, False, np.True_, Fraction(7, 2), Fraction(1, 2)], ids=str)
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_size_is_named(model, name, value):
    with pytest.raises((TypeError, ValueError), match=name.split()[0]):
        NUMBERS[name](value, model)


@pytest.mark.parametrize(
    "item", [lambda n: (n, "a"), lambda n: ("a", (n, "b"))], ids=["flat", "deep"]
)
def test_a_frame_that_cannot_hold_the_answer_is_named(item):
    rows = np.empty((4, 2), dtype=object)
    for row, (user, n) in enumerate([(0, 0), (0, 1), (1, 1), (1, 0)]):
        rows[row] = user, item(n)
    model = PopularityRecommender().fit(rows, [1, 1, 1, 0])
    with (
        pytest.warns(UserWarning, match="fewer than k"),
        pytest.warns(UserWarning, match="can be one of the model's"),
        pytest.raises(ValueError, match="No pyarrow frame can hold the answer"),
    ):
        model.recommend(pa.table({"user": [7], "item": [b"x"]}))
