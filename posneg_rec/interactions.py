"""Where interactions come in: tables, arrays, lists and feedback are validated here, and only here.

In front of this module everything speaks raw ids; behind it everything works on integer codes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from math import isfinite
from numbers import Integral, Number, Real
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_array, column_or_1d

from posneg_rec.ids import (
    MISSING_ID,
    ItemVocabulary,
    Mask,
    Where,
    all_finite,
    as_column,
    as_ids,
    as_objects,
    as_times,
    complete_ids,
    described,
    either,
    kind_of,
    missing_objects,
    name_position,
    name_row,
    sorted_unique,
    why_no_column,
)
from posneg_rec.sequences import Histories, event_order, is_last, offsets_of, preview, shorten

__all__ = [
    "ROLES",
    "Interactions",
    "as_frame",
    "as_table",
    "build_histories",
    "check_not_empty",
    "column_positions",
    "is_frame",
    "is_history",
    "is_table",
    "read_history",
    "read_interactions",
    "read_table",
    "read_times",
    "table_like",
]

ROLES = ("user", "item", "time")


@dataclass(frozen=True, eq=False)
class Interactions:
    """Validated interactions: raw columns, one entry per kept row, in the caller's order.

    Attributes
    ----------
    user_codes, item_codes : ndarray of shape (n_kept,), dtype=int32 or int64
        Positions in `user_ids` and `item_ids`.
    user_ids : ndarray of shape (n_users,), dtype=int64, float64 or object
        The distinct users, ascending; in a list of histories also those with an empty history.
    item_ids : ndarray of shape (n_items,), dtype=int64, float64 or object
        The distinct items, ascending.
    times : ndarray of shape (n_kept,), dtype=int64 or float64, or None
        When it happened; None where row order is time order. A datetime is an integer here.
    signs : ndarray of shape (n_kept,), dtype=int8
        +1 liked, -1 disliked, 0 neutral.
    kept : ndarray of shape (n_kept,), dtype=int64, or None
        The rows that are not masked, which have an entry each; None for all of them.
    n_rows : int
        How many rows the caller passed.
    feedback_coding : {"liked", "binary", "signed", "graded"}
        How feedback was read: all liked, 0 as disliked, 0 as neutral, by threshold.
    time_unit : str or None
        NumPy's unit of a datetime column ("ns", "us", ...), None for plain numbers.
    """

    user_codes: NDArray[np.integer]
    user_ids: NDArray[Any]
    item_codes: NDArray[np.integer]
    item_ids: NDArray[Any]
    times: NDArray[Any] | None
    signs: NDArray[np.int8]
    kept: NDArray[np.int64] | None
    n_rows: int
    feedback_coding: str
    time_unit: str | None = None

    @property
    def rows(self) -> NDArray[np.int64]:
        """The caller's row of each entry; of a list of histories, rows are all their events."""
        return np.arange(self.n_rows) if self.kept is None else self.kept

    @property
    def users(self) -> NDArray[Any]:
        """Raw user id of each entry, shape (n_kept,)."""
        return self.user_ids.take(self.user_codes)

    @property
    def items(self) -> NDArray[Any]:
        """Raw item id of each entry, shape (n_kept,)."""
        return self.item_ids.take(self.item_codes)


def is_table(interactions: Any) -> bool:
    """Tell a table, one row per interaction, from a list of histories, one entry per user."""
    return not isinstance(interactions, list | tuple)


def is_frame(interactions: Any) -> bool:
    """Tell a pandas, polars or pyarrow table from anything else."""
    return bool(nw.dependencies.is_into_dataframe(interactions))


def as_frame(interactions: Any) -> Any:
    """Turn what has named columns, but is no frame, into one; let all else be.

    Parameters
    ----------
    interactions : object
        What speaks Arrow's PyCapsule interface (a record batch or a reader of such, a relation of
        DuckDB, a table of Ibis) becomes a pyarrow table, a structured array a frame of pandas,
        polars or pyarrow, whichever is installed. A reader can be read only once, so callers
        keep what comes back.

    Returns
    -------
    object
        A frame, or what was passed.

    Raises
    ------
    TypeError
        If the frame is lazy, or no library that could hold it is installed.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.interactions import as_frame
    >>> rows = np.array([("a", 1)], dtype=[("user", "U1"), ("item", "i8")])
    >>> list(as_frame(rows).columns)
    ['user', 'item']
    """
    if isinstance(interactions, list | tuple) or is_frame(interactions) or _is_vector(interactions):
        return interactions
    if isinstance(interactions, np.ndarray):
        return interactions if interactions.dtype.names is None else _from_records(interactions)
    if _speaks_arrow(interactions):
        return _from_arrow(interactions)
    lazy = nw.from_native(interactions, pass_through=True)
    if isinstance(lazy, nw.LazyFrame):
        raise TypeError(
            f"interactions is a lazy frame ({_full_name(interactions)}): pass "
            f"interactions.{_COLLECT.get(lazy.implementation, 'collect')}()."
        )
    return interactions


# What makes a frame in memory of a lazy one.
_COLLECT = {
    nw.Implementation.DASK: "compute",
    nw.Implementation.DUCKDB: "df",
    nw.Implementation.IBIS: "to_pyarrow",
    nw.Implementation.PYSPARK: "toPandas",
    nw.Implementation.PYSPARK_CONNECT: "toPandas",
    nw.Implementation.SQLFRAME: "toPandas",
}


def _full_name(value: Any) -> str:
    return f"{type(value).__module__.partition('.')[0]} {type(value).__qualname__}"


def _speaks_arrow(value: Any) -> bool:
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")


def _from_arrow(interactions: Any) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise TypeError(
            f"To read a {_full_name(interactions)} takes pyarrow: install it, or pass a pandas or "
            "polars frame."
        ) from None
    try:
        return pyarrow.table(interactions)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise TypeError(
            f"The {_full_name(interactions)} cannot be read as a table by pyarrow: {error}."
        ) from error


def _from_records(records: NDArray[Any]) -> Any:
    """Make a frame of a structured array."""
    if records.ndim != 1:
        raise ValueError(f"A structured array of rows must be 1-D, got shape {records.shape}.")
    columns = {name: _for_frames(_unmasked(records[name])) for name in records.dtype.names or ()}
    for backend in ("pandas", "polars", "pyarrow"):
        if find_spec(backend):
            return nw.from_dict(columns, backend=backend).to_native()
    raise TypeError(
        "To read a structured array takes pandas, polars or pyarrow: install one of them, or pass "
        "a 2-D array with the columns user, item and time."
    )


def _for_frames(column: NDArray[Any]) -> NDArray[Any]:
    """Bring a column to the machine's order of bytes, and datetimes to a unit that frames have."""
    column = column.astype(column.dtype.newbyteorder("="), copy=False)
    if column.dtype.kind != "M":
        return column
    unit, _ = np.datetime_data(column.dtype)
    return column.astype(f"M8[{unit if unit in ('us', 'ns') else 'ms'}]")


def _unmasked(array: Any) -> NDArray[Any]:
    """Write the mask of a masked array into it: what is masked is missing."""
    mask, values = np.ma.getmaskarray(array), np.asarray(array)
    if not mask.any():
        return values
    if values.dtype.kind == "f":
        return np.where(mask, np.nan, values)
    if values.dtype.kind == "i":
        return np.where(mask, MISSING_ID, values.astype(np.int64))
    values = values.astype(object)
    values[mask] = None
    return values


def table_like(interactions: Any, columns: dict[str, NDArray[Any]]) -> Any:
    """Put columns into a frame of the kind that `interactions` is, else a structured array."""
    backend: Any = None
    if is_frame(interactions):
        backend = nw.from_native(interactions, eager_only=True).implementation
    elif _speaks_arrow(interactions):
        backend = "pyarrow"
    if backend is not None:
        return nw.from_dict(columns, backend=backend).to_native()
    dtype = [(name, values.dtype) for name, values in columns.items()]
    table = np.empty(len(next(iter(columns.values()))), dtype=dtype)
    for name, values in columns.items():
        table[name] = values
    return table


def is_history(interactions: Any) -> bool:
    """Tell one history, a flat list or 1-D array of item ids, from a table or list of histories."""
    if isinstance(interactions, list | tuple):
        return not any(map(_is_vector, interactions[:1]))
    return _is_vector(interactions)


def _is_vector(values: Any) -> bool:
    """Tell a list, 1-D array, series, index, range, ... from one value and from a table."""
    if isinstance(values, str | bytes | bytearray | int | float) or values is None:
        return False
    if isinstance(values, Sequence | KeysView | ValuesView):
        return True
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.names is None
    if nw.dependencies.is_into_series(values):
        return True
    if getattr(values, "ndim", None) == 1:  # an index, an array of pandas, a tensor
        return hasattr(values, "__array__")
    pyarrow = sys.modules.get("pyarrow")
    # An array of structs is a table, as a record batch is.
    return (
        pyarrow is not None
        and isinstance(values, pyarrow.Array)
        and not isinstance(values, pyarrow.StructArray)
    )


def read_interactions(
    interactions: Any,
    feedback: Any = None,
    *,
    positive_threshold: float | tuple[float, float] | None = None,
    user_column: str | int | None = None,
    item_column: str | int | None = None,
    time_column: str | int | None = None,
    feedback_coding: str | None = None,
) -> Interactions:
    """Validate interactions and their feedback.

    Parameters
    ----------
    interactions : dataframe, array of shape (n_rows, n_columns) or list of histories
        A pandas, polars or pyarrow table, a structured array, anything else that speaks Arrow's
        PyCapsule interface, or an array with the columns user, item and optionally time; without
        time, row order is time order. Or a list with one history per user, oldest item first.
        Other columns are not looked at. A row in which user, item and time are all missing is
        masked: it is skipped.
    feedback : array-like of shape (n_rows,), list of lists or None, default=None
        One value per row; for a list of histories, one list per history. None: all liked.
    positive_threshold : float or (low, high), default=None
        Reads graded feedback. A number: from there on liked, below disliked. A pair: from `high`
        on liked, below `low` disliked, neutral in between.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column. By default the usual names decide, in any spelling (user_id,
        customerId, item, movieId, "Product ID", timestamp, created_at, ...); columns without
        names, or with numbers for names, are taken from positions 0, 1 and 2.
    feedback_coding : {"liked", "binary", "signed", "graded"}, default=None
        The coding found in fit, so that 0 goes on meaning what it meant there. Without it, 0 is
        neutral where -1 occurs, or is among the categories of a pandas categorical; else it is
        disliked.

    Returns
    -------
    Interactions

    Raises
    ------
    TypeError
        If a column or the feedback has a type that cannot be read.
    ValueError
        If it is in doubt which column is which, a value is missing or out of range, lengths
        differ or no row is left.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.interactions import read_interactions
    >>> table = np.array([[7, 20, 3], [7, 10, 1]])
    >>> read_interactions(table, [5, 2], positive_threshold=4).signs
    array([ 1, -1], dtype=int8)
    """
    where: Where = name_row
    if is_table(interactions):
        table = read_table(interactions, user_column, item_column, time_column)
        check_not_empty(table)
    else:
        table, feedback, where = _read_histories(interactions, feedback)
    signs, coding = _read_signs(
        feedback, table.kept, table.n_rows, positive_threshold, feedback_coding, where
    )
    return replace(table, signs=signs, feedback_coding=coding)


def read_history(
    history: Any,
    feedback: Any = None,
    *,
    positive_threshold: float | tuple[float, float] | None = None,
    feedback_coding: str | None = None,
) -> tuple[NDArray[Any], NDArray[np.int8]]:
    """Validate one history of raw ids, oldest first; return its ids and signs.

    Parameters
    ----------
    history : array-like of shape (n_events,)
        Raw item ids, oldest first. May be empty.
    feedback : array-like of shape (n_events,), default=None
        One value per event. None: all liked.
    positive_threshold, feedback_coding
        As in :func:`read_interactions`.

    Returns
    -------
    items : ndarray of shape (n_events,), dtype=int64, float64 or object
    signs : ndarray of shape (n_events,), dtype=int8

    Examples
    --------
    >>> from posneg_rec.interactions import read_history
    >>> read_history([10, 20], feedback=[True, False])
    (array([10, 20]), array([ 1, -1], dtype=int8))
    """
    if isinstance(history, str | bytes):
        raise TypeError(
            f"history must be a list, a 1-D array or a series of item ids, got {described(history)}"
            f": {why_no_column(history)}.{_NO_USERS}"
        )
    if isinstance(history, list | tuple) and history and isinstance(history[0], Mapping):
        _check_no_rows(history)
    items = complete_ids(history, "history")
    signs, _ = _read_signs(
        feedback,
        None,
        len(items),
        positive_threshold,
        feedback_coding,
        "position {}".format,
    )
    return items, signs


_NO_USERS = " The model remembers no users: pass the user's items."


def read_times(times: Any, n_events: int) -> tuple[NDArray[Any], str | None]:
    """Validate the times of one history, oldest first; return them and a datetime's unit.

    Datetimes with a time zone are brought to UTC, as those of a table are.

    Examples
    --------
    >>> from posneg_rec.interactions import read_times
    >>> read_times([3, 5, 5], 3)
    (array([3, 5, 5]), None)
    """
    values, missing = as_column(times, "times")
    if len(values) != n_events:
        raise ValueError(
            f"times must have one entry per event of the history ({n_events}), got shape "
            f"{values.shape}."
        )
    values, missing, unit = as_times(values, missing, "times", name_position)
    if missing is not None and missing.any():
        raise ValueError(f"times is missing at position {np.flatnonzero(missing)[0]}.")
    if (np.diff(values) < 0).any():
        place = int(np.flatnonzero(np.diff(values) < 0)[0])
        raise ValueError(
            f"times must not fall, for a history is oldest first, but they do after position "
            f"{place}: sort the history by time."
        )
    return values, unit


def read_table(
    interactions: Any,
    user_column: str | int | None,
    item_column: str | int | None,
    time_column: str | int | None,
) -> Interactions:
    """Read the columns of a table, all liked."""
    explicit = {"user": user_column, "item": item_column, "time": time_column}
    table = as_table(interactions)
    names: list[Any] | None = None
    index_names = _index_names(table)
    if is_frame(table):
        table = _eager(table)
        names = list(table.columns)
        if table.shape[1] < 2 or table.shape[0] < 1:
            _raise_too_small(table.shape, _index_advice(index_names, ROLES))
    n_rows, n_columns = table.shape
    positions = column_positions(names, n_columns, explicit, index_names)
    named = names is not None and _are_names(names)
    if named:
        _check_columns_left(table, positions)
    labels = {
        role: f"column {place if names is None else shorten(names[place])} ({role})"
        for role, place in positions.items()
    }
    raw: dict[str, Any] = {role: table[:, place] for role, place in positions.items()}

    masks: dict[str, Mask] = {}
    users, user_ids, masks["user"] = _coded(raw["user"], labels["user"])
    items, item_ids, masks["item"] = _coded(raw["item"], labels["item"])
    times, unit = None, None
    if "time" in raw:
        times, masks["time"], unit = as_times(
            *as_column(raw["time"], labels["time"]),
            labels["time"],
            advice=", or name another column with time_column"
            + ("" if names is not None else " (an array of text holds only text: use a frame)"),
        )
    if not named and time_column is None and n_columns > len(ROLES):
        _check_width(table)
    kept = _kept_rows(masks, labels)
    if kept is not None:
        users, items = users[kept], items[kept]
        times = None if times is None else times[kept]
    liked = np.ones(len(users), dtype=np.int8)
    return Interactions(users, user_ids, items, item_ids, times, liked, kept, n_rows, "liked", unit)


def _eager(frame: Any) -> nw.DataFrame[Any]:
    try:
        eager = nw.from_native(frame, eager_only=True)
        names = eager.columns
    except nw.exceptions.DuplicateError as error:
        raise ValueError(f"two columns of interactions have one name. {error}") from error
    if eager.implementation is nw.Implementation.PYARROW:
        for name in names:
            metadata = frame.schema.field(name).metadata or {}
            if extension := metadata.get(b"ARROW:extension:name"):
                raise TypeError(
                    f"column {shorten(name)} has the extension type {extension.decode()}, which "
                    "this pyarrow does not know: convert the column, for example to strings."
                )
    return eager


def _coded(
    column: nw.Series[Any] | NDArray[Any], label: str, where: Where = name_row
) -> tuple[NDArray[np.integer], NDArray[Any], Mask]:
    """Return the codes of a column's ids, the distinct ids, ascending, and the missing rows."""
    factorized = _factorized(column)
    if factorized is not None:
        codes, distinct = factorized
        missing = either(codes < 0, None)
        distinct, _ = as_ids(distinct, None, label)
        ids = sorted_unique(distinct, label)
        # A missing id has code -1 and so takes the last entry.
        codes = np.append(ItemVocabulary(ids).look_up(distinct), -1).take(codes)
    else:
        values, missing = as_ids(*as_column(column, label), label, where)
        ids = sorted_unique(values if missing is None else values[~missing], label)
        codes = ItemVocabulary(ids).look_up(values)
    return (codes.astype(np.int32) if len(ids) < 2**31 else codes), ids, missing


def _factorized(
    column: nw.Series[Any] | NDArray[Any],
) -> tuple[NDArray[np.int64], NDArray[Any]] | None:
    """Let the frame's own library number its strings: they need not become Python objects."""
    if not isinstance(column, nw.Series):
        return None
    if column.dtype not in (nw.String, nw.Categorical, nw.Enum):
        return None
    native = column.to_native()
    try:
        if hasattr(native, "factorize"):  # pandas, several times faster than the rest
            codes, values = native.factorize()
            return codes, as_objects(values)
        values = column.drop_nulls().unique().to_list()
        codes = np.full(len(column), -1)
        codes[~column.is_null().to_numpy()] = (
            column.drop_nulls()
            .replace_strict(values, list(range(len(values))), return_dtype=nw.Int64)
            .to_numpy()
        )
    except NotImplementedError:  # by pyarrow, of some of its text
        return None
    return codes, as_objects(values)


def check_not_empty(table: Interactions) -> None:
    """Refuse interactions without an event: all rows masked, or all histories empty."""
    if len(table.user_codes) == 0:
        nothing = (
            f"all {table.n_rows} rows are masked (user, item and time missing)"
            if table.n_rows
            else f"all {len(table.user_ids)} histories are empty"
        )
        raise ValueError(f"Found 0 sample(s) while a minimum of 1 is required: {nothing}.")


def _kept_rows(masks: dict[str, Mask], labels: dict[str, str]) -> NDArray[np.int64] | None:
    """Return which rows are not masked, None for all; a row missing in part is an error."""
    if all(mask is None for mask in masks.values()):
        return None
    n_rows = next(len(mask) for mask in masks.values() if mask is not None)
    full = {role: np.zeros(n_rows, bool) if mask is None else mask for role, mask in masks.items()}
    masked = np.logical_and.reduce(list(full.values()))
    for role, mask in full.items():
        partly = mask & ~masked
        if partly.any():
            raise ValueError(
                f"{labels[role]}, {name_row(int(np.argmax(partly)))}: the value is missing "
                "(NaN, None, NaT or MISSING_ID). Drop the row, or mask it by making all of "
                f"{', '.join(full)} missing."
            )
    return np.flatnonzero(~masked)


def as_table(interactions: Any, *, n_columns: int = 2) -> Any:
    """Check interactions to be a frame or a 2-D array, or make them one, see :func:`as_frame`."""
    if sparse.issparse(interactions):
        raise TypeError(
            "Sparse data was passed, but interactions are rows of (user, item[, time]). A sparse "
            "users x items matrix turns into such rows with "
            "np.column_stack(matrix.tocoo().coords), its data being the feedback."
        )
    table = as_frame(interactions)
    if is_frame(table):
        return table
    advice = why_no_column(table)
    if advice is not None:
        if isinstance(table, Mapping):
            advice = "pass pd.DataFrame(x) if it holds columns, list(x.values()) if histories"
        raise TypeError(
            "interactions must be a pandas, polars or pyarrow table, a 2-D array, a list of "
            f"histories or, to recommend for, one history, got {described(table)}: {advice}."
            f"{_NO_USERS if isinstance(table, str | bytes | Number) else ''}"
        )
    if isinstance(table, np.ma.MaskedArray):
        table = _unmasked(table)
    if _is_vector(table) and not isinstance(table, list | tuple):
        # What scikit-learn goes on to say here would make one row of a history.
        raise ValueError(
            "Reshape your data: interactions are rows of (user, item[, time]), got "
            f"{len(table)} values in one dimension. A history to learn from goes in a list, "
            "[history]."
        )
    if not (isinstance(table, list | tuple) or hasattr(table, "__array__")):
        raise TypeError(
            "interactions must be a pandas, polars or pyarrow table, a 2-D array or a list of "
            f"histories, got {_full_name(table)}."
        )
    return check_array(
        table,
        dtype=None,
        ensure_all_finite=False,
        ensure_min_features=n_columns,
        input_name="interactions",
    )


def _raise_too_small(shape: tuple[int, int], advice: str) -> None:
    what, n = ("feature", shape[1]) if shape[1] < 2 else ("sample", shape[0])
    raise ValueError(
        f"Found array with {n} {what}(s) (shape={shape}) while a minimum of "
        f"{2 if what == 'feature' else 1} is required{advice}."
    )


# -- Columns ---------------------------------------------------------------------------------


def _names(words: str, suffixes: str = "") -> frozenset[str]:
    """Join each word with nothing and with each suffix."""
    return frozenset(word + end for word in words.split() for end in ("", *suffixes.split()))


_ID = "s id ids idx index ix key code no nr num number uuid guid hash mbid"
_USER_WORDS = (
    "account borrower buyer client consumer cust customer employee guest learner listener member "
    "patient patron person player profile reader reviewer shopper student subscriber usr viewer "
    "visitor"
)
_ITEM_WORDS = (
    "ad album anime app article artist beer book business content course dish doc document "
    "episode film game good hotel job joke listing location merchandise movie music news offer "
    "page paper place playlist podcast poi post prod product question recipe restaurant series "
    "show song story track venue vid video wine"
)
_TIME_WORDS = "time times timestamp timestamps datetime datetimes date dates dt ts tstamp"
_HAPPENED = (
    "action added bought checkin click clicked consumed created creation epoch event happened "
    "interaction listened listening logged occurred order ordered play played posix posted "
    "purchase purchased rate rated rating read recorded request review reviewed seen session "
    "server start started submitted transaction unix unixreview utc view viewed visit visited "
    "watch watched"
)
_SPANS = {"playtime", "watchtime", "viewtime", "readtime", "clicktimes", "playtimes"}

# What columns are called, in lower case and with letters and digits only. Of the names of a role
# the first group that occurs in a table decides; two columns of that group are in doubt.
_COLUMN_NAMES: dict[str, tuple[frozenset[str], ...]] = {
    "user": (
        _names("user", _ID) | {"uid", "u"},
        _names(_USER_WORDS, _ID) - _names(_USER_WORDS, "s"),
        _names(_USER_WORDS, "s"),
        _names("username login email session cookie device household sequence", _ID),
    ),
    "item": (
        _names("item", _ID) | {"iid", "i"},
        (_names(_ITEM_WORDS, _ID) - _names(_ITEM_WORDS, "s"))
        | _names("asin parentasin isbn isbn13 sku ean gtin upc"),
        _names(_ITEM_WORDS, "s"),
        frozenset(
            word + end for word in ("item", *_ITEM_WORDS.split()) for end in ("name", "title")
        )
        | {"title"},
    ),
    "time": (
        _names(_TIME_WORDS, "ms us ns s sec utc") | {"t", "when"},
        frozenset(
            joined
            for happened in _HAPPENED.split()
            for word in (*_TIME_WORDS.split(), "at", "on")
            for joined in (happened + word, word + happened)
        )
        - _SPANS
        | {"tdat"},
        _names("day week month step"),
    ),
}


def _key(name: Any) -> str:
    return "".join(filter(str.isalnum, str(name).casefold()))


def _rank(name: Any, role: str) -> int | None:
    """Tell which group of a role's names a column belongs to; None for none of them."""
    forms = [name]
    if isinstance(name, str):
        # What comes before is a transformer of scikit-learn or a table in SQL, what comes after
        # is RecBole's type.
        bare = re.sub(r":(token|float)(_seq)?$", "", name)
        forms += [bare, bare.rpartition("__")[2], bare.rpartition(".")[2]]
    for form in map(_key, forms):
        for rank, names in enumerate(_COLUMN_NAMES[role]):
            if form in names:
                return rank
    return None


def _best(names: Sequence[Any], role: str) -> list[Any]:
    """Return those of the names that say the role most clearly."""
    ranks = [_rank(name, role) for name in names]
    best = min((rank for rank in ranks if rank is not None), default=None)
    return [name for name, rank in zip(names, ranks, strict=True) if rank == best is not None]


def _are_names(names: list[Any]) -> bool:
    """Tell names that say something from numbers, whoever wrote them (``0``, ``column_0``)."""
    texts = [name for name in names if isinstance(name, str | tuple)]
    if len(texts) < len(names):
        return bool(texts)
    matches = [re.fullmatch(r"(\D*)(\d+)", name) for name in names if isinstance(name, str)]
    found = [match for match in matches if match is not None]
    if len(found) < len(names):
        return True
    stems, numbers = {match[1] for match in found}, [int(match[2]) for match in found]
    (stem, *others) = stems
    if others or any(_rank(stem, role) is not None for role in ROLES):
        return True
    # Other numbers alone may be the first row of a file without names.
    n = len(numbers)
    return not stem and sorted(numbers) not in (list(range(n)), list(range(1, n + 1)))


def column_positions(
    names: list[Any] | None,
    n_columns: int,
    explicit: dict[str, str | int | None],
    index_names: Sequence[Any] = (),
) -> dict[str, int]:
    """Find the columns: as told, else by name, of columns without names by position.

    Parameters
    ----------
    names : list or None
        Names of the columns, None if they have none.
    n_columns : int
    explicit : dict
        Of each role, the name or position that the caller passed, or None.
    index_names : sequence, default=()
        What pandas' index is called, for the advice in an error.

    Returns
    -------
    dict of str to int
        Positions of user, item and, if there is one, time, in this order.

    Raises
    ------
    ValueError
        If it is in doubt which column is the user or the item.
    """
    told = {
        role: _told_position(names, n_columns, role, wanted)
        for role, wanted in explicit.items()
        if wanted is not None
    }
    if len(set(told.values())) < len(told):
        raise ValueError(
            f"user, item and time must be different columns, got {told}: pass user_column, "
            "item_column and time_column."
        )
    found = (
        _positions_by_name(names, told, index_names)
        if names is not None and _are_names(names)
        else _default_positions(n_columns, told)
    )
    return {role: found[role] for role in ROLES if role in found}


def _default_positions(n_columns: int, told: dict[str, int]) -> dict[str, int]:
    positions = dict(told)
    for default, role in enumerate(ROLES[:n_columns]):
        if role in told:
            continue
        if default not in positions.values():
            positions[role] = default
        elif role != "time":
            raise ValueError(f"no column is left for the {role}: pass {role}_column.")
    return positions


def _positions_by_name(
    names: list[Any], told: dict[str, int], index_names: Sequence[Any]
) -> dict[str, int]:
    positions = dict(told)
    free = [name for place, name in enumerate(names) if place not in told.values()]
    for role in ROLES:
        if role in told:
            continue
        candidates = _best(free, role)
        if len(candidates) > 1:
            raise ValueError(
                f"columns {' and '.join(map(shorten, candidates))} both name the {role}: pass "
                f"{role}_column."
            )
        if candidates:
            positions[role] = names.index(candidates[0])
    if "time" not in positions and "user" in positions:
        positions |= _builders_position(names, free, positions["user"])
    unclear = [role for role in ("user", "item") if role not in positions]
    if unclear:
        raise ValueError(
            f"no column is known for the {' and the '.join(unclear)} among {preview(names, 10)}: "
            "pass user_column=..., item_column=... and, if there is one, time_column=..."
            + _index_advice(index_names, unclear)
        )
    return positions


def _builders_position(names: list[Any], free: list[Any], user: int) -> dict[str, int]:
    """Find the position in a sequence, which is the time in what a SequenceBuilder returns."""
    if not _key(names[user]).endswith("sequence"):
        return {}
    positions = [name for name in free if _key(name).endswith("position")]
    return {"time": names.index(positions[0])} if positions else {}


def _index_names(frame: Any) -> list[Any]:
    """Name what pandas keeps beside the columns; other frames have no index."""
    names = getattr(getattr(frame, "index", None), "names", None) or ()
    return [name for name in names if name is not None]


def _index_advice(index_names: Sequence[Any], roles: Sequence[str]) -> str:
    held = [name for name in index_names if any(_rank(name, role) is not None for role in roles)]
    if not held:
        return ""
    return f" ({', '.join(map(shorten, held))} is in the index: pass interactions.reset_index())"


def _check_columns_left(frame: nw.DataFrame[Any], positions: dict[str, int]) -> None:
    """Refuse to leave times unread only because no column is named so."""
    if "time" in positions:
        return
    native = frame.to_native()
    if advice := _index_advice(_index_names(native), ["time"]):
        raise ValueError(f"no column is named like a time{advice}.")
    if getattr(getattr(native, "index", None), "inferred_type", "") == "datetime64":
        raise ValueError(
            "no column is named like a time, but the index holds datetimes: pass "
            "interactions.reset_index(names='time'), or reset_index(drop=True)."
        )
    for place, (name, dtype) in enumerate(frame.schema.items()):
        if place not in positions.values() and dtype in (nw.Datetime, nw.Date):
            raise ValueError(
                f"no column is named like a time, but {shorten(name)} holds datetimes: pass "
                f"time_column={shorten(name)}, or leave that column out."
            )


def _check_width(table: Any) -> None:
    """Refuse columns without names that are more than a user, an item and a time."""
    # The third may as well be a rating, and the time the fourth. Only a matrix of numbers of one
    # digit passes, which has too few ids to be of use to anyone: scikit-learn's checks of
    # estimators fit such matrices, in every width.
    try:
        numbers = [as_column(table[:, at], "")[0].astype(float) for at in range(table.shape[1])]
        if np.abs(numbers).max() < 10:
            return
    except (TypeError, ValueError, OverflowError):  # no numbers
        pass
    raise ValueError(
        f"interactions has {table.shape[1]} columns without names, of which user, item and time "
        "are read: pass user_column=0, item_column=1 and time_column=..., pass a frame with "
        "names, or leave the other columns out. (One history is a flat list or a 1-D array.)"
    )


def _told_position(names: list[Any] | None, n_columns: int, role: str, wanted: str | int) -> int:
    if isinstance(wanted, Integral) and not isinstance(wanted, bool):
        if 0 <= wanted < n_columns:
            return int(wanted)
        raise ValueError(f"{role}_column={wanted} is no position in {n_columns} columns.")
    if names is None:
        raise ValueError(
            f"{role}_column={shorten(wanted)} is a name, but an array has only positions."
        )
    if names.count(wanted) != 1:
        raise ValueError(
            f"{role}_column={shorten(wanted)} is not one of the columns {preview(names, 10)}."
        )
    return names.index(wanted)


def _read_histories(
    histories: Sequence[Any], feedback: Any
) -> tuple[Interactions, list[Any] | None, Where]:
    """Put all histories one after the other; the user is the position in the list."""
    if not histories:
        raise ValueError("Found 0 sample(s) while a minimum of 1 is required: an empty list.")
    _check_no_rows(histories)
    lists = _lists_of(histories, "interactions")
    lengths = _lengths(lists)
    users = np.repeat(np.arange(len(lengths)), lengths)
    offsets = offsets_of(lengths)

    def where(position: int) -> str:
        return f"history {users[position]}, position {position - offsets[users[position]]}"

    label = "interactions"
    events = as_objects(list(chain.from_iterable(lists)))
    try:
        items, item_ids, missing = _coded(events, label, where)
    except TypeError as error:
        if len(set(lengths)) == 1 < lengths[0]:
            raise TypeError(f"{error} {_ROWS_ADVICE}") from error
        raise
    if missing is not None:
        raise ValueError(f"{label}, {where(int(np.argmax(missing)))}: the item is missing.")
    if feedback is not None:
        feedback = _lists_of(feedback, "feedback")
        feedback_lengths = _lengths(feedback)
        if len(feedback_lengths) != len(lengths):
            raise ValueError(
                f"Found input variables with inconsistent numbers of samples: {len(lengths)} "
                f"histories, {len(feedback_lengths)} feedback lists."
            )
        if not np.array_equal(lengths, feedback_lengths):
            first = int(np.argmax(lengths != feedback_lengths))
            raise ValueError(
                f"history {first} has {lengths[first]} items and {feedback_lengths[first]} "
                "feedback values; give one value per item."
            )
        feedback = list(chain.from_iterable(feedback))
    liked = np.ones(len(users), dtype=np.int8)
    user_ids = np.arange(len(lengths))
    table = Interactions(users, user_ids, items, item_ids, None, liked, None, len(users), "liked")
    return table, feedback, where


_ROWS_ADVICE = (
    "A list holds one history of item ids per user. If these are rows of (user, item, ...), make "
    "a frame of them: pd.DataFrame(rows, columns=['user', 'item', ...])."
)


def _check_no_rows(entries: Sequence[Any]) -> None:
    """Refuse rows, such as a database's cursor or a file of JSON gives, as histories."""
    if isinstance(entries[0], Mapping):
        raise TypeError(f"interactions is a list of {type(entries[0]).__name__}. {_ROWS_ADVICE}")
    if not all(map(_is_row, entries)):
        return
    n_fields = set(map(len, entries))
    # Histories of one length are far rarer than rows, whose length is always the same.
    if len(n_fields) == 1 and n_fields.pop() > 1:
        raise TypeError(
            f"interactions is a list of tuples of one length, which look like rows. {_ROWS_ADVICE} "
            "If they are histories, make lists of them: [list(history) for history in histories]."
        )


def _is_row(entry: Any) -> bool:
    return isinstance(entry, tuple | np.void) or type(entry).__name__ in ("Row", "Record")


def _lists_of(lists: Any, name: str) -> Sequence[Any]:
    """Check a list to hold one list, array or series per history."""
    if not isinstance(lists, list | tuple):
        raise TypeError(
            f"{name} must be a list with one list per history, got {type(lists).__name__}."
        )
    if set(map(type, lists)) <= {list, tuple, np.ndarray} and all(
        getattr(entry, "ndim", 1) == 1 for entry in lists
    ):
        return lists  # as it mostly is, and what follows takes its time
    for position, entry in enumerate(lists):
        if not _is_vector(entry):
            if isinstance(entry, Set):
                raise TypeError(
                    f"{name}: entry {position} is a set, which has no order: pass a list."
                )
            raise TypeError(
                f"{name}: a list holds one list or 1-D array per user, but entry {position} "
                f"is {shorten(entry)}. Wrap a single history in a list; turn a list of rows into "
                "a frame or an array."
            )
    return [
        entry if isinstance(entry, list | tuple) else _values_of(entry, name) for entry in lists
    ]


def _values_of(entry: Any, name: str) -> NDArray[Any]:
    values, missing = as_column(entry, name)
    if missing is None:
        return values
    values = values.astype(object)
    values[missing] = None
    return values


def _lengths(lists: Sequence[Any]) -> NDArray[np.int64]:
    return np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))


# -- Feedback --------------------------------------------------------------------------------


def _read_signs(
    feedback: Any,
    kept: NDArray[np.int64] | None,
    n_rows: int,
    positive_threshold: float | tuple[float, float] | None,
    feedback_coding: str | None,
    where: Where,
) -> tuple[NDArray[np.int8], str]:
    """Return the sign of each kept row and the coding in which the feedback was read."""
    threshold = _check_threshold(positive_threshold)
    # A coding that was found before outlives feedback that shows none, and what a type says
    # outlives values that happen not to occur.
    remembered = None if feedback_coding == "liked" else feedback_coding
    remembered = remembered or _declared_coding(feedback)
    if feedback is None:
        n_kept = n_rows if kept is None else len(kept)
        return np.ones(n_kept, dtype=np.int8), remembered or "liked"
    values = _feedback_column(feedback)
    if len(values) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n_rows} "
            f"interactions, {len(values)} feedback values."
        )
    if kept is not None:
        values = values[kept]

    def place(position: int) -> str:
        return where(position if kept is None else int(kept[position]))

    values = _feedback_numbers(values, place)
    if values.dtype.kind == "b":
        return np.where(values, 1, -1).astype(np.int8), remembered or "binary"
    if threshold is not None:
        low, high = threshold
        return (values >= high).astype(np.int8) - (values < low).astype(np.int8), "graded"

    liked, disliked, zero = values == 1, values == -1, values == 0
    other = ~(liked | disliked | zero)
    allowed = "booleans, {0, 1} or {-1, 0, 1}"
    if remembered == "binary":
        other |= disliked
        allowed = "{0, 1}, the feedback seen in fit"
    if other.any():
        first = int(np.argmax(other))
        raise ValueError(
            f"feedback, {place(first)}: {shorten(values[first].item())} is not among {allowed}. "
            "For graded feedback pass positive_threshold, the value from which an item is liked."
        )
    if disliked.any() or remembered == "signed":
        return liked.astype(np.int8) - disliked.astype(np.int8), "signed"
    if zero.any():
        return liked.astype(np.int8) - zero.astype(np.int8), "binary"
    return liked.astype(np.int8), remembered or "liked"


def _feedback_column(feedback: Any) -> NDArray[Any]:
    if isinstance(feedback, str | Set | Mapping | Iterator) or (
        _is_vector(feedback) and not isinstance(feedback, list | tuple)
    ):
        return _values_of(feedback, "feedback")
    if isinstance(feedback, np.ma.MaskedArray):
        feedback = _unmasked(feedback.astype(object))
    return column_or_1d(feedback, warn=True, input_name="feedback")


def _declared_coding(feedback: Any) -> str | None:
    """Tell what 0 means by the categories of pandas, of which some may not occur."""
    categories = getattr(getattr(feedback, "dtype", None), "categories", None)
    declared = set() if categories is None else set(categories)
    if declared in ({-1, 0, 1}, {-1, 0}, {-1, 1}):
        return "signed"
    return "binary" if declared == {0, 1} else None


def _check_threshold(
    threshold: float | tuple[float, float] | None,
) -> tuple[float, float] | None:
    if threshold is None:
        return None
    pair = threshold if isinstance(threshold, tuple | list) else (threshold, threshold)
    if len(pair) != 2 or not all(map(_is_finite, pair)):
        raise ValueError(
            "positive_threshold must be a finite number or a pair (low, high) of such, got "
            f"{shorten(threshold)}."
        )
    if pair is threshold and not pair[0] < pair[1]:
        raise ValueError(
            f"positive_threshold=(low, high) needs low < high, got {shorten(threshold)}."
        )
    return pair[0], pair[1]


def _is_finite(bound: Any) -> bool:
    try:
        return isinstance(bound, Real) and not isinstance(bound, bool) and isfinite(bound)
    except OverflowError:  # an integer beyond all floats
        return False


def _feedback_numbers(values: NDArray[Any], where: Where) -> NDArray[Any]:
    """Check feedback to be booleans or finite numbers."""
    if values.dtype.kind == "O":
        missing = missing_objects(values)
        if missing is not None and missing.any():
            raise ValueError(
                f"feedback, {where(int(np.argmax(missing)))}: the value is missing (NaN or None)."
            )
        kinds = set(map(kind_of, set(map(type, values))))
        if kinds == {"bool"}:
            return values.astype(bool)
        if kinds <= {"int", "float", "Decimal", "Fraction"}:
            try:
                values = values.astype(np.float64)
            except (OverflowError, ValueError) as error:
                raise ValueError(f"feedback holds a number that is too large: {error}.") from error
        else:
            raise TypeError(
                f"feedback holds {' and '.join(sorted(kinds))}; it must be booleans or numbers."
            )
    if values.dtype.kind not in "biuf":
        raise TypeError(f"feedback has dtype {values.dtype}; it must be booleans or numbers.")
    if values.dtype.kind == "f" and not all_finite(values):
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"feedback, {where(first)}: {shorten(values[first].item())} (NaN or infinity) is no "
            "feedback. Drop the row, or mask it."
        )
    return values


# -- Histories -------------------------------------------------------------------------------


def build_histories(
    interactions: Interactions,
    vocabulary: ItemVocabulary,
    *,
    duplicates: Literal["all", "last"] = "all",
) -> Histories:
    """Sort interactions into histories, stably by user and time.

    Parameters
    ----------
    interactions : Interactions
        As returned by :func:`read_interactions`.
    vocabulary : ItemVocabulary
        Turns item ids into codes.
    duplicates : {"all", "last"}, default="all"
        "last" keeps of each user and item only the most recent event. Events of unknown items
        all stay.

    Returns
    -------
    Histories
    """
    users = interactions.user_codes
    counts = np.bincount(users, minlength=len(interactions.user_ids))
    order = event_order(users, interactions.times, counts)
    # Only each distinct id is looked up.
    items = vocabulary.encode(interactions.item_ids).take(interactions.item_codes.take(order))
    histories = Histories(
        interactions.user_ids,
        items,
        interactions.signs.take(order),
        None if interactions.times is None else interactions.times.take(order),
        order if interactions.kept is None else interactions.kept.take(order),
        offsets_of(counts),
        interactions.time_unit,
    )
    if duplicates == "last":
        return histories.select(is_last(users.take(order), items, counts) | (items < 0))
    return histories


# Where names went that stood here before.
_MOVED = {
    **dict.fromkeys(("RareItemMasker", "SequenceBuilder"), "preprocessing"),
    **dict.fromkeys(("N_GAP_TAGS", "PackedSequences", "gap_edges", "gap_tags"), "sequences"),
    "MISSING_ID": "ids",
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"posneg_rec.{_MOVED[name]}"), name)
