"""Ids and their codes, and columns of ids, times and numbers brought to NumPy without a change."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from itertools import repeat
from numbers import Integral
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec.sequences import as_indices, preview

__all__ = [
    "MISSING_ID",
    "ItemVocabulary",
    "Mask",
    "Where",
    "all_finite",
    "as_ids",
    "as_objects",
    "as_times",
    "complete_ids",
    "either",
    "kind_of",
    "missing_objects",
    "name_row",
    "sorted_unique",
    "to_numpy",
]

# NumPy stores NaT as the smallest int64, so one value says "missing" in ids and in times.
MISSING_ID: int = int(np.iinfo(np.int64).min)

# Below this size a lookup table costs nothing, however few ids there are.
_SMALL_TABLE = 1 << 16

Mask = NDArray[np.bool_] | None  # None: no True in it
Where = Callable[[int], str]  # how an error names a position


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
    >>> from posneg_rec.ids import ItemVocabulary
    >>> vocabulary = ItemVocabulary.from_ids(["b", "a", "b"])
    >>> vocabulary.encode(["b", "z"])
    array([ 1, -1])
    >>> vocabulary.decode([1, 0]).tolist()
    ['b', 'a']
    >>> vocabulary.extended(["aa"]).items.tolist()
    ['a', 'b', 'aa']
    """

    def __init__(self, items: ArrayLike) -> None:
        self.items: NDArray[Any] = complete_ids(items, "items")

    @classmethod
    def from_ids(cls, ids: ArrayLike) -> ItemVocabulary:
        """Build the vocabulary of all distinct `ids`, in ascending order."""
        return cls(sorted_unique(complete_ids(ids, "ids"), "ids"))

    def __len__(self) -> int:
        """Return the number of items."""
        return len(self.items)

    def __repr__(self) -> str:
        """Return a short description."""
        return f"ItemVocabulary({preview(self.items)}, n_items={len(self)})"

    def encode(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Return the code of each id, -1 for one that is unknown.

        Ids of another type than the vocabulary's are unknown, not an error.
        """
        ids, _ = as_ids(_vector(ids, "ids"), None, "ids")
        if len(self) == 0 or (ids.dtype.kind == "O") != (self.items.dtype.kind == "O"):
            return np.full(len(ids), -1)
        if ids.dtype == self.items.dtype:
            return self.look_up(ids)
        ids, exact = _cast_exactly(ids, self.items.dtype)
        return np.where(exact, self.look_up(ids), -1)

    def look_up(self, ids: NDArray[Any]) -> NDArray[np.int64]:
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
        codes = as_indices(codes)
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
        if len(self) and len(new) and kind_of(type(new[0])) != kind_of(type(self.items[0])):
            raise TypeError(
                f"cannot add ids of type {kind_of(type(new[0]))} to a vocabulary of "
                f"{kind_of(type(self.items[0]))} ids; convert them to one type."
            )
        return ItemVocabulary(np.concatenate([self.items, new]) if len(self) else new)


def sorted_unique(ids: NDArray[Any], label: str) -> NDArray[Any]:
    """Return the distinct ids in ascending order; `label` names them in an error."""
    if ids.dtype.kind == "O":
        try:
            return as_objects(sorted(set(ids)))
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


def kind_of(type_: type) -> str:
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


def as_objects(values: Any) -> NDArray[np.object_]:
    """Put values, whatever they are, into a 1-D array of objects."""
    # np.array would make a matrix of tuples, and text of mixed types.
    return np.fromiter(values, dtype=object, count=len(values))


def _vector(values: Any, name: str) -> NDArray[Any]:
    """Turn one column of values into a 1-D array without changing a value."""
    if isinstance(values, list | tuple):
        return as_objects(values)
    if nw.dependencies.is_into_series(values):
        values, missing = to_numpy(nw.from_native(values, series_only=True))
        if missing is not None:
            values = values.astype(object)
            values[missing] = None
    if isinstance(values, str | bytes | dict | set):
        raise TypeError(f"{name} must be a list, a 1-D array or a series, got {values!r:.50}.")
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got an array of shape {array.shape}.")
    return array


def to_numpy(series: nw.Series[Any] | NDArray[Any]) -> tuple[NDArray[Any], Mask]:
    """Return the values of a column, and which of them are missing."""
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


def name_row(position: int) -> str:
    """Name a row of a table in an error."""
    return f"row {position}"


def complete_ids(ids: ArrayLike, name: str) -> NDArray[Any]:
    """Bring ids to int64, float64 or object; none of them may be missing."""
    array, missing = as_ids(_vector(ids, name), None, name)
    if missing is not None:
        raise ValueError(f"{name}: the id at position {int(np.argmax(missing))} is missing.")
    return array


def as_ids(
    values: NDArray[Any], missing: Mask, label: str, where: Where = name_row
) -> tuple[NDArray[Any], Mask]:
    """Bring ids to int64, float64 or object without changing a value, and find the missing."""
    kind = values.dtype.kind
    if kind in "iuf":
        return _as_numbers(values, missing, label, where)
    if kind in "UST":
        return as_ids(values.astype(object), missing, label, where)
    if kind != "O":
        raise TypeError(
            f"{label} has dtype {values.dtype}. Ids must be integers, strings, UUIDs or other "
            "sortable objects of one type: convert them, for example to strings."
        )
    missing = either(missing, missing_objects(values))
    kept = values if missing is None else values[~missing]
    types = set(map(type, kept))
    kinds = sorted(set(map(kind_of, types)))
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


def as_times(
    values: NDArray[Any], missing: Mask, label: str
) -> tuple[NDArray[Any], Mask, str | None]:
    """Bring times to int64 or float64, find the missing, and tell a datetime's unit."""
    unit = None
    if values.dtype.kind == "O":
        missing = either(missing, missing_objects(values))
        kept = values if missing is None else values[~missing]
        values = _fill_missing(_times_from_objects(kept, label), missing)
    if values.dtype.kind == "M":
        unit = values.dtype.str[4:-1]  # "<M8[us]"
        values = values.view(np.int64)
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{label} has dtype {values.dtype}. {_TIME_TYPES}")
    values, missing = _as_numbers(values, missing, label, name_row)
    return values, missing, unit


_TIME_TYPES = (
    "Times must be integers, floats or datetimes: convert the column, name another one with "
    "time_column, or leave it out. (An array that holds text holds only text: use a dataframe.)"
)


def _times_from_objects(values: NDArray[Any], label: str) -> NDArray[Any]:
    kinds = set(map(kind_of, set(map(type, values))))
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
    values: NDArray[Any], missing: Mask, label: str, where: Where
) -> tuple[NDArray[Any], Mask]:
    """Bring numbers to int64 or float64; MISSING_ID and NaN are missing, infinity is an error."""
    if values.dtype.kind == "f":
        values = np.ascontiguousarray(values, dtype=np.float64)
        if all_finite(values):
            return values, missing
        missing = either(missing, np.isnan(values))
        bad, problem = np.isinf(values), "is not finite. Drop the row"
    else:
        top = np.iinfo(np.int64).max
        bad = values > top if values.dtype == np.uint64 else np.zeros(0, dtype=bool)
        problem = "does not fit into int64. Convert the column, ids for example to strings"
        if not bad.any():
            values = np.ascontiguousarray(values, dtype=np.int64)
            if len(values) and values.min() == MISSING_ID:
                missing = either(missing, values == MISSING_ID)
            return values, missing
    if missing is not None:
        bad = bad & ~missing
    if bad.any():
        position = int(np.argmax(bad))
        raise ValueError(f"{label}, {where(position)}: {values[position]} {problem}.")
    return values, missing


def all_finite(values: NDArray[Any]) -> bool:
    """Tell whether no number is NaN or infinite."""
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


def missing_objects(values: NDArray[Any]) -> Mask:
    """Tell which objects stand for a missing value (None, NaN, NA, NaT)."""
    # Types are few: mostly they alone rule out that anything is missing.
    if all(kind_of(type_) in ("int", "str", "UUID") for type_ in set(map(type, values))):
        return None
    return np.fromiter(map(_is_missing, values), dtype=bool, count=len(values))


def _fill_missing(kept: NDArray[Any], missing: Mask) -> NDArray[Any]:
    """Spread the values that are there over all rows."""
    if missing is None:
        return kept
    nothing: Any = {"i": MISSING_ID, "f": np.nan, "M": "NaT"}[kept.dtype.kind]
    values = np.full(len(missing), nothing, dtype=kept.dtype)
    values[~missing] = kept
    return values


def either(one: Mask, other: Mask) -> Mask:
    """Join two masks."""
    joined = other if one is None else one if other is None else one | other
    return joined if joined is not None and joined.any() else None
