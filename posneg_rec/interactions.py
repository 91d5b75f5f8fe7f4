"""Where interactions come in: columns are validated and ids become codes here, and only here.

In front of this module everything speaks raw ids; behind it everything works on integer codes and
on sequences packed into one array.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, repeat
from numbers import Integral, Real
from typing import Any, ClassVar, Literal

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import (
    _check_feature_names_in,
    check_array,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

__all__ = [
    "MISSING_ID",
    "N_GAP_TAGS",
    "Histories",
    "Interactions",
    "ItemVocabulary",
    "PackedSequences",
    "RareItemMasker",
    "SequenceBuilder",
    "build_histories",
    "gap_edges",
    "gap_tags",
    "is_frame",
    "is_history",
    "is_table",
    "read_history",
    "read_interactions",
    "read_times",
    "table_like",
]

# NumPy stores NaT as the smallest int64, so one value says "missing" in ids and in times.
MISSING_ID: int = int(np.iinfo(np.int64).min)

_ROLES = ("user", "item", "time")
_COLUMN_NAMES = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp"),
}
_FEEDBACK_NAMES = ("rating", "feedback")

# Below this size a lookup table costs nothing, however few ids there are.
_SMALL_TABLE = 1 << 16

_Mask = NDArray[np.bool_] | None  # None: no True in it
_Where = Callable[[int], str]  # how an error names a position


# -- Packed sequences ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PackedSequences:
    """Many sequences in one array, without padding.

    Parameters
    ----------
    values : ndarray of shape (n_values,), dtype=int64
        The values of all sequences, one sequence after the other.
    offsets : ndarray of shape (n_sequences + 1,), dtype=int64
        Sequence ``i`` is ``values[offsets[i]:offsets[i + 1]]``: the offsets start at 0, never
        decrease and end at ``n_values``.

    Raises
    ------
    TypeError
        If an array does not hold integers.
    ValueError
        If an array is not 1-D or the offsets do not cut up ``values``.

    Examples
    --------
    >>> from posneg_rec.interactions import PackedSequences
    >>> packed = PackedSequences.from_lists([[3, 1], [], [2]])
    >>> packed.values, packed.offsets
    (array([3, 1, 2]), array([0, 2, 2, 3]))
    >>> packed[0]
    array([3, 1])
    """

    values: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that the offsets cut up the values."""
        for name in ("values", "offsets"):
            array = np.asarray(getattr(self, name))
            if array.ndim != 1:
                raise ValueError(f"{name} must be a 1-D array, got {array.ndim} dimension(s).")
            if array.dtype.kind not in "iu":
                raise TypeError(f"{name} must hold integers, got dtype {array.dtype}.")
            object.__setattr__(self, name, array.astype(np.int64, copy=False))
        offsets, n_values = self.offsets, len(self.values)
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != n_values:
            raise ValueError(
                f"offsets must run from 0 to len(values) = {n_values}, got {_preview(offsets)}."
            )
        falls = offsets[1:] < offsets[:-1]
        if falls.any():
            first = int(np.argmax(falls))
            raise ValueError(
                f"offsets must not decrease, got {offsets[first]} before {offsets[first + 1]} "
                f"at position {first}."
            )

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int64]:
        """Return one sequence as a view of ``values``."""
        index = range(len(self))[index]
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each sequence, shape (n_sequences,)."""
        return np.diff(self.offsets)

    @classmethod
    def from_lists(cls, lists: Iterable[Sequence[int] | NDArray[Any]]) -> PackedSequences:
        """Pack lists of integers, one list per sequence."""
        lists = list(lists)
        values = np.array(list(chain.from_iterable(lists)))
        return cls(
            values if len(values) else values.astype(np.int64), _offsets(list(map(len, lists)))
        )

    @classmethod
    def slices(cls, values: ArrayLike, starts: ArrayLike, stops: ArrayLike) -> PackedSequences:
        """Pack the slices ``values[start:stop]``, which may overlap."""
        starts = _indices(starts)
        lengths = _indices(stops) - starts
        return cls(np.asarray(values).take(_ranges(starts, lengths)), _offsets(lengths))

    def to_lists(self) -> list[list[int]]:
        """Return the sequences as lists of integers."""
        return [self[index].tolist() for index in range(len(self))]

    def take(self, indices: ArrayLike) -> PackedSequences:
        """Return the sequences at `indices`, in that order."""
        indices = _indices(indices)
        starts, stops = self.offsets[:-1], self.offsets[1:]
        return self.slices(self.values, starts[indices], stops[indices])

    def last(self, n: int) -> PackedSequences:
        """Return the last `n` values of each sequence, all values of a shorter one."""
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}.")
        starts, stops = self.offsets[:-1], self.offsets[1:]
        return self.slices(self.values, np.maximum(starts, stops - n), stops)


def _offsets(lengths: ArrayLike) -> NDArray[np.int64]:
    lengths = np.asarray(lengths, dtype=np.int64)
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``arange(start, start + length)`` of all pairs, one after the other."""
    offsets = _offsets(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])


def _indices(indices: ArrayLike) -> NDArray[Any]:
    indices = np.asarray(indices)
    # An empty list is float64 to NumPy, and no index.
    return indices if indices.size else indices.astype(np.int64)


def _preview(values: Any, n: int = 5) -> str:
    shown = ", ".join(str(value) for value in values[:n])
    return f"[{shown}{', ...' if len(values) > n else ''}]"


# -- Ids and their codes ---------------------------------------------------------------------


class ItemVocabulary:
    """The catalogue: raw ids and their codes ``0 .. n_items - 1``.

    Ids compare by value and exactly: ``2**60 + 1`` stays itself, and ``1.0`` finds ``1``.

    Parameters
    ----------
    items : array-like of shape (n_items,)
        Distinct raw ids; the position of an id is its code.

    Attributes
    ----------
    items : ndarray of shape (n_items,), dtype=int64, float64 or object
        The raw ids by code. Strings, UUIDs and the like are held as objects.

    Raises
    ------
    TypeError
        If the ids are not of one sortable, hashable type, or are booleans.
    ValueError
        If an id is missing; at the first look-up, if an id appears twice.

    Examples
    --------
    >>> from posneg_rec.interactions import ItemVocabulary
    >>> vocabulary = ItemVocabulary.from_ids(["b", "a", "b"])
    >>> vocabulary.encode(["b", "z"])
    array([ 1, -1])
    >>> vocabulary.decode([1, 0]).tolist()
    ['b', 'a']
    >>> vocabulary.extended(["aa"]).items.tolist()
    ['a', 'b', 'aa']
    """

    def __init__(self, items: ArrayLike) -> None:
        self.items: NDArray[Any] = _complete_ids(items, "items")

    @classmethod
    def from_ids(cls, ids: ArrayLike) -> ItemVocabulary:
        """Build the vocabulary of all distinct `ids`, in ascending order."""
        return cls(_sorted_unique(_complete_ids(ids, "ids"), "ids"))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __repr__(self) -> str:
        """Return a short description."""
        return f"ItemVocabulary({_preview(self.items)}, n_items={len(self)})"

    def encode(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the code of each id, -1 for one that is unknown.

        Ids of another type than the vocabulary's are unknown, not an error.
        """
        ids, _ = _as_ids(_vector(ids, "ids"), None, "ids")
        if len(self) == 0 or (ids.dtype.kind == "O") != (self.items.dtype.kind == "O"):
            return np.full(len(ids), -1)
        if ids.dtype == self.items.dtype:
            return self._look_up(ids)
        ids, exact = _cast_exactly(ids, self.items.dtype)
        return np.where(exact, self._look_up(ids), -1)

    def _look_up(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Encode ids of the dtype of `items`."""
        if ids.dtype.kind == "O":
            codes = map(self._code_of.get, ids, repeat(-1))
            return np.fromiter(codes, dtype=np.int64, count=len(ids))
        if len(self) == 0:
            return np.full(len(ids), -1)
        ascending = self._ascending
        if bounds := _table_bounds(ascending[[0, -1]], len(ids)):
            low, high = bounds
            table = np.full(high - low + 1, -1)
            table[ascending - low] = self._order
            inside = (ids >= low) & (ids <= high)
            if inside.all():
                return table.take(ids - low)
            return np.where(inside, table.take(np.where(inside, ids - low, 0)), -1)
        places = _places(ascending, ids)
        return np.where(ascending.take(places) == ids, self._order.take(places), -1)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.items, kind="stable")

    @cached_property
    def _ascending(self) -> NDArray[Any]:
        ascending = self.items[self._order]
        self._check_distinct(1 + int(np.count_nonzero(ascending[1:] != ascending[:-1])))
        return ascending

    @cached_property
    def _code_of(self) -> dict[Any, int]:
        code_of = {item: code for code, item in enumerate(self.items)}
        self._check_distinct(len(code_of))
        return code_of

    def _check_distinct(self, n_distinct: int) -> None:
        if n_distinct != len(self):
            raise ValueError(f"items must be distinct: {len(self) - n_distinct} of them repeat.")

    def decode(self, codes: ArrayLike) -> NDArray[Any]:
        """Return the raw id of each code."""
        codes = _indices(codes)
        if codes.size and (codes.min() < 0 or codes.max() >= len(self)):
            raise ValueError(
                f"codes must lie in [0, {len(self)}), got {codes.min()} to {codes.max()}."
            )
        return self.items[codes]

    def extended(self, ids: ArrayLike) -> ItemVocabulary:
        """Return a vocabulary with the unknown among `ids` added.

        Old codes stay; new ids follow, sorted among themselves.
        """
        new = ItemVocabulary.from_ids(ids).items
        new = new[self.encode(new) < 0]
        if "O" not in (new.dtype.kind, self.items.dtype.kind):
            cast, exact = _cast_exactly(new, self.items.dtype)
            new = cast if exact.all() else new
        if len(self) and len(new) and _kind(type(new[0])) != _kind(type(self.items[0])):
            raise TypeError(
                f"cannot add ids of type {_kind(type(new[0]))} to a vocabulary of "
                f"{_kind(type(self.items[0]))} ids; convert them to one type."
            )
        return ItemVocabulary(np.concatenate([self.items, new]) if len(self) else new)


def _sorted_unique(ids: NDArray[Any], label: str) -> NDArray[Any]:
    if ids.dtype.kind == "O":
        try:
            return _objects(sorted(set(ids)))
        except TypeError as error:
            raise TypeError(f"{label}: ids must be sortable, but {error}.") from error
    if bounds := _table_bounds(ids, max(len(ids), _SMALL_TABLE)):
        low, high = bounds
        seen = np.zeros(high - low + 1, dtype=bool)
        seen[ids - low] = True
        return np.flatnonzero(seen) + low
    # Where NumPy sorts with SIMD, this takes a tenth of np.unique, which hashes first.
    ids = np.sort(ids)
    first = np.ones(len(ids), dtype=bool)
    np.not_equal(ids[1:], ids[:-1], out=first[1:])
    return ids[first]


def _places(ascending: NDArray[Any], ids: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each id is in `ascending`, if it is there; else any place."""
    if ids.dtype.kind != "i" or len(ids) < 8 * len(ascending):
        return np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    n_bits = (8 * len(ascending)).bit_length()

    def slots(values: NDArray[np.int64]) -> NDArray[np.int64]:
        mixed = values.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed >>= np.uint64(64 - n_bits)
        return mixed.view(np.int64)

    # Of ids that share a slot the table finds one; the others, and unknown ids, are searched.
    table = np.zeros(1 << n_bits, dtype=np.int32 if len(ascending) < 2**31 else np.int64)
    table[slots(ascending)] = np.arange(len(ascending))
    places = table.take(slots(ids)).astype(np.int64)
    missed = np.flatnonzero(ascending.take(places) != ids)
    found = np.searchsorted(ascending, ids.take(missed))
    places[missed] = np.minimum(found, len(ascending) - 1)
    return places


def _table_bounds(ids: NDArray[Any], max_size: int) -> tuple[int, int] | None:
    """Return the lowest and highest id if a table over all between them is not too big."""
    if ids.dtype.kind != "i" or len(ids) == 0:
        return None
    low, high = int(ids.min()), int(ids.max())
    return (low, high) if high - low < max_size else None


def _cast_exactly(ids: NDArray[Any], dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Cast between int64 and float64; also tell which values survive."""
    with np.errstate(invalid="ignore"):
        cast = ids.astype(dtype)
        return cast, (cast.astype(ids.dtype) == ids) & (np.abs(cast) < 2.0**63)


def _kind(type_: type) -> str:
    """Name the type of an id; ids of one kind can be sorted and compared."""
    for kind, types in _KINDS.items():
        if issubclass(type_, types):
            return kind
    return type_.__qualname__


_KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool, np.bool_),
    "int": (Integral,),
    "float": (float, np.floating),
    "str": (str,),
}


def _objects(values: Any) -> NDArray[np.object_]:
    # np.array would make a matrix of tuples, and text of mixed types.
    return np.fromiter(values, dtype=object, count=len(values))


def _vector(values: Any, name: str) -> NDArray[Any]:
    """Turn one column of values into a 1-D array without changing a value."""
    if isinstance(values, list | tuple):
        return _objects(values)
    if nw.dependencies.is_into_series(values):
        values, missing = _to_numpy(nw.from_native(values, series_only=True))
        if missing is not None:
            values = values.astype(object)
            values[missing] = None
    if isinstance(values, str | bytes | dict | set):
        raise TypeError(f"{name} must be a list, a 1-D array or a series, got {values!r:.50}.")
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got an array of shape {array.shape}.")
    return array


def _to_numpy(series: nw.Series[Any] | NDArray[Any]) -> tuple[NDArray[Any], _Mask]:
    if not isinstance(series, nw.Series):
        return series, None
    if series.dtype.is_nested() or series.dtype in (nw.Int128, nw.UInt128):
        raise TypeError(
            f"column {series.name!r} has dtype {series.dtype}, which NumPy lacks: convert it, for "
            "example to strings or 64-bit integers."
        )
    missing = series.is_null().to_numpy()
    if not missing.any():
        return series.to_numpy(), None
    # NumPy would get integers with a gap as floats, no longer exact.
    if series.dtype.is_integer():
        series = series.fill_null(MISSING_ID)
    return series.to_numpy(), missing


def _row(position: int) -> str:
    return f"row {position}"


def _complete_ids(ids: ArrayLike, name: str) -> NDArray[Any]:
    array, missing = _as_ids(_vector(ids, name), None, name)
    if missing is not None:
        raise ValueError(f"{name}: the id at position {int(np.argmax(missing))} is missing.")
    return array


def _as_ids(
    values: NDArray[Any], missing: _Mask, label: str, where: _Where = _row
) -> tuple[NDArray[Any], _Mask]:
    """Bring ids to int64, float64 or object without changing a value, and find the missing."""
    kind = values.dtype.kind
    if kind in "iuf":
        return _as_numbers(values, missing, label, where)
    if kind in "UST":
        return _as_ids(values.astype(object), missing, label, where)
    if kind != "O":
        raise TypeError(
            f"{label} has dtype {values.dtype}. Ids must be integers, strings, UUIDs or other "
            "sortable objects of one type: convert them, for example to strings."
        )
    missing = _either(missing, _missing_objects(values))
    kept = values if missing is None else values[~missing]
    types = set(map(type, kept))
    kinds = sorted(set(map(_kind, types)))
    if kinds == ["bool"]:
        raise TypeError(f"{label} holds booleans, which are not ids: convert them to integers.")
    if len(kinds) > 1 or any(type_.__hash__ is None for type_ in types):
        raise TypeError(
            f"{label}: the ids of this argument must be uniformly strings, UUIDs or numbers, got "
            f"{' and '.join(kinds)}. Convert them to one type."
        )
    if not kinds:
        return values if missing is not None else values.astype(np.int64), missing
    if kinds == ["int"] or kinds == ["float"]:
        try:
            kept = kept.astype(np.int64 if kinds == ["int"] else np.float64)
        except OverflowError:
            raise ValueError(
                f"{label} holds an integer outside int64: convert the ids to strings."
            ) from None
        return _as_numbers(_fill_missing(kept, missing), missing, label, where)
    return values, missing


def _as_times(
    values: NDArray[Any], missing: _Mask, label: str
) -> tuple[NDArray[Any], _Mask, str | None]:
    """Bring times to int64 or float64, find the missing, and tell a datetime's unit."""
    unit = None
    if values.dtype.kind == "O":
        missing = _either(missing, _missing_objects(values))
        kept = values if missing is None else values[~missing]
        values = _fill_missing(_times_from_objects(kept, label), missing)
    if values.dtype.kind == "M":
        unit = values.dtype.str[4:-1]  # "<M8[us]"
        values = values.view(np.int64)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{label} has dtype {values.dtype}. {_TIME_TYPES}")
    values, missing = _as_numbers(values, missing, label, _row)
    return values, missing, unit


_TIME_TYPES = (
    "Times must be integers, floats or datetimes: convert the column, name another one with "
    "time_column, or leave it out. (An array that holds text holds only text: use a dataframe.)"
)


def _times_from_objects(values: NDArray[Any], label: str) -> NDArray[Any]:
    kinds = set(map(_kind, set(map(type, values))))
    try:
        if kinds <= {"int"}:
            return values.astype(np.int64)
        if kinds <= {"int", "float"}:
            return values.astype(np.float64)
        if kinds <= {"datetime", "Timestamp", "date", "datetime64"}:
            # NumPy would drop a time zone with no more than a warning.
            if all(getattr(value, "tzinfo", None) is None for value in values):
                return np.array(values.tolist(), dtype="datetime64")
            kinds = {"datetime with a time zone"}
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{label} does not hold times: {error}.") from error
    raise TypeError(f"{label} holds objects of type {' and '.join(sorted(kinds))}. {_TIME_TYPES}")


def _as_numbers(
    values: NDArray[Any], missing: _Mask, label: str, where: _Where
) -> tuple[NDArray[Any], _Mask]:
    """Bring numbers to int64 or float64; MISSING_ID and NaN are missing, infinity is an error."""
    if values.dtype.kind == "f":
        values = np.ascontiguousarray(values, dtype=np.float64)
        if _all_finite(values):
            return values, missing
        missing = _either(missing, np.isnan(values))
        bad, problem = np.isinf(values), "is not finite. Drop the row"
    else:
        top = np.iinfo(np.int64).max
        bad = values > top if values.dtype == np.uint64 else np.zeros(0, dtype=bool)
        problem = "does not fit into int64. Convert the column, ids for example to strings"
        if not bad.any():
            values = np.ascontiguousarray(values, dtype=np.int64)
            if len(values) and values.min() == MISSING_ID:
                missing = _either(missing, values == MISSING_ID)
            return values, missing
    if missing is not None:
        bad = bad & ~missing
    if bad.any():
        position = int(np.argmax(bad))
        raise ValueError(f"{label}, {where(position)}: {values[position]} {problem}.")
    return values, missing


def _all_finite(values: NDArray[Any]) -> bool:
    # A sum that is finite rules out NaN and infinity without an array of booleans.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())


def _is_missing(value: Any) -> bool:
    # pandas.NA and NaT are known by name, so that pandas need not be imported.
    return (
        value is None
        or type(value).__name__ in ("NAType", "NaTType")
        or (isinstance(value, float | np.floating | np.datetime64) and bool(value != value))
    )


def _missing_objects(values: NDArray[Any]) -> _Mask:
    # Types are few: mostly they alone rule out that anything is missing.
    if all(_kind(type_) in ("int", "str", "UUID") for type_ in set(map(type, values))):
        return None
    return np.fromiter(map(_is_missing, values), dtype=bool, count=len(values))


def _fill_missing(kept: NDArray[Any], missing: _Mask) -> NDArray[Any]:
    """Spread the values that are there over all rows."""
    if missing is None:
        return kept
    nothing: Any = {"i": MISSING_ID, "f": np.nan, "M": "NaT"}[kept.dtype.kind]
    values = np.full(len(missing), nothing, dtype=kept.dtype)
    values[~missing] = kept
    return values


def _either(one: _Mask, other: _Mask) -> _Mask:
    joined = other if one is None else one if other is None else one | other
    return joined if joined is not None and joined.any() else None


# -- Reading ---------------------------------------------------------------------------------


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


def table_like(interactions: Any, columns: dict[str, NDArray[Any]]) -> Any:
    """Put columns into the kind of frame that `interactions` is, else a structured array."""
    if is_frame(interactions):
        frame = nw.from_native(interactions, eager_only=True)
        return nw.from_dict(columns, backend=frame.implementation).to_native()
    dtype = [(name, values.dtype) for name, values in columns.items()]
    table = np.empty(len(next(iter(columns.values()))), dtype=dtype)
    for name, values in columns.items():
        table[name] = values
    return table


def is_history(interactions: Any) -> bool:
    """Tell one history, a flat list or 1-D array of item ids, from a table or list of histories."""
    if isinstance(interactions, list | tuple):
        return not any(isinstance(entry, list | tuple | np.ndarray) for entry in interactions[:1])
    return nw.dependencies.is_into_series(interactions) or (
        isinstance(interactions, np.ndarray) and interactions.ndim == 1
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
        A pandas, polars or pyarrow table or an array with the columns user, item and optionally
        time; without time, row order is time order. Or a list with one history per user, oldest
        item first. Other columns are not looked at. A row in which user, item and time are all
        missing is masked: it is skipped.
    feedback : array-like of shape (n_rows,), list of lists or None, default=None
        One value per row; for a list of histories, one list per history. None: all liked.
    positive_threshold : float or (low, high), default=None
        Reads graded feedback. A number: from there on liked, below disliked. A pair: from `high`
        on liked, below `low` disliked, neutral in between.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column. By default a frame's columns are found by the names user or
        user_id, item or item_id, time or timestamp, and else taken from positions 0, 1 and 2.
    feedback_coding : {"liked", "binary", "signed", "graded"}, default=None
        The coding found in fit, so that 0 goes on meaning what it meant there.

    Returns
    -------
    Interactions

    Raises
    ------
    TypeError
        If a column or the feedback has a type that cannot be read.
    ValueError
        If a value is missing or out of range, lengths differ or nothing is left.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.interactions import read_interactions
    >>> table = np.array([[7, 20, 3], [7, 10, 1]])
    >>> read_interactions(table, [5, 2], positive_threshold=4).signs
    array([ 1, -1], dtype=int8)
    """
    where: _Where = _row
    if is_table(interactions):
        table = _read_table(interactions, user_column, item_column, time_column)
        _check_not_empty(table)
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
    items = _complete_ids(history, "history")
    signs, _ = _read_signs(
        feedback,
        None,
        len(items),
        positive_threshold,
        feedback_coding,
        "position {}".format,
    )
    return items, signs


def read_times(times: Any, n_events: int) -> tuple[NDArray[Any], str | None]:
    """Validate the times of one history, oldest first; return them and a datetime's unit.

    Examples
    --------
    >>> from posneg_rec.interactions import read_times
    >>> read_times([3, 5, 5], 3)
    (array([3, 5, 5]), None)
    """
    values = np.asarray(times)
    if values.shape != (n_events,):
        raise ValueError(
            f"times must have one entry per event of the history ({n_events}), got shape "
            f"{values.shape}."
        )
    values, missing, unit = _as_times(values, None, "times")
    if missing is not None and missing.any():
        raise ValueError(f"times is missing at position {np.flatnonzero(missing)[0]}.")
    if (np.diff(values) < 0).any():
        place = int(np.flatnonzero(np.diff(values) < 0)[0])
        raise ValueError(
            f"times must not fall, for a history is oldest first, but they do after position "
            f"{place}: sort the history by time."
        )
    return values, unit


def _read_table(
    interactions: Any,
    user_column: str | int | None,
    item_column: str | int | None,
    time_column: str | int | None,
) -> Interactions:
    """Read the columns of a table, all liked."""
    explicit = {"user": user_column, "item": item_column, "time": time_column}
    if is_frame(interactions):
        frame = nw.from_native(interactions, eager_only=True)
        n_rows, n_columns = frame.shape
        if n_columns < 2 or n_rows < 1:
            _raise_too_small(frame.shape)
        names = list(frame.columns)
        positions = _column_positions(names, n_columns, explicit)
        labels = {role: f"column {names[place]!r} ({role})" for role, place in positions.items()}
        raw: dict[str, Any] = {role: frame[:, place] for role, place in positions.items()}
    else:
        array = _as_table(interactions)
        n_rows, n_columns = array.shape
        positions = _column_positions(None, n_columns, explicit)
        labels = {role: f"column {place} ({role})" for role, place in positions.items()}
        raw = {role: array[:, place] for role, place in positions.items()}

    masks: dict[str, _Mask] = {}
    users, user_ids, masks["user"] = _coded(raw["user"], labels["user"])
    items, item_ids, masks["item"] = _coded(raw["item"], labels["item"])
    times, unit = None, None
    if "time" in raw:
        times, masks["time"], unit = _as_times(*_to_numpy(raw["time"]), labels["time"])
    kept = _kept_rows(masks, labels)
    if kept is not None:
        users, items = users[kept], items[kept]
        times = None if times is None else times[kept]
    liked = np.ones(len(users), dtype=np.int8)
    return Interactions(users, user_ids, items, item_ids, times, liked, kept, n_rows, "liked", unit)


def _coded(
    column: nw.Series[Any] | NDArray[Any], label: str, where: _Where = _row
) -> tuple[NDArray[np.integer], NDArray[Any], _Mask]:
    """Return the codes of a column's ids, the distinct ids, ascending, and the missing rows."""
    if isinstance(column, nw.Series) and column.dtype in (nw.String, nw.Categorical, nw.Enum):
        codes, distinct = _factorized(column)
        missing = _either(codes < 0, None)
        distinct, _ = _as_ids(distinct, None, label)
        ids = _sorted_unique(distinct, label)
        # A missing id has code -1 and so takes the last entry.
        codes = np.append(ItemVocabulary(ids)._look_up(distinct), -1).take(codes)
    else:
        values, missing = _as_ids(*_to_numpy(column), label, where)
        ids = _sorted_unique(values if missing is None else values[~missing], label)
        codes = ItemVocabulary(ids)._look_up(values)
    return (codes.astype(np.int32) if len(ids) < 2**31 else codes), ids, missing


def _factorized(series: nw.Series[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Let the frame's own library number its strings: they need not become Python objects."""
    native = series.to_native()
    if hasattr(native, "factorize"):  # pandas, where it is several times faster than the rest
        codes, values = native.factorize()
        return codes, _objects(values)
    values = series.drop_nulls().unique().to_list()
    codes = np.full(len(series), -1)
    codes[~series.is_null().to_numpy()] = (
        series.drop_nulls()
        .replace_strict(values, list(range(len(values))), return_dtype=nw.Int64)
        .to_numpy()
    )
    return codes, _objects(values)


def _check_not_empty(table: Interactions) -> None:
    if len(table.user_codes) == 0:
        raise ValueError(
            f"Found 0 sample(s) while a minimum of 1 is required: all {table.n_rows} rows are "
            "masked (user, item and time missing)."
        )


def _kept_rows(masks: dict[str, _Mask], labels: dict[str, str]) -> NDArray[np.int64] | None:
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
                f"{labels[role]}, {_row(int(np.argmax(partly)))}: the value is missing "
                "(NaN, None, NaT or MISSING_ID). Drop the row, or mask it by making all of "
                f"{', '.join(full)} missing."
            )
    return np.flatnonzero(~masked)


def _as_table(interactions: Any, *, n_columns: int = 2) -> NDArray[Any]:
    if sparse.issparse(interactions):
        raise TypeError(
            "Sparse data was passed, but interactions are rows of (user, item[, time]). A sparse "
            "users x items matrix turns into such rows with "
            "np.column_stack(matrix.tocoo().coords), its data being the feedback."
        )
    if isinstance(nw.from_native(interactions, pass_through=True), nw.LazyFrame):
        raise TypeError("interactions is a lazy frame: pass interactions.collect().")
    if isinstance(interactions, dict | str | bytes | set) or interactions is None:
        raise TypeError(
            "interactions must be a pandas, polars or pyarrow table, a 2-D array or a list of "
            f"histories, got {type(interactions).__name__}."
        )
    return check_array(
        interactions,
        dtype=None,
        ensure_all_finite=False,
        ensure_min_features=n_columns,
        input_name="interactions",
    )


def _raise_too_small(shape: tuple[int, int]) -> None:
    what, n = ("feature", shape[1]) if shape[1] < 2 else ("sample", shape[0])
    raise ValueError(
        f"Found array with {n} {what}(s) (shape={shape}) while a minimum of "
        f"{2 if what == 'feature' else 1} is required."
    )


def _column_positions(
    names: list[Any] | None, n_columns: int, explicit: dict[str, str | int | None]
) -> dict[str, int]:
    """Find the columns: as told, else by name, else by position."""
    positions: dict[str, int] = {}
    for role in _ROLES:
        wanted = explicit[role]
        if wanted is not None:
            positions[role] = _told_position(names, n_columns, role, wanted)
        else:
            named = [name for name in names or () if name in _COLUMN_NAMES[role]]
            if len(named) > 1:
                raise ValueError(
                    f"columns {' and '.join(map(repr, named))} both name the {role}: pass "
                    f"{role}_column."
                )
            if named and names is not None:
                positions[role] = names.index(named[0])
    for default, role in enumerate(_ROLES):
        if role in positions or default >= n_columns:
            continue
        name = default if names is None else names[default]
        if default in positions.values():
            if role == "time":
                continue
            raise ValueError(f"no column is left for the {role}: pass {role}_column.")
        if role == "time" and name in _FEEDBACK_NAMES:
            raise ValueError(
                f"the third column, {name!r}, would be read as time: pass it as feedback and "
                "leave it out of interactions, or pass time_column."
            )
        positions[role] = default
    taken = list(positions.values())
    if len(set(taken)) < len(taken):
        raise ValueError(
            f"user, item and time must be different columns, got {positions}: pass user_column, "
            "item_column and time_column."
        )
    return {role: positions[role] for role in _ROLES if role in positions}


def _told_position(names: list[Any] | None, n_columns: int, role: str, wanted: str | int) -> int:
    if isinstance(wanted, Integral) and not isinstance(wanted, bool):
        if 0 <= wanted < n_columns:
            return int(wanted)
        raise ValueError(f"{role}_column={wanted} is no position in {n_columns} columns.")
    if names is None:
        raise ValueError(f"{role}_column={wanted!r} is a name, but an array has only positions.")
    if names.count(wanted) != 1:
        raise ValueError(
            f"{role}_column={wanted!r} is not one of the columns {_preview(names, 10)}."
        )
    return names.index(wanted)


def _read_histories(
    histories: Sequence[Any], feedback: Any
) -> tuple[Interactions, list[Any] | None, _Where]:
    """Put all histories one after the other; the user is the position in the list."""
    if not histories:
        raise ValueError("Found 0 sample(s) while a minimum of 1 is required: an empty list.")
    lengths = _list_lengths(histories, "interactions")
    users = np.repeat(np.arange(len(lengths)), lengths)
    offsets = _offsets(lengths)

    def where(position: int) -> str:
        return f"history {users[position]}, position {position - offsets[users[position]]}"

    label = "interactions"
    events = _objects(list(chain.from_iterable(histories)))
    items, item_ids, missing = _coded(events, label, where)
    if missing is not None:
        raise ValueError(f"{label}, {where(int(np.argmax(missing)))}: the item is missing.")
    if feedback is not None:
        feedback_lengths = _list_lengths(feedback, "feedback")
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


def _list_lengths(lists: Any, name: str) -> NDArray[np.int64]:
    if not isinstance(lists, list | tuple):
        raise TypeError(
            f"{name} must be a list with one list per history, got {type(lists).__name__}."
        )
    if not set(map(type, lists)) <= {list, tuple, np.ndarray}:
        for position, entry in enumerate(lists):
            if not (isinstance(entry, list | tuple | np.ndarray) or is_history(entry)):
                raise TypeError(
                    f"{name}: a list holds one list or 1-D array per user, but entry {position} "
                    f"is {entry!r:.50}. Wrap a single history in a list; turn a list of rows into "
                    "an array."
                )
    return np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))


# -- Feedback --------------------------------------------------------------------------------


def _read_signs(
    feedback: Any,
    kept: NDArray[np.int64] | None,
    n_rows: int,
    positive_threshold: float | tuple[float, float] | None,
    feedback_coding: str | None,
    where: _Where,
) -> tuple[NDArray[np.int8], str]:
    """Return the sign of each kept row and the coding in which the feedback was read."""
    threshold = _check_threshold(positive_threshold)
    # A coding that was found before outlives feedback that shows none.
    remembered = None if feedback_coding == "liked" else feedback_coding
    if feedback is None:
        n_kept = n_rows if kept is None else len(kept)
        return np.ones(n_kept, dtype=np.int8), remembered or "liked"
    values = column_or_1d(feedback, warn=True, input_name="feedback")
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
            f"feedback, {place(first)}: {values[first]} is not among {allowed}. For "
            "graded feedback pass positive_threshold, the value from which an item is liked."
        )
    if disliked.any() or remembered == "signed":
        return liked.astype(np.int8) - disliked.astype(np.int8), "signed"
    if zero.any():
        return liked.astype(np.int8) - zero.astype(np.int8), "binary"
    return liked.astype(np.int8), remembered or "liked"


def _check_threshold(
    threshold: float | tuple[float, float] | None,
) -> tuple[float, float] | None:
    if threshold is None:
        return None
    pair = threshold if isinstance(threshold, tuple | list) else (threshold, threshold)
    if len(pair) != 2 or not all(
        isinstance(bound, Real) and not isinstance(bound, bool) and np.isfinite(bound)
        for bound in pair
    ):
        raise ValueError(
            "positive_threshold must be a finite number or a pair (low, high) of such, got "
            f"{threshold!r}."
        )
    if pair is threshold and not pair[0] < pair[1]:
        raise ValueError(f"positive_threshold=(low, high) needs low < high, got {threshold!r}.")
    return pair[0], pair[1]


def _feedback_numbers(values: NDArray[Any], where: _Where) -> NDArray[Any]:
    """Check feedback to be booleans or finite numbers."""
    if values.dtype.kind == "O":
        missing = _missing_objects(values)
        if missing is not None and missing.any():
            raise ValueError(
                f"feedback, {where(int(np.argmax(missing)))}: the value is missing (NaN or None)."
            )
        kinds = set(map(_kind, set(map(type, values))))
        if kinds == {"bool"}:
            return values.astype(bool)
        if kinds <= {"int", "float"}:
            values = values.astype(np.float64)
        else:
            raise TypeError(
                f"feedback holds {' and '.join(sorted(kinds))}; it must be booleans or numbers."
            )
    if values.dtype.kind not in "biuf":
        raise TypeError(f"feedback has dtype {values.dtype}; it must be booleans or numbers.")
    if values.dtype.kind == "f" and not _all_finite(values):
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"feedback, {where(first)}: {values[first]} (NaN or infinity) is no "
            "feedback. Drop the row, or mask it."
        )
    return values


# -- Histories -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Histories:
    """The events of all users on one axis: by user, then by time, ties in row order.

    Attributes
    ----------
    users : ndarray of shape (n_users,), dtype=int64, float64 or object
        Raw ids, ascending.
    items : ndarray of shape (n_events,), dtype=int64
        Item codes; -1 for an item that the vocabulary does not know.
    signs : ndarray of shape (n_events,), dtype=int8
        +1 liked, -1 disliked, 0 neutral.
    times : ndarray of shape (n_events,), dtype=int64 or float64, or None
        When it happened.
    rows : ndarray of shape (n_events,), dtype=int64
        The caller's row of each event.
    offsets : ndarray of shape (n_users + 1,), dtype=int64
        User ``u`` has the events ``offsets[u]`` up to ``offsets[u + 1]``.
    time_unit : str or None
        NumPy's unit of datetimes, None for plain numbers.
    """

    users: NDArray[Any]
    items: NDArray[np.int64]
    signs: NDArray[np.int8]
    times: NDArray[Any] | None
    rows: NDArray[np.int64]
    offsets: NDArray[np.int64]
    time_unit: str | None = None

    def __len__(self) -> int:
        """Return the number of users."""
        return len(self.users)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of events of each user, shape (n_users,)."""
        return np.diff(self.offsets)

    def take(self, user_indices: ArrayLike) -> Histories:
        """Return the users at `user_indices`, in that order, with their events."""
        user_indices = _indices(user_indices)
        lengths = self.lengths[user_indices]
        events = _ranges(self.offsets[:-1][user_indices], lengths)
        return self._at(events, self.users[user_indices], _offsets(lengths))

    def select(self, event_mask: ArrayLike) -> Histories:
        """Return all users with only the events where `event_mask` is True."""
        events = np.flatnonzero(np.asarray(event_mask, dtype=bool))
        return self._at(events, self.users, np.searchsorted(events, self.offsets))

    def known(self) -> Histories:
        """Drop the events of items that the vocabulary does not know."""
        return self.select(self.items >= 0)

    def of_sign(self, sign: int) -> tuple[PackedSequences, NDArray[np.int64]]:
        """Return the item codes of one sign by user, and the event index of each of them."""
        events = np.flatnonzero(self.signs == sign)
        offsets = np.searchsorted(events, self.offsets)
        return PackedSequences(self.items.take(events), offsets), events

    def gaps(self) -> NDArray[np.float64] | None:
        """Tell the time since the user's event before, shape (n_events,).

        In seconds for datetimes, else in the caller's unit; NaN for a user's first event. None
        where no times are known.
        """
        if self.times is None:
            return None
        gaps = np.full(len(self.times), np.nan)
        gaps[1:] = np.diff(self.times) / _time_units(self.time_unit)
        gaps[self.offsets[:-1][self.lengths > 0]] = np.nan
        return gaps

    def _at(
        self, events: NDArray[np.int64], users: NDArray[Any], offsets: NDArray[np.int64]
    ) -> Histories:
        return Histories(
            users,
            self.items.take(events),
            self.signs.take(events),
            None if self.times is None else self.times.take(events),
            self.rows.take(events),
            offsets,
            self.time_unit,
        )


# Classes of the time between two events: unknown, none, and ten ranges of it.
N_GAP_TAGS = 12


def gap_edges(gaps: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Choose the bounds between the ranges of :func:`gap_tags`, at equal ratios.

    They span what occurs but for the outermost hundredth and thousandth, so that they need no
    unit: pauses of seconds and of weeks both find their range.

    Parameters
    ----------
    gaps : float64 array or None
        As from :meth:`Histories.gaps`, NaN and zero ignored.

    Returns
    -------
    float64 array of shape (N_GAP_TAGS - 3,)
        Ascending; ones if no time ever passes.
    """
    positive = np.empty(0) if gaps is None else gaps[gaps > 0]
    if len(positive) == 0:
        return np.ones(N_GAP_TAGS - 3)
    low, high = np.quantile(positive, [0.01, 0.999])
    return np.geomspace(low, high, N_GAP_TAGS - 3)


def gap_tags(gaps: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Classify times between events: 0 unknown (NaN), 1 none, then ranges between `edges`.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.interactions import gap_tags
    >>> gap_tags(np.array([np.nan, 0.0, 5.0, 99.0]), np.array([10.0, 50.0]))
    array([0, 1, 2, 4])
    """
    tags = np.searchsorted(edges, gaps) + 2
    tags[gaps <= 0] = 1
    tags[np.isnan(gaps)] = 0
    return tags


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
    order = _event_order(users, interactions.times, counts)
    # Only each distinct id is looked up.
    items = vocabulary.encode(interactions.item_ids).take(interactions.item_codes.take(order))
    histories = Histories(
        interactions.user_ids,
        items,
        interactions.signs.take(order),
        None if interactions.times is None else interactions.times.take(order),
        order if interactions.kept is None else interactions.kept.take(order),
        _offsets(counts),
        interactions.time_unit,
    )
    if duplicates == "last":
        return histories.select(_is_last(users.take(order), items, counts) | (items < 0))
    return histories


def _event_order(
    users: NDArray[np.integer], keys: NDArray[Any] | None, counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sort stably by user code, then key; `counts` has the number of events of each user."""
    order = _grouped(users, len(counts))
    if keys is None or len(keys) == 0:
        return order
    grouped = keys.take(order)
    falls = grouped[1:] < grouped[:-1]
    ends = np.cumsum(counts)
    falls[ends[(ends > 0) & (ends < len(keys))] - 1] = False
    if not falls.any():
        return order
    low, high = grouped.min(), grouped.max()
    span = int(high) - int(low) + 1
    if grouped.dtype.kind == "i" and len(counts) * span < 2**63:
        grouped -= low
        grouped += np.repeat(np.arange(len(counts)) * span, counts)
        # Users are in place already: what is left to this merge sort is short stretches.
        return order.take(np.argsort(grouped, kind="stable"))
    del grouped, falls, order
    by_key = _stable_argsort(keys)
    return by_key.take(_grouped(users.take(by_key), len(counts)))


def _stable_argsort(keys: NDArray[Any]) -> NDArray[np.int64]:
    """Sort stably, several times faster than NumPy's argsort.

    A word of a key and, below it, its position has no ties, so any sort of such words is stable,
    and NumPy sorts words with SIMD. Keys that leave the position too little room in a word are
    sorted piece by piece, the least significant first.
    """
    if keys.dtype.kind == "f":
        # The bits of floats are in order but for the negative ones, which are reversed.
        keys = (keys + 0.0).view(np.int64)  # -0.0 becomes 0.0
        keys ^= (keys >> 63) & np.iinfo(np.int64).max
    # Unsigned, as two int64 may lie further apart than int64 reaches.
    distances = (keys - keys.min()).view(np.uint64)
    n_bits = (len(keys) - 1).bit_length()
    order = np.arange(len(keys))
    for shift in range(0, int(distances.max()).bit_length(), 64 - n_bits):
        words = distances.take(order)
        words >>= np.uint64(shift)
        words <<= np.uint64(n_bits)  # what lies above this piece drops out
        words |= np.arange(len(keys), dtype=np.uint64)
        words.sort()
        words &= np.uint64((1 << n_bits) - 1)
        order = order.take(words.view(np.int64))
    return order


def _grouped(codes: NDArray[np.integer], n_codes: int) -> NDArray[np.int64]:
    """Sort stably by code in linear time."""
    n = len(codes)
    index = np.int32 if max(n, n_codes) < 2**31 else np.int64
    # With one entry per column, turning columns into rows is a counting sort.
    columns = sparse.csc_array(
        (np.ones(n, np.int8), codes.astype(index, copy=False), np.arange(n + 1, dtype=index)),
        shape=(n_codes, n),
    )
    return columns.tocsr().indices.astype(np.int64)


def _is_last(
    users: NDArray[np.integer], items: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which events are the last of their user and item."""
    order = _event_order(users, items, counts)
    users, items = users.take(order), items.take(order)
    last = np.ones(len(order), dtype=bool)
    last[order[:-1]] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return last


# -- Transformers ----------------------------------------------------------------------------

_COLUMN = [str, Interval(Integral, 0, None, closed="left"), None]


class SequenceBuilder(TransformerMixin, BaseEstimator):
    """Turn interactions into rows of (sequence, item, position).

    There is one row out per row in, in the same order, so that feedback passed as ``y`` stays
    aligned; a row that is to be dropped is masked, that is, all its fields are missing. A
    :class:`~posneg_rec.ContrastiveSeqRecommender` reads the rows as (user, item, time) and skips
    the masked ones.

    Parameters
    ----------
    session_gap : float, default=None
        Start a new sequence where more than this lies between two events of a user: in the time
        column's unit, in seconds if it holds datetimes. None: one sequence per user.
    duplicates : {"all", "last"}, default="all"
        "last" keeps of each user and item only the most recent event, before all other steps.
        The default changes nothing, as a repeated item can be a signal.
    min_events : int, default=1
        Mask sequences with fewer events.
    max_length : int, default=None
        Keep the last `max_length` events of a sequence. None: all.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column. By default a frame's columns are found by the names user or
        user_id, item or item_id, time or timestamp, and else taken from positions 0, 1 and 2.
        Without a time column, row order is time order.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns seen during :term:`fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns seen during :term:`fit`, where all are strings.

    See Also
    --------
    RareItemMasker : Masks items and users with little data.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec import SequenceBuilder
    >>> interactions = np.array([[7, 20, 50], [7, 10, 30], [8, 10, 40]])
    >>> SequenceBuilder().fit_transform(interactions)
    array([[ 7, 20,  1],
           [ 7, 10,  0],
           [ 8, 10,  0]])
    >>> SequenceBuilder(session_gap=15).fit_transform(interactions)
    array([['7:1', 20, 0],
           ['7:0', 10, 0],
           ['8:0', 10, 0]], dtype=object)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "session_gap": [Interval(Real, 0, None, closed="neither"), None],
        "duplicates": [StrOptions({"all", "last"})],
        "min_events": [Interval(Integral, 1, None, closed="left")],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        "user_column": _COLUMN,
        "item_column": _COLUMN,
        "time_column": _COLUMN,
    }

    def __init__(
        self,
        *,
        session_gap: float | None = None,
        duplicates: Literal["all", "last"] = "all",
        min_events: int = 1,
        max_length: int | None = None,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        self.session_gap = session_gap
        self.duplicates = duplicates
        self.min_events = min_events
        self.max_length = max_length
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> SequenceBuilder:
        """Check parameters and columns; nothing is learned from the values.

        Parameters
        ----------
        X : dataframe or array-like of shape (n_rows, n_columns)
            Interactions with the columns user, item and optionally time.
        y : ignored
            Feedback, which stays as it is.

        Returns
        -------
        self : SequenceBuilder
        """
        X, table = _fit_table(self, X)
        self._check_sessions(table)
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X: Any) -> Any:
        """Sort rows into sequences.

        Parameters
        ----------
        X : dataframe or array-like of shape (n_rows, n_columns)
            Interactions with the columns seen in fit.

        Returns
        -------
        X_out : ndarray of shape (n_rows, 3)
            Columns sequence, item and position. `sequence` is the raw user id or, with
            `session_gap`, the string ``"user:k"`` of the user's k-th session. `position` counts
            the kept events of a sequence from 0. int64 if both ids are integers (missing:
            :data:`MISSING_ID`), float64 if both are floats (missing: NaN), else object (missing:
            None).
        """
        check_is_fitted(self)
        table = _transform_table(self, X)
        self._check_sessions(table)
        vocabulary = ItemVocabulary(table.item_ids)
        histories = build_histories(table, vocabulary, duplicates=self.duplicates)
        user = np.repeat(np.arange(len(histories)), histories.lengths)
        starts = np.diff(user, prepend=-1) > 0
        if self.session_gap is not None:
            assert histories.times is not None
            starts[1:] |= np.diff(histories.times) > self.session_gap * _time_units(table.time_unit)
        sequence = np.cumsum(starts) - 1
        first = np.flatnonzero(starts)
        lengths = np.bincount(sequence)
        names = histories.users[user[first]]
        if self.session_gap is not None:
            number = np.arange(len(first)) - sequence[histories.offsets[:-1]][user[first]]
            prefix = np.strings.add(names.astype(str), ":")
            names = np.strings.add(prefix, number.astype(str)).astype(object)

        position = np.arange(len(sequence)) - first[sequence]
        kept = lengths[sequence] >= self.min_events
        if self.max_length is not None:
            position -= np.maximum(lengths - self.max_length, 0)[sequence]
            kept &= position >= 0
        columns = [
            names[sequence[kept]],
            vocabulary.items[histories.items[kept]],
            position[kept].astype(np.float64 if names.dtype.kind == "f" else np.int64),
        ]
        return _aligned(columns, histories.rows[kept], table.n_rows)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """Return the names of the columns of `transform`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Only checked against the columns seen in fit.

        Returns
        -------
        feature_names_out : ndarray of str objects
            ``["sequence", "item", "position"]``.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        return np.array(["sequence", "item", "position"], dtype=object)

    def _check_sessions(self, table: Interactions) -> None:
        if self.session_gap is not None and table.times is None:
            raise ValueError(
                f"session_gap={self.session_gap} needs times, but X has no time column: add it as "
                "third column, name it with time_column, or pass session_gap=None."
            )


class RareItemMasker(TransformerMixin, BaseEstimator):
    """Mask the rows of items with few users, then of users with few items.

    Both are counted once and in this order, so that afterwards an item may have fewer users than
    asked for. There is one row out per row in, in the same order: a dropped row is masked, that
    is, all its fields are missing, and a :class:`~posneg_rec.ContrastiveSeqRecommender` skips it.

    Parameters
    ----------
    min_users_per_item : int, default=5
        Items that fewer users met in fit are masked. 5 is the usual choice in the literature.
    min_items_per_user : int, default=5
        Users that have fewer different items left are masked, in fit and transform alike.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column. By default a frame's columns are found by the names user or
        user_id, item or item_id, time or timestamp, and else taken from positions 0, 1 and 2.

    Attributes
    ----------
    items_ : ndarray of shape (n_items,), dtype=int64, float64 or object
        The items that enough users met, ascending.
    n_features_in_ : int
        Number of columns seen during :term:`fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns seen during :term:`fit`, where all are strings.

    See Also
    --------
    SequenceBuilder : Turns interactions into sequences.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec import RareItemMasker
    >>> interactions = np.array([[7, 20], [7, 10], [8, 10]])
    >>> masker = RareItemMasker(min_users_per_item=2, min_items_per_user=1)
    >>> masked = masker.fit_transform(interactions)
    >>> masker.items_
    array([10])
    >>> masked[1:]
    array([[ 7, 10],
           [ 8, 10]])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "min_users_per_item": [Interval(Integral, 1, None, closed="left")],
        "min_items_per_user": [Interval(Integral, 1, None, closed="left")],
        "user_column": _COLUMN,
        "item_column": _COLUMN,
        "time_column": _COLUMN,
    }

    def __init__(
        self,
        *,
        min_users_per_item: int = 5,
        min_items_per_user: int = 5,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        self.min_users_per_item = min_users_per_item
        self.min_items_per_user = min_items_per_user
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> RareItemMasker:
        """Learn which items have enough users.

        Parameters
        ----------
        X : dataframe or array-like of shape (n_rows, n_columns)
            Interactions with the columns user, item and optionally time.
        y : ignored
            Feedback, which stays as it is.

        Returns
        -------
        self : RareItemMasker
        """
        X, table = _fit_table(self, X)
        vocabulary = ItemVocabulary(table.item_ids)
        pairs = build_histories(replace(table, times=None), vocabulary, duplicates="last")
        n_users = np.bincount(pairs.items, minlength=len(vocabulary))
        validate_data(self, X, skip_check_array=True)
        self.items_ = vocabulary.items[n_users >= self.min_users_per_item]
        return self

    def transform(self, X: Any) -> Any:
        """Mask rows.

        Parameters
        ----------
        X : dataframe or array-like of shape (n_rows, n_columns)
            Interactions with the columns seen in fit.

        Returns
        -------
        X_out : ndarray of shape (n_rows, 2) or (n_rows, 3)
            Columns user, item and, if there is one, time. int64 if all are integers (missing:
            :data:`MISSING_ID`), float64 if all are floats (missing: NaN), else object (missing:
            None).
        """
        check_is_fitted(self)
        table = _transform_table(self, X)
        vocabulary = ItemVocabulary(self.items_)
        pairs = build_histories(replace(table, times=None), vocabulary, duplicates="last")
        enough = pairs.known().lengths >= self.min_items_per_user
        common = vocabulary.encode(table.item_ids) >= 0
        kept = common[table.item_codes] & enough[table.user_codes]
        columns = [table.users[kept], table.items[kept]]
        if table.times is not None:
            times = table.times[kept]
            # As plain integers, datetimes would no longer tell their unit.
            columns.append(times.view(f"M8[{table.time_unit}]") if table.time_unit else times)
        return _aligned(columns, table.rows[kept], table.n_rows)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[Any]:
        """Return the names of the columns of `transform`, which are those of `fit`.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Names of all columns; by default those seen in fit.

        Returns
        -------
        feature_names_out : ndarray of str objects
            The names of the columns user, item and, if there is one, time.
        """
        check_is_fitted(self)
        names = _check_feature_names_in(self, input_features)
        seen = list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None
        return names[list(_column_positions(seen, self.n_features_in_, _columns_of(self)).values())]


def _time_units(time_unit: str | None) -> float:
    """Return how many of the time column's units a gap of 1 means."""
    if time_unit is None:
        return 1.0
    return float(np.timedelta64(1, "s") / np.array(1, f"m8[{time_unit}]"))


def _columns_of(estimator: Any) -> dict[str, str | int | None]:
    return {role: getattr(estimator, f"{role}_column") for role in _ROLES}


def _fit_table(estimator: SequenceBuilder | RareItemMasker, X: Any) -> tuple[Any, Interactions]:
    """Read X without a change to the estimator, which a fit that fails must leave as it was."""
    X = _rows_in(X, n_columns=2)
    table = _read_table(X, *_columns_of(estimator).values())
    _check_not_empty(table)
    return X, table


def _transform_table(estimator: SequenceBuilder | RareItemMasker, X: Any) -> Interactions:
    X = _rows_in(X, n_columns=1)
    validate_data(estimator, X, reset=False, skip_check_array=True)
    return _read_table(X, *_columns_of(estimator).values())


def _rows_in(X: Any, *, n_columns: int) -> Any:
    """Let frames be, as one dtype for all columns would change ids; make all else an array."""
    if is_frame(X):
        return X
    if isinstance(X, list | tuple):
        X = np.array(X, dtype=object)
    return _as_table(X, n_columns=n_columns)


def _aligned(columns: list[NDArray[Any]], rows: NDArray[np.int64], n_rows: int) -> NDArray[Any]:
    """Put columns of the kept rows back to where the rows were; all else is missing."""
    kinds = {column.dtype.kind for column in columns}
    missing: Any = {"i": MISSING_ID, "f": np.nan}.get("".join(kinds))
    dtype = {"i": np.int64, "f": np.float64}.get("".join(kinds), object)
    table = np.full((n_rows, len(columns)), missing, dtype=dtype)
    for place, column in enumerate(columns):
        table[rows, place] = _objects(column) if column.dtype.kind == "M" else column
    return table
