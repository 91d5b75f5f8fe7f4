"""A request that cannot be meant is told what it lacks, by the name of what was called."""

import uuid

import numpy as np
import pandas as pd
import pytest
from tiny import FEEDBACKS, HISTORIES, X, Y, tiny

from posneg_rec import SequenceBuilder, make_recommender_pipeline
from posneg_rec.model_selection import TemporalSplit


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
