"""Ids and their codes, and columns of ids, times and numbers brought to NumPy without a change."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence, Set, ValuesView
from decimal import Decimal
from itertools import repeat
from numbers import Integral, Number
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray

from posneg_rec._lazy import lazy
from posneg_rec.frames import MISSING_ID, check_not_to_compute
from posneg_rec.sequences import as_indices, preview, shorten

__all__ = [
    "MISSING_ID",
    "ItemVocabulary",
    "Mask",
    "Where",
    "all_finite",
    "as_column",
    "as_ids",
    "as_objects",
    "as_times",
    "complete_ids",
    "described",
    "either",
    "kind_of",
    "missing_objects",
    "name_position",
    "name_row",
    "sorted_unique",
    "values_of",
    "why_no_column",
]


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

    def encode(self, ids: ArrayLike, *, ordered: bool = True) -> NDArray[np.int64]:
        """Return the code of each id, -1 for one that is unknown.

        Ids of another type than the vocabulary's are unknown, not an error; :meth:`mismatch`
        tells. A set is refused unless `ordered` is False: then the codes come in any order.
        """
        if not ordered and isinstance(ids, Set):
            ids = list(ids)
        ids, missing = as_ids(*as_column(ids, "ids"), "ids", name_position)
        if len(self) == 0 or (ids.dtype.kind == "O") != (self.items.dtype.kind == "O"):
            return np.full(len(ids), -1)
        exact: NDArray[Any] | None = None
        if ids.dtype != self.items.dtype:
            ids, exact = _cast_exactly(ids, self.items.dtype)
        codes = self.look_up(ids)
        if exact is not None:
            codes = np.where(exact, codes, -1)
        if missing is not None:
            codes[missing] = -1  # whatever stands there
        return codes

    def mismatch(self, ids: ArrayLike) -> str | None:
        """Tell whether ids are of a type of which no id can be known, as half a sentence.

        Only types are compared, so this costs little. Numbers of both kinds match, as ``1.0``
        finds ``1``.

        Parameters
        ----------
        ids : array-like of shape (n_ids,), or a set
            Raw ids of one type.

        Returns
        -------
        str or None
            What the vocabulary holds and what was passed. None if the types match, or if either
            side holds no id.

        Examples
        --------
        >>> from posneg_rec.ids import ItemVocabulary
        >>> ItemVocabulary([3, 5]).mismatch(["5"])
        "the model knows integer ids, got strings such as '5': convert them"
        >>> ItemVocabulary([3, 5]).mismatch([5.0, 9.0]) is None
        True
        """
        if isinstance(ids, Set):
            ids = list(ids)
        passed, missing = as_ids(*as_column(ids, "ids"), "ids", name_position)
        if len(self) == 0 or len(passed) == 0 or (missing is not None and missing.all()):
            return None
        example = passed[0 if missing is None else int(np.argmin(missing))]
        known, asked = type(self.items[0]), type(example)
        numbers = "int", "float"
        # Of two types, one may be the other's subclass, whose ids are equal.
        if (kind_of(known) in numbers and kind_of(asked) in numbers) or (
            kind_of(known) == kind_of(asked) or issubclass(known, asked) or issubclass(asked, known)
        ):
            return None
        plural = _spelt(asked) if _spelt(asked).endswith("s") else f"{_spelt(asked)}s"
        shown = shorten(example.item() if isinstance(example, np.generic) else example)
        return f"the model knows {_spelt(known)} ids, got {plural} such as {shown}: convert them"

    def look_up(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Encode ids of the dtype of `items`."""
        if ids.dtype.kind == "O":
            codes = map(self._code_of.get, ids, repeat(-1))
            try:
                return np.fromiter(codes, dtype=np.int64, count=len(ids))
            except TypeError as error:  # a tuple may hold a list
                raise TypeError(f"ids must be hashable, but {error}.") from error
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

    @lazy
    def _order(self) -> NDArray[np.int64]:
        return np.argsort(self.items, kind="stable")

    @lazy
    def _ascending(self) -> NDArray[Any]:
        ascending = self.items[self._order]
        self._check_distinct(1 + int(np.count_nonzero(ascending[1:] != ascending[:-1])))
        return ascending

    @lazy
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
            distinct = sorted(set(ids))
        except (TypeError, ValueError, ArithmeticError) as error:
            raise TypeError(f"{label}: ids must be sortable and hashable, but {error}.") from error
        if distinct and isinstance(distinct[0], str):
            _check_text(distinct, label)
        return as_objects(distinct)
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


def _check_text(ids: list[str], label: str) -> None:
    """Refuse half characters, with which no file or frame could be written."""
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        bad = next(text for text in ids if not _is_text(text))
        raise ValueError(
            f"{label}: the id {shorten(bad)} holds a lone surrogate, which is no character. Read "
            "the data with the encoding that it was written in."
        ) from None


def _is_text(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


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
    "bytes": (bytes,),
    "complex": (complex, np.complexfloating),
}


def _spelt(type_: type) -> str:
    kind = kind_of(type_)
    return {"int": "integer", "float": "float", "str": "string"}.get(kind, kind)


def as_objects(values: Any) -> NDArray[np.object_]:
    """Put values, whatever they are, into a 1-D array of objects."""
    # np.array would make a matrix of tuples, and text of mixed types.
    return np.fromiter(values, dtype=object, count=len(values))


def as_column(values: Any, name: str) -> tuple[NDArray[Any], Mask]:
    """Turn one column of values, whatever holds it, into a 1-D array; tell what is missing."""
    if isinstance(values, list | tuple):
        return as_objects(values), None
    if type(values) is np.ndarray and values.ndim == 1:
        return values, None
    if isinstance(values, nw.Series):
        return _from_series(values, name)
    if advice := why_no_column(values):
        raise TypeError(
            f"{name} must be a list, a 1-D array or a series, got {described(values)}: {advice}."
        )
    if isinstance(values, Sequence | KeysView | ValuesView):  # a range, a deque, ...
        return as_objects(values), None
    # Arrays without a library of frames around them: NumPy would make floats of a gap.
    pyarrow, pandas = sys.modules.get("pyarrow"), sys.modules.get("pandas")
    if pandas is not None and isinstance(values, pandas.Index):
        values = values.to_series()
    if pyarrow is not None and isinstance(values, pyarrow.Array):
        values = pyarrow.chunked_array([values])
    elif pandas is not None and isinstance(values, pandas.api.extensions.ExtensionArray):
        values = pandas.Series(values)
    if nw.dependencies.is_into_series(values):
        return _from_series(nw.from_native(values, series_only=True), name)
    check_not_to_compute(values, name)
    array = values if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be 1-D, got an array of shape {array.shape}.")
    if not isinstance(array, np.ma.MaskedArray):
        return array, None
    return array.data, either(np.ma.getmaskarray(array), None)


def why_no_column(values: Any) -> str | None:
    """Say what to pass in place of what is no column."""
    if isinstance(values, str | bytes | bytearray | Number):
        return f"one value goes in a list, [{shorten(values)}]"
    if isinstance(values, Set) and not isinstance(values, KeysView):
        return "a set has no order, pass a list"
    if isinstance(values, Mapping):
        return "pass a list of its keys or its values"
    if isinstance(values, Iterator):
        return "it can be read only once, pass list(...) of it"
    return "pass an empty list if there are none" if values is None else None


def described(values: Any) -> str:
    """Name the type of what was passed, and one value in full."""
    shown = f" {shorten(values)}" if isinstance(values, str | bytes | bytearray | Number) else ""
    return f"{type(values).__name__}{shown}"


_LISTS_ADVICE = " If each is a history, pass series.to_list()."

# Extension types of Arrow whose values Python gets as what they mean, not as they are stored.
_PLAIN_EXTENSIONS = ("arrow.uuid", "arrow.json", "arrow.bool8")


def _from_series(series: nw.Series[Any], name: str) -> tuple[NDArray[Any], Mask]:
    """Return the values of a column, and which of them are missing."""
    dtype, extension = series.dtype, _extension_name(series.to_native())
    unread = extension not in (None, *_PLAIN_EXTENSIONS)
    if dtype in (nw.List, nw.Array):
        raise TypeError(f"{name} has dtype {dtype}, and a list is no id.{_LISTS_ADVICE}")
    if unread or dtype.is_nested() or dtype in (nw.Int128, nw.UInt128):
        raise TypeError(
            f"{name} has dtype {extension if unread else dtype}, which cannot be read: convert "
            "it, for example to strings or 64-bit integers."
        )
    missing = either(series.is_null().to_numpy(), None)
    if dtype in (nw.Unknown, nw.Categorical) or extension is not None:
        # NumPy would get bytes for UUIDs, and floats for integer categories with a gap.
        return as_objects(series.to_list()), missing
    if missing is not None and dtype.is_integer():
        series = series.fill_null(0)  # a gap would make floats of them, no longer exact
    try:
        return series.to_numpy(), missing
    except NotImplementedError:  # by pyarrow, of some of its text
        return as_objects(series.to_list()), missing


def _extension_name(native: Any) -> str | None:
    """Name the extension type that a series has by Arrow or polars, if it has one."""
    dtype = getattr(native, "dtype", None)
    stored = getattr(native, "type", getattr(dtype, "pyarrow_dtype", None))
    if callable(name := getattr(dtype, "ext_name", None)):
        return f"{name()} of polars"  # whose lists hold what is stored
    return getattr(stored, "extension_name", None)


def name_row(position: int) -> str:
    """Name a row of a table in an error."""
    return f"row {position}"


def name_position(position: int) -> str:
    """Name a place in one history in an error."""
    return f"position {position}"


def complete_ids(ids: ArrayLike, name: str) -> NDArray[Any]:
    """Bring ids to int64, float64 or object; none of them may be missing."""
    array, missing = as_ids(*as_column(ids, name), name, name_position)
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
    if kinds == ["complex"]:
        raise TypeError(f"{label} holds complex numbers, which are not ids: they have no order.")
    if len(kinds) > 1 or any(type_.__hash__ is None for type_ in types):
        raise TypeError(
            f"{label}: the ids of this argument must be uniformly strings, UUIDs or numbers, got "
            f"{' and '.join(kinds)}. Convert them to one type."
            f"{_LISTS_ADVICE if kinds in (['list'], ['ndarray']) else ''}"
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
    values: NDArray[Any],
    missing: Mask,
    label: str,
    where: Where = name_row,
    advice: str = "",
) -> tuple[NDArray[Any], Mask, str | None]:
    """Bring times to int64 or float64, find the missing, and tell a datetime's unit.

    Datetimes with a time zone are brought to UTC. `advice` ends an error about the type.
    """
    unit = None
    if values.dtype.kind == "O":
        missing = either(missing, missing_objects(values))
        kept = values if missing is None else values[~missing]
        values = _fill_missing(_times_from_objects(kept, label, advice), missing)
    elif values.dtype.kind in "UST" and len(values):
        raise _no_times(label, f"text such as {shorten(str(values[0]))}", advice)
    if values.dtype.kind == "M":
        values = _linear(values)
        unit = values.dtype.str[4:-1]  # "<M8[us]"
        values = values.view(np.int64)
    if values.dtype.kind not in "iuf":
        raise _no_times(label, f"dtype {values.dtype}", advice)
    values, missing = _as_numbers(values, missing, label, where)
    return values, missing, unit


def _no_times(label: str, seen: str, advice: str) -> TypeError:
    return TypeError(
        f"{label} has {seen}. Times must be integers, floats or datetimes: convert them, for "
        f"example with pd.to_datetime(...){advice}."
    )


def _linear(times: NDArray[Any]) -> NDArray[Any]:
    """Bring datetimes to a unit of one length, in the machine's order of bytes."""
    unit, _ = np.datetime_data(times.dtype)
    if unit in ("Y", "M"):
        return times.astype("M8[D]")
    if unit == "generic":  # nothing but NaT
        return times.astype("M8[s]")
    return times.astype(times.dtype.newbyteorder("="), copy=False)


def _times_from_objects(values: NDArray[Any], label: str, advice: str) -> NDArray[Any]:
    types = set(map(type, values))
    kinds = set(map(kind_of, types))
    try:
        if kinds <= {"int"}:
            return values.astype(np.int64)
        if kinds <= {"int", "float"}:
            return values.astype(np.float64)
        if all(issubclass(type_, dt.date | np.datetime64) for type_ in types):
            zoned = {_has_zone(value) for value in values}
            if len(zoned) == 1:
                return np.array(list(map(_in_utc, values)), dtype="datetime64")
            raise TypeError(
                f"{label} has some datetimes with a time zone and some without: give all or none "
                "a zone."
            )
    except (OverflowError, ValueError) as error:
        raise ValueError(f"{label} does not hold times: {error}.") from error
    raise _no_times(label, f"{' and '.join(sorted(kinds))} such as {shorten(values[0])}", advice)


def _has_zone(time: Any) -> bool:
    return isinstance(time, dt.datetime) and time.utcoffset() is not None


def _in_utc(time: Any) -> Any:
    if hasattr(time, "to_datetime64"):  # pandas' nanoseconds
        return time.to_datetime64()
    # NumPy would drop a time zone with no more than a warning.
    return time.astimezone(dt.UTC).replace(tzinfo=None) if _has_zone(time) else time


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
        raise ValueError(
            f"{label}, {where(position)}: {shorten(values[position].item())} {problem}."
        )
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
        or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")
        or (isinstance(value, float | np.floating | np.datetime64) and bool(value != value))
        or (isinstance(value, Decimal) and value.is_nan())
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


def values_of(entry: Any, name: str) -> NDArray[Any]:
    """Return one column of values, None where one is missing."""
    values, missing = as_column(entry, name)
    if missing is None:
        return values
    values = values.astype(object)
    values[missing] = None
    return values
