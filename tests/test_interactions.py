"""Data in: columns, feedback and histories."""

from __future__ import annotations

import datetime as dt
import sqlite3
import sys
import tracemalloc
import uuid
from collections import deque, namedtuple
from decimal import Decimal

import narwhals
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pyarrow import dataset
from scipy import sparse
from tables import BIG, EVENTS, FRAMES, LAW, MASKED, as_object_array

from posneg_rec import frames
from posneg_rec.frames import as_frame, is_frame, is_history, is_table
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    build_histories,
    check_not_empty,
    read_history,
    read_interactions,
    read_times,
    table_like,
)
from posneg_rec.preprocessing import RareItemMasker, SequenceBuilder
from posneg_rec.sequences import time_units

TABLES = FRAMES | {"object array": as_object_array}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize(
    ("users", "items"),
    [
        ([7, 5, 7, 6], [BIG, BIG - 1, BIG, 3]),
        (["u7", "u5", "ü", "u5"], ["b", "a", "b", ""]),
        ([0.5, -1.0, 0.5, 2.0], [10, 20, 10, 30]),
    ],
)
def test_every_table_reads_the_same(table, users, items):
    read = read_interactions(table({"user": users, "item": items, "time": [4, BIG, 2, 1]}))
    assert read.users.tolist() == users
    assert read.items.tolist() == items
    assert read.times.tolist() == [4, BIG, 2, 1]
    assert read.times.dtype == np.int64
    assert read.user_ids.tolist() == sorted(set(users))
    assert read.item_ids.tolist() == sorted(set(items))
    assert read.rows.tolist() == [0, 1, 2, 3]
    assert (read.n_rows, read.feedback_coding, read.signs.tolist()) == (4, "liked", [1] * 4)


@pytest.mark.parametrize("dtype", ["int8", "uint32", "uint64", "int64", "float32", "float64", "U2"])
def test_arrays_of_one_dtype(dtype):
    array = np.asfortranarray(np.array([[7, 30], [5, 20], [7, 20]]).astype(dtype))
    array.flags.writeable = False
    read = read_interactions(array)
    assert read.users.tolist() == array[:, 0].tolist()
    assert read.items.tolist() == array[:, 1].tolist()
    assert read.times is None


@pytest.mark.parametrize("frame", [pd.DataFrame, lambda columns: pl.DataFrame(columns)])
def test_other_sortable_objects_are_ids(frame):
    users = [uuid.UUID(int=9), uuid.UUID(int=2)]
    items = [b"y", b"x"]
    table = {"user": pd.Series(users, dtype=object), "item": pd.Series(items, dtype=object)}
    if frame is not pd.DataFrame:
        table = {"user": pl.Series(users, dtype=pl.Object), "item": pl.Series(items)}
    read = read_interactions(frame(table))
    assert read.users.tolist() == users
    assert read.user_ids.tolist() == users[::-1]
    assert read.items.tolist() == items


def test_integers_in_object_columns_are_integers():
    column = pl.Series([BIG, 5, BIG], dtype=pl.Object)
    read = read_interactions(pl.DataFrame({"user": column, "item": column}))
    assert read.users.dtype == np.int64
    assert read.users.tolist() == [BIG, 5, BIG]


def test_tuples_are_ids_in_an_object_column():
    column = np.empty(2, dtype=object)
    column[:] = [("a", 1), ("a", 0)]
    read = read_interactions(pd.DataFrame({"user": [1, 1], "item": column}))
    assert read.items.tolist() == [("a", 1), ("a", 0)]


@pytest.mark.parametrize(
    "times",
    [
        pd.Series(pd.to_datetime(["2020-01-02", "2020-01-01"])).astype("datetime64[us]"),
        pd.Series(pd.to_datetime(["2020-01-02", "2020-01-01"], utc=True)).dt.as_unit("us"),
        pl.Series([dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 1)]),
        pl.Series([dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 1)]).dt.replace_time_zone("UTC"),
        pd.Series([dt.datetime(2020, 1, 2), dt.datetime(2020, 1, 1)], dtype=object),
    ],
    ids=["pandas", "pandas UTC", "polars", "polars UTC", "objects"],
)
def test_datetimes_become_integers_of_their_unit(times):
    frame = pl.DataFrame if isinstance(times, pl.Series) else pd.DataFrame
    read = read_interactions(frame({"user": [1, 1], "item": [1, 2], "time": times}))
    assert read.times.dtype == np.int64
    assert read.time_unit == "us"
    assert np.diff(read.times).tolist() == [-86_400_000_000]
    assert read.times[1] == 1_577_836_800_000_000


@pytest.mark.parametrize(
    ("interactions", "error", "text"),
    [
        (np.empty((0, 3)), ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1"),
        (pd.DataFrame({"user": [], "item": []}), ValueError, r"0 sample\(s\) .* minimum of 1"),
        (np.empty((3, 0)), ValueError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 2"),
        (np.ones((3, 1)), ValueError, r"1 feature\(s\) \(shape=\(3, 1\)\) while a minimum of 2"),
        (pl.DataFrame({"user": [1]}), ValueError, r"1 feature\(s\) \(shape=\(1, 1\)\)"),
        ([], ValueError, r"0 sample\(s\) while a minimum of 1"),
        (np.ones(3), ValueError, r"Reshape your data.*goes in a list, \[history\]"),
        (pd.Series([1, 2]), ValueError, "Reshape your data"),
        (5, TypeError, r"got int 5: one value goes in a list, \[5\]. The model remembers no users"),
        ({1, 2}, TypeError, "got set: a set has no order"),
        (deque([1, 2]), ValueError, "Reshape your data"),
        (object(), TypeError, "got builtins object"),
        (iter([1]), TypeError, r"got list_iterator: .*pass list\(\.\.\.\)"),
        ({1: [2, 3]}, TypeError, r"list\(x.values\(\)\) if histories"),
        ("x" * 10**5, TypeError, r"got str 'x{46}\.\.\.: one value goes"),
        (np.ones((2, 2, 2)), ValueError, "dim 3"),
        (np.ones((2, 2)) * 1j, ValueError, "Complex data not supported"),
        (sparse.csr_array(np.eye(3)), TypeError, "Sparse data was passed.*column_stack"),
        ({"user": [1], "item": [1]}, TypeError, "got dict"),
        ("abc", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (pl.LazyFrame({"user": [1], "item": [1]}), TypeError, r"pass interactions.collect\(\)"),
        (np.array([[True, False]]), TypeError, r"column 0 \(user\) has dtype bool"),
        (np.array([[1, 2**63]], dtype=np.uint64), ValueError, r"1 \(item\), row 0: .*into int64"),
        (np.array([[1, 2**64]], dtype=object), ValueError, "outside int64"),
        (np.array([["a", 1], ["b", "c"]], dtype=object), TypeError, r"1 \(item\).*int and str"),
        (np.array([[1.0, 2.0], [1.0, np.inf]]), ValueError, r"1 \(item\), row 1: inf is not"),
        (np.array([["a", "b", "3"]]), TypeError, r"2 \(time\) has text such as '3'.*use a frame"),
        (pl.DataFrame({"user": [[1]], "item": [1]}), TypeError, r"List\(Int64\)"),
        (pl.DataFrame({"user": [{"a": 1}], "item": [1]}), TypeError, "Struct"),
        (pd.DataFrame({"user": [[1]], "item": [1]}), TypeError, "got list"),
        (
            pl.DataFrame({"user": [1], "item": [1]}, schema_overrides={"user": pl.Int128}),
            TypeError,
            "Int128",
        ),
        (
            pd.DataFrame({"user": [1], "item": pd.to_datetime(["2020-01-01"])}),
            TypeError,
            r"'item' \(item\) has dtype datetime64",
        ),
    ],
)
def test_tables_that_cannot_be_read(interactions, error, text):
    with pytest.raises(error, match=text):
        read_interactions(interactions)


def dtype_of(values):
    return object if isinstance(values, list) and type(values[0]) is dt.datetime else None


@pytest.mark.parametrize(
    ("times", "error", "text"),
    [
        (["2020-01-01"], TypeError, r"'time' \(time\) has str such as '2020-.*pd.to_datetime\("),
        (pd.period_range("2020", periods=1, freq="M"), TypeError, "Period such as"),
        ([Decimal(1)], TypeError, "Decimal such as"),
        ([True], TypeError, "has dtype bool"),
        ([dt.time(1)], TypeError, "has time such as"),
        ([np.inf], ValueError, "row 0: inf is not finite"),
        ([2**64], ValueError, "does not hold times"),
        (
            [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1)],
            TypeError,
            "some datetimes with a time zone and some without",
        ),
        ([dt.timedelta(1)], TypeError, "timedelta64"),
    ],
)
def test_times_that_cannot_be_read(times, error, text):
    with pytest.raises(error, match=text):
        read_interactions(
            pd.DataFrame({"user": 1, "item": 1, "time": pd.Series(times, dtype=dtype_of(times))})
        )


# -- Missing values and masked rows ----------------------------------------------------------


@pytest.mark.parametrize("table", MASKED.values(), ids=MASKED)
def test_masked_rows_are_skipped(table):
    feedback = [1, np.nan, 0]  # of a masked row, nobody looks at the feedback
    read = read_interactions(table, feedback)
    assert read.rows.tolist() == [0, 2]
    assert read.n_rows == 3
    assert read.signs.tolist() == [1, -1]
    assert len(read.user_ids) == len(read.item_ids) == 2
    # As lists: NumPy would compare a float that lost its last digit as equal.
    assert read.users.tolist()[0] in ("a", BIG, 7)
    assert read.items.tolist()[0] in (BIG, 30)


def test_bad_feedback_is_named_by_the_callers_row():
    with pytest.raises(ValueError, match=r"feedback, row 2: 7 is not among"):
        read_interactions(MASKED["integers"], [1, 0, 7])
    with pytest.raises(ValueError, match=r"feedback, row 2: nan \(NaN"):
        read_interactions(MASKED["integers"], [1, 0, np.nan])


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", ["floats", "integers", "objects"])
def test_a_row_missing_in_part_is_an_error(kind, place):
    array = MASKED[kind].copy()
    array[2, place] = array[1, place]
    role = ("user", "item", "time")[place]
    with pytest.raises(ValueError, match=rf"column {place} \({role}\), row 2: .* missing \(NaN"):
        read_interactions(array)
    frame = pl.DataFrame({"user": ["a", "b"], "item": [1, 2], "time": [1, 2]})
    frame[1, role] = None
    with pytest.raises(ValueError, match=rf"column '{role}' \({role}\), row 1: .* missing"):
        read_interactions(frame)


@pytest.mark.parametrize(
    "table",
    [
        np.full((2, 3), np.nan),
        pl.DataFrame({"user": [None, None], "item": [None, None]}),
        pl.DataFrame(
            {"user": [None, None], "item": [None, None]},
            schema=dict.fromkeys(("user", "item"), pl.String),
        ),
        pd.DataFrame({"user": [None, None], "item": [None, None]}, dtype="str"),
    ],
)
def test_nothing_but_masked_rows_is_an_error(table):
    with pytest.raises(ValueError, match=r"0 sample\(s\).*all 2 rows are masked"):
        read_interactions(table)


# -- Feedback --------------------------------------------------------------------------------


# -- Lists of histories, and one history -----------------------------------------------------


@pytest.mark.parametrize(
    "histories",
    [
        [[10, 20], [], [30]],
        ((10, 20), (), (30,)),
        [np.array([10, 20]), np.array([], dtype=int), pl.Series([30])],
        [pd.Series([10, 20], index=[7, 3]), pd.Index([], dtype=int), pa.array([30])],
        [range(10, 30, 10), (), deque([30])],
        [pd.array([10, 20], dtype="Int8"), [], {30: "x"}.keys()],
    ],
)
def test_a_list_of_histories(histories):
    read = read_interactions(histories, [[1, 0], [], [1]])
    assert read.users.tolist() == [0, 0, 2]
    assert read.user_ids.tolist() == [0, 1, 2]
    assert read.items.tolist() == [10, 20, 30]
    assert read.signs.tolist() == [1, -1, 1]
    assert read.times is None
    built = build_histories(read, ItemVocabulary([20, 10]))
    assert built.offsets.tolist() == [0, 2, 2, 3]
    assert built.items.tolist() == [1, 0, -1]


def test_histories_may_be_empty():
    built = build_histories(read_interactions([[], []]), ItemVocabulary([1]), duplicates="last")
    assert built.offsets.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"0 sample\(s\).*all 2 histories are empty"):
        check_not_empty(read_interactions([[], []]))
    read = read_interactions([[], [1, 2, 1], []])
    check_not_empty(read)
    built = build_histories(read, ItemVocabulary([1, 2]), duplicates="last")
    assert built.items.tolist() == [1, 0]
    assert built.offsets.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize(
    ("histories", "feedback", "error", "text"),
    [
        ([1, 2], None, TypeError, "entry 0 is 1. Wrap a single history in a list"),
        (["ab", "c"], None, TypeError, "entry 0 is 'ab'"),
        ([[1], 2], None, TypeError, "entry 1 is 2"),
        ([[1], [2, None]], None, ValueError, "history 1, position 1: the item is missing"),
        ([[1], pd.array([2, None], dtype="Int8")], None, ValueError, "history 1, position 1: the"),
        ([[1], np.ma.array([2, 3], mask=[0, 1])], None, ValueError, "history 1, position 1: the"),
        ([[1], {2, 3}], None, TypeError, "entry 1 is a set, which has no order"),
        ([["u", 10], ["v", 20]], None, TypeError, "int and str.* If these are rows"),
        ([[[1], [2, 3]]], None, TypeError, "got list"),
        ([["a"], ["\ud800"]], None, ValueError, r"the id '\\ud800' holds a lone surrogate"),
        ([[10**400]], None, ValueError, "outside int64"),
        ([[1j]], None, TypeError, "complex"),
        ([[("a", [1])]], None, TypeError, "unhashable"),
        ([[Decimal("sNaN"), Decimal(1)]], None, TypeError, "signaling"),
        ([[Decimal("NaN")]], None, ValueError, "history 0, position 0: the item is missing"),
        ([["a"], "b" * 10**5], None, TypeError, r"entry 1 is 'b{46}\.\.\.\. Wrap"),
        ([[1.0], [2, np.inf]], None, TypeError, "float and int"),
        ([[1.0], [np.inf]], None, ValueError, "history 1, position 0: inf is not finite"),
        ([[1], ["a"]], None, TypeError, "int and str"),
        ([[1, 2], [3]], [[1, 0]], ValueError, "2 histories, 1 feedback lists"),
        ([[1, 2], [3]], [[1, 0], [1, 1]], ValueError, "history 1 has 1 items and 2 feedback"),
        ([[1, 2], [3]], [1, 0, 1], TypeError, "feedback: .* entry 0 is 1"),
        ([[1, 2], [3]], np.ones(3), TypeError, "feedback must be a list .* got ndarray"),
        ([[1, 2], [3]], [[1, 0], [4]], ValueError, "history 1, position 0: 4 is not among"),
        ([[1, 2], [3]], [[1, 0], [np.nan]], ValueError, "history 1, position 0: nan"),
    ],
)
def test_histories_that_cannot_be_read(histories, feedback, error, text):
    with pytest.raises(error, match=text):
        read_interactions(histories, feedback)


def test_one_history():
    items, signs = read_history(["b", "a"], [2, 5], positive_threshold=4)
    assert (items.tolist(), signs.tolist()) == (["b", "a"], [-1, 1])
    items, signs = read_history(np.array([BIG, 3]))
    assert (items.tolist(), signs.tolist()) == ([BIG, 3], [1, 1])
    items, signs = read_history(pl.Series([3]), [0], feedback_coding="signed")
    assert (items.tolist(), signs.tolist()) == ([3], [0])
    for history in (
        range(2, 4),
        pd.Index([2, 3]),
        pd.Series([2, 3], index=[1, 0]),
        pd.Categorical([2, 3]),
        pd.array([2, 3], dtype="UInt16"),
        pa.array([2, 3]),
        pa.array([2, 3]).dictionary_encode(),
        deque([2, 3]),
        {2: "a", 3: "b"}.keys(),
        {"a": 2, "b": 3}.values(),
        np.ma.array([2, 3]),
    ):
        assert is_history(history)
        items, signs = read_history(history, history, positive_threshold=3)
        assert (items.tolist(), signs.tolist()) == ([2, 3], [-1, 1])
    items, signs = read_history([], [])
    assert len(items) == len(signs) == 0


@pytest.mark.parametrize(
    ("history", "feedback", "error", "text"),
    [
        ([1, None], None, ValueError, "history: the id at position 1 is missing"),
        (pl.Series([1, None]), None, ValueError, "the id at position 1 is missing"),
        (
            pa.chunked_array([pa.array(["a", None]).dictionary_encode()]),
            None,
            ValueError,
            "position 1 is missing",
        ),
        ("abc", None, TypeError, "history must be a list"),
        ({1, 2}, None, TypeError, "history must be .* a set has no order"),
        (None, None, TypeError, "got NoneType: pass an empty list"),
        ("K23", None, TypeError, r"\['K23'\]. The model remembers no users: pass the user's items"),
        ({"a": 1}, None, TypeError, "got dict"),
        ((item for item in "ab"), None, TypeError, r"generator: .*pass list\("),
        ([{"item": 1}], None, TypeError, r"rows of \(user, item"),
        (pd.Series([[1, 2], [3]]), None, TypeError, r"got list.*each is a history, .*to_list\(\)"),
        (pl.Series([[1, 2], [3]]), None, TypeError, r"List\(Int64\).*pass series.to_list\(\)"),
        (pa.chunked_array([[[1, 2], [3]]]), None, TypeError, r"pass series.to_list\(\)"),
        (deque([1, "a"]), None, TypeError, "int and str"),
        (np.ma.array([1, 2], mask=[0, 1]), None, ValueError, "position 1 is missing"),
        (np.array([1.0, np.inf]), None, ValueError, "history, position 1: inf is not finite"),
        (["x" * 10**5, 1], None, TypeError, "int and str"),
        ([[1], [2]], None, TypeError, "got list"),
        ([1, 2], [1], ValueError, "2 interactions, 1 feedback"),
        ([1, 2], [0, 4], ValueError, "position 1: 4 is not among"),
    ],
)
def test_history_that_cannot_be_read(history, feedback, error, text):
    with pytest.raises(error, match=text):
        read_history(history, feedback)


def test_what_is_a_table_and_what_a_history():
    frame = pd.DataFrame({"user": [1], "item": [2]})
    for table in (frame, pl.DataFrame(frame), np.ones((2, 2))):
        assert is_table(table)
        assert not is_history(table)
    for history in ([1, 2], ("a",), [], np.array([1]), pd.Series([1]), pl.Series([1])):
        assert is_history(history)
    for histories in (
        [[1], [2]],
        [[]],
        ([1],),
        [np.array([1])],
        [pd.Series([1])],
        [pd.Index(["a"])],
        [range(3), [1]],
        [pa.array([1])],
    ):
        assert not is_table(histories)
        assert not is_history(histories)


Pair = namedtuple("Pair", "user item")


def rows_of_a_database(row_factory):
    connection = sqlite3.connect(":memory:")
    connection.row_factory = row_factory
    rows = connection.execute("select 1 as user, 10 as item union select 2, 20").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 10, 100), (1, 11, 101)],
        [("u", 10, 100)],
        ((1, 10), (2, 20)),
        [Pair(1, 10), Pair(2, 20)],
        list(np.array([(1, 10), (2, 20)], dtype="i8,i8")),
        rows_of_a_database(None),
        rows_of_a_database(sqlite3.Row),
    ],
)
def test_a_list_of_rows_is_no_list_of_histories(rows):
    with pytest.raises(TypeError, match=r"look like rows.*pd.DataFrame\(rows.*list\(history\)"):
        read_interactions(rows, [1] * len(rows))


def test_a_list_of_records_is_no_list_of_histories():
    with pytest.raises(TypeError, match=r"list of dict\. .*pd.DataFrame\(rows"):
        read_interactions([{"user": 1, "item": 2}])


def test_arrays_of_two_dimensions_are_no_histories():
    with pytest.raises(TypeError, match="entry 1 is array"):
        read_interactions([[1], np.ones((2, 2))])


@pytest.mark.parametrize(
    "histories",
    [[[1, 10, 100], [1, 11, 101]], [(1, 10), (1, 11, 12)], [(1,), (2,)], [(1, 2), [3, 4]]],
)
def test_lists_and_tuples_of_ids_stay_histories(histories):
    read = read_interactions(histories)
    assert read.users.tolist() == [at for at, ids in enumerate(histories) for _ in ids]
    assert read.items.tolist() == [item for ids in histories for item in ids]


# -- Times of one history --------------------------------------------------------------------

DAYS = pd.to_datetime(["2020-01-01 01:00", "2020-01-02 01:00"])  # midnight in UTC, in Berlin
BERLIN = dt.timezone(dt.timedelta(hours=1))


@pytest.mark.parametrize(
    "times",
    [
        DAYS.tz_localize("Europe/Berlin"),
        pd.Series(DAYS.tz_localize("Europe/Berlin"), index=[4, 2]),
        pd.Series(DAYS.tz_localize("Europe/Berlin")).astype(object),
        list(DAYS.tz_localize("Europe/Berlin")),
        DAYS.tz_localize("Europe/Berlin").array,
        pl.Series(list(DAYS.to_pydatetime())).dt.replace_time_zone("Europe/Berlin"),
        pa.array(DAYS.tz_localize("Europe/Berlin")),
        [day.replace(tzinfo=BERLIN) for day in DAYS.to_pydatetime()],
        [dt.datetime(2019, 12, 31, 12, tzinfo=dt.timezone(dt.timedelta(hours=-12))),
         dt.datetime(2020, 1, 2, tzinfo=dt.UTC)],
        DAYS.floor("D"),
        list(DAYS.floor("D")),
        [dt.date(2020, 1, 1), dt.date(2020, 1, 2)],
        [dt.date(2020, 1, 1), dt.datetime(2020, 1, 2)],
        pa.array([dt.date(2020, 1, 1), dt.date(2020, 1, 2)], pa.date64()),
        np.array(["2020-01-01", "2020-01-02"], dtype="M8[D]"),
        np.array(["2020-01-01", "2020-01-02"], dtype="M8[s]").astype(">M8[s]"),
        np.array(["2020-01-01", "2020-01-02"], dtype="M8[12h]"),
    ],
)  # fmt: skip
def test_datetimes_of_a_history(times):
    values, unit = read_times(times, 2)
    assert values.astype(f"M8[{unit}]").astype("M8[s]").tolist() == [
        dt.datetime(2020, 1, 1),
        dt.datetime(2020, 1, 2),
    ]
    assert time_units(unit) > 0


@pytest.mark.parametrize("unit", ["Y", "M", "3M"])
def test_months_and_years_become_days(unit):
    times = np.array(["2020-01", "2024-01"], dtype=f"M8[{unit}]")
    values, read_unit = read_times(times, 2)
    assert (np.diff(values).tolist(), read_unit) == ([4 * 365 + 1], "D")
    rows = np.empty(2, dtype=[("user", "i8"), ("item", "i8"), ("time", times.dtype)])
    rows["time"] = times
    read = read_interactions(rows)
    days = np.diff(read.times) * time_units("D") / time_units(read.time_unit)
    assert days.tolist() == [4 * 365 + 1]


def test_nanoseconds_of_timestamps_are_kept():
    assert read_times([pd.Timestamp(1), pd.Timestamp(2)], 2)[0].tolist() == [1, 2]


def test_numbers_are_times():
    for times in ([3, 5], range(3, 7, 2), pl.Series([3, 5]), pa.array([3, 5]), (3.0, 5.0)):
        assert read_times(times, 2)[0].tolist() == [3, 5]


@pytest.mark.parametrize(
    ("times", "error", "text"),
    [
        (["2020-01-01", "2020-01-02"], TypeError, r"pd.to_datetime\(\.\.\.\)\.$"),
        (np.array(["a", "b"]), TypeError, r"text such as 'a'.*pd.to_datetime\(\.\.\.\)\.$"),
        (pl.Series(["a", "b"]), TypeError, r"pd.to_datetime\(\.\.\.\)\.$"),
        (["x" * 10**5, "y"], TypeError, r"such as 'x{46}\.\.\.\. Times"),
        ([1], ValueError, r"one entry per event of the history \(2\)"),
        ([[1], [2]], TypeError, "has list such as"),
        (np.ones((2, 1)), ValueError, "must be 1-D"),
        ([1, None], ValueError, "missing at position 1"),
        (np.ma.array([1, 2], mask=[1, 0]), ValueError, "missing at position 0"),
        (pd.Series([1, None], dtype="UInt8"), ValueError, "missing at position 1"),
        ([1.0, np.inf], ValueError, "times, position 1: inf"),
        ([2, 1], ValueError, "must not fall"),
        ({1, 2}, TypeError, "no order"),
        (5, TypeError, r"\[5\]"),
    ],
)
def test_times_of_a_history_that_cannot_be_read(times, error, text):
    with pytest.raises(error, match=text):
        read_times(times, 2)


# -- Types of columns ------------------------------------------------------------------------

NULLABLE = {
    f"pandas {dtype}": lambda values, dtype=dtype: pd.DataFrame(
        {"user": pd.array(values, dtype=dtype), "item": pd.array(values, dtype=dtype)}
    )
    for dtype in ("Int8", "UInt8", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64")
} | {
    f"{frame.__name__} {dtype}": lambda values, frame=frame, dtype=dtype: frame(
        {"user": pa.array(values, dtype), "item": pa.array(values, dtype)}
    )
    for dtype in (pa.int8(), pa.uint8(), pa.int16(), pa.uint32(), pa.uint64())
    for frame in (pa.table, pl.DataFrame)
} | {
    "pandas arrow": lambda values: pd.DataFrame(
        dict.fromkeys(["user", "item"], pd.array(values, dtype=pd.ArrowDtype(pa.uint8())))
    ),
}  # fmt: skip


@pytest.mark.parametrize("frame", NULLABLE.values(), ids=NULLABLE)
def test_integers_of_every_width_may_be_missing(frame):
    read = read_interactions(frame([100, None, 0, 127]))
    assert read.rows.tolist() == [0, 2, 3]
    assert read.users.tolist() == read.items.tolist() == [100, 0, 127]
    assert read.item_ids.dtype == np.int64


UUIDS = [uuid.UUID(int=9), uuid.UUID(int=2)]
STORED = {
    "uuid": (pa.array([one.bytes for one in UUIDS], pa.uuid()), UUIDS),
    "string_view": (pa.array(["b", "a"], pa.string_view()), ["b", "a"]),
    "large_string": (pa.array(["b", "a"], pa.large_string()), ["b", "a"]),
    "binary": (pa.array([b"b", b"a"]), [b"b", b"a"]),
    "binary_view": (pa.array([b"b", b"a"], pa.binary_view()), [b"b", b"a"]),
    "decimal": (pa.array([Decimal("1.5"), Decimal(1)]), [Decimal("1.5"), Decimal("1.0")]),
    "dictionary": (pa.array([BIG, 5]).dictionary_encode(), [BIG, 5]),
    "dictionary of text": (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
    "json": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["2", "1"])), ["2", "1"]),
}


@pytest.mark.parametrize(("stored", "ids"), STORED.values(), ids=STORED)
@pytest.mark.parametrize("gap", [False, True])
def test_ids_are_what_is_meant_not_what_is_stored(stored, ids, gap):
    if gap:
        stored = pa.chunked_array([stored, pa.nulls(1, stored.type)])
    table = pa.table({"user": stored, "item": stored})
    for frame in (table, table.to_pandas(types_mapper=pd.ArrowDtype)):
        read = read_interactions(frame)
        assert read.users.tolist() == read.items.tolist() == ids
        assert ItemVocabulary(read.item_ids).encode(ids).min() == 0
        assert ItemVocabulary.from_ids(ids).encode(frame["item"]).tolist()[:2] == [1, 0]
    if not gap:
        assert read_history(stored)[0].tolist() == ids
        assert read_history(table["item"])[0].tolist() == ids


PERIODS = pa.Table.from_pandas(
    pd.DataFrame({"user": [1], "item": pd.period_range("2020-01", periods=1, freq="M")})
)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (PERIODS, r"'item' \(item\) has dtype pandas.period, which cannot be read"),
        (PERIODS.to_pandas(types_mapper=pd.ArrowDtype), "pandas.period"),
        (PERIODS.rename_columns(["item", "user"]), r"'user' \(user\) has dtype pandas.period"),
        (
            PERIODS.append_column("time", PERIODS["item"]).set_column(1, "item", [[1]]),
            r"'time' \(time\) has dtype pandas.period",
        ),
        (
            pa.table(
                [[1], [2]],
                schema=pa.schema(
                    [
                        pa.field("user", pa.int64()),
                        pa.field("item", pa.int64(), metadata={"ARROW:extension:name": "my.id"}),
                    ]
                ),
            ),
            "extension type my.id, which this pyarrow does not know",
        ),
        (
            pa.table({"user": [1], "item": pa.array([1], pa.duration("s"))}),
            "has dtype timedelta64",
        ),
        (pa.table({"user": [1], "item": pa.array([[1]])}), "List"),
        (pl.DataFrame({"user": [1], "item": pl.Series([2**70], dtype=pl.Int128)}), "Int128"),
    ],
)
def test_types_that_are_refused(table, text):
    with pytest.raises(TypeError, match=text):
        read_interactions(table)


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ([[7, 30, 1], [9, 9, 9], [5, 20, 2]], False),
        ([[7.5, 30, 1], [9, 9, 9], [5, 20, 2]], False),
        ([["a", "b", 1], ["c", "d", 9], ["e", "f", 2]], False),
        ([[7, 30, 1], [9, 9, 9], [5, 20, 2]], True),
    ],
)
def test_a_mask_says_what_is_missing(values, missing):
    dtype = object if isinstance(values[0][0], str) else None
    array = np.ma.array(np.array(values, dtype=dtype), mask=[[0] * 3, [1] * 3, [0] * 3])
    copy = array.copy()
    if missing:
        array.mask[1, 0] = False
        with pytest.raises(ValueError, match=r"column 1 \(item\), row 1: the value is missing"):
            read_interactions(array)
        return
    read = read_interactions(array, np.ma.array([1, 5, 0], mask=[0, 1, 0]))
    assert read.rows.tolist() == [0, 2]
    assert read.users.tolist() == [values[0][0], values[2][0]]
    assert read.times.tolist() == [1, 2]
    assert read.signs.tolist() == [1, -1]
    assert_array_equal(array.mask, copy.mask)
    assert_array_equal(array.data, copy.data)
    masker = RareItemMasker(min_users_per_item=1, min_items_per_user=1)
    assert masker.fit_transform(array)[2].tolist() == values[2]


# -- What holds named columns, but is no frame -----------------------------------------------


class Relation:
    """Speaks the interface of Arrow, as a relation of DuckDB does, and nothing else."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self.table.__arrow_c_stream__(requested_schema)


BATCH = pa.record_batch({"item": [2, 3], "user": ["a", "b"], "time": [8, 9]})
RECORDS = np.array([(2, "a", 8), (3, "b", 9)], dtype=[("item", "i8"), ("user", "U1"),
                                                      ("time", ">i4")])  # fmt: skip
NAMED = {
    "relation": lambda: Relation(pa.Table.from_batches([BATCH])),
    "batch": lambda: BATCH,
    "reader": lambda: pa.RecordBatchReader.from_batches(BATCH.schema, [BATCH]),
    "struct": BATCH.to_struct_array,
    "structured array": lambda: RECORDS,
    "records": lambda: RECORDS.view(np.recarray),
}


@pytest.mark.parametrize("make", NAMED.values(), ids=NAMED)
def test_what_has_names_is_read_by_name(make):
    assert is_table(make())
    assert not is_history(make())
    for table in (make(), as_frame(make())):
        read = read_interactions(table)
        assert read.users.tolist() == ["a", "b"]
        assert read.items.tolist() == [2, 3]
        assert read.times.tolist() == [8, 9]
    assert is_frame(as_frame(make()))
    table = as_frame(make()) if isinstance(make(), pa.RecordBatchReader) else make()
    assert SequenceBuilder().fit_transform(table).tolist() == [["a", 2, 8], ["b", 3, 9]]


def test_answers_are_of_the_kind_that_was_passed():
    columns = {"user": np.array([1]), "item": np.array(["a"], dtype=object)}
    for make in (NAMED["relation"], NAMED["batch"], NAMED["reader"]):
        assert table_like(make(), columns).equals(pa.table({"user": [1], "item": ["a"]}))
    assert table_like(RECORDS, columns).dtype.names == ("user", "item")
    assert isinstance(table_like(pl.DataFrame(), columns), pl.DataFrame)


def test_as_frame_lets_all_else_be():
    for same in (pd.DataFrame(), pl.DataFrame(), np.ones((2, 2)), [[1]], pd.Series([1]), "a", None):
        assert as_frame(same) is same


def test_arrow_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TypeError, match="takes pyarrow: install it, or pass a pandas or polars"):
        read_interactions(Relation(BATCH))


def test_arrow_that_is_no_table():
    with pytest.raises(TypeError, match="cannot be read as a table by pyarrow"):
        read_interactions(Relation(pa.chunked_array([[1]])))


def duckdb_relation():
    duckdb = pytest.importorskip("duckdb")
    return duckdb.connect().from_arrow(pa.Table.from_batches([BATCH]))


def test_a_relation_of_duckdb_is_read_by_name():
    relation = duckdb_relation()
    read = read_interactions(relation.filter("item > 2"))
    assert (read.users.tolist(), read.items.tolist(), read.times.tolist()) == (["b"], [3], [9])


def test_feedback_that_is_computed_apart_from_the_rows_is_refused():
    # Two queries need not come in one order.
    relation = duckdb_relation()
    for feedback in (relation.project("item"), pl.LazyFrame({"y": [1, 0]}), Relation(BATCH)):
        with pytest.raises(TypeError, match="make one frame of the rows and what belongs to them"):
            read_interactions(relation, feedback, positive_threshold=3)


class DataSet:
    """What some engine computes when told to, with its name for that."""

    def to_pandas(self):
        raise AssertionError("nobody told it to")


class Delayed:
    """Has any attribute that it is asked for, and no truth."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(self)()

    def __bool__(self):
        raise TypeError("no truth")

    def compute(self):
        raise AssertionError("nobody told it to")


TO_COMPUTE = {
    "polars": (lambda: pl.LazyFrame({"user": [1], "item": [1]}), "collect"),
    "narwhals": (lambda: narwhals.from_native(pl.LazyFrame({"user": [1], "item": [1]})), "collect"),
    "narwhals of duckdb": (lambda: narwhals.from_native(duckdb_relation()), "collect"),
    "duckdb": (lambda: pytest.importorskip("duckdb").connect().execute("select 1 item"), "df"),
    "dask": (
        lambda: pytest.importorskip("dask.dataframe").from_pandas(pd.DataFrame({"user": [1]}), 1),
        "compute",
    ),
    "pyarrow": (lambda: dataset.dataset(pa.Table.from_batches([BATCH])), "to_table"),
    "data set": (DataSet, "to_pandas"),
    "delayed": (Delayed, "compute"),
}


@pytest.mark.parametrize(("make", "method"), TO_COMPUTE.values(), ids=TO_COMPUTE)
def test_what_is_to_be_computed_is_told_by_its_own_word(make, method):
    with pytest.raises(TypeError, match=rf"pass interactions\.{method}\(\), which brings all"):
        read_interactions(make())


@pytest.mark.parametrize("backend", ["pandas", "polars", "pyarrow"])
def test_any_library_of_frames_holds_a_structured_array(backend, monkeypatch):
    monkeypatch.setattr(frames, "find_spec", lambda name: name == backend or None)
    read = read_interactions(RECORDS.astype([("item", ">i8"), ("user", ">U1"), ("time", ">M8[m]")]))
    assert read.users.tolist() == ["a", "b"]
    assert read.items.tolist() == [2, 3]
    assert (read.times.tolist(), read.time_unit) == ([480_000, 540_000], "ms")
    monkeypatch.setattr(frames, "find_spec", lambda name: None)
    with pytest.raises(TypeError, match="takes pandas, polars or pyarrow: install one"):
        read_interactions(RECORDS)


def test_masked_fields_of_a_structured_array():
    records = np.ma.array(RECORDS, mask=[(0, 0, 0), (1, 1, 1)])
    assert read_interactions(records).rows.tolist() == [0]


# -- Histories -------------------------------------------------------------------------------


@LAW
@given(
    EVENTS,
    st.sampled_from([None, 1, 2**60, 0.25]),  # as a span of times, 2**60 leaves no room for users
    st.sampled_from([1, 10**17, "text"]),
    st.sampled_from(["all", "last"]),
)
def test_histories_are_a_stable_sort(events, time_step, id_step, duplicates):
    def raw(number):
        return f"id {number}" if id_step == "text" else number * id_step

    columns = {
        "user": [raw(user) for user, *_ in events],
        "item": [raw(item) for _, item, *_ in events],
    }
    if time_step is not None:
        columns["time"] = [time * time_step for *_, time, _ in events]
    vocabulary = ItemVocabulary([raw(3), raw(0), raw(1)])  # 2 and 4 are unknown
    codes = {raw(3): 0, raw(0): 1, raw(1): 2}

    signs = [sign for *_, sign in events]
    read = read_interactions(pl.DataFrame(columns), signs, feedback_coding="signed")
    built = build_histories(read, vocabulary, duplicates=duplicates)

    times = columns.get("time", [0] * len(events))
    order = sorted(range(len(events)), key=lambda row: (columns["user"][row], times[row]))
    if duplicates == "last":
        newest = {(columns["user"][row], columns["item"][row]): row for row in order}
        order = [
            row
            for row in order
            if columns["item"][row] not in codes
            or newest[columns["user"][row], columns["item"][row]] == row
        ]
    assert built.rows.tolist() == order
    assert built.users.tolist() == sorted(set(columns["user"]))
    assert built.items.tolist() == [codes.get(columns["item"][row], -1) for row in order]
    assert built.signs.tolist() == [events[row][3] for row in order]
    assert np.repeat(built.users, built.lengths).tolist() == [columns["user"][row] for row in order]
    if time_step is None:
        assert built.times is None
    else:
        assert built.times.tolist() == [times[row] for row in order]


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
@pytest.mark.parametrize("unit", [1, 10**6])  # seconds and microseconds, which sort differently
def test_memory_from_a_frame_to_sequences(frame, unit):
    n_rows = 200_000
    rng = np.random.default_rng(0)
    table = frame(
        {
            "user": rng.integers(1, 2_000, n_rows),
            "item": rng.integers(1, 1_000, n_rows),
            "time": rng.integers(1_000_000_000, 1_500_000_000, n_rows) * unit,
        }
    )
    rating = rng.integers(1, 6, n_rows).astype(np.int8)
    read_interactions(table[:9], rating[:9], positive_threshold=4)  # what is imported late
    tracemalloc.start()
    read = read_interactions(table, rating, positive_threshold=4)
    built = build_histories(read, ItemVocabulary.from_ids(read.item_ids))
    split = [built.of_sign(sign) for sign in (1, -1)]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(events) for _, events in split) == n_rows
    # What is left at the end takes 50 bytes a row, twice what goes in; no step on the way more.
    assert peak / n_rows < 53


def test_the_callers_data_stays_as_it_was():
    frame = pd.DataFrame({"user": [2, 1, 2], "item": [1, 1, 1], "time": [9, 5, 3]})
    feedback = np.array([1, 0, 1])
    array, copy = frame.to_numpy().copy(), frame.copy()
    for table in (frame, array):
        read = read_interactions(table, feedback)
        build_histories(read, ItemVocabulary([1]), duplicates="last")
        SequenceBuilder(duplicates="last").fit_transform(table)
        RareItemMasker().fit_transform(table)
    pd.testing.assert_frame_equal(frame, copy)
    assert_array_equal(array, copy.to_numpy())
    assert feedback.tolist() == [1, 0, 1]
