"""Ids and their codes."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tables import BIG, LAW, numbers_of

from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    read_interactions,
)
from posneg_rec.sequences import preview, shorten

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
        ([1j, 2j], TypeError, "complex"),
        (np.array([1j]), TypeError, "complex128"),
        ([{1}, {2}], TypeError, "got set"),
        (["\udc80", "a"], ValueError, r"ids: the id '\\udc80' holds a lone surrogate"),
        ([10**5000], ValueError, "outside int64"),
        ({1, 2}, TypeError, "a set has no order"),
        ((item for item in [1]), TypeError, r"pass list\("),
        ("a" * 10**5, TypeError, r"got str 'a{46}\.\.\.: one value goes in a list"),
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


def test_missing_ids_have_no_code():
    vocabulary = ItemVocabulary([0, 1])
    for ids in (
        [0, None],
        pd.Series([0, None], dtype="Int8"),
        pd.Series([0, None], dtype="UInt64"),
        pl.Series([0, None]),
        pa.array([0, None]),
        np.ma.array([0, 1], mask=[0, 1]),
        np.array([0, np.nan]),
    ):
        assert vocabulary.encode(ids).tolist() == [0, -1]
    masked = np.ma.array(["a", "b"], mask=[1, 0])
    assert ItemVocabulary(["a", "b"]).encode(masked).tolist() == [-1, 1]


def test_sets_are_encoded_where_order_does_not_matter():
    vocabulary = ItemVocabulary(["a", "b", "c"])
    assert sorted(vocabulary.encode({"c", "a"}, ordered=False)) == [0, 2]
    assert sorted(vocabulary.encode(frozenset(["z"]), ordered=False)) == [-1]
    assert vocabulary.encode(["c", "a"], ordered=False).tolist() == [2, 0]
    assert vocabulary.encode({"c": 1, "a": 2}.keys()).tolist() == [2, 0]
    with pytest.raises(TypeError, match="a set has no order"):
        vocabulary.encode({"c", "a"})


ID = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("known", "ids", "text"),
    [
        ([5], ["5"], "the model knows integer ids, got strings such as '5': convert them"),
        ([5], np.array(["5"]), "integer ids, got strings such as '5'"),
        ([5], pd.Series([None, "5"]), "integer ids, got strings such as '5'"),
        ([5], {"5"}, "integer ids, got strings such as '5'"),
        (["5"], [5], "the model knows string ids, got integers such as 5: convert them"),
        (["5"], pl.Series([5], dtype=pl.UInt8), "string ids, got integers such as 5:"),
        (["5"], pd.Series([None, 5], dtype="Int8"), "string ids, got integers such as 5:"),
        (["5"], [5.5], "string ids, got floats such as 5.5"),
        ([0.5], ["5"], "float ids, got strings"),
        ([ID], [str(ID)], "UUID ids, got strings such as '00000000-"),
        ([str(ID)], [ID], "string ids, got UUIDs such as UUID"),
        ([ID], [ID.bytes], "UUID ids, got bytes such as b"),
        (["5"], [b"5"], "string ids, got bytes such as b'5'"),
        ([Decimal(5)], [5], "Decimal ids, got integers such as 5"),
        ([5], ["x" * 10**5], r"such as 'x{46}\.\.\.: convert"),
    ],
)
def test_ids_of_a_type_that_never_matches(known, ids, text):
    assert re.search(text, ItemVocabulary(known).mismatch(ids))
    codes = ItemVocabulary(known).encode(ids, ordered=False)
    assert (codes < 0).all()


@pytest.mark.parametrize(
    ("known", "ids"),
    [
        ([5], [7]),
        ([5], [5.0, 1.5]),
        ([0.5], [5]),
        ([5], pd.Series([5], dtype="Int8")),
        (["a"], ["z"]),
        (["a"], np.array(["z"])),
        ([dt.datetime(2020, 1, 1)], [pd.Timestamp("2020-01-01")]),
        ([pd.Timestamp("2020-01-01")], [dt.datetime(2020, 1, 1)]),
        ([ID], [uuid.uuid4()]),
        ([5], []),
        (["a"], [None]),
        ([], ["a"]),
        (["a"], pd.Series([], dtype="int64")),
    ],
)
def test_ids_of_a_type_that_can_match(known, ids):
    assert ItemVocabulary(known).mismatch(ids) is None


@LAW
@given(ids_of_one_type, ids_of_one_type)
def test_ids_that_are_known_never_mismatch(ids, others):
    vocabulary = ItemVocabulary.from_ids(ids)
    assert vocabulary.mismatch(ids) is None
    if (vocabulary.encode(others) >= 0).any():
        assert vocabulary.mismatch(others) is None


def test_a_message_shows_little_of_what_is_long():
    vocabulary = ItemVocabulary(["x" * 10**5, "y"])
    assert len(repr(vocabulary)) < 100
    assert len(preview(["x" * 10**5] * 9)) < 300
    assert shorten("a") == "'a'"
    assert len(shorten(10**5000)) < 50
    assert shorten(b"ab") == "b'ab'"
