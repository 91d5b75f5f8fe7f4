"""What was passed: a frame of any kind, an array, a list of histories or one history."""

from __future__ import annotations

import sys
from collections.abc import KeysView, Sequence, ValuesView
from importlib.util import find_spec
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MISSING_ID",
    "as_array",
    "as_frame",
    "as_numbers",
    "check_not_to_compute",
    "full_name",
    "is_frame",
    "is_history",
    "is_sparse",
    "is_store",
    "is_table",
    "is_vector",
    "speaks_arrow",
    "unmasked",
]

#: What says "missing" in integer ids and in times: NumPy stores NaT as the smallest int64, too.
MISSING_ID: int = int(np.iinfo(np.int64).min)


def is_table(interactions: Any) -> bool:
    """Tell a table, one row per interaction, from a list of histories, one entry per user."""
    return not isinstance(interactions, list | tuple)


def is_store(interactions: Any) -> bool:
    """Tell a store of interactions on disk, whose module need not be imported for that."""
    return hasattr(type(interactions), "interactions_as")


def is_frame(interactions: Any) -> bool:
    """Tell a pandas, polars or pyarrow table from anything else."""
    # Older versions of narwhals warn when they are asked about a lazy frame of theirs.
    return not _is_lazy(interactions) and bool(nw.dependencies.is_into_dataframe(interactions))


def _is_lazy(value: Any) -> bool:
    """Tell a lazy frame inside narwhals."""
    return type(value).__module__.startswith("narwhals") and hasattr(value, "collect")


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
        If it is to be computed first (a lazy frame, a data set of Ray, a query), or no library
        that could hold it is installed.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.frames import as_frame
    >>> rows = np.array([("a", 1)], dtype=[("user", "U1"), ("item", "i8")])
    >>> list(as_frame(rows).columns)
    ['user', 'item']
    """
    if isinstance(interactions, list | tuple) or is_frame(interactions) or is_vector(interactions):
        return interactions
    if isinstance(interactions, np.ndarray):
        return interactions if interactions.dtype.names is None else _from_records(interactions)
    if speaks_arrow(interactions):
        return _from_arrow(interactions)
    if method := _how_to_compute(interactions):
        raise TypeError(
            f"interactions is no table in memory but a {full_name(interactions)}: pass "
            f"interactions.{method}(), which brings all of it here, or give each worker a part "
            "that holds whole users."
        )
    return interactions


def _how_to_compute(value: Any) -> str | None:
    """Name the method that makes a frame in memory of what is still to be computed, if it is."""
    if type(value).__module__.startswith("narwhals"):  # whatever is inside
        return "collect" if _is_lazy(value) else None
    if hasattr(value, "__array__") and not hasattr(type(value), "columns"):
        return None
    # Of the class: some objects have any attribute that they are asked for.
    return next((name for name in _MAKES_A_FRAME if hasattr(type(value), name)), None)


def check_not_to_compute(values: Any, name: str) -> None:
    """Refuse a column that is a table or a query: what is computed apart has an order apart."""
    if not hasattr(values, "__array__") and (speaks_arrow(values) or _how_to_compute(values)):
        raise TypeError(
            f"{name} must be a list, a 1-D array or a series, got {full_name(values)}: make one "
            "frame of the rows and what belongs to them, and pass its column."
        )


# What makes a frame in memory of what is none: a data set of Ray, a frame of Spark, a table of
# Ibis, a data set or scanner of pyarrow, a result of a connection to DuckDB, a frame of Dask or a
# delayed one, a lazy frame of Polars.
_MAKES_A_FRAME = (
    "to_pandas",
    "toPandas",
    "to_pyarrow",
    "to_arrow",
    "to_table",
    "df",
    "compute",
    "collect",
)


def full_name(value: Any) -> str:
    """Name the library and the class of what was passed."""
    return f"{type(value).__module__.partition('.')[0]} {type(value).__qualname__}"


def speaks_arrow(value: Any) -> bool:
    """Tell whether something hands itself over by Arrow's PyCapsule interface."""
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")


def _from_arrow(interactions: Any) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise TypeError(
            f"To read a {full_name(interactions)} takes pyarrow: install it, or pass a pandas or "
            "polars frame."
        ) from None
    try:
        return pyarrow.table(interactions)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise TypeError(
            f"The {full_name(interactions)} cannot be read as a table by pyarrow: {error}."
        ) from error


def _from_records(records: NDArray[Any]) -> Any:
    """Make a frame of a structured array."""
    if records.ndim != 1:
        raise ValueError(f"A structured array of rows must be 1-D, got shape {records.shape}.")
    columns = {name: _for_frames(unmasked(records[name])) for name in records.dtype.names or ()}
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


def is_history(interactions: Any) -> bool:
    """Tell one history, a flat list or 1-D array of item ids, from a table or list of histories."""
    if isinstance(interactions, list | tuple):
        return not any(map(is_vector, interactions[:1]))
    return is_vector(interactions)


def is_vector(values: Any) -> bool:
    """Tell a list, 1-D array, series, index, range, ... from one value and from a table."""
    if isinstance(values, str | bytes | bytearray | int | float) or values is None:
        return False
    if isinstance(values, Sequence | KeysView | ValuesView):
        return True
    if isinstance(values, np.ndarray):
        return values.ndim == 1 and values.dtype.names is None
    if nw.dependencies.is_into_series(values):
        return True
    # An index, an array of pandas, a tensor. What is made on demand may have any attribute.
    ndim = getattr(values, "ndim", None)
    if isinstance(ndim, int) and ndim == 1:
        return hasattr(values, "__array__")
    pyarrow = sys.modules.get("pyarrow")
    # An array of structs is a table, as a record batch is.
    return (
        pyarrow is not None
        and isinstance(values, pyarrow.Array)
        and not isinstance(values, pyarrow.StructArray)
    )


def is_sparse(values: Any) -> bool:
    """Tell a sparse array or matrix of SciPy, which need not be imported for that."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(values))


def as_array(values: Any, name: str) -> NDArray[Any]:
    """Make a dense array of what is no frame, of any dtype but complex ones.

    Errors are in the words of scikit-learn's ``check_array``, which takes a second to import.
    """
    if is_sparse(values):
        raise TypeError(
            f"Sparse data was passed for {name}, but dense data is required. Use '.toarray()' to "
            "convert to a dense numpy array."
        )
    if isinstance(values, np.matrix):
        raise TypeError(
            "np.matrix is not supported. Please convert to a numpy array with np.asarray."
        )
    check_not_to_compute(values, name)
    try:
        array = np.asarray(values)
    except (TypeError, ValueError) as error:  # lists of different lengths
        raise ValueError(
            f"{name} must hold one value per entry, got {values!r:.50}: {error}"
        ) from error
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {array.dtype}.")
    return array


def as_numbers(values: Any, name: str) -> NDArray[Any]:
    """Make an array of numbers, of their own type; text is none, though NumPy reads it as some."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{name} must hold numbers, as many in each row: {error}.") from error
    if array.dtype.kind in "biuf":
        return array
    text = [value for value in array.ravel().tolist() if isinstance(value, str | bytes)]
    if array.dtype.kind == "O" and not text:
        try:
            return array.astype(np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise TypeError(f"{name} must hold numbers: {error}.") from error
    shown = f", {text[0]!r:.50}" if text else ""
    raise TypeError(f"{name} must hold numbers, got {array.dtype.name}{shown}.")


def unmasked(array: Any) -> NDArray[Any]:
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
