"""Where interactions come in: tables, arrays, lists and feedback are validated here, and only here.

In front of this module everything speaks raw ids; behind it everything works on integer codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from numbers import Integral, Real
from typing import Any, Literal

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import check_array, column_or_1d

from posneg_rec.ids import (
    ItemVocabulary,
    Mask,
    Where,
    all_finite,
    as_ids,
    as_objects,
    as_times,
    complete_ids,
    either,
    kind_of,
    missing_objects,
    name_row,
    sorted_unique,
    to_numpy,
)
from posneg_rec.sequences import Histories, event_order, is_last, offsets_of, preview

__all__ = [
    "ROLES",
    "Interactions",
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
_COLUMN_NAMES = {
    "user": ("user", "user_id"),
    "item": ("item", "item_id"),
    "time": ("time", "timestamp"),
}
_FEEDBACK_NAMES = ("rating", "feedback")


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
    values, missing, unit = as_times(values, None, "times")
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
    if is_frame(interactions):
        frame = nw.from_native(interactions, eager_only=True)
        n_rows, n_columns = frame.shape
        if n_columns < 2 or n_rows < 1:
            _raise_too_small(frame.shape)
        names = list(frame.columns)
        positions = column_positions(names, n_columns, explicit)
        labels = {role: f"column {names[place]!r} ({role})" for role, place in positions.items()}
        raw: dict[str, Any] = {role: frame[:, place] for role, place in positions.items()}
    else:
        array = as_table(interactions)
        n_rows, n_columns = array.shape
        positions = column_positions(None, n_columns, explicit)
        labels = {role: f"column {place} ({role})" for role, place in positions.items()}
        raw = {role: array[:, place] for role, place in positions.items()}

    masks: dict[str, Mask] = {}
    users, user_ids, masks["user"] = _coded(raw["user"], labels["user"])
    items, item_ids, masks["item"] = _coded(raw["item"], labels["item"])
    times, unit = None, None
    if "time" in raw:
        times, masks["time"], unit = as_times(*to_numpy(raw["time"]), labels["time"])
    kept = _kept_rows(masks, labels)
    if kept is not None:
        users, items = users[kept], items[kept]
        times = None if times is None else times[kept]
    liked = np.ones(len(users), dtype=np.int8)
    return Interactions(users, user_ids, items, item_ids, times, liked, kept, n_rows, "liked", unit)


def _coded(
    column: nw.Series[Any] | NDArray[Any], label: str, where: Where = name_row
) -> tuple[NDArray[np.integer], NDArray[Any], Mask]:
    """Return the codes of a column's ids, the distinct ids, ascending, and the missing rows."""
    if isinstance(column, nw.Series) and column.dtype in (nw.String, nw.Categorical, nw.Enum):
        codes, distinct = _factorized(column)
        missing = either(codes < 0, None)
        distinct, _ = as_ids(distinct, None, label)
        ids = sorted_unique(distinct, label)
        # A missing id has code -1 and so takes the last entry.
        codes = np.append(ItemVocabulary(ids).look_up(distinct), -1).take(codes)
    else:
        values, missing = as_ids(*to_numpy(column), label, where)
        ids = sorted_unique(values if missing is None else values[~missing], label)
        codes = ItemVocabulary(ids).look_up(values)
    return (codes.astype(np.int32) if len(ids) < 2**31 else codes), ids, missing


def _factorized(series: nw.Series[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Let the frame's own library number its strings: they need not become Python objects."""
    native = series.to_native()
    if hasattr(native, "factorize"):  # pandas, where it is several times faster than the rest
        codes, values = native.factorize()
        return codes, as_objects(values)
    values = series.drop_nulls().unique().to_list()
    codes = np.full(len(series), -1)
    codes[~series.is_null().to_numpy()] = (
        series.drop_nulls()
        .replace_strict(values, list(range(len(values))), return_dtype=nw.Int64)
        .to_numpy()
    )
    return codes, as_objects(values)


def check_not_empty(table: Interactions) -> None:
    """Refuse a table without a row that is not masked."""
    if len(table.user_codes) == 0:
        raise ValueError(
            f"Found 0 sample(s) while a minimum of 1 is required: all {table.n_rows} rows are "
            "masked (user, item and time missing)."
        )


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


def as_table(interactions: Any, *, n_columns: int = 2) -> NDArray[Any]:
    """Check what is no frame to be a 2-D array."""
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


def column_positions(
    names: list[Any] | None, n_columns: int, explicit: dict[str, str | int | None]
) -> dict[str, int]:
    """Find the columns: as told, else by name, else by position."""
    positions: dict[str, int] = {}
    for role in ROLES:
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
    for default, role in enumerate(ROLES):
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
    return {role: positions[role] for role in ROLES if role in positions}


def _told_position(names: list[Any] | None, n_columns: int, role: str, wanted: str | int) -> int:
    if isinstance(wanted, Integral) and not isinstance(wanted, bool):
        if 0 <= wanted < n_columns:
            return int(wanted)
        raise ValueError(f"{role}_column={wanted} is no position in {n_columns} columns.")
    if names is None:
        raise ValueError(f"{role}_column={wanted!r} is a name, but an array has only positions.")
    if names.count(wanted) != 1:
        raise ValueError(
            f"{role}_column={wanted!r} is not one of the columns {preview(names, 10)}."
        )
    return names.index(wanted)


def _read_histories(
    histories: Sequence[Any], feedback: Any
) -> tuple[Interactions, list[Any] | None, Where]:
    """Put all histories one after the other; the user is the position in the list."""
    if not histories:
        raise ValueError("Found 0 sample(s) while a minimum of 1 is required: an empty list.")
    lengths = _list_lengths(histories, "interactions")
    users = np.repeat(np.arange(len(lengths)), lengths)
    offsets = offsets_of(lengths)

    def where(position: int) -> str:
        return f"history {users[position]}, position {position - offsets[users[position]]}"

    label = "interactions"
    events = as_objects(list(chain.from_iterable(histories)))
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
    where: Where,
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
        if kinds <= {"int", "float"}:
            values = values.astype(np.float64)
        else:
            raise TypeError(
                f"feedback holds {' and '.join(sorted(kinds))}; it must be booleans or numbers."
            )
    if values.dtype.kind not in "biuf":
        raise TypeError(f"feedback has dtype {values.dtype}; it must be booleans or numbers.")
    if values.dtype.kind == "f" and not all_finite(values):
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"feedback, {where(first)}: {values[first]} (NaN or infinity) is no "
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
