"""The transformers that go before a model."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from tables import BIG, EVENTS, LAW, MASKED

from posneg_rec.frames import MISSING_ID
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    build_histories,
    read_interactions,
)
from posneg_rec.preprocessing import RareItemMasker, SequenceBuilder


@parametrize_with_checks(
    [
        SequenceBuilder(),
        SequenceBuilder(duplicates="last", max_length=3),
        RareItemMasker(),
        RareItemMasker(min_users_per_item=1, min_items_per_user=1),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


EVENT_TABLE = pd.DataFrame(
    {
        "user": [5, 5, 4, 5, 4, 5, 5],
        "item": [BIG, 11, 11, BIG, 13, 13, 12],
        "time": [30, 10, 7, 20, 7, 90, 95],
    }
)


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6]),
        ({"duplicates": "last"}, [0, 1, 2, 4, 5, 6]),
        ({"min_events": 3}, [0, 1, 3, 5, 6]),
        # Only what duplicates leaves is counted.
        ({"min_events": 5, "duplicates": "last"}, []),
        ({"max_length": 4}, [0, 2, 3, 4, 5, 6]),
        ({"max_length": 2}, [2, 4, 5, 6]),
        ({"max_length": 1}, [4, 6]),  # rows 2 and 4 are of one time: the later row is the last
        # A long sequence counts as long before it is cut.
        ({"max_length": 2, "min_events": 3}, [5, 6]),
    ],
)
def test_sequences(parameters, kept):
    sequences = SequenceBuilder(**parameters).fit_transform(EVENT_TABLE)
    expected = np.full((7, 3), MISSING_ID)
    expected[kept] = EVENT_TABLE.to_numpy()[kept]
    assert sequences.tolist() == expected.tolist()
    assert sequences.dtype == np.int64


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"session_gap": 10}, ["5:0", "5:0", "4:0", "5:0", "4:0", "5:1", "5:1"]),
        ({"session_gap": 9.5}, ["5:2", "5:0", "4:0", "5:1", "4:0", "5:3", "5:3"]),
        (
            {"session_gap": 9.5, "min_events": 2},
            [None, None, "4:0", None, "4:0", "5:3", "5:3"],
        ),
        ({"session_gap": 10, "max_length": 2}, ["5:0", None, "4:0", "5:0", "4:0", "5:1", "5:1"]),
        ({"session_gap": 10, "max_length": 1}, ["5:0", None, None, None, "4:0", None, "5:1"]),
        (
            {"session_gap": 60, "duplicates": "last"},
            ["5:0", "5:0", "4:0", None, "4:0", "5:0", "5:0"],
        ),
        (
            {"session_gap": 10, "max_length": 2, "min_events": 3},
            ["5:0", None, None, "5:0", None, None, None],
        ),
    ],
)
def test_sessions(parameters, names):
    sessions = SequenceBuilder(**parameters).fit_transform(EVENT_TABLE)
    rows = EVENT_TABLE.to_numpy().tolist()
    assert sessions.dtype == object
    assert sessions.tolist() == [
        [None] * 3 if name is None else [name, *row[1:]]
        for name, row in zip(names, rows, strict=True)
    ]


@pytest.mark.parametrize(
    "users",
    [["a", "a\0"], ["a", "a:1"], ["a:1", "a:1:1"], ["", "\0", ":"], ["a", "A", "ä", "a\u0308"]],
)
def test_sessions_of_different_users_have_different_names(users):
    times = [0, 10, 20]  # three sessions each
    rows = [[user, item, time] for user in users for item, time in enumerate(times)]
    names = SequenceBuilder(session_gap=5).fit_transform(rows)[:, 0].tolist()
    assert [name.rpartition(":")[0] for name in names] == [row[0] for row in rows]
    assert [name.rpartition(":")[2] for name in names] == ["0", "1", "2"] * len(users)


@functools.total_ordering
class Anonymous:
    """An id whose text says nothing."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    def __lt__(self, other):
        return self.number < other.number

    def __hash__(self):
        return hash(self.number)

    def __repr__(self):
        return "<user>"


def test_users_of_one_text_have_no_sessions():
    rows = [[Anonymous(number), 0, 0] for number in (1, 2, 2)]
    with pytest.raises(ValueError, match=r"<user> and <user> have the same, '<user>': convert"):
        SequenceBuilder(session_gap=5).fit_transform(rows)
    assert len(SequenceBuilder().fit_transform(rows)) == 3


@pytest.mark.parametrize("zone", [None, "Europe/Vienna"])
@pytest.mark.parametrize("unit", ["s", "ns"])
@pytest.mark.parametrize("session_gap", [None, 3600])
def test_datetimes_stay_datetimes(unit, zone, session_gap):
    times = pd.Series(pd.to_datetime(["2020-01-02", None, "2020-01-01"])).astype(f"M8[{unit}]")
    table = pd.DataFrame({"user": ["u", None, "v"], "item": ["a", None, "b"], "time": times})
    if zone is not None:
        table["time"] = table["time"].dt.tz_localize(zone)
    builder = SequenceBuilder(session_gap=session_gap)
    direct, built = (read_interactions(rows) for rows in (table, builder.fit_transform(table)))
    assert built.time_unit == direct.time_unit == unit
    assert built.times.tolist() == direct.times.tolist()
    frame = builder.set_output(transform="pandas").fit_transform(table)
    assert read_interactions(frame).times.tolist() == direct.times.tolist()


@LAW
@given(EVENTS, st.sampled_from([{}, {"duplicates": "last"}, {"max_length": 2}, {"min_events": 2},
                                {"session_gap": 1}]))  # fmt: skip
def test_pauses_pass_unchanged(events, parameters):
    """What stays behind a builder has the gaps between events that it had in front of it."""
    table = pd.DataFrame([event[:3] for event in events], columns=["user", "item", "time"])
    built = SequenceBuilder(**parameters).fit_transform(table)
    kept = np.array([row[0] not in (None, MISSING_ID) for row in built.tolist()])
    assert built[kept][:, 1:].tolist() == table.to_numpy()[kept][:, 1:].tolist()


def test_sequences_without_times_follow_the_rows():
    table = np.array([["b", "x"], ["a", "y"], ["b", "y"]])
    builder = SequenceBuilder(max_length=1).fit(table)
    assert builder.transform(table).tolist() == [[None, None], ["a", "y"], ["b", "y"]]
    assert builder.get_feature_names_out().tolist() == ["sequence", "item"]
    assert builder.set_output(transform="pandas").transform(table).shape == (3, 2)
    with pytest.raises(ValueError, match=r"session_gap=5 needs times, but X has no time"):
        SequenceBuilder(session_gap=5).fit(table)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_sessions_of_datetimes_count_seconds(unit):
    times = pd.Series(pd.to_datetime(["2020-01-01 00:00", "2020-01-01 00:30", "2020-01-01 01:01"]))
    table = pd.DataFrame({"user": "u", "item": [1, 2, 3], "time": times.astype(f"M8[{unit}]")})
    built = SequenceBuilder(session_gap=1800).fit_transform(table)
    assert built[:, 0].tolist() == ["u:0", "u:0", "u:1"]
    # The unit outlives a step in between.
    masker = RareItemMasker(min_users_per_item=1, min_items_per_user=1)
    chained = make_pipeline(masker, SequenceBuilder(session_gap=1800)).fit_transform(table)
    assert chained.tolist() == built.tolist()


@pytest.mark.parametrize(
    "transformer", [SequenceBuilder(), RareItemMasker(min_users_per_item=1, min_items_per_user=1)]
)
@pytest.mark.parametrize(("kind", "missing"), [("floats", np.nan), ("integers", MISSING_ID),
                                               ("objects", None)])  # fmt: skip
def test_masked_rows_stay_masked(transformer, kind, missing):
    out = clone(transformer).fit_transform(MASKED[kind])
    assert out.dtype == MASKED[kind].dtype
    assert_array_equal(out[1], np.array([missing] * 3, dtype=out.dtype))
    assert out[[0, 2], :2].tolist() == MASKED[kind][[0, 2], :2].tolist()


@pytest.mark.parametrize("transformer", [SequenceBuilder(), RareItemMasker()])
@pytest.mark.parametrize("kind", ["floats", "integers", "objects"])
def test_all_rows_may_be_masked_in_transform_but_not_in_fit(transformer, kind):
    transformer = clone(transformer).fit(MASKED[kind])
    nothing = MASKED[kind][[1, 1]]
    assert_array_equal(transformer.transform(nothing), nothing)
    with pytest.raises(ValueError, match="all 2 rows are masked"):
        transformer.fit(nothing)


@LAW
@given(EVENTS, st.booleans(), st.sampled_from(["default", "pandas", "polars"]))
def test_sequences_read_back_as_the_same_histories(events, text, container):
    users, items, times, _ = (list(column) for column in zip(*events, strict=True))
    if text:
        items = [f"item {item}" for item in items]
    table = pd.DataFrame({"user": users, "item": items, "time": times})
    builder = SequenceBuilder(duplicates="last").set_output(transform=container)

    vocabulary = ItemVocabulary.from_ids(items)
    direct = build_histories(read_interactions(table), vocabulary, duplicates="last")
    read = read_interactions(builder.fit_transform(table))
    built = build_histories(read, vocabulary)

    assert read.n_rows == len(table)
    assert built.users.tolist() == direct.users.tolist()
    assert built.items.tolist() == direct.items.tolist()
    assert built.rows.tolist() == direct.rows.tolist()
    assert built.offsets.tolist() == direct.offsets.tolist()


@pytest.mark.parametrize("text", [False, True])
def test_output_containers(text):
    table = EVENT_TABLE.set_index(np.arange(7) + 100)
    table["extra"] = "not looked at"
    if text:
        table["user"] = table["user"].map("u{}".format)
    for transformer, names in [
        (SequenceBuilder(min_events=3), ["sequence", "item", "time"]),
        (RareItemMasker(min_users_per_item=2, min_items_per_user=1), ["user", "item", "time"]),
    ]:
        plain = transformer.fit_transform(table)
        assert transformer.get_feature_names_out().tolist() == names
        frame = transformer.set_output(transform="pandas").fit_transform(table)
        assert frame.columns.tolist() == names
        assert frame.index.tolist() == table.index.tolist()
        assert (frame["item"].notna() & (frame["item"] != MISSING_ID)).sum() not in (0, 7)
        again = transformer.set_output(transform="polars").fit_transform(pl.DataFrame(table))
        assert again.columns == names
        reads = [read_interactions(out) for out in (plain, frame, again)]
        for read in reads[1:]:
            assert read.users.tolist() == reads[0].users.tolist()
            assert read.items.tolist() == reads[0].items.tolist()
            assert read.times.tolist() == reads[0].times.tolist()
            assert read.rows.tolist() == reads[0].rows.tolist()


def test_integer_ids_beside_float_times_stay_exact():
    table = EVENT_TABLE.astype({"time": float})
    masked = RareItemMasker(min_users_per_item=1, min_items_per_user=1).fit_transform(table)
    assert masked[0].tolist() == [5, BIG, 30.0]
    assert SequenceBuilder().fit_transform(table)[0].tolist() == [5, BIG, 30.0]
    assert SequenceBuilder().fit_transform(table.to_numpy().tolist())[1].tolist() == [5, 11, 10]
    rows = [["u", BIG], ["u", 2]]
    assert SequenceBuilder().fit_transform(rows).tolist() == rows


def test_rare_items_then_users_with_few_items():
    #        item 1: users a b c; item 2: a b (a twice); item 3: a a a; item 4: b c
    users = list("aaaaaabbbcc")
    items = [1, 2, 2, 3, 3, 3, 1, 2, 4, 1, 4]
    table = pd.DataFrame({"user": users, "item": items})

    masker = RareItemMasker(min_users_per_item=2, min_items_per_user=3).fit(table)
    assert masker.items_.tolist() == [1, 2, 4]
    kept = [row[0] is not None for row in masker.transform(table).tolist()]
    # a has three events of items 1 and 2, but only two items; then item 2 is left with one user.
    assert kept == [False] * 6 + [True] * 3 + [False] * 2

    new = pd.DataFrame({"user": ["z"] * 4, "item": [1, 2, 4, 99]})
    assert masker.transform(new).tolist() == [["z", 1], ["z", 2], ["z", 4], [None, None]]


@pytest.mark.parametrize(
    ("transformer", "table", "text"),
    [
        (SequenceBuilder(), np.array([[1.0, 2.0], [np.nan, 3.0]]), "missing"),
        (SequenceBuilder(session_gap=5), np.array([[1, 2]]), "no time column"),
        (RareItemMasker(), np.array([[1.0, 2.0], [np.nan, 3.0]]), "missing"),
        (RareItemMasker(), np.full((1, 2), np.nan), "masked"),
    ],
)
def test_fit_that_fails_leaves_the_transformer_as_it_was(transformer, table, text):
    transformer = clone(transformer).fit(EVENT_TABLE)
    before = dict(vars(transformer))
    with pytest.raises(ValueError, match=text):
        transformer.fit(table)
    after = vars(transformer)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_feedback_stays_aligned_in_a_pipeline():
    feedback = np.array([1, 0, 1, 0, 1, 1, 0])
    steps = make_pipeline(RareItemMasker(min_users_per_item=2, min_items_per_user=1),
                          SequenceBuilder())  # fmt: skip
    read = read_interactions(steps.fit_transform(EVENT_TABLE, feedback), feedback)
    assert read.rows.tolist() == [1, 2, 4, 5]
    assert read.signs.tolist() == [-1, 1, 1, 1]


def test_movielens_after_the_first_step_of_the_papers_protocol(ml_1m):
    table = ml_1m[["user_id", "item_id", "timestamp"]]
    masker = RareItemMasker(min_users_per_item=5, min_items_per_user=5)
    read = read_interactions(masker.fit_transform(table))
    assert len(read.rows) == 999_611
    assert len(read.item_ids) == 3_416
    assert_array_equal(read.items, table["item_id"].to_numpy()[read.rows])
    assert_array_equal(read.times, table["timestamp"].to_numpy()[read.rows])
