"""Whole programs at random: tables, feedback, parameters and calls of every kind, right and wrong.

    python tests/fuzz.py --cases 20000 --seed 0
    python tests/fuzz.py --seed 0 --case 123

A case is a program: data, parameters and a few calls, drawn from the seed and its number alone.
Each call must meet its contract or raise ValueError, TypeError or NotFittedError by a `raise` of
this package or of scikit-learn, with a message that is no book; it must not change what it was
given, and if it fails it must leave the model as it was. The second line above prints the program
of one case and its fault.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import datetime as dt
import faulthandler
import functools
import io
import math
import pickle
import random
import signal
import subprocess
import sys
import tempfile
import traceback
import uuid
import warnings
from collections import Counter
from decimal import Decimal
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import posneg_rec
from posneg_rec import (
    ContrastiveSeqRecommender,
    RareItemMasker,
    SequenceBuilder,
    make_recommender_pipeline,
    serving,
    training,
)
from posneg_rec.baselines import ItemItemRecommender, PopularityRecommender
from posneg_rec.metrics import aversion_curve, evaluate

PACKAGE = str(Path(posneg_rec.__file__).parent)
EXPECTED = (ValueError, TypeError, NotFittedError)
HANG_SECONDS = 120
MAX_MESSAGE = 1_000
TINY = {
    "embedding_dim": 4,
    "n_layers": 1,
    "n_heads": 1,
    "max_len": 5,
    "max_epochs": 1,
    "batch_size": 8,
    "device": "cpu",
    "random_state": 0,
}


class Fault(Exception):
    """A broken promise."""


# -- Values --------------------------------------------------------------------------------------

# Of each kind, a function of a small number.
IDS = {
    "int": lambda n: n,
    "large int": lambda n: 2**60 + n,
    "negative int": lambda n: -n - 1,
    "numpy int": lambda n: np.int32(n),
    "whole float": lambda n: float(n),
    "float": lambda n: n + 0.5,
    "str": lambda n: f"item {n}",
    "number as str": lambda n: str(n),
    "unicode": lambda n: "é\u0000\U0001f600<b>"[: n % 4] + str(n),
    "numpy str": lambda n: np.str_(n),
    "uuid": lambda n: uuid.UUID(int=n),
    "bytes": lambda n: b"%d" % n,
    "date": lambda n: dt.date(2020, 1, 1) + dt.timedelta(n),
    "datetime64": lambda n: np.datetime64("2020-01-01") + n,
    "bool": lambda n: n % 2 == 0,
    "tuple": lambda n: (n, "a"),
    "Decimal": lambda n: Decimal(n),
    "complex": lambda n: complex(n, 1),
    "beyond int64": lambda n: 2**64 + n,
    "unsigned": lambda n: np.uint64(2**63 + n),
    "dict": lambda n: {"id": n},
    "list": lambda n: [n],
    "surrogate": lambda n: f"\ud800{n}",
    "object": lambda n: _Opaque(n),
}
USUAL_IDS = ("int", "str", "large int", "uuid", "float", "number as str")
MISSING = (None, float("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), -(2**63))
STRANGE = (
    None,
    "",
    "abc",
    b"abc",
    0,
    -1,
    3.5,
    math.nan,
    math.inf,
    10**30,
    True,
    object(),
    [],
    {},
    set(),
    (),
    [[]],
    [None],
    {"a": 1},
    {1, 2},
    np.array(3),
    np.zeros((2, 2, 2)),
    np.array([]),
    np.array([], dtype=object),
    np.ma.masked,
    pd.DataFrame(),
    pd.DataFrame({"user": []}),
    pd.Series([1, 2]),
    pd.Index([1, 2]),
    pl.Series([1, 2]),
    pl.DataFrame(),
    pa.table({}),
    pa.array([1, None]),
    range(3),
    lambda: None,
    int,
    1 + 2j,
    Decimal("1.5"),
    Decimal("NaN"),
    dt.datetime(2020, 1, 1),
    np.datetime64("2020"),
    [[1, 2], [3]],
    [[1, 2], 3],
    ["a", 1],
    [1, [2]],
    "items",
)


class _Opaque:
    """An id without an order."""

    def __init__(self, n):
        self.n = n

    def __eq__(self, other):
        return isinstance(other, _Opaque) and self.n == other.n

    def __hash__(self):
        return hash(self.n)

    def __repr__(self):
        return f"_Opaque({self.n})"


def pick(rng, usual, strange, share):
    """Take one of the usual, and in some share of the cases one of the strange."""
    return rng.choice(list(strange if rng.random() < share else usual))


def numbers(rng, n, high):
    return [rng.randrange(high) for _ in range(n)]


def with_gaps(rng, values, share):
    if values and rng.random() < share:
        values = list(values)
        values[rng.randrange(len(values))] = rng.choice(MISSING)
    return values


# -- Columns, feedback and tables ----------------------------------------------------------------

TIMES = {
    "int": lambda n: n,
    "float": lambda n: n + 0.25,
    "large int": lambda n: 2**62 + n,
    "datetime": lambda n: dt.datetime(2020, 1, 1) + dt.timedelta(hours=n),
    "zoned": lambda n: dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=n),
    "datetime64": lambda n: np.datetime64("2020-01-01T00") + n,
    "date": lambda n: dt.date(2020, 1, 1) + dt.timedelta(n),
    "Timestamp": lambda n: pd.Timestamp("2020-01-01") + pd.Timedelta(hours=n),
    "text": lambda n: f"2020-01-{n % 28 + 1:02}",
    "infinite": lambda n: math.inf if n % 3 == 0 else float(n),
    "beyond int64": lambda n: 10**20 + n,
    "delta": lambda n: dt.timedelta(n),
    "bool": lambda n: n % 2 == 0,
    "complex": lambda n: complex(n),
    "dict": lambda n: {"n": n},
}
USUAL_TIMES = ("int", "float", "datetime", "datetime64", "Timestamp", "zoned")

FEEDBACK = {
    "bool": (True, False),
    "binary": (0, 1),
    "floats": (0.0, 1.0),
    "signs": (-1, 1),
    "signs and 0": (-1, 0, 1),
    "liked": (1,),
    "disliked": (0,),
    "grades": (1, 2, 3, 4, 5),
    "half grades": (0.5, 3.0, 4.5),
    "Decimals": (Decimal(0), Decimal(1)),
    "text": ("like", "dislike"),
    "numbers as text": ("0", "1"),
    "NaN": (0, 1, math.nan),
    "None": (0, 1, None),
    "infinite": (0.0, math.inf),
    "large": (10**30, 1),
    "complex": (1j, 1),
    "dates": (dt.date(2020, 1, 1),),
    "lists": ([1], [0]),
}
USUAL_FEEDBACK = ("bool", "binary", "floats", "signs", "signs and 0", "liked", "grades")


def feedback_of(rng, n, *, coding=None):
    coding = coding or pick(rng, USUAL_FEEDBACK, FEEDBACK, 0.15)
    if rng.random() < 0.02:
        n = max(0, n + rng.choice([-1, 1, 5]))
    return [rng.choice(FEEDBACK[coding]) for _ in range(n)]


def wrapped(rng, values):
    """Put a column into something that holds columns."""
    kinds = {
        "list": list,
        "tuple": tuple,
        "array": np.array,
        "objects": lambda v: np.array([*v, None], dtype=object)[:-1],
        "pandas": pd.Series,
        "categorical": lambda v: pd.Series(v).astype("category"),
        "nullable": lambda v: pd.Series(v).convert_dtypes(),
        "strange index": lambda v: pd.Series(v, index=[7] * len(v)),
        "polars": lambda v: pl.Series(v, strict=False),
        "pyarrow": pa.array,
        "chunks": lambda v: pa.chunked_array([v[:1], v[1:]]),
        "column": lambda v: np.array(v)[:, None],
        "masked": np.ma.array,
        "float32": lambda v: np.array(v, dtype=np.float32),
        "int8": lambda v: np.array(v, dtype=np.int8),
        "swapped bytes": lambda v: np.array(v).astype(np.array(v).dtype.newbyteorder()),
        "read-only": _read_only,
    }
    make = kinds[pick(rng, ("list", "array", "pandas"), kinds, 0.4)]
    with contextlib.suppress(Exception), warnings.catch_warnings():  # not all hold all
        warnings.simplefilter("ignore")
        return make(values)
    return values


def _read_only(values):
    array = np.array(values)
    array.flags.writeable = False
    return array


def frame_of(rng, columns):
    names = list(columns)
    if rng.random() < 0.15:
        rng.shuffle(names)
    columns = {name: columns[name] for name in names}
    kinds = {
        "pandas": pd.DataFrame,
        "polars": lambda c: pl.DataFrame(c, strict=False),
        "pyarrow": pa.table,
        "array": lambda c: np.column_stack([np.array(v) for v in c.values()]),
        "objects": _objects,
        "pandas nullable": lambda c: pd.DataFrame(c).convert_dtypes(),
        "pandas arrow": lambda c: pd.DataFrame(c).convert_dtypes(dtype_backend="pyarrow"),
        "categories": lambda c: pd.DataFrame(c).astype({name: "category" for name in names[:2]}),
        "indexed": lambda c: pd.DataFrame(c).set_index(names[0]),
        "many indices": lambda c: pd.DataFrame(c, index=[3] * len(c[names[0]])),
        "number names": lambda c: pd.DataFrame(dict(enumerate(c.values()))),
        "twice": lambda c: pd.concat([pd.DataFrame(c)] * 2, axis=1),
        "lazy": lambda c: pl.DataFrame(c, strict=False).lazy(),
        "batch": lambda c: pa.table(c).to_batches()[0],
        "records": lambda c: pd.DataFrame(c).to_records(index=False),
        "dict": dict,
        "rows": lambda c: list(zip(*c.values(), strict=True)),
        "dicts": lambda c: pd.DataFrame(c).to_dict("records"),
        "masked": lambda c: np.ma.array(np.column_stack(list(c.values()))),
        "fortran": lambda c: np.asfortranarray(np.column_stack(list(c.values()))),
        "read-only": lambda c: _read_only(np.column_stack(list(c.values()))),
        "iterator": lambda c: iter(list(c.values())),
    }
    make = kinds[pick(rng, ("pandas", "polars", "pyarrow", "array", "objects"), kinds, 0.3)]
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(columns)
    return _objects(columns)


def _objects(columns):
    array = np.empty((len(next(iter(columns.values()))), len(columns)), dtype=object)
    for place, values in enumerate(columns.values()):
        for row, value in enumerate(values):
            array[row, place] = value
    return array


class Data:
    """What one program's tables are drawn from: kinds of ids and times, and a coding."""

    def __init__(self, rng):
        self.item = IDS[pick(rng, USUAL_IDS, IDS, 0.1)]
        self.user = IDS[pick(rng, USUAL_IDS, IDS, 0.05)]
        self.time = TIMES[pick(rng, USUAL_TIMES, TIMES, 0.07)]
        self.timed = rng.random() < 0.7
        self.coding = pick(rng, USUAL_FEEDBACK, FEEDBACK, 0.07)
        self.n_items = rng.choice([1, 2, 5, 12, 30])
        self.as_lists = rng.random() < 0.2

    def items(self, rng, n, *, other=0.03):
        kind = IDS[rng.choice(list(IDS))] if rng.random() < other else self.item
        return with_gaps(rng, [kind(one) for one in numbers(rng, n, self.n_items + 2)], 0.01)

    def table(self, rng):
        """Return interactions and feedback of one length, mostly."""
        if rng.random() < 0.04:
            return rng.choice(STRANGE), None
        n = rng.choice([0, 1, 2, 10, 30, 30, 60, 60, 60, 60])
        if self.as_lists and rng.random() < 0.9:
            lengths = [rng.choice([0, 1, 3, 8]) for _ in range(n // 5 + 1)]
            lists = [wrapped(rng, self.items(rng, length)) for length in lengths]
            graded = [feedback_of(rng, length, coding=self.coding) for length in lengths]
            return lists, pick(rng, [graded], [None, [], graded[:-1]], 0.15)
        columns = {
            "user": with_gaps(rng, [self.user(one) for one in numbers(rng, n, 8)], 0.01),
            "item": self.items(rng, n),
        }
        if self.timed:
            times = [self.time(one) for one in numbers(rng, n, 50)]
            columns["time"] = with_gaps(rng, times, 0.01)
        if rng.random() < 0.1:
            columns["rating"] = numbers(rng, n, 5)
        feedback = wrapped(rng, feedback_of(rng, n, coding=self.coding))
        return frame_of(rng, columns), pick(
            rng, [feedback], [None, None, rng.choice(STRANGE)], 0.15
        )

    def history(self, rng):
        """Return one history, its feedback and its times."""
        if rng.random() < 0.04:
            return rng.choice(STRANGE), None, None
        n = rng.choice([0, 1, 2, 6, 20])
        items = wrapped(rng, self.items(rng, n))
        feedback = wrapped(rng, feedback_of(rng, n, coding=self.coding))
        times = sorted(numbers(rng, n, 50)) if rng.random() < 0.95 else numbers(rng, n, 50)
        times = wrapped(rng, [self.time(one) for one in times])
        return (
            items,
            pick(rng, [feedback, None], STRANGE, 0.05),
            pick(rng, [times, None], STRANGE, 0.05),
        )


# -- Parameters ----------------------------------------------------------------------------------

RIGHT = {
    "objective": ["joint", "pnfrec"],
    "dislike_aversion": [0, 0.5, 5.0, np.float32(2)],
    "item_memory": [True, False],
    "exclude_seen": [True, False, "auto"],
    "embedding_dim": [1, 4, np.int64(6)],
    "n_layers": [0, 1, 2],
    "n_heads": [1, 2],
    "max_len": [1, 5, 50],
    "dropout": [0, 0.5],
    "negative_weight": [0, 0.5],
    "contrastive_weight": [0, 0.5],
    "contrastive_similarity": ["dot", "cosine"],
    "contrastive_negatives": ["window", "past"],
    "temperature": [0.1, 1],
    "windows": ["recent", "random"],
    "n_negatives": [None, 3, 100],
    "learning_rate": [1e-3, 0.1, 10.0],
    "batch_size": [1, 8, 10**6],
    "ema_decay": [0.0, 0.9],
    "max_epochs": [1, 2],
    "early_stopping": [True, False],
    "validation_fraction": [0.01, 0.5, 0.99],
    "n_iter_no_change": [1, 5],
    "precision": ["auto", "float32", "bfloat16"],
    "random_state": [0, None, np.random.RandomState(3)],
    "verbose": [0, False],
    "positive_threshold": [None, 4, (2, 4), 0.5],
    "user_column": [None, "user", 0],
    "item_column": [None, "item", 1],
    "time_column": [None, "time", 2],
}
WRONG = [
    value for value in STRANGE if not isinstance(value, pd.DataFrame | pl.DataFrame | pa.Table)
] + [-1, 0.5, 2, 1e-3, "auto", "joint", "cosine", (4, 2), (1, 2, 3), [3, 4], 2**31, np.int8(3)]
# Sizes that would be granted, and take long.
_SLOW = {"max_epochs", "n_layers", "embedding_dim", "max_len", "verbose", "n_negatives"}


def parameters(rng):
    params = dict(TINY)
    for name in rng.sample(sorted(RIGHT), rng.choice([0, 1, 3, 6])):
        params[name] = rng.choice(RIGHT[name])
    if rng.random() < 0.15:
        name = rng.choice(sorted(RIGHT))
        value = rng.choice(WRONG)
        if not (name in _SLOW and isinstance(value, int) and value > 2):
            params[name] = value
    return params


# -- Calls ---------------------------------------------------------------------------------------


def fingerprint(value):
    """What a caller could see of a value."""
    if isinstance(value, list | tuple):
        return type(value), [fingerprint(part) for part in value]
    if isinstance(value, dict):
        return [(key, fingerprint(part)) for key, part in value.items()]
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        parts = (
            [fingerprint(v) for v in value.ravel()] if value.dtype.hasobject else value.tobytes()
        )
        return value.shape, str(value.dtype), parts, value.flags.writeable
    if isinstance(value, pd.DataFrame):
        columns = [value.iloc[:, place] for place in range(value.shape[1])]
        return [type(value), repr(value.columns), fingerprint(columns)]
    if isinstance(value, pd.Series | pd.Index):
        index = value.index if isinstance(value, pd.Series) else ()
        return [type(value), str(value.dtype), repr(list(value)), repr(list(index))]
    if isinstance(value, pl.DataFrame | pl.Series | pa.Table | pa.Array | pa.ChunkedArray):
        return str(type(value)), repr(value), len(value)
    if isinstance(value, np.random.RandomState):
        return id(value)
    return repr(value)


def state_of(model):
    """What a failed call must leave as it was."""
    if not hasattr(model, "get_params"):
        return None
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    params = {
        name: value for name, value in last.get_params(deep=False).items() if name != "random_state"
    }
    return vars(last).get("fitted_"), fingerprint(params)


def check(holds, what):
    if not holds:
        raise Fault(what)


def is_frame(value):
    return isinstance(value, pd.DataFrame | pl.DataFrame | pa.Table)


class Program:
    """A model and what was called so far."""

    def __init__(self, rng, folder, log):
        self.rng, self.folder, self.log = rng, folder, log
        self.data, self.params = Data(rng), parameters(rng)
        if "grades" in self.data.coding and rng.random() < 0.9:
            self.params["positive_threshold"] = rng.choice([3, (2, 4), 3.5])
        self.model = None
        self.outcomes = Counter()

    def run(self):
        def make():
            model = ContrastiveSeqRecommender(**self.params)
            if self.rng.random() < 0.12:
                return make_recommender_pipeline(
                    *self.rng.sample(
                        [
                            SequenceBuilder(),
                            RareItemMasker(min_users_per_item=1, min_items_per_user=1),
                        ],
                        1,
                    ),
                    model,
                )
            return model

        self.model = self.call("make", make)
        if self.model is None:
            return
        # Most of what is called needs a fitted model, and not every table is one to fit on.
        for _ in range(self.rng.choice([0, 3, 3, 3, 3])):
            if not self.is_fitted():
                self.do_fit()
        names = [name.removeprefix("do_") for name in dir(self) if name.startswith("do_")]
        for name in self.rng.choices(names, k=self.rng.randint(1, 4)):
            getattr(self, f"do_{name}")()

    def is_fitted(self):
        return state_of(self.model)[0] is not None

    def call(self, name, function, *args, contract=None, **kwargs):
        """Call, and look whether all that is promised of any call holds."""
        self.log(name, args, kwargs)
        before, state = fingerprint([args, kwargs]), state_of(self.model)
        global_state = np.random.get_state()[1].tobytes()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value, error = function(*args, **kwargs), None
            except Exception as raised:
                value, error = None, raised
        check(fingerprint([args, kwargs]) == before, "the call changed what it was given")
        check(
            np.random.get_state()[1].tobytes() == global_state, "the call drew from NumPy's numbers"
        )
        for warning in caught:
            check(
                issubclass(warning.category, UserWarning),
                f"a foreign warning: {warning.category.__name__}: {warning.message} "
                f"({warning.filename}:{warning.lineno})",
            )
            check(len(str(warning.message)) < MAX_MESSAGE, "a warning is a book")
        if error is not None:
            self.log("  raised", repr(error)[:300])
            self.outcomes[f"{name}: refused"] += 1
            self.check_error(error, name)
            check(state_of(self.model) == state, "a failed call changed the model")
            return None
        self.outcomes[f"{name}: answered"] += 1
        if contract is not None:
            contract(value)
        return value

    def check_error(self, error, name):
        # A fit whose loss ends says so; attributes that a fit did not leave behind do not exist;
        # what cannot be pickled was a parameter of the caller's.
        if name == "pickle" and isinstance(error, pickle.PicklingError):
            return
        documented = isinstance(error, EXPECTED) or (
            isinstance(error, FloatingPointError)
            if name.startswith(("fit", "partial_fit"))
            else isinstance(error, AttributeError) and name.startswith("attribute")
        )
        text = "".join(traceback.format_exception(error))
        check(documented, f"an error of another type\n{text}")
        check(0 < len(str(error)) < MAX_MESSAGE, f"a message of {len(str(error))} characters")
        frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
        file = frame.f_code.co_filename
        check(
            (PACKAGE in file or "sklearn" in file) and line in _raises(file),
            f"an error that this package did not raise\n{text}",
        )

    # Each of these is one call with arguments drawn anew.

    def do_fit(self, name="fit"):
        interactions, feedback = self.data.table(self.rng)
        kwargs = {}
        if self.rng.random() < 0.15:
            n = 3
            with contextlib.suppress(TypeError):
                n = len(interactions)
            weights = [self.rng.choice([0, 1, 2.5]) for _ in range(n)]
            if hasattr(self.model, "steps"):
                return
            kwargs["sample_weight"] = pick(self.rng, [wrapped(self.rng, weights)], STRANGE, 0.3)
        if name == "fit" and self.rng.random() < 0.12 and not hasattr(self.model, "steps"):
            name = "fit with a validation set"
            others = self.rng.choice([self.data.table(self.rng), (interactions, feedback)])
            kwargs["X_val"], kwargs["y_val"] = others

        def contract(value):
            check(value is self.model, f"{name} returned something else")
            last = self.model.steps[-1][1] if hasattr(self.model, "steps") else self.model
            for array in last.weights_.values():
                check(np.isfinite(array).all(), "weights that are not finite")

        method = getattr(self.model, name.split()[0])
        self.call(name, method, interactions, feedback, contract=contract, **kwargs)

    def do_partial_fit(self):
        if not hasattr(self.model, "steps"):
            self.do_fit("partial_fit")

    def options(self):
        rng, options = self.rng, {}
        if rng.random() < 0.3:
            options["k"] = pick(rng, [1, 3, 10, 10**6, np.int64(2)], STRANGE, 0.15)
        if rng.random() < 0.2:
            options["exclude_seen"] = pick(rng, [True, False, None, 1, np.int64(4)], STRANGE, 0.1)
        for name in ("allowed_items", "denied_items"):
            if rng.random() < 0.2:
                options[name] = pick(rng, [self.filter()], STRANGE, 0.1)
        return options

    def further_options(self):
        rng, options = self.rng, {}
        if rng.random() < 0.2:
            options["dislike_aversion"] = pick(rng, [0, 1.5, 100], STRANGE, 0.15)
        if rng.random() < 0.2:
            options["pinned_items"] = pick(rng, [self.filter()], STRANGE, 0.1)
        if rng.random() < 0.15:
            boosts = self.by_item(pick(rng, [0, -3.5, 100, np.float32(2)], STRANGE, 0.05))
            options["boosts"] = pick(rng, [boosts], STRANGE, 0.1)
        if rng.random() < 0.15:
            groups = self.by_item(None, rng.choice(["a", 3, "b", None, math.nan]))
            if self.is_fitted() and rng.random() < 0.4:
                groups = wrapped(rng, [rng.choice(["a", "b"]) for _ in self.known()])
            options["groups"] = pick(rng, [groups], STRANGE, 0.1)
            options["max_per_group"] = pick(rng, [1, 2, 100], STRANGE, 0.1)
        if rng.random() < 0.15:
            options["diversity"] = pick(rng, [0, 0.3, 1, np.float32(0.5)], STRANGE, 0.15)
        return options

    def filter(self):
        """Name items, for all users or for each."""
        rng = self.rng

        def some():
            return wrapped(rng, self.data.items(rng, rng.choice([0, 1, 5])))

        kind = rng.choice(["all", "all", "all", "users", "lists", "matrix"])
        if kind == "users":
            with contextlib.suppress(TypeError):  # not all ids are keys
                return {self.data.user(n): pick(rng, [some()], [None], 0.1) for n in range(8)}
        if kind == "lists":
            return [some() for _ in range(rng.choice([1, 8]))]
        if kind == "matrix" and self.is_fitted():
            return np.array([[rng.random() < 0.5 for _ in self.known()]] * rng.choice([1, 8]))
        return some()

    def by_item(self, *values):
        with contextlib.suppress(TypeError):  # not all ids are keys
            return {one: self.rng.choice(values) for one in self.data.items(self.rng, 6)}
        return {}

    def do_recommend(self):
        history, feedback, times = self.data.history(self.rng)
        options = self.options() | self.further_options()
        k = options.get("k", 10)
        in_order = "pinned_items" not in options and "diversity" not in options

        def contract(answer):
            if not (isinstance(answer, tuple) and len(answer) == 2):
                return  # what was strange was a table
            items, scores = answer
            known = self.known()
            check(len(items) == len(scores) <= k, "an answer of the wrong length")
            check(len(set(items.tolist())) == len(items), "an item twice")
            check(set(items.tolist()) <= set(known), "an item that is none of the model's")
            check(scores.dtype == np.float32, f"scores are {scores.dtype}")
            check(np.isfinite(scores).all(), "a score that is not finite")
            check((np.diff(scores) <= 0).all() or not in_order, "scores that rise")
            groups = options.get("groups")
            if isinstance(groups, dict):
                told = [groups.get(one) for one in items.tolist()]
                counts = Counter(one for one in told if isinstance(one, str))
                most = options["max_per_group"]
                check(all(count <= most for count in counts.values()), "a group too often")

        if hasattr(self.model, "steps"):
            self.call("recommend", self.model.recommend, history, contract=contract, **options)
            return
        options |= {"feedback": feedback, "times": times}
        self.call("recommend", self.model.recommend, history, contract=contract, **options)

    def do_recommend_many(self):
        interactions, feedback = self.data.table(self.rng)
        options = self.options() | self.further_options()
        k = options.get("k", 10)

        def contract(answer):
            if isinstance(answer, tuple):
                return  # what was strange was a history
            names = answer.dtype.names if isinstance(answer, np.ndarray) else answer.columns
            table = (
                {name: answer[name].tolist() for name in names}
                if isinstance(answer, np.ndarray | pd.DataFrame)
                else pl.DataFrame(answer).to_dict(as_series=False)
                if isinstance(answer, pl.DataFrame)
                else answer.to_pydict()
            )
            user, item, score, rank = table.values()
            counts = Counter(map(str, user))
            check(not counts or max(counts.values()) <= k, "more than k for a user")
            check(len(set(zip(map(str, user), item, strict=True))) == len(item), "an item twice")
            check(all(map(math.isfinite, score)), "a score that is not finite")
            place = Counter()
            for one, at in zip(map(str, user), rank, strict=True):
                place[one] += 1
                check(at == place[one], "ranks out of order")
            if is_frame(interactions):
                check(type(answer) is type(interactions), "a frame of another kind")

        self.call(
            "recommend_many",
            self.model.recommend,
            interactions,
            contract=contract,
            feedback=feedback,
            **options,
        )

    def do_score(self):
        interactions, feedback = self.data.table(self.rng)
        self.call(
            "score",
            self.model.score,
            interactions,
            feedback,
            contract=lambda value: check(
                isinstance(value, float) and -1 <= value <= 1, f"a score of {value}"
            ),
        )

    def do_target_ranks(self):
        if hasattr(self.model, "steps"):
            return
        interactions, feedback = self.data.table(self.rng)
        targets = pick(self.rng, ["last", "all"], STRANGE, 0.1)

        def contract(ranks):
            check(
                len(ranks.users) == len(ranks.rows) == len(ranks.signs) == len(ranks.ranks),
                "columns of different lengths",
            )
            check(((ranks.ranks >= 1) & (ranks.ranks <= ranks.n_items + 1)).all(), "a wrong rank")

        self.call(
            "target_ranks",
            self.model.target_ranks,
            interactions,
            feedback,
            contract=contract,
            targets=targets,
        )

    def do_evaluate(self):
        if hasattr(self.model, "steps"):
            return
        interactions, feedback = self.data.table(self.rng)
        self.call("evaluate", evaluate, self.model, interactions, feedback, n_bootstraps=10)

    def do_aversion_curve(self):
        interactions, feedback = self.data.table(self.rng)
        aversions = pick(self.rng, [None, [0, 3], [5.0], np.array([2, 2, 0])], STRANGE, 0.15)

        def contract(curve):
            check(len(curve["ndcg_liked"]) == len(curve.aversions), "a wrong length")
            check((np.diff(curve.aversions) > 0).all(), "aversions that do not rise")

        self.call(
            "aversion_curve",
            aversion_curve,
            self.model,
            interactions,
            feedback,
            aversions,
            contract=contract,
            n_bootstraps=10,
            random_state=0,
        )

    def do_baseline(self):
        """The same calls of a baseline, in the model's place."""
        rng, model = self.rng, self.model
        threshold = self.params.get("positive_threshold")
        kind = rng.choice([PopularityRecommender, ItemItemRecommender])
        own = {
            PopularityRecommender: {"likes_only": pick(rng, [True, False], WRONG, 0.1)},
            ItemItemRecommender: {"n_neighbours": pick(rng, [1, 50], WRONG, 0.1)},
        }
        self.model = kind(positive_threshold=threshold, **own[kind])
        try:
            for _ in range(2):
                self.call("fit a baseline", self.model.fit, *self.data.table(rng))
            history, feedback, _ = self.data.history(rng)
            for asked in (history, self.data.table(rng)[0]):
                options = self.options() | self.further_options()
                self.call("ask a baseline", self.model.recommend, asked, **options)
            self.call("ask a baseline", self.model.score_items, history, feedback=feedback)
            item = pick(rng, [self.data.item(0)], STRANGE, 0.1)
            self.call("ask a baseline", self.model.explain, history, item, feedback=feedback)
            self.call("score a baseline", self.model.score, *self.data.table(rng))
        finally:
            self.model = model

    def do_explain(self):
        if hasattr(self.model, "steps"):
            return
        history, feedback, times = self.data.history(self.rng)
        item = pick(self.rng, [self.data.item(0)], STRANGE, 0.1)
        options = {"feedback": feedback, "times": times}

        def contract(why):
            check(len(why.items) == len(why.effects) == len(history), "a wrong length")
            check(np.isfinite(why.effects).all(), "an effect that is not finite")
            check(repr(why) and why._repr_html_(), "nothing to show")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                asked = np.array([why.item, None], dtype=object)[:-1]
                (score,) = self.model.score_items(history, asked, **options)
            check(math.isclose(score, why.score, rel_tol=1e-3, abs_tol=1e-3), "another score")

        self.call("explain", self.model.explain, history, item, contract=contract, **options)

    def do_encode(self):
        if hasattr(self.model, "steps"):
            return
        asked, feedback = self.data.table(self.rng)
        if self.rng.random() < 0.5:
            asked, feedback, _ = self.data.history(self.rng)

        def contract(vectors):
            check(vectors.shape[1:] == self.model.item_vectors_.shape[1:], "another space")
            check(np.isfinite(vectors).all(), "a vector that is not finite")

        self.call("encode", self.model.encode, asked, feedback=feedback, contract=contract)

    def do_rerank(self):
        if hasattr(self.model, "steps"):
            return
        history, feedback, times = self.data.history(self.rng)
        items = self.data.items(self.rng, 5)
        if self.is_fitted() and self.rng.random() < 0.5:
            items = self.known()
        candidates = pick(self.rng, [wrapped(self.rng, items)], STRANGE, 0.1)
        options = self.options()
        options = {name: options[name] for name in ("k", "exclude_seen") if name in options}
        k = options.get("k", 10)

        def contract(answer):
            found, scores, is_exact = answer
            check(len(found) == len(scores) <= k, "an answer of the wrong length")
            check(len(set(found.tolist())) == len(found), "an item twice")
            check(np.isfinite(scores).all(), "a score that is not finite")
            check((np.diff(scores) <= 0).all(), "scores that rise")
            check(isinstance(is_exact, bool), "neither exact nor not")

        self.call(
            "rerank",
            self.model.rerank,
            history,
            candidates,
            contract=contract,
            feedback=feedback,
            times=times,
            **options,
        )

    def do_score_items(self):
        if hasattr(self.model, "steps"):
            return
        history, feedback, times = self.data.history(self.rng)
        asked = wrapped(self.rng, self.data.items(self.rng, self.rng.choice([0, 1, 5])))
        asked = pick(self.rng, [asked, None], STRANGE, 0.1)

        def contract(scores):
            n = len(self.known()) if asked is None else len(asked)
            check(scores.shape == (n,), f"scores of shape {scores.shape} for {n} items")
            check(not np.isinf(scores).any(), "an infinite score")

        self.call(
            "score_items",
            self.model.score_items,
            history,
            asked,
            contract=contract,
            feedback=feedback,
            times=times,
        )

    def do_similar_items(self):
        if hasattr(self.model, "steps"):
            return
        item = pick(self.rng, [self.data.item(0)], STRANGE, 0.2)
        k = pick(self.rng, [1, 5, 100], STRANGE, 0.1)

        def contract(answer):
            items, scores = answer
            check(len(items) == len(scores) == min(k, len(self.known()) - 1), "a wrong length")
            check((np.abs(scores) <= 1 + 1e-5).all(), "no cosines")

        self.call("similar_items", self.model.similar_items, item, k, contract=contract)

    def do_unknown_items(self):
        if hasattr(self.model, "steps"):
            return
        passed = (
            self.data.history(self.rng)[0]
            if self.rng.random() < 0.5
            else self.data.table(self.rng)[0]
        )
        self.call("unknown_items", self.model.unknown_items, passed)

    def do_set_params(self):
        name = self.rng.choice(sorted(RIGHT))
        if not hasattr(self.model, "steps"):
            self.call("set_params", self.model.set_params, **{name: self.rng.choice(RIGHT[name])})

    def do_attributes(self):
        if hasattr(self.model, "steps"):
            return
        for name in ("items_", "history_", "n_iter_", "gap_edges_", "item_vectors_"):
            self.call(f"attribute {name}", getattr, self.model, name)
        self.call("repr", repr, self.model)

    def do_clone(self):
        copied = self.call("clone", clone, self.model)
        if copied is not None:
            check(not copied.__sklearn_is_fitted__(), "a clone that is fitted")

    def do_copy(self):
        copied = self.call("deepcopy", copy.deepcopy, self.model)
        self.check_copy(copied)

    def do_pickle(self):
        data = self.call("pickle", pickle.dumps, self.model)
        if data is not None:
            self.check_copy(self.call("unpickle", pickle.loads, data))

    def do_save(self):
        path = self.folder / "model.posneg"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        self.call("save", self.model.save, path)
        if path.exists():
            load = type(self.model).load
            self.check_copy(self.call("load", load, path, mmap=self.rng.random() < 0.5))
            served = self.call("load to serve", serving.load, path, mmap=self.rng.random() < 0.5)
            self.check_copy(served)
            buffer = io.BytesIO(path.read_bytes()[: self.rng.choice([-1, 100, None])])
            self.call("load a part", self.rng.choice([load, serving.load]), buffer)

    def known(self):
        return (
            self.model.items_.tolist()
            if not hasattr(self.model, "steps")
            else (self.model.steps[-1][1].items_.tolist())
        )

    def check_copy(self, copied):
        """Copies answer as the model does."""
        if copied is None or not self.model.__sklearn_is_fitted__():
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # As an array: a list of ids that are tuples looks like rows.
            history = np.array([*self.known()[:3], None], dtype=object)[:-1]
            answers = [one.recommend(history, k=4) for one in (self.model, copied)]
        one, other = ([part.tolist() for part in answer] for answer in answers)
        check(one == other, "a copy answers otherwise")


@functools.cache
def _raises(file):
    """The lines of a file on which a `raise` stands."""
    tree = ast.parse(Path(file).read_text())
    return {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        for line in range(node.lineno, node.end_lineno + 1)
    }


# -- Running -------------------------------------------------------------------------------------


def run_case(seed, case, *, show=False):
    """Run one program; raise Fault where it breaks a promise. Return what became of its calls."""
    rng = random.Random(f"{seed}-{case}")
    lines = []

    def log(*parts):
        line = " ".join(part if isinstance(part, str) else _shown(part) for part in parts)
        lines.append(line)
        if show:
            print(line, flush=True)

    np.random.seed(0)  # what it draws from must not be the global state, which is looked at
    # Of a fit's steps, which take most of the time, a few break as many promises as many do.
    few_steps = mock.patch.object(training, "_MIN_STEPS", 3)
    with few_steps, tempfile.TemporaryDirectory() as folder:
        program = Program(rng, Path(folder), log)
        log("parameters", {n: v for n, v in program.params.items() if TINY.get(n, log) is not v})
        try:
            program.run()
        except Exception as error:
            fault = str(error) if isinstance(error, Fault) else traceback.format_exc()
            raise Fault(
                f"python tests/fuzz.py --seed {seed} --case {case}\n"
                + "\n".join(lines)
                + f"\n{fault}"
            ) from None
    return program.outcomes


def _shown(value):
    return repr(value)[:2000]


def run_range(seed, cases, note=lambda case: None):
    """Run programs one after the other; return all faults, and what became of all calls."""
    faults, outcomes = [], Counter()
    for case in cases:
        note(case)
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        try:
            outcomes += run_case(seed, case)
        except Fault as fault:
            faults.append(str(fault))
        finally:
            faulthandler.cancel_dump_traceback_later()
    return faults, outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--case", type=int, help="show one")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case is not None:
        run_case(args.seed, args.case, show=True)
        return 0
    if args.worker:
        cases = range(args.first, args.first + args.cases)
        faults, outcomes = run_range(
            args.seed, cases, lambda case: print("at", case, file=sys.stderr, flush=True)
        )
        print(pickle.dumps((faults, outcomes)).hex())
        return 0
    # In processes of their own, so that one that dies or hangs is a fault like others.
    faults, outcomes, first, end = [], Counter(), args.first, args.first + args.cases
    while first < end:
        n = min(100, end - first)
        command = [sys.executable, __file__, "--worker", "--seed", args.seed]
        command += ["--first", str(first), "--cases", str(n)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            found, counted = pickle.loads(bytes.fromhex(done.stdout.splitlines()[-1]))
            first += n
        else:
            at = int([line for line in done.stderr.splitlines() if line.startswith("at ")][-1][3:])
            died = signal.Signals(-done.returncode).name if done.returncode < 0 else done.returncode
            found = [f"python tests/fuzz.py --seed {args.seed} --case {at}\ndied: {died}\n"]
            found[0] += done.stderr[-3000:]
            counted, first = Counter(), at + 1
        faults += found
        outcomes += counted
        for fault in found:
            print(fault, end="\n\n", flush=True)
        print(f"{first - args.first} cases, {len(faults)} faults", flush=True)
    for name, count in sorted(outcomes.items()):
        print(f"{count:8} {name}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
