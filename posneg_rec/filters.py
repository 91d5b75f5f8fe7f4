"""What a request asks for beside the best scores: raw ids are read here, and become codes.

An argument speaks of all users or of each of them; the forms are those of
:meth:`ContrastiveSeqRecommender.recommend`. Their marks on the ranking are made in
:mod:`selection`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from numbers import Integral, Real
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from posneg_rec.frames import full_name, is_frame, is_vector
from posneg_rec.ids import (
    ItemVocabulary,
    as_column,
    as_ids,
    as_objects,
    described,
    missing_objects,
    name_position,
    values_of,
)
from posneg_rec.selection import Filters
from posneg_rec.sequences import PackedSequences, offsets_of, shorten

__all__ = ["Asked", "check_excluded", "check_max_per_group", "read_filters"]

# From the place that warns to the line that asked: this module, the fitted model, the estimator.
_STACKLEVEL = 6


@dataclass(frozen=True)
class Asked:
    """Who is answered, and from which catalogue.

    Parameters
    ----------
    vocabulary : ItemVocabulary
    users : ndarray of shape (n_users,), or None
        Raw ids in the order of the answer; None for one history, which has no user id.
    """

    vocabulary: ItemVocabulary
    users: NDArray[Any] | None

    @property
    def n_users(self) -> int:
        """Number of histories that are answered."""
        return 1 if self.users is None else len(self.users)


def read_filters(
    asked: Asked,
    *,
    allowed_items: Any = None,
    denied_items: Any = None,
    pinned_items: Any = None,
    boosts: Any = None,
    groups: Any = None,
    max_per_group: int | None = None,
    diversity: float = 0.0,
) -> Filters:
    """Read the filters of a request.

    Parameters
    ----------
    asked : Asked
    allowed_items, denied_items, pinned_items, boosts, groups, max_per_group, diversity
        As in :meth:`ContrastiveSeqRecommender.recommend`.

    Returns
    -------
    Filters
    """
    n_items = len(asked.vocabulary)
    allowed, allowed_rows, is_limited = None, None, None
    denied_rows: tuple[PackedSequences, ...] = ()
    if allowed_items is not None:
        found = _items(asked, allowed_items, "allowed_items", every_user=True)
        if isinstance(found, _Rows):
            allowed_rows, is_limited = found.codes, found.is_told
        else:
            allowed = np.zeros(n_items, dtype=bool)
            allowed[found] = True
    if denied_items is not None:
        found = _items(asked, denied_items, "denied_items")
        if isinstance(found, _Rows):
            denied_rows = (found.codes,)
        else:
            allowed = np.ones(n_items, dtype=bool) if allowed is None else allowed
            allowed[found] = False
    check_max_per_group(groups, max_per_group)
    return Filters(
        allowed=allowed,
        allowed_rows=allowed_rows,
        is_limited=is_limited,
        denied_rows=denied_rows,
        pinned=None if pinned_items is None else _pinned(asked, pinned_items),
        boosts=None if boosts is None else _boosts(asked.vocabulary, boosts),
        groups=None if groups is None else _groups(asked.vocabulary, groups),
        max_per_group=1 if max_per_group is None else int(max_per_group),
        diversity=_check_diversity(diversity),
    )


# -- Items, for all users or for each ----------------------------------------------------------


@dataclass(frozen=True)
class _Rows:
    """Codes of known items for each user."""

    codes: PackedSequences
    is_told: NDArray[np.bool_] | None = None  # (n_users,), None for all


def _items(
    asked: Asked,
    value: Any,
    name: str,
    *,
    every_user: bool = False,
    unknown: list[Any] | None = None,
) -> NDArray[np.int64] | _Rows:
    """Read items for all users, as codes, or for each.

    A list for what is `unknown` is filled; with one, the order of the items counts.
    """
    ordered = unknown is not None
    if isinstance(value, Mapping):
        return _by_user(asked, value, name, every_user, unknown)
    if is_frame(value):
        raise TypeError(
            f"{name} is a {full_name(value)} frame: pass one list for all users, or a dict {{user: "
            "items}, which frame.groupby('user')['item'].agg(list).to_dict() makes with pandas."
        )
    if hasattr(value, "tocsr") or getattr(value, "ndim", 1) == 2:
        if hasattr(value, "tocsr") or getattr(value, "dtype", None) == np.bool_:
            if ordered:
                raise TypeError(f"{name} has an order, which a matrix lacks: pass lists of ids.")
            return _Rows(_matrix(asked, value, name))
        value = list(value)
    if _is_per_user(asked.vocabulary, value):
        if len(value) != asked.n_users:
            raise ValueError(
                f"{name} has {len(value)} lists, one per user, but {asked.n_users} "
                f"{'users are' if asked.n_users != 1 else 'user is'} answered. Pass one list of "
                "items for all, one list per user in the order of the answer, or a dict {user: "
                "items}."
            )
        return _rows(asked.vocabulary, value, name, unknown)
    if not ordered and isinstance(value, Set):
        value = list(value)
    codes = _codes(asked.vocabulary, value, name, unknown)
    return codes[codes >= 0]


def _is_per_user(vocabulary: ItemVocabulary, value: Any) -> bool:
    """Tell one list for each user from one list of ids."""
    if not isinstance(value, list | tuple) or len(value) == 0:
        return False
    if len(vocabulary) and isinstance(vocabulary.items[0], tuple):  # ids that look like lists
        return any(not isinstance(entry, tuple) and _is_collection(entry) for entry in value)
    return any(map(_is_collection, value)) or all(entry is None for entry in value)


def _is_collection(entry: Any) -> bool:
    return isinstance(entry, Set) or is_vector(entry)


def _by_user(
    asked: Asked,
    value: Mapping[Any, Any],
    name: str,
    every_user: bool,
    unknown: list[Any] | None,
) -> _Rows:
    """Read a dict of users and their items; users who are not answered are left out."""
    if asked.users is None:
        raise TypeError(
            f"{name} is a dict of users, but one history has no user id: pass a list of items."
        )
    users = ItemVocabulary(asked.users)
    keys = as_objects(list(value))
    if problem := users.mismatch(keys):
        problem = problem.replace("the model knows", "the answered users have", 1)
        raise ValueError(f"{name} names no user who is answered: {problem}.")
    entries: list[Any] = [None] * asked.n_users
    is_told = np.zeros(asked.n_users, dtype=bool)
    for user, items in zip(users.encode(keys), value.values(), strict=True):
        if user >= 0:
            entries[user], is_told[user] = items, True
    if every_user and not is_told.all():
        first = asked.users.tolist()[np.argmin(is_told)]
        raise ValueError(
            f"{name} lacks {np.count_nonzero(~is_told)} of the {asked.n_users} users who are "
            f"answered, such as {shorten(first)}. Give each an entry; None allows all items."
        )
    return _rows(asked.vocabulary, entries, name, unknown)


def _rows(
    vocabulary: ItemVocabulary, entries: Sequence[Any], name: str, unknown: list[Any] | None
) -> _Rows:
    """Read one collection of items per user; None stands for none told."""
    lists: list[Any] = []
    for position, entry in enumerate(entries):
        if not (entry is None or _is_collection(entry)):
            raise TypeError(
                f"{name}: each user has a list of items, or None, but entry {position} is "
                f"{shorten(entry)}."
            )
        if unknown is not None and isinstance(entry, Set):
            raise TypeError(f"{name}: entry {position} is a set, which has no order: pass a list.")
        is_plain = isinstance(entry, list | tuple | Set | np.ndarray)
        lists.append(() if entry is None else entry if is_plain else values_of(entry, name))
    is_told = np.fromiter((entry is not None for entry in entries), bool, len(entries))
    flat = as_objects(list(chain.from_iterable(lists)))
    codes = _codes(vocabulary, flat, name, unknown)
    rows = np.repeat(np.arange(len(lists)), list(map(len, lists)))[codes >= 0]
    counts = np.bincount(rows, minlength=len(lists))
    packed = PackedSequences(codes[codes >= 0], offsets_of(counts))
    return _Rows(packed, None if is_told.all() else is_told)


def _matrix(asked: Asked, value: Any, name: str) -> PackedSequences:
    """Read a boolean matrix of users by items."""
    expected = asked.n_users, len(asked.vocabulary)
    if value.shape != expected:
        raise ValueError(
            f"{name} has shape {value.shape}, but {expected[0]} "
            f"{'users are' if expected[0] != 1 else 'user is'} answered and the model has "
            f"{expected[1]} items: rows are users in the order of the answer, columns items_."
        )
    if value.dtype != bool:
        raise TypeError(
            f"{name} is a matrix of {value.dtype}, but what is True is told from what is not: "
            "pass matrix.astype(bool)."
        )
    if isinstance(value, np.ndarray):
        return PackedSequences(np.nonzero(value)[1], offsets_of(np.count_nonzero(value, axis=1)))
    matrix = value.tocsr()
    starts = np.asarray(matrix.indptr, dtype=np.int64)
    if matrix.data.all():
        return PackedSequences(matrix.indices, starts)
    n_true = np.concatenate([[0], np.cumsum(matrix.data)])
    return PackedSequences(matrix.indices[matrix.data], n_true[starts])


def _codes(
    vocabulary: ItemVocabulary, items: Any, name: str, unknown: list[Any] | None = None
) -> NDArray[np.int64]:
    """Encode items, -1 for what is unknown, of which some should be known."""
    ids, missing = as_ids(*as_column(items, name), name, name_position)
    if missing is not None:
        ids = ids[~missing]
    if problem := vocabulary.mismatch(ids):
        raise ValueError(f"{name} can hold none of the model's items: {problem}.")
    codes = np.full(len(ids) if missing is None else len(missing), -1)
    codes[slice(None) if missing is None else ~missing] = found = vocabulary.encode(ids)
    if unknown is not None:
        unknown += ids[found < 0].tolist()
    return codes


def _warn_of_unknown(name: str, unknown: list[Any]) -> None:
    if unknown:
        warnings.warn(
            f"{name} names {len(unknown)} item{'s' if len(unknown) > 1 else ''} that the model "
            f"does not know, such as {shorten(unknown[0])}: left out.",
            UserWarning,
            stacklevel=_STACKLEVEL,
        )


# -- Pinned items, boosts, groups ----------------------------------------------------------------


def _pinned(asked: Asked, value: Any) -> NDArray[np.int64]:
    """Read what comes first as a matrix of codes (n_users, m), padded with -1."""
    unknown: list[Any] = []
    found = _items(asked, value, "pinned_items", unknown=unknown)
    _warn_of_unknown("pinned_items", unknown)
    if not isinstance(found, _Rows):
        codes = list(dict.fromkeys(found.tolist()))
        return np.broadcast_to(np.array(codes, dtype=np.int64), (asked.n_users, len(codes)))
    packed = found.codes
    lengths = packed.lengths
    matrix = np.full((asked.n_users, int(lengths.max(initial=0))), -1)
    row = np.repeat(np.arange(asked.n_users), lengths)
    place = np.arange(len(row)) - packed.offsets[row]
    # Of an item that is named twice, the first counts.
    _, first = np.unique(row * len(asked.vocabulary) + packed.values, return_index=True)
    matrix[row[first], place[first]] = packed.values[first]
    return matrix


def _boosts(vocabulary: ItemVocabulary, value: Any) -> NDArray[np.float32]:
    """Read a dict of items and what is added to their scores."""
    if not isinstance(value, Mapping):
        raise TypeError(
            f"boosts must be a dict {{item: what to add to its score}}, got {described(value)}."
        )
    for item, boost in value.items():
        is_number = isinstance(boost, Real) and not isinstance(boost, bool | np.bool_)
        if not (is_number and abs(float(boost)) <= np.finfo(np.float32).max):
            raise ValueError(
                f"boosts must be finite numbers, got {shorten(boost)} for {shorten(item)}. To keep "
                "an item out pass denied_items, to put it first pinned_items."
            )
    unknown: list[Any] = []
    codes = _codes(vocabulary, as_objects(list(value)), "boosts", unknown)
    _warn_of_unknown("boosts", unknown)
    boosts = np.zeros(len(vocabulary), dtype=np.float32)
    added = np.fromiter(map(float, value.values()), np.float64, len(value))
    boosts[codes[codes >= 0]] = added[codes >= 0]
    return boosts


def check_max_per_group(groups: Any, max_per_group: int | None) -> None:
    """Check that groups come with a limit, an int >= 1, and no limit without groups."""
    if groups is None and max_per_group is None:
        return
    if groups is None or max_per_group is None:
        told, lacks = (
            ("groups", "max_per_group")
            if groups is not None
            else (
                "max_per_group",
                "groups",
            )
        )
        raise ValueError(f"{told} was passed without {lacks}: pass both, or neither.")
    is_int = isinstance(max_per_group, Integral) and not isinstance(max_per_group, bool)
    if not is_int or max_per_group < 1:
        raise ValueError(f"max_per_group must be an int >= 1, got {shorten(max_per_group)}.")


def _groups(vocabulary: ItemVocabulary, value: Any) -> NDArray[np.int64]:
    """Read the group of each item as a code, -1 for none."""
    if nw.dependencies.is_into_series(value):
        raise TypeError(
            f"groups is a {full_name(value)}, whose rows may be in any order: pass a dict {{item: "
            "group}, or series.to_numpy() if it is in the order of items_."
        )
    n_items = len(vocabulary)
    if isinstance(value, Mapping):
        keys = as_objects(list(value))
        codes = _codes(vocabulary, keys, "groups")
        if len(codes) and (codes < 0).all():
            raise ValueError(
                f"groups names none of the model's {n_items} items (such as "
                f"{shorten(vocabulary.items.tolist()[0])}), but {shorten(keys[0])}: its keys are "
                "item ids."
            )
        names = np.full(n_items, None, dtype=object)
        names[codes[codes >= 0]] = as_objects(list(value.values()))[codes >= 0]
    else:
        names, missing = as_column(value, "groups")
        if len(names) != n_items:
            raise ValueError(
                f"groups has {len(names)} entries, but the model has {n_items} items: pass one "
                "group for each of items_, in that order, or a dict {item: group}."
            )
        names = names.astype(object)
        if missing is not None:
            names[missing] = None
    is_none = missing_objects(names)
    told = np.ones(n_items, dtype=bool) if is_none is None else ~is_none
    number: dict[Any, int] = {}
    try:
        numbers = [number.setdefault(group, len(number)) for group in names[told]]
    except TypeError as error:
        raise TypeError(
            f"groups must be hashable, such as text or numbers, but {error}. An item is in one "
            "group."
        ) from error
    groups = np.full(n_items, -1)
    groups[told] = numbers
    return groups


# -- Numbers -------------------------------------------------------------------------------------


def _check_diversity(diversity: float) -> float:
    is_number = isinstance(diversity, Real) and not isinstance(diversity, bool | np.bool_)
    if not (is_number and 0 <= diversity <= 1):
        raise ValueError(f"diversity must be a number in [0, 1], got {shorten(diversity)}.")
    return float(diversity)


def check_excluded(exclude_seen: Any, of_fit: bool) -> bool | int:
    """Return whether items of a history are no candidates, or of how many of its last events."""
    if exclude_seen is None:
        return of_fit
    if isinstance(exclude_seen, bool | np.bool_):
        return bool(exclude_seen)
    if isinstance(exclude_seen, Integral) and int(exclude_seen) >= 1:
        return int(exclude_seen)
    raise TypeError(
        f"exclude_seen must be True, False or None (as in the fit: {of_fit}), or an int >= 1 (the "
        f"items of so many last events), got {shorten(exclude_seen)}."
    )
