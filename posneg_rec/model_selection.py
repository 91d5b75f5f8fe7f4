"""Splitters that keep the future out of the training fold, for every ``cv=`` of scikit-learn.

``score`` of a recommender sees only the rows it is given: a user's last row is the target, the
rows before it are the history. So the test folds made here carry the history of the users whose
rows they hold out, also where those rows are in the training fold, and the two index arrays of a
split may overlap. What never happens is that a user is trained on after a row held out; after a
cut of :class:`TemporalSplit`, no user is.
"""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import BaseCrossValidator, GroupShuffleSplit

from posneg_rec._sklearn import check_scalar
from posneg_rec.columns import columns_of
from posneg_rec.frames import as_array, full_name, is_frame, is_table
from posneg_rec.ids import ItemVocabulary, as_column
from posneg_rec.interactions import Interactions, check_no_store, read_interactions
from posneg_rec.sequences import Histories, shorten

__all__ = [
    "FutureLeakWarning",
    "LastSeen",
    "LeaveLastOutSplit",
    "TemporalSplit",
    "UserHoldoutSplit",
    "check_users_apart",
    "find_targets",
    "held_out_mask",
    "leaking_rows",
    "warn_if_future_leaks",
]

_Fold = NDArray[np.int64]


class FutureLeakWarning(UserWarning):
    """Rows are scored that lie before rows of the same user that were trained on."""


class TemporalSplit(BaseCrossValidator):
    """Train on what was before a point in time, test on what came after it.

    The rows from `quantile` of the times on are held out, in `n_splits` consecutive windows of
    about the same number of rows. Fold ``i`` trains on every row before window ``i`` and tests on
    the rows in it, to which the earlier rows of the same users are added as history. Users without
    a row in the window are not in the test fold.

    Parameters
    ----------
    n_splits : int, default=1
        Number of windows, and of folds.
    quantile : float, default=0.9
        Share of the rows before the first window. The time nearest to the quantile is the cut, and
        rows at exactly that time are held out. The default, with one split, is the common
        protocol for sequential recommendation.
    user_column, item_column, time_column : str or int, default=None
        Columns of the table, as in the recommender. None finds them by name or position.

    See Also
    --------
    sklearn.model_selection.TimeSeriesSplit : Cuts by row number.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.model_selection import TemporalSplit
    >>> interactions = np.array([  # user, item, time
    ...     [1, 10, 0], [2, 10, 1], [1, 11, 2], [2, 12, 3], [3, 10, 4], [2, 11, 5],
    ... ])
    >>> for train, test in TemporalSplit(n_splits=2, quantile=0.6).split(interactions):
    ...     print(train, test)
    [0 1 2] [1 3]
    [0 1 2 3] [1 3 4 5]
    """

    def __init__(
        self,
        n_splits: int = 1,
        *,
        quantile: float = 0.9,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        check_scalar(n_splits, "n_splits", numbers.Integral, min_val=1)
        check_scalar(
            quantile,
            "quantile",
            numbers.Real,
            min_val=0,
            max_val=1,
            include_boundaries="neither",
        )
        self.n_splits = n_splits
        self.quantile = quantile
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[_Fold, _Fold]]:
        """Yield the row indices of the training and the test fold of each split.

        Parameters
        ----------
        X : table of interactions with a time column
            pandas, polars or pyarrow frame, or array.
        y, groups : ignored

        Yields
        ------
        train, test : ndarray of int64, ascending

        Raises
        ------
        ValueError
            If the table has no time, or too few distinct times for the windows.
        """
        interactions = _read(self, X)
        times, users = _times(interactions), interactions.user_codes
        cuts = self._cuts(times)
        for start, end in zip(cuts, [*cuts[1:], None], strict=True):
            before = times < start
            until = np.full(len(times), True) if end is None else times < end
            tested = np.full(len(times), False)  # by user code
            tested[users[until & ~before]] = True
            yield interactions.rows[before], interactions.rows[until & tested[users]]

    def cut_times(self, X: Any) -> NDArray[Any]:
        """Return the time at which each window starts.

        Parameters
        ----------
        X : table of interactions with a time column

        Returns
        -------
        times : ndarray of shape (n_splits,)
            In the unit of the time column; datetimes as datetime64 (of UTC, if they have a zone).
        """
        interactions = _read(self, X)
        cuts, unit = self._cuts(_times(interactions)), interactions.time_unit
        return cuts if unit is None else cuts.astype(f"datetime64[{unit}]")

    def _cuts(self, times: NDArray[Any]) -> NDArray[Any]:
        shares = np.linspace(self.quantile, 1, self.n_splits, endpoint=False)
        cuts = np.quantile(times, shares, method="nearest")
        if cuts[0] == times.min() or (cuts[1:] == cuts[:-1]).any():
            raise ValueError(
                f"The times are too few or too often the same for n_splits={self.n_splits} and "
                f"quantile={self.quantile}: the windows would start at {cuts.tolist()}, the rows "
                f"at {times.min()}, and a fold would be empty. Change n_splits or quantile."
            )
        return cuts


class LeaveLastOutSplit(BaseCrossValidator):
    """Hold out the last row of every user.

    One fold: the test fold holds all rows of the users with a row held out, the training fold all
    rows but these last ones. A user with a single row has no history to predict it from and stays
    in the training fold. Other users' training rows may lie after a held-out row: where models
    that learn trends are to be compared, prefer :class:`TemporalSplit`.

    Parameters
    ----------
    per_sign : bool, default=False
        Hold out the last liked and the last disliked row of every user, in two folds, as a scorer
        ranks the last row that it is given. The test fold of the first ends with the last liked
        row of each user that has one, that of the second with the last disliked row. Both train
        on the same rows, those before the earlier of the two. A mean over no targets is 0, so the
        "delta" of the folds adds up to liked minus disliked, and its mean over them is half.
    positive_threshold : float or (float, float), default=None
        How `y` reads as liked and disliked where `per_sign` needs it, as in the recommender.
    user_column, item_column, time_column : str or int, default=None
        Columns of the table, as in the recommender. None finds them by name or position.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.model_selection import LeaveLastOutSplit
    >>> interactions = np.array([[1, 10], [2, 10], [1, 11], [1, 12], [2, 12], [3, 10]])
    >>> next(LeaveLastOutSplit().split(interactions))
    (array([0, 1, 2, 5]), array([0, 1, 2, 3, 4]))
    >>> liked = [True, True, False, True, False, True]
    >>> for train, test in LeaveLastOutSplit(per_sign=True).split(interactions, liked):
    ...     print(train, test)
    [0 1 5] [0 2 3]
    [0 1 5] [0 1 2 4]
    """

    def __init__(
        self,
        *,
        per_sign: bool = False,
        positive_threshold: float | tuple[float, float] | None = None,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        self.per_sign = per_sign
        self.positive_threshold = positive_threshold
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds: 2 with `per_sign`, else 1."""
        return 2 if self.per_sign else 1

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[_Fold, _Fold]]:
        """Yield the row indices of the training and the test fold of each split.

        Parameters
        ----------
        X : table of interactions
            pandas, polars or pyarrow frame, or array. Without a time, the rows are in the order of
            time.
        y : array-like of shape (n_samples,), default=None
            Feedback of each row, read where `per_sign` is True.
        groups : ignored

        Yields
        ------
        train, test : ndarray of int64, ascending

        Raises
        ------
        ValueError
            If no user has a row to hold out in a fold.
        """
        interactions = (
            _read(self, X, y, positive_threshold=self.positive_threshold)
            if self.per_sign
            else _read(self, X)
        )
        users, positions = _user_positions(interactions)
        signs = interactions.signs
        held_out = (
            {"liked ": signs == 1, "disliked ": signs == -1}
            if self.per_sign
            else {"": np.ones(len(users), dtype=bool)}
        )
        lasts = [_last_position(users, positions, mask) for mask in held_out.values()]
        # The first row of a user has no history and is no target.
        first_held_out = np.bincount(users)  # by user code
        for kind, last in zip(held_out, lasts, strict=True):
            if not (last > 0).any():
                raise ValueError(
                    f"No user has a {kind}row to hold out, which takes a row before it by the "
                    "same user."
                )
            first_held_out = np.where(last > 0, np.minimum(first_held_out, last), first_held_out)
        train = interactions.rows[positions < first_held_out[users]]
        for last in lasts:
            yield train, interactions.rows[(positions <= last[users]) & (last > 0)[users]]


class UserHoldoutSplit(BaseCrossValidator):
    """Hold out whole users: the training fold has no row of the users in the test fold.

    It measures how a model serves users it has never seen, from their own history. Each split
    draws the users anew, as :class:`~sklearn.model_selection.ShuffleSplit` draws rows.

    Parameters
    ----------
    n_splits : int, default=5
        Number of splits.
    test_size : float or int, default=0.2
        Share or number of users in the test fold.
    random_state : int, RandomState instance or None, default=None
        Controls which users are drawn. An int gives the same splits in every call.
    user_column, item_column, time_column : str or int, default=None
        Columns of the table, as in the recommender. None finds them by name or position.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.model_selection import UserHoldoutSplit
    >>> interactions = np.array([[1, 10], [2, 10], [1, 11], [2, 12], [3, 10]])
    >>> splitter = UserHoldoutSplit(n_splits=1, test_size=1, random_state=0)
    >>> next(splitter.split(interactions))
    (array([0, 1, 2, 3]), array([4]))
    """

    def __init__(
        self,
        n_splits: int = 5,
        *,
        test_size: float | int = 0.2,
        random_state: int | np.random.RandomState | None = None,
        user_column: str | int | None = None,
        item_column: str | int | None = None,
        time_column: str | int | None = None,
    ) -> None:
        check_scalar(n_splits, "n_splits", numbers.Integral, min_val=1)
        self.n_splits = n_splits
        self.test_size = test_size
        self.random_state = random_state
        self.user_column = user_column
        self.item_column = item_column
        self.time_column = time_column

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[_Fold, _Fold]]:
        """Yield the indices of the training and the test fold of each split.

        Parameters
        ----------
        X : table of interactions or list of histories
            Of a table, row indices are yielded; of a list of histories, where each sample is a
            user, the indices of the histories.
        y, groups : ignored

        Yields
        ------
        train, test : ndarray of int64, ascending
        """
        if is_table(X):
            interactions = _read(self, X)
            users, rows = interactions.user_codes, interactions.rows
        else:
            users = rows = np.arange(len(X))
        splitter = GroupShuffleSplit(
            self.n_splits, test_size=self.test_size, random_state=self.random_state
        )
        for train, test in splitter.split(users, groups=users):
            yield np.sort(rows[train]), np.sort(rows[test])


def held_out_mask(train: ArrayLike, test: ArrayLike) -> NDArray[np.bool_]:
    """Tell which rows of a test fold were held out, and which are there as history.

    Pass it as ``targets`` to rank every row that was held out instead of each user's last alone,
    and no row that was trained on. It names a user's first row, too, if that was held out.

    Parameters
    ----------
    train, test : array-like of int
        Row indices of the folds.

    Returns
    -------
    mask : bool ndarray of shape (n_test,)
        In the order of `test`.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.model_selection import TemporalSplit, held_out_mask
    >>> interactions = np.array([[1, 10, 0], [2, 10, 1], [1, 11, 2], [1, 12, 3], [2, 12, 4]])
    >>> train, test = next(TemporalSplit(quantile=0.5).split(interactions))
    >>> test, held_out_mask(train, test)
    (array([0, 1, 2, 3, 4]), array([False, False,  True,  True,  True]))
    """
    return ~np.isin(test, train)


def find_targets(
    histories: Histories, targets: Literal["last", "all"] | ArrayLike, n_rows: int
) -> NDArray[np.int64]:
    """Find the events to predict, each from its user's earlier events.

    Parameters
    ----------
    histories : Histories
    targets : {"last", "all"} or bool array of shape (n_rows,)
        Of the events with an earlier one of their user, the last of each user or all; or the rows
        that the mask names, a user's first event as well.
    n_rows : int
        Number of the caller's rows, masked ones included.

    Returns
    -------
    positions : ndarray of int64
        On the axis of the events, in the order of the caller's rows.

    Raises
    ------
    ValueError
        If `targets` is anything else.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.ids import ItemVocabulary
    >>> from posneg_rec.interactions import build_histories, read_interactions
    >>> from posneg_rec.model_selection import find_targets
    >>> events = read_interactions(np.array([[1, 10], [2, 10], [1, 11], [1, 12]]))
    >>> histories = build_histories(events, ItemVocabulary(events.item_ids))
    >>> histories.rows[find_targets(histories, "all", n_rows=4)]
    array([2, 3])
    """
    lengths = histories.lengths
    if isinstance(targets, str) and targets == "last":
        positions = histories.offsets[1:][lengths > 1] - 1
    elif isinstance(targets, str) and targets == "all":
        chosen = np.ones(len(histories.rows), dtype=bool)
        chosen[histories.offsets[:-1][lengths > 0]] = False
        positions = np.flatnonzero(chosen)
    else:
        mask = as_array(targets, "targets")
        if mask.shape != (n_rows,) or mask.dtype != bool:
            got = f"{targets!r:.50}" if mask.ndim == 0 else f"{mask.shape} of dtype {mask.dtype}"
            raise ValueError(
                f"targets must be 'last', 'all' or a bool array with one entry per row ({n_rows}), "
                f"got {got}."
            )
        positions = np.flatnonzero(mask[histories.rows])
    return positions[np.argsort(histories.rows[positions], kind="stable")]


def leaking_rows(
    interactions: Any,
    train: ArrayLike,
    test: ArrayLike,
    *,
    user_column: str | int | None = None,
    item_column: str | int | None = None,
    time_column: str | int | None = None,
) -> NDArray[np.int64]:
    """Find held-out rows that the training fold knows the future of.

    A plain :class:`~sklearn.model_selection.KFold` over rows trains on what a user did *after* the
    row to be predicted. Neither fold shows this by itself, but the two together do: a row that is
    only in the test fold leaks if a later row of the same user is in the training fold.

    Parameters
    ----------
    interactions : table of interactions
        The table that was split.
    train, test : array-like of int
        Row indices of the folds.
    user_column, item_column, time_column : str or int, default=None
        Columns of the table, as in the recommender. None finds them by name or position.

    Returns
    -------
    rows : ndarray of int64, ascending
        Empty for the splitters of this module.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import KFold
    >>> from posneg_rec.model_selection import LeaveLastOutSplit, leaking_rows
    >>> interactions = np.array([[1, 10], [1, 11], [1, 12], [1, 13]])
    >>> leaking_rows(interactions, *next(LeaveLastOutSplit().split(interactions)))
    array([], dtype=int64)
    >>> leaking_rows(interactions, *next(KFold(2).split(interactions)))
    array([0, 1])
    """
    check_no_store(interactions)
    table = read_interactions(
        interactions, user_column=user_column, item_column=item_column, time_column=time_column
    )
    users, positions = _user_positions(table)
    in_train, in_test = np.isin(table.rows, train), np.isin(table.rows, test)
    last_trained = _last_position(users, positions, in_train)
    return table.rows[in_test & ~in_train & (positions < last_trained[users])]


@dataclass(frozen=True)
class LastSeen:
    """When each user was last seen in the rows that were trained on.

    Parameters
    ----------
    users : ndarray of shape (n_users,)
        Raw ids.
    times : ndarray of shape (n_users,)
        Time of each user's latest row.
    unit : str or None
        Of the times, if they were datetimes.
    """

    users: NDArray[Any]
    times: NDArray[Any]
    unit: str | None

    @classmethod
    def of(cls, histories: Histories) -> LastSeen | None:
        """Read it off histories; None if they have no times."""
        if histories.times is None:
            return None
        met = histories.lengths > 0
        last = histories.offsets[1:][met] - 1
        return cls(histories.users[met], histories.times[last], histories.time_unit)

    def compares(self, histories: Histories) -> bool:
        """Tell whether histories have times of the same kind."""
        same_kind = (histories.time_unit is None) == (self.unit is None)
        return histories.times is not None and same_kind

    def covers(self, histories: Histories) -> NDArray[np.bool_]:
        """Tell which events are not later than what was seen of their user, (n_events,).

        None are where either has no times, or times of another kind.
        """
        covered = np.zeros(len(histories.items), dtype=bool)
        if histories.times is None or not self.compares(histories):
            return covered
        codes_of_users = ItemVocabulary(self.users).encode(histories.users)
        for users, events, part in histories.parts():
            codes = np.repeat(codes_of_users[users], part.lengths)  # of each event's user
            known = np.flatnonzero(codes >= 0)
            assert part.times is not None
            times, until = _in_one_unit(
                (part.times[known], histories.time_unit), (self.times[codes[known]], self.unit)
            )
            covered[events][known] = times <= until
        return covered

    def merged(self, other: LastSeen | None) -> LastSeen:
        """Take, for each user of either, the later time; times of another kind are left out."""
        if other is None or (other.unit is None) != (self.unit is None):
            return self
        users = ItemVocabulary(self.users).extended(other.users)
        mine, others = _in_one_unit((self.times, self.unit), (other.times, other.unit))
        if self.unit is not None:
            unit = np.datetime_data(mine.dtype)[0]
            mine, others = mine.view(np.int64), others.view(np.int64)
        else:
            unit = None
        times = np.full(len(users), mine.min(initial=others.min()), np.result_type(mine, others))
        times[: len(mine)] = mine
        np.maximum.at(times, users.encode(other.users), others)
        return LastSeen(users.items, times, unit)


def warn_if_future_leaks(
    trained: LastSeen | None,
    histories: Histories,
    targets: NDArray[np.int64],
    columns: Mapping[str, str | int | None] | None = None,
    *,
    of_each_last: bool = True,
) -> None:
    """Warn if targets lie before what a model has learned of the same users.

    Parameters
    ----------
    trained : LastSeen or None
        Of the rows that were trained on; None if that is not known any more.
    histories : Histories
        Of the rows that are scored.
    targets : ndarray of int64
        Positions of the targets, as from :func:`find_targets`.
    columns : dict of str to (str, int or None), default=None
        The columns that the model was given (``user_column``, ...), which a splitter needs, too.
    of_each_last : bool, default=True
        Whether the targets are each user's last row. Others may be rows that the model was trained
        on, where a test fold brings histories along: only if all of known users are such, that is
        what was asked for.

    Warns
    -----
    FutureLeakWarning
        If a target's time is the earlier one: the model has seen what this user did next, and the
        score is no forecast. A :class:`~sklearn.model_selection.KFold` over rows does that to
        most targets, the splitters of this module to none. Datetimes of two units are compared in
        the coarser one. Nothing is compared with datetimes that is none.
    """
    if trained is None or histories.times is None:
        return
    if (trained.unit is None) != (histories.time_unit is None):
        return
    users = np.searchsorted(histories.offsets, targets, side="right") - 1
    codes = ItemVocabulary(trained.users).encode(histories.users)[users]
    known = codes >= 0
    times, last = _in_one_unit(
        (histories.times[targets[known]], histories.time_unit),
        (trained.times[codes[known]], trained.unit),
    )
    n_leaks = np.count_nonzero(times < last)
    if n_leaks and not of_each_last:
        if (times <= last).all():
            return
        warnings.warn(
            f"{n_leaks} of {len(targets)} targets lie before rows of the same user that the model "
            "was trained on: it knows them or what came next, and this is no forecast. A test fold "
            "brings histories along; pass targets=held_out_mask(train, test) of "
            "posneg_rec.model_selection to rank what was held out alone.",
            FutureLeakWarning,
            stacklevel=4,
        )
    elif n_leaks:
        arguments = ", ".join(
            f"{name}={column!r}" for name, column in (columns or {}).items() if column is not None
        )
        warnings.warn(
            f"{n_leaks} of {len(targets)} targets lie before rows of the same user that the model "
            "was trained on: the future leaks, and this score is no forecast. A split by rows, "
            f"such as KFold, does that; pass cv=TemporalSplit({arguments}) (or LeaveLastOutSplit, "
            "UserHoldoutSplit) of posneg_rec.model_selection.",
            FutureLeakWarning,
            stacklevel=4,
        )


def _in_one_unit(*times: tuple[NDArray[Any], str | None]) -> list[NDArray[Any]]:
    """Bring datetimes to the coarsest of their units, in which none overflows."""
    if all(unit is None for _, unit in times):
        return [values for values, _ in times]
    datetimes = [values.view(f"M8[{unit}]") for values, unit in times]
    if len({unit for _, unit in times}) == 1:
        return datetimes
    finest = np.result_type(*datetimes)
    coarser = next(values.dtype for values in datetimes if values.dtype != finest)
    return [values.astype(coarser) for values in datetimes]


def _read(splitter: Any, X: Any, y: Any = None, **options: Any) -> Interactions:
    name = type(splitter).__name__
    if not is_table(X):
        raise TypeError(
            f"{name} cuts inside a user's history and yields row indices, which a list of "
            "histories does not have. Pass a table (user, item, time), or use UserHoldoutSplit."
        )
    check_no_store(X)
    columns = columns_of(splitter)
    try:
        return read_interactions(X, y, **columns, **options)
    except (TypeError, ValueError) as error:
        if all(column is not None for column in columns.values()):
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"{error} ({name} reads the columns on its own: where the model is given user_column, "
            f"item_column or time_column, give them to {name}(user_column=..., item_column=..., "
            "time_column=...) as well.)"
        ) from error


def _times(interactions: Interactions) -> NDArray[Any]:
    if interactions.times is None:
        raise ValueError(
            "TemporalSplit needs a time of each row, and got a table without a time column. Add "
            "one, name the one that is there with time_column, or use LeaveLastOutSplit."
        )
    return interactions.times


def _user_positions(interactions: Interactions) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """User code of each row, and the row's position in time among the rows of its user."""
    users = interactions.user_codes
    keys = [users] if interactions.times is None else [interactions.times, users]
    order = np.lexsort(keys)  # stable: ties stay in row order
    n_rows = np.bincount(users)
    positions = np.empty(len(users), dtype=np.int64)
    positions[order] = np.arange(len(users)) - (np.cumsum(n_rows) - n_rows)[users[order]]
    return users, positions


def _last_position(
    users: NDArray[np.integer], positions: NDArray[np.int64], mask: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Position of each user's last row in `mask`, -1 where there is none."""
    last = np.full(users.max() + 1, -1)
    np.maximum.at(last, users[mask], positions[mask])
    return last


def check_users_apart(parts: Iterable[ArrayLike]) -> None:
    """Check that each user is in one part of a table alone.

    A model knows of a user what the rows of a call tell. Where a table is answered, scored or
    fitted in parts, a user in two of them counts twice, each time with half a history, and no part
    can know.

    Parameters
    ----------
    parts : iterable of array-like of shape (n_rows,)
        The raw user ids of each part, of its rows or of its answers. A part may be empty.

    Raises
    ------
    ValueError
        If a user is in more than one part.
    TypeError
        If ids are of no kind that can be read.

    Examples
    --------
    >>> from posneg_rec.model_selection import check_users_apart
    >>> check_users_apart([[1, 1, 2], [3]])
    >>> check_users_apart([[1, 1, 2], [3, 2]])
    Traceback (most recent call last):
    ...
    ValueError: 1 user is in more than one part: 2. Cut the table by users, not by rows.
    """
    if is_frame(parts):
        raise TypeError(f"parts must be one column of user ids each, got one {full_name(parts)}.")
    met: ItemVocabulary | None = None
    twice: list[Any] = []
    for part in parts:
        users = ItemVocabulary.from_ids(as_column(part, "a part")[0]).items
        if not len(users):
            continue
        if met is None:
            met = ItemVocabulary(users)
            continue
        if problem := met.mismatch(users):
            problem = problem.replace("the model knows", "an earlier part has")
            raise TypeError(f"The parts hold users of different types: {problem}.")
        twice += users[met.encode(users) >= 0].tolist()
        met = met.extended(users)
    if twice:
        twice = list(dict.fromkeys(twice))
        count = "1 user is" if len(twice) == 1 else f"{len(twice)} users are"
        raise ValueError(
            f"{count} in more than one part: {', '.join(map(shorten, twice[:3]))}"
            f"{', ...' if len(twice) > 3 else ''}. Cut the table by users, not by rows."
        )
