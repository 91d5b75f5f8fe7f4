"""Tables of every kind, for the tests of what reads them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st

from posneg_rec.frames import MISSING_ID

BIG = 2**60 + 1  # not a float64
LAW = settings(max_examples=150)


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


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 4), st.integers(0, 4), st.integers(-3, 3), st.sampled_from([1, 0, -1])
    ),
    min_size=1,
    max_size=40,
)


def numbers_of(dtype):
    if np.dtype(dtype).kind == "f":
        return st.floats(allow_nan=False, allow_infinity=False)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    near_zero = st.integers(max(low, -50), 50)
    return st.one_of(near_zero, st.integers(max(low, -(2**63) + 1), min(high, 2**63 - 1)))
