"""Which column is the user, which the item, which the time: told, by name, or by position."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from numbers import Integral
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from posneg_rec.ids import as_column
from posneg_rec.sequences import preview, shorten

__all__ = [
    "ROLES",
    "are_names",
    "check_columns_left",
    "check_width",
    "column_positions",
    "columns_of",
    "feedback_columns",
    "index_advice",
    "index_names_of",
]

ROLES = ("user", "item", "time")


def columns_of(holder: Any) -> dict[str, Any]:
    """Return the columns that an estimator or a splitter was told, None for each it was not."""
    return {f"{role}_column": getattr(holder, f"{role}_column", None) for role in ROLES}


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
# How a date begins that a csv holds, and in how many rows a first one is looked for.
_DATE = re.compile(r"(19|20)\d\d-(0\d|1[0-2])-[0-3]\d($|[ T])")
_LOOKED_AT = 100
# 1990 to 2038 in seconds and milliseconds, and how names end of what merely looks so.
_SINCE_1970 = [(scale * 631_152_000, scale * 2**31) for scale in (1, 1000)]
_NUMBERED = ("id", "ids", "code", "key", "no", "nr", "num", "number", "hash", "phone", "ean")
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


# What a SequenceBuilder calls its columns, and why a name may not be found.
_BUILT = {"sequence", "item", "position", "time"}
_STEP_BEFORE = (
    " In a pipeline a frame's names end at the first transformer: give user_column, item_column "
    "and time_column to the first step that reads them; those after it find user, item and time by "
    "themselves."
)


def _key(name: Any) -> str:
    return "".join(filter(str.isalnum, str(name).casefold()))


def _forms(name: Any) -> list[str]:
    """Return what a name may mean, without what others put around it."""
    forms = [name]
    if isinstance(name, str):
        # What comes before is a transformer of scikit-learn or a table in SQL, what comes after
        # is RecBole's type.
        bare = re.sub(r":(token|float)(_seq)?$", "", name)
        forms += [bare, bare.rpartition("__")[2], bare.rpartition(".")[2]]
    return [_key(form) for form in forms]


def _rank(name: Any, role: str) -> int | None:
    """Tell which group of a role's names a column belongs to; None for none of them."""
    for form in _forms(name):
        for rank, names in enumerate(_COLUMN_NAMES[role]):
            if form in names:
                return rank
    return None


def _best(names: Sequence[Any], role: str) -> list[Any]:
    """Return those of the names that say the role most clearly."""
    ranks = [_rank(name, role) for name in names]
    best = min((rank for rank in ranks if rank is not None), default=None)
    return [name for name, rank in zip(names, ranks, strict=True) if rank == best is not None]


def are_names(names: list[Any]) -> bool:
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
        if names is not None and are_names(names)
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
            + index_advice(index_names, unclear)
        )
    return positions


def _builders_position(names: list[Any], free: list[Any], user: int) -> dict[str, int]:
    """Find the position in a sequence, which is the time in what a SequenceBuilder returns."""
    if not _key(names[user]).endswith("sequence"):
        return {}
    positions = [name for name in free if _key(name).endswith("position")]
    return {"time": names.index(positions[0])} if positions else {}


_FEEDBACK_NAMES = _names(
    "rating ratings stars star score feedback liked like label sign rate grade thumb thumbs"
)


def feedback_columns(names: Sequence[Any], positions: Collection[int]) -> list[Any]:
    """Name the columns, other than those at `positions`, that look like feedback."""
    return [
        name
        for place, name in enumerate(names)
        if place not in positions and any(form in _FEEDBACK_NAMES for form in _forms(name))
    ]


def index_names_of(frame: Any) -> list[Any]:
    """Name what pandas keeps beside the columns; other frames have no index."""
    names = getattr(getattr(frame, "index", None), "names", None) or ()
    return [name for name in names if name is not None]


def index_advice(index_names: Sequence[Any], roles: Sequence[str]) -> str:
    """Advise, in brackets, to take what is missing out of pandas' index; else nothing."""
    held = [name for name in index_names if any(_rank(name, role) is not None for role in roles)]
    if not held:
        return ""
    return f" ({', '.join(map(shorten, held))} is in the index: pass interactions.reset_index())"


def check_columns_left(frame: nw.DataFrame[Any], positions: dict[str, int]) -> None:
    """Refuse to leave times unread only because no column is named so."""
    if "time" in positions:
        return
    native = frame.to_native()
    if advice := index_advice(index_names_of(native), ["time"]):
        raise ValueError(f"no column is named like a time{advice}.")
    if getattr(getattr(native, "index", None), "inferred_type", "") == "datetime64":
        raise ValueError(
            "no column is named like a time, but the index holds datetimes: pass "
            "interactions.reset_index(names='time'), or reset_index(drop=True)."
        )
    for place, (name, dtype) in enumerate(frame.schema.items()):
        if place in positions.values():
            continue
        told = f"pass time_column={shorten(name)}, or leave that column out."
        if dtype in (nw.Datetime, nw.Date):
            raise ValueError(
                f"no column is named like a time, but {shorten(name)} holds datetimes: {told}"
            )
        if dtype in (nw.String, nw.Object, nw.Categorical):
            values = frame[:_LOOKED_AT, place].to_list()
            first = next((value for value in values if isinstance(value, str)), "")
            if _DATE.match(first):
                raise ValueError(
                    f"no column is named like a time, but {shorten(name)} holds dates as text "
                    f"({shorten(first)}): convert them, for example with pd.to_datetime(...), and "
                    + told
                )
        elif dtype.is_integer() and not _key(name).endswith(_NUMBERED):
            numbers = frame[:_LOOKED_AT, place].drop_nulls().to_numpy()
            if len(numbers) and any(
                low <= numbers.min() <= numbers.max() < high for low, high in _SINCE_1970
            ):
                warnings.warn(
                    "No column is named like a time, so rows count as in the order of time, but "
                    f"{shorten(name)} holds numbers like seconds since 1970 ({numbers[0]}): {told}",
                    UserWarning,
                    stacklevel=2,
                )


def check_width(table: Any) -> None:
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
            + _STEP_BEFORE
        )
    if names.count(wanted) != 1:
        raise ValueError(
            f"{role}_column={shorten(wanted)} is not one of the columns {preview(names, 10)}."
            + _STEP_BEFORE * (set(names) <= _BUILT)
        )
    return names.index(wanted)
