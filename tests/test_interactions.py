"""Data in: columns, ids, feedback, histories, and the transformers that go before a model."""

from __future__ import annotations

import datetime as dt
import tracemalloc
import uuid

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from posneg_rec.interactions import (
    MISSING_ID,
    ItemVocabulary,
    PackedSequences,
    RareItemMasker,
    SequenceBuilder,
    _stable_argsort,
    build_histories,
    is_history,
    is_table,
    read_history,
    read_interactions,
)

BIG = 2**60 + 1  # not a float64
LAW = settings(max_examples=150)


# -- Packed sequences ------------------------------------------------------------------------

lists_of_ints = st.lists(st.lists(st.integers(-5, 5), max_size=6), max_size=6)


@LAW
@given(lists_of_ints, st.integers(0, 7), st.data())
def test_packed_sequences_do_what_lists_do(lists, n, data):
    packed = PackedSequences.from_lists(lists)
    indices = data.draw(st.lists(st.integers(0, max(len(lists) - 1, 0)), max_size=5))
    indices = indices if lists else []

    assert packed.to_lists() == lists
    assert len(packed) == len(lists)
    assert packed.lengths.tolist() == [len(sequence) for sequence in lists]
    assert packed.take(indices).to_lists() == [lists[index] for index in indices]
    assert packed.last(n).to_lists() == [
        sequence[max(len(sequence) - n, 0) :] for sequence in lists
    ]


def test_packed_slices_may_overlap():
    packed = PackedSequences.slices(np.arange(5), np.array([0, 1, 4]), np.array([3, 3, 4]))
    assert packed.to_lists() == [[0, 1, 2], [1, 2], []]


def test_packed_sequence_is_a_view_and_bounds_hold():
    packed = PackedSequences.from_lists([[1, 2], [3]])
    assert packed[1].base is packed.values
    assert packed[-1].tolist() == [3]
    with pytest.raises(IndexError):
        packed[2]


@pytest.mark.parametrize(
    ("values", "offsets", "error", "text"),
    [
        ([1, 2], [0, 1], ValueError, r"from 0 to len\(values\) = 2, got \[0, 1\]"),
        ([1, 2], [1, 2], ValueError, "offsets must run from 0"),
        ([1, 2], [], ValueError, "offsets must"),
        ([1, 2], [0, 2, 1, 2], ValueError, "got 2 before 1 at position 1"),
        ([[1, 2]], [0, 1], ValueError, "values must be a 1-D array, got 2"),
        ([1.0, 2.0], [0, 2], TypeError, "values must hold integers, got dtype float64"),
    ],
)
def test_packed_sequences_check_their_offsets(values, offsets, error, text):
    with pytest.raises(error, match=text):
        PackedSequences(np.array(values), np.array(offsets, dtype=np.int64))


# -- Vocabulary ------------------------------------------------------------------------------

int_ids = st.one_of(st.integers(-50, 50), st.integers(-(2**63) + 1, 2**63 - 1))
ids_of_one_type = st.one_of(
    st.lists(int_ids),
    st.lists(st.text(max_size=3)),
    st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    st.lists(st.uuids()),
)


@LAW
@given(ids_of_one_type, ids_of_one_type)
def test_vocabulary_looks_up_as_a_dict_does(ids, others):
    expected = {item: code for code, item in enumerate(sorted(set(ids)))}
    vocabulary = ItemVocabulary.from_ids(ids)

    assert vocabulary.items.tolist() == list(expected)
    assert vocabulary.encode(ids).tolist() == [expected[item] for item in ids]
    assert vocabulary.encode(others).tolist() == [expected.get(item, -1) for item in others]
    assert vocabulary.decode(vocabulary.encode(ids)).tolist() == [
        item + 0.0 if isinstance(item, float) else item for item in ids
    ]


@pytest.mark.parametrize("low", [0, -7, BIG])
@pytest.mark.parametrize("step", [1, 10**13])
def test_many_integers_are_looked_up_exactly(low, step):
    known = low + step * np.arange(0, 400, 2)
    asked = np.tile(low + step * np.arange(-5, 405), 30)
    codes = ItemVocabulary(known[::-1].copy()).encode(asked)
    place = (asked - low) // step
    expected = np.where((place % 2 == 0) & (place >= 0) & (place < 400), 199 - place // 2, -1)
    assert_array_equal(codes, expected)


def numbers_of(dtype):
    if np.dtype(dtype).kind == "f":
        return st.floats(allow_nan=False, allow_infinity=False)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    near_zero = st.integers(max(low, -50), 50)
    return st.one_of(near_zero, st.integers(max(low, -(2**63) + 1), min(high, 2**63 - 1)))


@LAW
@given(
    st.sampled_from(["int8", "uint8", "int32", "uint32", "int64", "uint64", "float64"]),
    st.sampled_from([pd.DataFrame, pl.DataFrame]),
    st.integers(1, 30),  # ids that repeat often enough are looked up in a table
    st.data(),
)
def test_ids_are_numbered_as_numpy_does(dtype, frame, n_repeats, data):
    ids = np.array(data.draw(st.lists(numbers_of(dtype), min_size=1)) * n_repeats, dtype=dtype)
    distinct, codes = np.unique(ids, return_inverse=True)

    read = read_interactions(frame({"user": ids, "item": ids[::-1]}))
    assert_array_equal(read.user_ids, distinct)
    assert_array_equal(read.user_codes, codes)
    assert_array_equal(read.item_codes, codes[::-1])
    assert read.user_ids.dtype == (np.float64 if dtype == "float64" else np.int64)


@LAW
@given(st.lists(int_ids, min_size=1), st.lists(int_ids))
def test_often_repeated_and_unknown_integers_are_looked_up(known, others):
    known = np.array(list(dict.fromkeys(known)))
    asked = np.tile([*known, *others], 20)
    code_of = {item: code for code, item in enumerate(known.tolist())}
    expected = [code_of.get(item, -1) for item in asked.tolist()]
    assert ItemVocabulary(known).encode(asked).tolist() == expected


def test_integers_stay_exact():
    vocabulary = ItemVocabulary.from_ids([BIG, BIG - 1, BIG + 1])
    assert vocabulary.encode([BIG - 1, BIG, BIG + 1, BIG + 2]).tolist() == [0, 1, 2, -1]
    assert vocabulary.encode([float(BIG)]).tolist() == [0]  # which is BIG - 1
    assert ItemVocabulary([float(BIG)]).encode([BIG, BIG - 1]).tolist() == [-1, 0]


def test_ids_of_another_type_are_unknown():
    assert ItemVocabulary([1, 2]).encode(["1", "2"]).tolist() == [-1, -1]
    assert ItemVocabulary(["1", "2"]).encode([1, 2]).tolist() == [-1, -1]
    assert ItemVocabulary(["1"]).encode(["1", None]).tolist() == [0, -1]
    assert ItemVocabulary([1]).encode([1.5, np.nan]).tolist() == [-1, -1]


def test_extended_vocabulary_keeps_old_codes():
    old = ItemVocabulary(["m", "a"])
    new = old.extended(["z", "b", "a", "z"])
    assert new.items.tolist() == ["m", "a", "b", "z"]
    assert old.items.tolist() == ["m", "a"]
    assert ItemVocabulary([3, 1]).extended([2.0, 1.0]).items.tolist() == [3, 1, 2]
    assert ItemVocabulary([]).extended(["a"]).items.tolist() == ["a"]
    with pytest.raises(TypeError, match="ids of type int to a vocabulary of str ids"):
        old.extended([1])


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        ([1, None], ValueError, "the id at position 1 is missing"),
        ([1.0, np.nan], ValueError, "the id at position 1 is missing"),
        ([True, False], TypeError, "booleans"),
        ([1, "a"], TypeError, "uniformly strings, UUIDs or numbers, got int and str"),
        ([[1], [2]], TypeError, "got list"),
        ([1j, 2j], TypeError, "sortable"),
        ([2**64], ValueError, "outside int64: convert the ids to strings"),
        ([1.0, np.inf], ValueError, "inf is not finite"),
        ("abc", TypeError, "must be a list, a 1-D array or a series"),
        (np.ones((2, 2)), ValueError, r"must be 1-D, got an array of shape \(2, 2\)"),
    ],
)
def test_vocabulary_rejects(ids, error, text):
    with pytest.raises(error, match=text):
        ItemVocabulary.from_ids(ids)


@pytest.mark.parametrize("items", [[4, 4, 5], ["a", "a"], [1.5, 1.5]])
def test_repeated_items_are_no_vocabulary(items):
    with pytest.raises(ValueError, match="items must be distinct: 1 of them"):
        ItemVocabulary(items).encode(items)


def test_codes_out_of_range_are_no_items():
    with pytest.raises(ValueError, match=r"\[0, 2\), got -1 to 1"):
        ItemVocabulary(["a", "b"]).decode([-1, 1])


# -- Tables ----------------------------------------------------------------------------------


def as_object_array(columns):
    array = np.empty((len(columns["user"]), len(columns)), dtype=object)
    for place, values in enumerate(columns.values()):
        array[:, place] = values
    return array


FRAMES = {
    "pandas": lambda columns: pd.DataFrame(columns),
    "pandas arrow": lambda columns: pd.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "pandas categorical": lambda columns: pd.DataFrame(columns).astype(
        {"user": "category", "item": "category"}
    ),
    "polars": lambda columns: pl.DataFrame(columns),
    "pyarrow": lambda columns: pa.table(columns),
    "pyarrow dictionary": lambda columns: pa.table(
        {
            name: values if name == "time" else pa.array(values).dictionary_encode()
            for name, values in columns.items()
        }
    ),
}
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

MASKED = {
    "floats": np.array([[7.0, 30.0, 1.0], [np.nan] * 3, [5.0, 20.0, 2.0]]),
    "integers": np.array([[7, 30, 1], [MISSING_ID] * 3, [5, 20, 2]]),
    "objects": np.array([["a", BIG, 1], [None] * 3, ["b", 20, 2]], dtype=object),
    "objects NaN": np.array([["a", BIG, 1], [np.nan] * 3, ["b", 20, 2.5]], dtype=object),
    "pandas": pd.DataFrame(
        {
            "user": ["a", None, "b"],
            "item": pd.array([BIG, None, 2], dtype="Int64"),
            "time": pd.to_datetime(["2020-01-01", None, "2020-01-02"]),
        }
    ),
    "pandas categorical": pd.DataFrame(
        {"user": pd.Categorical(["a", None, "b"]), "item": [BIG, pd.NA, 2]}
    ),
    "polars": pl.DataFrame({"user": ["a", None, "b"], "item": [BIG, None, 2]}),
    "polars integers": pl.DataFrame({"user": [BIG, None, 2], "item": [BIG, None, 2]}),
    "pyarrow": pa.table(
        {"user": pa.array(["a", None, "b"]).dictionary_encode(), "item": [BIG, None, 2]}
    ),
}


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

EVENTS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 4), st.integers(-3, 3), st.sampled_from([1, 0, -1])
    ),
    min_size=1,
    max_size=40,
)


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


@LAW
@given(
    st.sampled_from(["int64", "float64", "ties", "time order", "sorted"]),
    st.integers(1, 6),
    st.data(),
)
def test_events_are_in_the_order_of_a_lexsort(kind, n_users, data):
    times = st.integers(-3, 3)
    if kind == "float64":
        times = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), numbers_of("float64"))
    elif kind != "ties":
        times = st.one_of(times, numbers_of("int64"))
    events = data.draw(st.lists(st.tuples(st.integers(1, n_users), times), min_size=1))
    if kind == "sorted":
        events.sort()
    users, times = map(np.array, zip(*events, strict=True))
    if kind == "time order":
        times.sort()
    read = read_interactions(pd.DataFrame({"user": users, "item": users, "time": times}))
    built = build_histories(read, ItemVocabulary.from_ids(read.item_ids))
    order = np.lexsort((times, users))
    assert_array_equal(built.rows, order)
    assert_array_equal(built.times, times[order])
    assert_array_equal(built.items, read.item_codes[order])


@pytest.mark.parametrize("span", [1, 10, 2**40, 2**63 - 1])
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_long_sorts_are_stable(dtype, span):
    # Beside a position in 10,000 there is room for 50 bits of a key: 2**63 takes two pieces.
    keys = np.random.default_rng(0).integers(-span, span, 10_000).astype(dtype)
    keys[::3] = keys[0]
    for n in (1, 2, 3, len(keys)):
        assert_array_equal(_stable_argsort(keys[:n]), np.argsort(keys[:n], kind="stable"))


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


def small_histories():
    table = np.array([[8, 1], [7, 1], [7, 9], [7, 2], [9, 9]])
    return build_histories(read_interactions(table, [1, -1, 1, 1, 0]), ItemVocabulary([1, 2]))


def test_histories_take_users():
    taken = small_histories().take([2, 0, 0])
    assert taken.users.tolist() == [9, 7, 7]
    assert taken.items.tolist() == [-1, 0, -1, 1, 0, -1, 1]
    assert taken.rows.tolist() == [4, 1, 2, 3, 1, 2, 3]
    assert taken.offsets.tolist() == [0, 1, 4, 7]
    assert small_histories().take([]).offsets.tolist() == [0]


def test_histories_drop_events_but_no_user():
    known = small_histories().known()
    assert known.users.tolist() == [7, 8, 9]
    assert known.offsets.tolist() == [0, 2, 3, 3]
    assert known.items.tolist() == [0, 1, 0]
    assert known.signs.tolist() == [-1, 1, 1]


def test_histories_of_one_sign():
    liked, events = small_histories().of_sign(1)
    assert liked.to_lists() == [[-1, 1], [0], []]
    assert events.tolist() == [1, 2, 3]
    neutral, events = small_histories().of_sign(0)
    assert neutral.to_lists() == [[], [], [-1]]
    assert events.tolist() == [4]


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


# -- Transformers ----------------------------------------------------------------------------


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
GONE = [MISSING_ID] * 3


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (
            {},
            [[5, BIG, 2], [5, 11, 0], [4, 11, 0], [5, BIG, 1], [4, 13, 1], [5, 13, 3], [5, 12, 4]],
        ),
        (
            {"duplicates": "last"},
            [[5, BIG, 1], [5, 11, 0], [4, 11, 0], GONE, [4, 13, 1], [5, 13, 2], [5, 12, 3]],
        ),
        (
            {"min_events": 3},
            [[5, BIG, 2], [5, 11, 0], GONE, [5, BIG, 1], GONE, [5, 13, 3], [5, 12, 4]],
        ),
        # Only what duplicates leaves is counted.
        ({"min_events": 5, "duplicates": "last"}, [GONE] * 7),
        (
            {"max_length": 4},
            [[5, BIG, 1], GONE, [4, 11, 0], [5, BIG, 0], [4, 13, 1], [5, 13, 2], [5, 12, 3]],
        ),
        (
            {"max_length": 2},
            [GONE, GONE, [4, 11, 0], GONE, [4, 13, 1], [5, 13, 0], [5, 12, 1]],
        ),
        # A long sequence counts as long before it is cut.
        ({"max_length": 2, "min_events": 3}, [*[GONE] * 5, [5, 13, 0], [5, 12, 1]]),
        (
            {"session_gap": 10},
            [
                ["5:0", BIG, 2],
                ["5:0", 11, 0],
                ["4:0", 11, 0],
                ["5:0", BIG, 1],
                ["4:0", 13, 1],
                ["5:1", 13, 0],
                ["5:1", 12, 1],
            ],
        ),
        (
            {"session_gap": 9.5, "min_events": 2},
            [[None] * 3] * 2
            + [["4:0", 11, 0], [None] * 3, ["4:0", 13, 1], ["5:3", 13, 0], ["5:3", 12, 1]],
        ),
    ],
)
def test_sequences(parameters, expected):
    sequences = SequenceBuilder(**parameters).fit_transform(EVENT_TABLE)
    assert sequences.tolist() == expected
    assert sequences.dtype == (object if "session_gap" in parameters else np.int64)


def test_sequences_without_times_follow_the_rows():
    table = np.array([["b", "x"], ["a", "y"], ["b", "y"]])
    rows = [["b", "x", 0], ["a", "y", 0], ["b", "y", 1]]
    assert SequenceBuilder().fit_transform(table).tolist() == rows
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
        (SequenceBuilder(min_events=3), ["sequence", "item", "position"]),
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
    assert SequenceBuilder().fit_transform(table)[0].tolist() == [5, BIG, 2]
    assert SequenceBuilder().fit_transform(table.to_numpy().tolist())[1].tolist() == [5, 11, 0]
    assert SequenceBuilder().fit_transform([["u", BIG], ["u", 2]]).tolist() == [
        ["u", BIG, 0],
        ["u", 2, 1],
    ]


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
