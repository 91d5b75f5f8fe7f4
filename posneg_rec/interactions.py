"""Where interactions come in: tables, arrays, lists and feedback are validated here, and only here.

In front of this module everything speaks raw ids; behind it everything works on integer codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from numbers import Number
from typing import Any, Literal, NoReturn
from uuid import UUID

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from posneg_rec.columns import (
    ROLES,
    are_names,
    check_columns_left,
    check_width,
    column_positions,
    feedback_columns,
    index_advice,
    index_names_of,
)
from posneg_rec.feedback import read_signs
from posneg_rec.frames import (
    as_array,
    as_frame,
    full_name,
    is_frame,
    is_sparse,
    is_store,
    is_table,
    is_vector,
    speaks_arrow,
    unmasked,
)
from posneg_rec.ids import (
    ItemVocabulary,
    Mask,
    Where,
    as_column,
    as_ids,
    as_objects,
    as_times,
    complete_ids,
    described,
    either,
    name_position,
    name_row,
    sorted_unique,
    values_of,
    why_no_column,
)
from posneg_rec.sequences import Histories, event_order, is_last, offsets_of, preview, shorten

__all__ = [
    "Interactions",
    "as_table",
    "build_histories",
    "check_no_store",
    "check_not_empty",
    "find_columns",
    "one_of",
    "read_history",
    "read_interactions",
    "read_table",
    "read_times",
    "table_like",
]


# Item codes of a store that are made anew together.
_AT_ONCE = 2**20


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
    ignored : tuple
        Columns named like feedback, which is never read from a table.
    offsets : ndarray of shape (n_users + 1,), dtype=int64, or None
        Of a store, whose entries are in order of user and time: those of user ``u`` go from
        ``offsets[u]`` to ``offsets[u + 1]``, and `kept` names their rows in this order. Else None.
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
    ignored: tuple[Any, ...] = ()
    offsets: NDArray[np.int64] | None = None

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


def table_like(
    interactions: Any,
    columns: dict[str, NDArray[Any]],
    explicit: Mapping[str, str | int | None] | None = None,
) -> Any:
    """Put columns into a frame of the kind that `interactions` is, else a structured array.

    Of a table read with `explicit` columns (``user_column``, ...), users and items that were
    categorical are so again, or they would not join with the table they come from. Ids that a
    frame of that kind cannot hold, those of a model that was fitted on another kind, are a
    ValueError.
    """
    if is_frame(interactions):
        source = nw.from_native(interactions, eager_only=True)
        answer = _frame_of(columns, source.implementation)
        if explicit is not None:
            told = {role: explicit.get(f"{role}_column") for role in ROLES}
            places = column_positions(list(source.columns), source.shape[1], told)
            for role in ("user", "item"):
                if source[:, places[role]].dtype == nw.Categorical:
                    answer = answer.with_columns(nw.col(role).cast(nw.Categorical))
        return answer.to_native()
    if speaks_arrow(interactions):
        return _frame_of(columns, "pyarrow").to_native()
    dtype = [(name, values.dtype) for name, values in columns.items()]
    table = np.empty(len(next(iter(columns.values()))), dtype=dtype)
    for name, values in columns.items():
        table[name] = values
    return table


def _frame_of(columns: dict[str, NDArray[Any]], backend: Any) -> nw.DataFrame[Any]:
    try:
        return nw.from_dict(columns, backend=backend)
    except (NotImplementedError, OverflowError, TypeError, ValueError) as error:
        shown = ", ".join(f"{name} {preview(values, 2)}" for name, values in columns.items())
        raise ValueError(
            f"No {backend} frame can hold the answer ({shown}): {error!s:.80}. Pass the "
            "interactions as a structured array or a list of histories."
        ) from error


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
    interactions : dataframe, array of shape (n_rows, n_columns), list of histories or store
        A pandas, polars or pyarrow table, a structured array, anything else that speaks Arrow's
        PyCapsule interface, or an array with the columns user, item and optionally time; without
        time, row order is time order. Or a list with one history per user, oldest item first.
        Other columns are not looked at. A row in which user, item and time are all missing is
        masked: it is skipped. Or an :class:`~posneg_rec.store.InteractionStore`, which holds its
        feedback.
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
    if is_store(interactions):
        read: Interactions = interactions.interactions_as(
            feedback,
            positive_threshold=positive_threshold,
            feedback_coding=feedback_coding,
            user_column=user_column,
            item_column=item_column,
            time_column=time_column,
        )
        return read
    if is_table(interactions):
        table = read_table(interactions, user_column, item_column, time_column)
        check_not_empty(table)
    else:
        table, feedback, where = _read_histories(interactions, feedback)
    signs, coding = read_signs(
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
    signs, _ = read_signs(
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
    *,
    where: Where = name_row,
) -> Interactions:
    """Read the columns of a table, all liked; `where` names a row in an error."""
    explicit = {"user": user_column, "item": item_column, "time": time_column}
    table = as_table(interactions)
    names: list[Any] | None = None
    index_names = index_names_of(table)
    if is_frame(table):
        table = _eager(table)
        names = list(table.columns)
        if table.shape[1] < 2 or table.shape[0] < 1:
            _raise_too_small(table.shape, index_advice(index_names, ROLES))
    n_rows, n_columns = table.shape
    positions = column_positions(names, n_columns, explicit, index_names)
    named = names is not None and are_names(names)
    if named:
        check_columns_left(table, positions)
    labels = {
        role: f"column {place if names is None else shorten(names[place])} ({role})"
        for role, place in positions.items()
    }
    raw: dict[str, Any] = {role: table[:, place] for role, place in positions.items()}

    masks: dict[str, Mask] = {}
    users, user_ids, masks["user"] = _coded(raw["user"], labels["user"], where)
    items, item_ids, masks["item"] = _coded(raw["item"], labels["item"], where)
    times, unit = None, None
    if "time" in raw:
        times, masks["time"], unit = as_times(
            *as_column(raw["time"], labels["time"]),
            labels["time"],
            where,
            advice=", or name another column with time_column"
            + ("" if names is not None else " (an array of text holds only text: use a frame)"),
        )
    if not named and time_column is None and n_columns > len(ROLES):
        check_width(table)
    kept = _kept_rows(masks, labels, where)
    if kept is not None:
        users, items = users[kept], items[kept]
        times = None if times is None else times[kept]
    liked = np.ones(len(users), dtype=np.int8)
    ignored = feedback_columns(names, positions.values()) if named and names is not None else []
    return Interactions(
        users,
        user_ids,
        items,
        item_ids,
        times,
        liked,
        kept,
        n_rows,
        "liked",
        unit,
        tuple(ignored),
    )


def check_no_store(interactions: Any) -> None:
    """Refuse a store where a table is needed."""
    if is_store(interactions):
        raise TypeError(
            f"{shorten(interactions)} is taken by fit, partial_fit, score, target_ranks, recommend "
            "and encode of a recommender, but not here: pass a table, of some of the users perhaps."
        )


def find_columns(
    frame: Any, explicit: dict[str, str | int | None]
) -> tuple[dict[str, int], list[Any]]:
    """Find the columns of a frame, which need have no row; name those that look like feedback."""
    table = _eager(frame)
    names: list[Any] = list(table.columns)
    if len(names) < 2:
        _raise_too_small(table.shape, "")
    positions = column_positions(names, len(names), explicit)
    if not are_names(names):
        return positions, []
    check_columns_left(table, positions)
    return positions, feedback_columns(names, positions.values())


def check_table(interactions: Any) -> None:
    """Refuse what is no table, before anything else looks for its columns."""
    table = as_table(interactions, n_columns=1)
    if is_frame(table):
        _eager(table)


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
        if not values:  # which no library replaces by nothing
            return codes, as_objects(values)
        codes[~column.is_null().to_numpy()] = (
            column.drop_nulls()
            .replace_strict(values, list(range(len(values))), return_dtype=nw.Int64)
            .to_numpy()
        )
    except NotImplementedError:  # by pyarrow, of some of its text
        return None
    return codes, as_objects(values)


def one_of(y: Any, feedback: Any) -> Any:
    """Take the feedback by whichever of its two names it was passed."""
    if y is not None and feedback is not None:
        raise ValueError("y and feedback are two names of one argument; pass one of them.")
    return feedback if y is None else y


def check_not_empty(table: Interactions) -> None:
    """Refuse interactions without an event: all rows masked, or all histories empty."""
    if len(table.user_codes) == 0:
        nothing = (
            f"all {table.n_rows} rows are masked (user, item and time missing)"
            if table.n_rows
            else f"all {len(table.user_ids)} histories are empty"
        )
        raise ValueError(f"Found 0 sample(s) while a minimum of 1 is required: {nothing}.")


def _kept_rows(
    masks: dict[str, Mask], labels: dict[str, str], where: Where
) -> NDArray[np.int64] | None:
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
                f"{labels[role]}, {where(int(np.argmax(partly)))}: the value is missing "
                "(NaN, None, NaT or MISSING_ID). Drop the row, or mask it by making all of "
                f"{', '.join(full)} missing."
            )
    return np.flatnonzero(~masked)


def as_table(interactions: Any, *, n_columns: int = 2) -> Any:
    """Check interactions to be a frame or a 2-D array, or make them one, see :func:`as_frame`."""
    if is_sparse(interactions):
        raise TypeError(
            "Sparse data was passed, but interactions are rows of (user, item[, time]). A sparse "
            "users x items matrix turns into such rows with "
            "np.column_stack(matrix.tocoo().coords), its data being the feedback."
        )
    check_no_store(interactions)
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
        table = unmasked(table)
    if is_vector(table) and not isinstance(table, list | tuple):
        # What scikit-learn goes on to say here would make one row of a history.
        raise ValueError(
            "Reshape your data: interactions are rows of (user, item[, time]), got "
            f"{len(table)} values in one dimension. A history to learn from goes in a list, "
            "[history]."
        )
    if not (isinstance(table, list | tuple) or hasattr(table, "__array__")):
        raise TypeError(
            "interactions must be a pandas, polars or pyarrow table, a 2-D array or a list of "
            f"histories, got {full_name(table)}.{_NO_USERS if isinstance(table, UUID) else ''}"
        )
    if getattr(getattr(table, "dtype", None), "kind", None) == "c":
        raise ValueError("Complex data not supported: interactions are ids and times.")
    array = as_array(table, "interactions")
    if array.ndim < 2:
        raise ValueError(
            f"Expected 2D array, got {'1D' if array.ndim else 'scalar'} array instead:\n"
            f"array={shorten(array)}.\nReshape your data: interactions are rows of (user, item[, "
            "time])."
        )
    if array.ndim > 2:
        raise ValueError(f"Found array with dim {array.ndim}, while dim <= 2 is required.")
    if array.shape[0] < 1 or array.shape[1] < n_columns:
        _raise_too_small(array.shape, "", n_columns)
    return array


def _raise_too_small(shape: tuple[int, ...], advice: str, n_columns: int = 2) -> NoReturn:
    what, n = ("feature", shape[1]) if shape[1] < n_columns else ("sample", shape[0])
    raise ValueError(
        f"Found array with {n} {what}(s) (shape={shape}) while a minimum of "
        f"{n_columns if what == 'feature' else 1} is required{advice}."
    )


# -- Lists of histories -----------------------------------------------------------------------


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
        if not is_vector(entry):
            if isinstance(entry, Set):
                raise TypeError(
                    f"{name}: entry {position} is a set, which has no order: pass a list."
                )
            raise TypeError(
                f"{name}: a list holds one list or 1-D array per user, but entry {position} "
                f"is {shorten(entry)}. Wrap a single history in a list; turn a list of rows into "
                "a frame or an array."
            )
    return [entry if isinstance(entry, list | tuple) else values_of(entry, name) for entry in lists]


def _lengths(lists: Sequence[Any]) -> NDArray[np.int64]:
    return np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))


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
    if interactions.offsets is not None:
        return _of_store(interactions, vocabulary, interactions.offsets)
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


def _of_store(
    interactions: Interactions, vocabulary: ItemVocabulary, offsets: NDArray[np.int64]
) -> Histories:
    """Take what is in order already; only item codes that are others are made anew."""
    codes = vocabulary.encode(interactions.item_ids)
    items: NDArray[Any] = interactions.item_codes
    if not np.array_equal(codes, np.arange(len(codes))):
        narrow = codes.astype(np.int32)
        items = np.empty(len(interactions.item_codes), np.int32)
        for start in range(0, len(items), _AT_ONCE):
            piece = slice(start, start + _AT_ONCE)
            items[piece] = narrow.take(interactions.item_codes[piece])
    return Histories(
        interactions.user_ids,
        items,
        interactions.signs,
        interactions.times,
        interactions.rows,
        offsets,
        interactions.time_unit,
    )


# Where names went that stood here before.
_MOVED = {
    **dict.fromkeys(("RareItemMasker", "SequenceBuilder"), "preprocessing"),
    **dict.fromkeys(("N_GAP_TAGS", "PackedSequences", "gap_edges", "gap_tags"), "sequences"),
    **dict.fromkeys(("MISSING_ID", "is_history"), "frames"),
}


def __getattr__(name: str) -> Any:
    if name not in _MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"posneg_rec.{_MOVED[name]}"), name)
