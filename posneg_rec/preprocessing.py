"""Transformers of interactions: sequences, sessions and rare items, one row out per row in."""

from __future__ import annotations

from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from posneg_rec._sklearn import Interval, StrOptions, check_feature_names_in, fit_context
from posneg_rec.columns import ROLES, column_positions, columns_of
from posneg_rec.frames import MISSING_ID, is_frame
from posneg_rec.ids import ItemVocabulary, as_objects
from posneg_rec.interactions import (
    Interactions,
    as_table,
    build_histories,
    check_not_empty,
    check_table,
    read_table,
)
from posneg_rec.sequences import time_units

__all__ = ["RareItemMasker", "SequenceBuilder"]

_COLUMNS: dict[str, list[Any]] = {
    f"{role}_column": [str, Interval(Integral, 0, None, closed="left"), None] for role in ROLES
}


class SequenceBuilder(TransformerMixin, BaseEstimator):
    """Turn interactions into rows of (sequence, item, time).

    There is one row out per row in, in the same order, so that feedback passed as ``y`` stays
    aligned; a row that is to be dropped is masked, that is, all its fields are missing. A
    :class:`~posneg_rec.ContrastiveSeqRecommender` reads the rows as (user, item, time) and skips
    the masked ones. Times stay as they are, so that it also learns from pauses; events of equal
    time stay in the order of the rows.

    Parameters
    ----------
    session_gap : float, default=None
        Start a new sequence where more than this lies between two events of a user: in the time
        column's unit, in seconds if it holds datetimes. Sequences are then named ``"user:k"``,
        see :meth:`transform`. None: one sequence per user.
    duplicates : {"all", "last"}, default="all"
        "last" keeps of each user and item only the most recent event, before all other steps.
        The default changes nothing, as a repeated item can be a signal.
    min_events : int, default=1
        Mask sequences with fewer events.
    max_length : int, default=None
        Keep the last `max_length` events of a sequence. None: all.
    user_column, item_column, time_column : str or int, default=None
        Name or position of a column, as in :class:`~posneg_rec.ContrastiveSeqRecommender`.
        Without a time column, row order is time order, and there is none in the output.

    Attributes
    ----------
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (n_columns,)
        Names of the columns seen during `fit`, where all are strings.

    See Also
    --------
    RareItemMasker : Masks items and users with little data.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec import SequenceBuilder
    >>> interactions = np.array([[7, 20, 50], [7, 10, 30], [8, 10, 40]])
    >>> SequenceBuilder(max_length=1).fit_transform(interactions)[[0, 2]]
    array([[ 7, 20, 50],
           [ 8, 10, 40]])
    >>> SequenceBuilder(session_gap=15).fit_transform(interactions)
    array([['7:1', 20, 50],
           ['7:0', 10, 30],
           ['8:0', 10, 40]], dtype=object)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "session_gap": [Interval(Real, 0, None, closed="neither"), None],
        "duplicates": [StrOptions({"all", "last"})],
        "min_events": [Interval(Integral, 1, None, closed="left")],
        "max_length": [Interval(Integral, 1, None, closed="left"), None],
        **_COLUMNS,
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

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
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
        self._has_times = table.times is not None
        return self

    def transform(self, X: Any) -> Any:
        """Name the sequence of each row.

        Parameters
        ----------
        X : dataframe or array-like of shape (n_rows, n_columns)
            Interactions with the columns seen in fit.

        Returns
        -------
        X_out : ndarray of shape (n_rows, 3) or (n_rows, 2)
            Columns sequence, item and, if there is one, time. `sequence` is the raw user id or,
            with `session_gap`, the string ``"user:k"`` of the user's k-th session, counted from
            0: the last colon ends the user's text. int64 if all are integers (missing:
            :data:`MISSING_ID`), float64 if all are floats (missing: NaN), else object (missing:
            None), in which datetimes are datetime64 of their unit.

        Raises
        ------
        ValueError
            With `session_gap`, if different users have the same text, so that their sessions
            would share a name.
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
            starts[1:] |= np.diff(histories.times) > self.session_gap * time_units(table.time_unit)
        sequence = np.cumsum(starts) - 1
        first = np.flatnonzero(starts)
        lengths = np.bincount(sequence)
        names = histories.users[user[first]]
        if self.session_gap is not None:
            number = np.arange(len(first)) - sequence[histories.offsets[:-1]][user[first]]
            names = _session_names(histories.users, user[first], number)

        kept = lengths[sequence] >= self.min_events
        if self.max_length is not None:
            n_after = (first + lengths)[sequence] - 1 - np.arange(len(sequence))
            kept &= n_after < self.max_length
        columns = [names[sequence[kept]], vocabulary.items[histories.items[kept]]]
        if histories.times is not None:
            columns.append(_as_passed(histories.times[kept], table.time_unit))
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
            ``["sequence", "item", "time"]``, without the last where there is no time column.
        """
        check_is_fitted(self)
        check_feature_names_in(self, input_features, generate_names=False)
        names = ["sequence", "item", "time"]
        return np.array(names if self._has_times else names[:2], dtype=object)

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
        Name or position of a column, as in :class:`~posneg_rec.ContrastiveSeqRecommender`.

    Attributes
    ----------
    items_ : ndarray of shape (n_items,), dtype=int64, float64 or object
        The items that enough users met, ascending.
    n_features_in_ : int
        Number of columns seen during `fit`.
    feature_names_in_ : ndarray of shape (n_columns,)
        Names of the columns seen during `fit`, where all are strings.

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
        **_COLUMNS,
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

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
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
            columns.append(_as_passed(table.times[kept], table.time_unit))
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
        names = check_feature_names_in(self, input_features)
        seen = list(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None
        told = {role: getattr(self, f"{role}_column") for role in ROLES}
        return names[list(column_positions(seen, self.n_features_in_, told).values())]


def _fit_table(estimator: SequenceBuilder | RareItemMasker, X: Any) -> tuple[Any, Interactions]:
    """Read X without a change to the estimator, which a fit that fails must leave as it was."""
    X = _rows_in(X, n_columns=2)
    table = read_table(X, **columns_of(estimator))
    check_not_empty(table)
    return X, table


def _transform_table(estimator: SequenceBuilder | RareItemMasker, X: Any) -> Interactions:
    X = _rows_in(X, n_columns=1)
    check_table(X)  # to which scikit-learn's errors would be another's
    validate_data(estimator, X, reset=False, skip_check_array=True)
    return read_table(X, **columns_of(estimator))


def _rows_in(X: Any, *, n_columns: int) -> Any:
    """Let frames be, as one dtype for all columns would change ids; make all else an array."""
    if is_frame(X):
        return X
    if isinstance(X, list | tuple):
        X = np.array(X, dtype=object)
    return as_table(X, n_columns=n_columns)


def _as_passed(times: NDArray[Any], unit: str | None) -> NDArray[Any]:
    """Make datetimes of integers again, which alone would not tell their unit."""
    return times if unit is None else times.view(f"M8[{unit}]")


def _session_names(
    users: NDArray[Any], codes: NDArray[np.int64], numbers: NDArray[np.int64]
) -> NDArray[Any]:
    """Name sessions "user:k", which tells two of them apart if it tells their users apart."""
    # Not NumPy's strings, which end at a NUL.
    texts = [str(user) for user in users.tolist()]
    first_of: dict[str, Any] = {}
    for user, text in zip(users.tolist(), texts, strict=True):
        if first_of.setdefault(text, user) is not user:
            raise ValueError(
                f"session_gap names sessions by the text of their user, but the users "
                f"{first_of[text]!r:.50} and {user!r:.50} have the same, {text!r:.50}: convert "
                "the users to strings that differ."
            )
    pairs = zip(codes.tolist(), numbers.tolist(), strict=True)
    return as_objects([f"{texts[code]}:{number}" for code, number in pairs])


def _aligned(columns: list[NDArray[Any]], rows: NDArray[np.int64], n_rows: int) -> NDArray[Any]:
    """Put columns of the kept rows back to where the rows were; all else is missing."""
    kinds = {column.dtype.kind for column in columns}
    missing: Any = {"i": MISSING_ID, "f": np.nan}.get("".join(kinds))
    dtype = {"i": np.int64, "f": np.float64}.get("".join(kinds), object)
    table = np.full((n_rows, len(columns)), missing, dtype=dtype)
    for place, column in enumerate(columns):
        table[rows, place] = as_objects(column) if column.dtype.kind == "M" else column
    return table
