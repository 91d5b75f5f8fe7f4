"""How feedback is read."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.exceptions import DataConversionWarning

from posneg_rec.interactions import (
    read_interactions,
)

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
        (pa.array([1, 0, 1]), {}, [1, -1, 1], "binary"),
        (np.ma.array([1, 0, 1]), {}, [1, -1, 1], "binary"),
        (pd.Categorical([1, 0, 1], categories=[-1, 0, 1]), {}, [1, 0, 1], "signed"),
        (pd.Series([1, 1, 1], dtype=pd.CategoricalDtype([-1, 1])), {}, [1, 1, 1], "signed"),
        (pd.Categorical([1, 0, 1], categories=[0, 1]), {}, [1, -1, 1], "binary"),
        (pd.Categorical([1, 1, 1], categories=[0, 1]), {}, [1, 1, 1], "binary"),
        (
            pd.Categorical([1, 0, 1], categories=[-1, 0, 1]),
            {"feedback_coding": "binary"},
            [1, -1, 1],
            "binary",
        ),
        ([Decimal("4.5"), Decimal(3), 4], {"positive_threshold": 4}, [1, -1, 1], "graded"),
        ([Fraction(9, 2), 3, 4.0], {"positive_threshold": 4}, [1, -1, 1], "graded"),
        ([True, False, True], {"feedback_coding": "graded"}, [1, -1, 1], "graded"),
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
        (np.ma.array([1, 0, 1], mask=[0, 0, 1]), {}, ValueError, "row 2: the value is missing"),
        ({0, 1}, {}, TypeError, "feedback must be a list.* no order"),
        ("abc", {}, TypeError, "feedback must be a list"),
        ([1, 0, 10**400], {"positive_threshold": 4}, ValueError, "too large"),
        (np.array([1, 0, 1j]), {}, TypeError, "must be booleans or numbers"),
        ([1, 0, 1], {"positive_threshold": 10**400}, ValueError, "finite number or a pair"),
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


@pytest.mark.parametrize("labels", [[1, 1, 0], np.array([0.0, 0.0, 1.0]), [1, 1, -1]])
def test_labels_for_a_model_of_grades_are_warned_of(labels):
    """A model of stars reads 0 and 1 as the worst of grades, and True as liked."""
    options = {"positive_threshold": 4, "feedback_coding": "graded"}
    with pytest.warns(UserWarning, match=r"only (-1, 0|0) and 1, .* below 4 as disliked"):
        assert set(read_interactions(ROWS, labels, **options).signs) == {-1}
    booleans = np.asarray(labels, dtype=bool)
    assert read_interactions(ROWS, booleans, **options).signs.tolist() == [
        1 if liked else -1 for liked in booleans
    ]
    read_interactions(ROWS, [1, 2, 5], **options)
