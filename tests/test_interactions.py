"""Data in: columns, feedback and histories."""

from __future__ import annotations

import datetime as dt
import tracemalloc
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import DataConversionWarning
from tables import BIG, EVENTS, FRAMES, LAW, MASKED, as_object_array

from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    build_histories,
    is_history,
    is_table,
    read_history,
    read_interactions,
)
from posneg_rec.preprocessing import RareItemMasker, SequenceBuilder

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
        ({"a": [1], "b": [2]}, {"user_column": "b"}, "no column is left for the item: pass item_"),
        ({"a": [1], "b": [2]}, {"user_column": 0, "item_column": "a"}, "must be different columns"),
        ({"user": [1], "user_id": [2], "item": [3]}, {}, "'user' and 'user_id' both name the user"),
        ({"user": [1], "item": [2], "rating": [5]}, {}, "'rating', would be read as time"),
    ],
)
def test_columns_that_cannot_be_told(columns, arguments, text):
    with pytest.raises(ValueError, match=text):
        read_interactions(pd.DataFrame(columns), **arguments)


def test_an_array_has_no_column_names():
    with pytest.raises(ValueError, match="user_column='user' is a name, but an array has only"):
        read_interactions(np.ones((2, 3)), user_column="user")


@pytest.mark.parametrize(
    ("interactions", "error", "text"),
    [
        (np.empty((0, 3)), ValueError, r"0 sample\(s\) \(shape=\(0, 3\)\) while a minimum of 1"),
        (pd.DataFrame({"user": [], "item": []}), ValueError, r"0 sample\(s\) .* minimum of 1"),
        (np.empty((3, 0)), ValueError, r"0 feature\(s\) \(shape=\(3, 0\)\) while a minimum of 2"),
        (np.ones((3, 1)), ValueError, r"1 feature\(s\) \(shape=\(3, 1\)\) while a minimum of 2"),
        (pl.DataFrame({"user": [1]}), ValueError, r"1 feature\(s\) \(shape=\(1, 1\)\)"),
        ([], ValueError, r"0 sample\(s\) while a minimum of 1"),
        (np.ones(3), ValueError, "Reshape your data"),
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
        (np.array([["a", "b", "3"]]), TypeError, r"2 \(time\) has dtype <U1.*use a dataframe"),
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


@pytest.mark.parametrize(
    ("times", "error", "text"),
    [
        (["2020-01-01"], TypeError, r"'time' \(time\) holds objects of type str"),
        ([True], TypeError, "has dtype bool"),
        ([dt.time(1)], TypeError, "objects of type time"),
        ([np.inf], ValueError, "row 0: inf is not finite"),
        ([2**64], ValueError, "does not hold times"),
        (
            pd.Series([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)], dtype=object),
            TypeError,
            "datetime with a time zone",
        ),
        ([dt.timedelta(1)], TypeError, "timedelta64"),
    ],
)
def test_times_that_cannot_be_read(times, error, text):
    with pytest.raises(error, match=text):
        read_interactions(pd.DataFrame({"user": [1], "item": [1], "time": times}))


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

ROWS = np.array([[1, 10], [1, 20], [2, 30]])


@pytest.mark.parametrize(
    ("feedback", "arguments", "signs", "coding"),
    [
        (None, {}, [1, 1, 1], "liked"),
        ([True, False, True], {}, [1, -1, 1], "binary"),
        ([1, 0, 1], {}, [1, -1, 1], "binary"),
        ([0, 0, 0], {}, [-1, -1, -1], "binary"),
        ([1, 1, 1], {}, [1, 1, 1], "liked"),
        ([1, -1, 1], {}, [1, -1, 1], "signed"),
        ([1, 0, -1], {}, [1, 0, -1], "signed"),
        ([1.0, 0.0, -1.0], {}, [1, 0, -1], "signed"),
        ([5, 3, 4], {"positive_threshold": 4}, [1, -1, 1], "graded"),
        ([5, 3, 2], {"positive_threshold": (3, 5)}, [1, 0, -1], "graded"),
        ([0, 1, 0], {"positive_threshold": 0.5}, [-1, 1, -1], "graded"),
        ([True, False, True], {"positive_threshold": 4}, [1, -1, 1], "binary"),
        ([0, 0, 0], {"feedback_coding": "signed"}, [0, 0, 0], "signed"),
        ([1, 0, 1], {"feedback_coding": "signed"}, [1, 0, 1], "signed"),
        ([1, 1, 1], {"feedback_coding": "signed"}, [1, 1, 1], "signed"),
        (None, {"feedback_coding": "signed"}, [1, 1, 1], "signed"),
        ([True, False, True], {"feedback_coding": "signed"}, [1, -1, 1], "signed"),
        ([1, 0, 1], {"feedback_coding": "binary"}, [1, -1, 1], "binary"),
        ([1, 1, 1], {"feedback_coding": "binary"}, [1, 1, 1], "binary"),
        ([1, 0, 1], {"feedback_coding": "liked"}, [1, -1, 1], "binary"),
        ([True, False, True], {"feedback_coding": "liked"}, [1, -1, 1], "binary"),
        ([1, -1, 1], {"feedback_coding": "liked"}, [1, -1, 1], "signed"),
        (np.array([1, 0, 1], dtype=np.uint8), {}, [1, -1, 1], "binary"),
        (np.array([1, 0, 1], dtype=object), {}, [1, -1, 1], "binary"),
        (np.array([True, False, True], dtype=object), {}, [1, -1, 1], "binary"),
        (pd.Series([True, False, True], dtype="boolean"), {}, [1, -1, 1], "binary"),
        (pd.Series([1, 0, 1], index=[9, 8, 7]), {}, [1, -1, 1], "binary"),
        (pl.Series([1, 0, 1]), {}, [1, -1, 1], "binary"),
        (pa.chunked_array([[1, 0], [1]]), {}, [1, -1, 1], "binary"),
    ],
)
def test_feedback_is_read_as(feedback, arguments, signs, coding):
    read = read_interactions(ROWS, feedback, **arguments)
    assert read.signs.tolist() == signs
    assert read.signs.dtype == np.int8
    assert read.feedback_coding == coding


@pytest.mark.parametrize(
    ("feedback", "arguments", "error", "text"),
    [
        ([1, 5, 4], {}, ValueError, "row 1: 5 is not among .* pass positive_threshold"),
        ([0.5, 0, 1], {}, ValueError, "row 0: 0.5 is not among"),
        ([1, -1, 0], {"feedback_coding": "binary"}, ValueError, r"row 1: -1 .* \{0, 1\}.* in fit"),
        ([1, 2, 0], {"feedback_coding": "signed"}, ValueError, "row 1: 2 is not among"),
        ([1, np.nan, 0], {}, ValueError, r"row 1: nan \(NaN"),
        ([1, np.inf, 0], {"positive_threshold": 1}, ValueError, "row 1: inf"),
        ([1, None, 0], {}, ValueError, "row 1: the value is missing"),
        (["a", "b", "c"], {}, TypeError, "must be booleans or numbers"),
        (np.array([True, 1, "a"], dtype=object), {}, TypeError, "bool and int and str"),
        ([1, 0], {}, ValueError, "inconsistent numbers of samples: 3 interactions, 2 feedback"),
        (np.ones((3, 2)), {}, ValueError, "1d array"),
        (5, {}, ValueError, "1d array"),
        ([5, 3, 4], {"positive_threshold": (4, 3)}, ValueError, "needs low < high, got"),
        ([5, 3, 4], {"positive_threshold": (4, 4)}, ValueError, "needs low < high, got"),
        ([5, 3, 4], {"positive_threshold": (1, 2, 3)}, ValueError, "finite number or a pair"),
        ([5, 3, 4], {"positive_threshold": np.nan}, ValueError, "finite number or a pair"),
        ([5, 3, 4], {"positive_threshold": "4"}, ValueError, "finite number or a pair"),
    ],
)
def test_feedback_that_cannot_be_read(feedback, arguments, error, text):
    with pytest.raises(error, match=text):
        read_interactions(ROWS, feedback, **arguments)


def test_a_column_of_feedback_warns_as_scikit_learn_does():
    with pytest.warns(DataConversionWarning, match="column-vector"):
        assert read_interactions(ROWS, [[1], [0], [1]]).signs.tolist() == [1, -1, 1]


def test_large_finite_numbers_are_finite():
    values = np.array([[1e308, 1e308], [1.5e308, 1e308]])
    assert read_interactions(values, [1e308, 1e308], positive_threshold=1).users[0] == 1e308


# -- Lists of histories, and one history -----------------------------------------------------


@pytest.mark.parametrize(
    "histories",
    [
        [[10, 20], [], [30]],
        ((10, 20), (), (30,)),
        [np.array([10, 20]), np.array([], dtype=int), pl.Series([30])],
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
    read = read_interactions([[], [1, 2, 1], []])
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
        ({1, 2}, None, TypeError, "history must be a list"),
        (None, None, ValueError, "history must be 1-D"),
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
    for histories in ([[1], [2]], [[]], ([1],), [np.array([1])]):
        assert not is_table(histories)
        assert not is_history(histories)


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
