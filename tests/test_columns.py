"""Which column is which: told, by name, or by position."""

from __future__ import annotations

import datetime as dt
from itertools import combinations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from posneg_rec import SequenceBuilder
from posneg_rec.columns import _COLUMN_NAMES
from posneg_rec.interactions import (
    read_interactions,
)


def test_columns_are_found_by_name_then_by_position():
    frame = pd.DataFrame(
        {"timestamp": [3], "noise": [None], "item_id": [2], "rating": [5], "user_id": [1]}
    )
    read = read_interactions(frame)
    assert (read.users, read.items, read.times) == (1, 2, 3)
    # What SequenceBuilder writes: one known name, the rest by position.
    read = read_interactions(pd.DataFrame({"sequence": [1], "item": [2], "position": [3]}))
    assert (read.users, read.items, read.times) == (1, 2, 3)
    read = read_interactions(pd.DataFrame([[1, 2, 3]]))
    assert (read.users, read.items, read.times) == (1, 2, 3)
    array = np.array([[3, 2, 1]])
    read = read_interactions(array, user_column=2, item_column=1, time_column=0)
    assert (read.users, read.items, read.times) == (1, 2, 3)
    read = read_interactions(frame, user_column="rating")
    assert (read.users, read.items, read.times) == (5, 2, 3)
    assert read_interactions(array, user_column=2).times is None


@pytest.mark.parametrize(
    ("columns", "arguments", "text"),
    [
        ({"a": [1], "b": [2]}, {"user_column": "c"}, r"user_column='c' is not one of .*\[a, b\]"),
        ({"a": [1], "b": [2]}, {"time_column": 2}, "time_column=2 is no position in 2 columns"),
        ({"a": [1], "b": [2]}, {"user_column": "b"}, r"the item among \[a, b\]: .*item_column="),
        ({"a": [1], "b": [2]}, {"user_column": 0, "item_column": "a"}, "must be different columns"),
        ({"user": [1], "user_id": [2], "item": [3]}, {}, "'user' and 'user_id' both name the user"),
        ({"date": [1], "time": [2], "user": [1], "item": [2]}, {}, "'time' both name the time"),
        (
            {"who": [1], "what": [2]},
            {},
            r"the user and the item among \[who, what\]: pass user_col",
        ),
        ({"who": [1], "item": [2], "time": [3]}, {}, r"the user among \[who, item, time\]"),
        ({"user": [1], "what": [2], "time": [3]}, {}, r"the item among \[user, what, time\]"),
        ({"user_0": [1], "user_1": [2]}, {}, r"among \[user_0, user_1\]"),
        ({"196": [1], "242": [2], "3": [3]}, {}, r"among \[196, 242, 3\]"),  # a row read as names
        (
            {"user": [1], "item": [2], "seen": [dt.datetime(2020, 1, 1)]},
            {},
            "'seen' holds datetimes: pass time_column='seen', or leave",
        ),
        (
            {"user": [1, 1], "item": [2, 3], "zeit": [None, "2020-01-31 08:00"]},
            {},
            r"'zeit' holds dates as text \('2020-01-31 08:00'\).*to_datetime.*time_column='zeit'",
        ),
        (
            {"user": [1], "item": [2], "wann": ["2020-12-01"]},
            {"user_column": "user", "item_column": "item"},
            r"'wann' holds dates as text .*or leave that column out",
        ),
        ({"q" * 1000: [1], "b": [2]}, {}, r"among \[q{47}\.\.\., b\]"),
    ],
)
def test_columns_that_cannot_be_told(columns, arguments, text):
    with pytest.raises(ValueError, match=text):
        read_interactions(pd.DataFrame(columns), **arguments)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
def test_numbers_like_times_are_told_where_no_time_is(frame):
    rows = {"user": [1, 1], "item": [2, 3], "zeit": [1_500_000_000, 1_400_000_000]}
    with pytest.warns(UserWarning, match=r"order of time, but 'zeit' .*1500000000.*time_column="):
        assert read_interactions(frame(rows)).times is None
    with pytest.warns(UserWarning, match="'zeit' holds numbers like seconds"):
        read_interactions(frame(rows | {"zeit": [1_500_000_000_123, 1_400_000_000_321]}))
    assert read_interactions(frame(rows), time_column="zeit").times is not None
    for others in (
        {"order_id": rows["zeit"]},  # warnings are errors here
        {"price": [1_500_000_000, 3]},
        {"time": [1, 2], "zeit": rows["zeit"]},
    ):
        read_interactions(frame({"user": [1, 1], "item": [2, 3]} | others))


@pytest.mark.parametrize("output", ["default", "pandas", "polars"])
def test_names_behind_a_transformer_are_told_where_to_go(output):
    rows = pd.DataFrame({"who": [1, 1, 2], "what": [3, 4, 3], "when": [1, 2, 3]})
    names = {"user_column": "who", "item_column": "what"}
    builder = SequenceBuilder(**names, time_column="when").set_output(transform=output)
    made = builder.fit_transform(rows)
    assert read_interactions(made).times is not None
    with pytest.raises(ValueError, match=r"user_column='who' .* to the first step that reads them"):
        read_interactions(made, **names)
    with pytest.raises(ValueError) as told:
        read_interactions(rows, user_column="x")
    assert "pipeline" not in str(told.value)


SPELLINGS = {
    ("user_id", "item_id", "weight", "datetime"): (0, 1, 3),
    ("movieId", "userId", "timestamp"): (1, 0, 2),
    ("rating", "userId", "movieId", "timestamp"): (1, 2, 3),
    ("keep__item", "keep__user", "keep__time"): (1, 0, 2),
    ("remainder__ITEM_ID", "remainder__USER_ID"): (1, 0, None),
    ("Event Time", "User ID", "Product-ID"): (1, 2, 0),
    ("asin", "parent", "uid"): (2, 0, None),
    ("created_at", "track", "customerNumber"): (2, 1, 0),
    ("reviewerID", "asin", "overall", "unixReviewTime"): (0, 1, 3),
    ("rating:float", "item_id:token", "user_id:token", "timestamp:float"): (2, 1, 3),
    ("m.id", "movie.id", "user.id"): (2, 1, None),
    ("title", "movieId", "username", "user", "date"): (3, 1, 4),  # ids come before names
    ("session_id", "user_id", "item_id", "time"): (1, 2, 3),
    ("Time", "ItemId", "SessionId"): (2, 1, 0),
    ("sequence", "item", "position"): (0, 1, 2),
    ("seq__item", "seq__position", "seq__sequence"): (2, 0, 1),
    ("sequence", "item", "time"): (0, 1, 2),
    ("user", "item", "position"): (0, 1, None),  # on a page
    ("user", "item", "play_time"): (0, 1, None),  # a duration
    ("x0", "x1", "x2"): (0, 1, 2),
    ("column_0", "column_1"): (0, 1, None),
    ("col_7", "col_3"): (0, 1, None),
    ("1", "2", "3"): (0, 1, 2),
} | {
    ("user", "item", name): (0, 1, None)
    for name in ("rating", "stars", "label", "liked", "score", "feedback", "weight", "y", "genre")
}


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame, pa.table])
@pytest.mark.parametrize(("names", "places"), SPELLINGS.items(), ids=map(str, SPELLINGS))
def test_names_decide(frame, names, places):
    read = read_interactions(frame({name: [10 * place] for place, name in enumerate(names)}))
    times = None if read.times is None else int(read.times[0]) // 10
    assert (read.users[0] // 10, read.items[0] // 10, times) == places


def test_no_name_is_of_two_roles():
    of_role = {role: set().union(*groups) for role, groups in _COLUMN_NAMES.items()}
    for one, other in combinations(of_role.values(), 2):
        assert not one & other
    for name in set().union(*of_role.values()):
        assert name == name.casefold()
        assert name.isalnum()


def test_names_of_several_levels():
    columns = pd.MultiIndex.from_tuples([("item", "id"), ("user", ""), ("time", "")])
    read = read_interactions(pd.DataFrame([[2, 1, 3]], columns=columns))
    assert (read.users, read.items, read.times) == (1, 2, 3)


def test_columns_that_are_passed_win():
    frame = pd.DataFrame({"user": [1], "item": [2], "time": [3], "other": [4]})
    read = read_interactions(frame, user_column="other")
    assert (read.users, read.items, read.times) == (4, 2, 3)
    read = read_interactions(frame, item_column=0, user_column=1, time_column="other")
    assert (read.users, read.items, read.times) == (2, 1, 4)
    read = read_interactions(frame.rename(columns={"user": "who"}), user_column="who")
    assert (read.users, read.items, read.times) == (1, 2, 3)


@pytest.mark.parametrize(
    ("index", "columns", "text"),
    [
        (pd.Index([5], name="user"), ["item"], r"'user' is in the index: pass .*reset_index\(\)"),
        (pd.Index([5], name="userId"), ["item", "time"], "'userId' is in the index"),
        (pd.Index([5], name="ts"), ["user", "item"], "'ts' is in the index"),
        (pd.to_datetime(["2020-01-01"]), ["user", "item"], r"reset_index\(names='time'\)"),
        (
            pd.MultiIndex.from_tuples([(1, 2)], names=["user", "n"]),
            ["item", "rating"],
            "'user' is in the index",
        ),
    ],
)
def test_what_is_in_the_index_is_not_overlooked(index, columns, text):
    with pytest.raises(ValueError, match=text):
        read_interactions(pd.DataFrame([[1] * len(columns)], index=index, columns=columns))


def test_two_columns_of_one_name():
    with pytest.raises(ValueError, match="two columns of interactions have one name"):
        read_interactions(pd.DataFrame([[1, 2, 3]], columns=["user", "item", "item"]))


WIDE = np.array([[196, 242, 3, 881250949], [186, 302, 5, 891717742]])


@pytest.mark.parametrize(
    "table",
    [
        WIDE,
        WIDE.astype(object),
        WIDE.astype("U9"),
        WIDE.astype(float)[:1],
        np.asfortranarray(WIDE),
        np.ma.array(WIDE),
        pd.DataFrame(WIDE),
        pl.DataFrame(WIDE),
        np.arange(30)[None],  # a history that somebody reshaped
    ],
)
def test_wide_tables_without_names_are_in_doubt(table):
    with pytest.raises((ValueError, TypeError), match=r"columns without names|has str|has text"):
        read_interactions(table)
    with pytest.raises((ValueError, TypeError), match=r"columns without names|has str|has text"):
        read_interactions(table, user_column=0, item_column=1)


def test_the_time_of_a_wide_table_is_passed():
    read = read_interactions(WIDE, time_column=3)
    assert read.times.tolist() == WIDE[:, 3].tolist()
    read = read_interactions(pd.DataFrame(WIDE), user_column=1, item_column=0, time_column=3)
    assert (read.users.tolist(), read.items.tolist()) == ([242, 302], [196, 186])


def test_an_array_has_no_column_names():
    with pytest.raises(ValueError, match="user_column='user' is a name, but an array has only"):
        read_interactions(np.ones((2, 3)), user_column="user")
