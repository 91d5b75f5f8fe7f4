"""Sequences of codes packed into one array, and the histories of all users on one axis.

Everything here works on integer codes with NumPy alone: what raw ids mean is :mod:`ids`' business,
where they come from is that of :mod:`interactions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "N_GAP_TAGS",
    "Histories",
    "PackedSequences",
    "as_indices",
    "event_order",
    "gap_edges",
    "gap_tags",
    "is_last",
    "latest_of_each_sign",
    "offsets_of",
    "pair_tags",
    "preview",
    "ranges",
    "shorten",
    "time_units",
]

_MANY_EVENTS = 2**14
# Events of a part: what is made for each of them takes a few dozen MB.
_PART = 2**20


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
    >>> from posneg_rec.sequences import PackedSequences
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
                f"offsets must run from 0 to len(values) = {n_values}, got {preview(offsets)}."
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
            values if len(values) else values.astype(np.int64), offsets_of(list(map(len, lists)))
        )

    @classmethod
    def slices(cls, values: ArrayLike, starts: ArrayLike, stops: ArrayLike) -> PackedSequences:
        """Pack the slices ``values[start:stop]``, which may overlap."""
        starts = as_indices(starts)
        lengths = as_indices(stops) - starts
        return cls(np.asarray(values).take(ranges(starts, lengths)), offsets_of(lengths))

    def to_lists(self) -> list[list[int]]:
        """Return the sequences as lists of integers."""
        return [self[index].tolist() for index in range(len(self))]

    def take(self, indices: ArrayLike) -> PackedSequences:
        """Return the sequences at `indices`, in that order."""
        indices = as_indices(indices)
        starts, stops = self.offsets[:-1], self.offsets[1:]
        return self.slices(self.values, starts[indices], stops[indices])

    def last(self, n: int) -> PackedSequences:
        """Return the last `n` values of each sequence, all values of a shorter one."""
        if n < 0:
            raise ValueError(f"n must not be negative, got {n}.")
        starts, stops = self.offsets[:-1], self.offsets[1:]
        return self.slices(self.values, np.maximum(starts, stops - n), stops)


def offsets_of(lengths: ArrayLike) -> NDArray[np.int64]:
    """Return where packed sequences of these lengths start and end, ``(n_sequences + 1,)``."""
    lengths = np.asarray(lengths, dtype=np.int64)
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``arange(start, start + length)`` of all pairs, one after the other."""
    offsets = offsets_of(lengths)
    return np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])


def as_indices(indices: ArrayLike) -> NDArray[Any]:
    """Turn indices into an array of integers."""
    indices = np.asarray(indices)
    # An empty list is float64 to NumPy, and no index.
    return indices if indices.size else indices.astype(np.int64)


_SHOWN = 50  # characters of one value in a message


def shorten(value: Any) -> str:
    """Show a value in a message, text in quotes; what is long is cut."""
    try:
        # Of long text, no more is escaped than is shown.
        return _cut(repr(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value))
    except ValueError:  # an integer of more digits than Python writes
        return f"{type(value).__name__} of great length"


def preview(values: Any, n: int = 5) -> str:
    """Show the first few of many values in a message; what is long is cut."""
    shown = ", ".join(_cut(str(value)) for value in values[:n])
    return f"[{shown}{', ...' if len(values) > n else ''}]"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


# -- Histories -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Histories:
    """The events of all users on one axis: by user, then by time, ties in row order.

    Attributes
    ----------
    users : ndarray of shape (n_users,), dtype=int64, float64 or object
        Raw ids, ascending.
    items : ndarray of shape (n_events,), dtype=int64
        Item codes; -1 for an item that the vocabulary does not know. These and `rows` are int32
        of a store, until :meth:`take`, :meth:`select` or :meth:`codes` makes int64 of them.
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

    @classmethod
    def of_one(
        cls,
        items: NDArray[np.int64],
        signs: NDArray[np.int8],
        times: NDArray[Any] | None = None,
        time_unit: str | None = None,
    ) -> Histories:
        """Take the codes, signs and times of one user, whose id is 0, oldest event first."""
        rows = np.arange(len(items))
        offsets = np.array([0, len(items)])
        return cls(np.zeros(1, np.int64), items, signs, times, rows, offsets, time_unit)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of events of each user, shape (n_users,)."""
        return np.diff(self.offsets)

    def codes(self, events: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the item codes of some events."""
        return self.items.take(events).astype(np.int64, copy=False)

    def take(self, user_indices: ArrayLike, stops: NDArray[np.int64] | None = None) -> Histories:
        """Return the users at `user_indices`, in that order, with their events.

        `stops` says of all users where those to be taken end, (n_users,); None takes all.
        """
        user_indices = as_indices(user_indices)
        starts = self.offsets[:-1][user_indices]
        lengths = (self.offsets[1:] if stops is None else stops)[user_indices] - starts
        events = ranges(starts, lengths)
        return self._at(events, self.users[user_indices], offsets_of(lengths))

    def parts(self) -> Iterator[tuple[slice, slice, Histories]]:
        """Cut into parts of whole users with about a million events each, which copy nothing.

        Yields the part's users and its events, both among all, and its histories. What is made
        for each event on the way to a few numbers need not be there for all events at once.
        """
        part = np.maximum(self.offsets[1:] - 1, 0) // _PART
        bounds = [*np.flatnonzero(np.diff(part, prepend=-1)).tolist(), len(part)]
        for start, stop in pairwise(bounds):
            events = slice(int(self.offsets[start]), int(self.offsets[stop]))
            yield (
                slice(start, stop),
                events,
                Histories(
                    self.users[start:stop],
                    self.items[events],
                    self.signs[events],
                    None if self.times is None else self.times[events],
                    self.rows[events],
                    self.offsets[start : stop + 1] - self.offsets[start],
                    self.time_unit,
                ),
            )

    def sample(self, n_events: int, stops: NDArray[np.int64] | None = None) -> Histories:
        """Take as many users, evenly spread, as have about `n_events` events; all if they may.

        `stops` as in :meth:`take`.
        """
        step = max(1, -(-len(self.items) // n_events))
        return self.take(np.arange(0, len(self), step), stops)

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
        return PackedSequences(self.codes(events), offsets), events

    def gaps(self) -> NDArray[np.float64] | None:
        """Tell the time since the user's event before, shape (n_events,).

        In seconds for datetimes, else in the caller's unit; NaN for a user's first event. None
        where no times are known.
        """
        return self.gaps_at(*self._all())

    def gaps_at(
        self, events: NDArray[np.int64], first: NDArray[np.int64]
    ) -> NDArray[np.float64] | None:
        """Tell of some events what :meth:`gaps` tells of all.

        `first` is the first event of the user of each of `events`.
        """
        if self.times is None:
            return None
        gaps: NDArray[np.float64] = self.times[events] - self.times[np.maximum(events - 1, 0)]
        gaps = gaps / time_units(self.time_unit)
        gaps[events == first] = np.nan
        return gaps

    def elapsed_at(
        self, events: NDArray[np.int64], first: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Tell of some events what :meth:`elapsed` tells of all; `first` as in `gaps_at`."""
        if self.times is None:
            return np.full(len(events), np.nan)
        since: NDArray[np.float64] = self.times[events] - self.times[first]
        return since / time_units(self.time_unit)

    def elapsed(self) -> NDArray[np.float64]:
        """Tell the time since the user's first event, shape (n_events,), in the unit of `gaps`.

        NaN where no times are known.
        """
        return self.elapsed_at(*self._all())

    def _all(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all events, and the first of the user of each."""
        return np.arange(len(self.items)), np.repeat(self.offsets[:-1], self.lengths)

    def repeats(self) -> NDArray[np.bool_]:
        """Tell which events meet an item again that their user met before, shape (n_events,)."""
        repeats = np.zeros(len(self.items), dtype=bool)
        for _, events, part in self.parts():
            users = np.repeat(np.arange(len(part)), part.lengths)
            order = event_order(users, part.items, part.lengths)
            users, items = users.take(order), part.items.take(order)
            again = (users[1:] == users[:-1]) & (items[1:] == items[:-1]) & (items[1:] >= 0)
            repeats[events][order[1:]] = again
        return repeats

    def gap_tags(self, edges: NDArray[np.float64]) -> NDArray[np.int64]:
        """Classify the time before each event by :func:`gap_tags`, shape (n_events,).

        Without times, or without edges, all are 0, unknown.
        """
        gaps = self.gaps() if len(edges) else None
        return np.zeros(len(self.items), np.int64) if gaps is None else gap_tags(gaps, edges)

    def _at(
        self, events: NDArray[np.int64], users: NDArray[Any], offsets: NDArray[np.int64]
    ) -> Histories:
        return Histories(
            users,
            self.codes(events),
            self.signs.take(events),
            None if self.times is None else self.times.take(events),
            self.rows.take(events).astype(np.int64, copy=False),
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
        Ascending; ones if no time ever passes. Without gaps there are no ranges: shape (0,).
    """
    if gaps is None:
        return np.empty(0)
    positive = gaps[gaps > 0]
    if len(positive) == 0:
        return np.ones(N_GAP_TAGS - 3)
    low, high = np.quantile(positive, [0.01, 0.999])
    return np.geomspace(low, high, N_GAP_TAGS - 3)


def gap_tags(gaps: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Classify times between events: 0 unknown (NaN), 1 none, then ranges between `edges`.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.sequences import gap_tags
    >>> gap_tags(np.array([np.nan, 0.0, 5.0, 99.0]), np.array([10.0, 50.0]))
    array([0, 1, 2, 4])
    """
    tags = np.searchsorted(edges, gaps) + 2
    tags[gaps <= 0] = 1
    tags[np.isnan(gaps)] = 0
    return tags


def pair_tags(elapsed: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int8]:
    """Classify the time from event to event of sequences of one length, as :func:`gap_tags` does.

    Parameters
    ----------
    elapsed : float64 array of shape (..., L)
        As from :meth:`Histories.elapsed`.
    edges : float64 array
        As from :func:`gap_edges`.

    Returns
    -------
    int8 array of shape (..., L, L)
        Of the time from the event of the last axis to that of the axis before it.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.sequences import pair_tags
    >>> pair_tags(np.array([0.0, 5.0, 99.0]), np.array([10.0, 50.0]))[2]
    array([4, 4, 1], dtype=int8)
    """
    since = elapsed[..., :, None] - elapsed[..., None, :]
    # The edges are few: to compare with each is faster than a search for each pair.
    bounds = np.concatenate([[0.0], edges]).reshape(-1, *[1] * since.ndim)
    tags: NDArray[np.int8] = np.sum(since > bounds, axis=0, dtype=np.int8)
    tags += 1
    unknown = np.isnan(elapsed)
    if unknown.any():
        tags[unknown[..., :, None] | unknown[..., None, :]] = 0
    return tags


def latest_of_each_sign(signs: NDArray[Any], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find each user's latest liked and latest disliked event so far.

    Parameters
    ----------
    signs : ndarray of shape (n_events,)
        +1, -1 or 0, packed by user.
    offsets : ndarray of shape (n_users + 1,)

    Returns
    -------
    int64 ndarray of shape (n_events, 2)
        Where it stands among all events, -1 for none yet; an event counts itself.

    Examples
    --------
    >>> import numpy as np
    >>> from posneg_rec.sequences import latest_of_each_sign
    >>> latest_of_each_sign(np.array([1, -1, 1, -1]), np.array([0, 3, 4])).T
    array([[ 0,  0,  2, -1],
           [-1,  1,  1,  3]])
    """
    place = np.arange(len(signs))
    first = np.repeat(offsets[:-1], np.diff(offsets))
    latest = [np.maximum.accumulate(np.where(signs == sign, place, -1)) for sign in (1, -1)]
    return np.stack([np.where(found >= first, found, -1) for found in latest], axis=1)


def time_units(time_unit: str | None) -> float:
    """Return how many of the time column's units a gap of 1 means."""
    if time_unit is None:
        return 1.0
    return float(np.timedelta64(1, "s") / np.array(1, f"m8[{time_unit}]"))


# -- Sorting ---------------------------------------------------------------------------------


def event_order(
    users: NDArray[np.integer], keys: NDArray[Any] | None, counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sort stably by user code, then key; `counts` has the number of events of each user."""
    order = _grouped(users, len(counts))
    if keys is None or len(keys) == 0:
        return order
    if keys.dtype.kind == "i":
        keys = keys.astype(np.int64, copy=False)  # what follows adds to them
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
    """Sort stably by code, of many events in linear time."""
    n = len(codes)
    if n < _MANY_EVENTS:
        return np.argsort(codes, kind="stable")
    from scipy import sparse  # which takes longer to import than few events to sort

    index = np.int32 if max(n, n_codes) < 2**31 else np.int64
    # With one entry per column, turning columns into rows is a counting sort.
    columns = sparse.csc_array(
        (np.ones(n, np.int8), codes.astype(index, copy=False), np.arange(n + 1, dtype=index)),
        shape=(n_codes, n),
    )
    return columns.tocsr().indices.astype(np.int64)


def is_last(
    users: NDArray[np.integer], items: NDArray[np.integer], counts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which events are the last of their user and item."""
    order = event_order(users, items, counts)
    users, items = users.take(order), items.take(order)
    last = np.ones(len(order), dtype=bool)
    last[order[:-1]] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    return last
