"""Packed sequences, histories and the sorts behind them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from tables import LAW, numbers_of

from posneg_rec import sequences
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import (
    build_histories,
    read_interactions,
)
from posneg_rec.sequences import (
    Histories,
    PackedSequences,
    _stable_argsort,
    event_order,
    gap_edges,
    gap_tags,
    is_last,
    latest_of_each_sign,
)

lists_of_ints = st.lists(st.lists(st.integers(-5, 5), max_size=6), max_size=6)


@LAW
@given(lists_of_ints, st.integers(0, 7), st.data())
def test_packed_sequences_do_what_lists_do(lists, n, data):
    packed = PackedSequences.from_lists(lists)
    indices = data.draw(st.lists(st.integers(0, max(len(lists) - 1, 0)), max_size=5))
    indices = indices if lists else []

    assert packed.to_lists() == lists
    assert len(packed) == len(lists)
    assert packed.lengths.tolist() == [len(sequence) for sequence in lists]
    assert packed.take(indices).to_lists() == [lists[index] for index in indices]
    assert packed.last(n).to_lists() == [
        sequence[max(len(sequence) - n, 0) :] for sequence in lists
    ]


def test_packed_slices_may_overlap():
    packed = PackedSequences.slices(np.arange(5), np.array([0, 1, 4]), np.array([3, 3, 4]))
    assert packed.to_lists() == [[0, 1, 2], [1, 2], []]


def test_packed_sequence_is_a_view_and_bounds_hold():
    packed = PackedSequences.from_lists([[1, 2], [3]])
    assert packed[1].base is packed.values
    assert packed[-1].tolist() == [3]
    with pytest.raises(IndexError):
        packed[2]


@pytest.mark.parametrize(
    ("values", "offsets", "error", "text"),
    [
        ([1, 2], [0, 1], ValueError, r"from 0 to len\(values\) = 2, got \[0, 1\]"),
        ([1, 2], [1, 2], ValueError, "offsets must run from 0"),
        ([1, 2], [], ValueError, "offsets must"),
        ([1, 2], [0, 2, 1, 2], ValueError, "got 2 before 1 at position 1"),
        ([[1, 2]], [0, 1], ValueError, "values must be a 1-D array, got 2"),
        ([1.0, 2.0], [0, 2], TypeError, "values must hold integers, got dtype float64"),
    ],
)
def test_packed_sequences_check_their_offsets(values, offsets, error, text):
    with pytest.raises(error, match=text):
        PackedSequences(np.array(values), np.array(offsets, dtype=np.int64))


@LAW
@given(
    st.sampled_from(["int64", "float64", "ties", "time order", "sorted"]),
    st.integers(1, 6),
    st.data(),
)
def test_events_are_in_the_order_of_a_lexsort(kind, n_users, data):
    times = st.integers(-3, 3)
    if kind == "float64":
        times = st.one_of(st.sampled_from([0.0, -0.0, 1.0]), numbers_of("float64"))
    elif kind != "ties":
        times = st.one_of(times, numbers_of("int64"))
    events = data.draw(st.lists(st.tuples(st.integers(1, n_users), times), min_size=1))
    if kind == "sorted":
        events.sort()
    users, times = map(np.array, zip(*events, strict=True))
    if kind == "time order":
        times.sort()
    read = read_interactions(pd.DataFrame({"user": users, "item": users, "time": times}))
    built = build_histories(read, ItemVocabulary.from_ids(read.item_ids))
    order = np.lexsort((times, users))
    assert_array_equal(built.rows, order)
    assert_array_equal(built.times, times[order])
    assert_array_equal(built.items, read.item_codes[order])


@pytest.mark.parametrize("span", [1, 10, 2**40, 2**63 - 1])
@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_long_sorts_are_stable(dtype, span):
    # Beside a position in 10,000 there is room for 50 bits of a key: 2**63 takes two pieces.
    keys = np.random.default_rng(0).integers(-span, span, 10_000).astype(dtype)
    keys[::3] = keys[0]
    for n in (1, 2, 3, len(keys)):
        assert_array_equal(_stable_argsort(keys[:n]), np.argsort(keys[:n], kind="stable"))


@pytest.mark.parametrize("n_users", [1, 2, 3, 1000])
@pytest.mark.parametrize("low", [-(2**62) - 9, -5, 0, 2**63 - 12])
@pytest.mark.parametrize("distance", [2**53, 2**61, 2**62 - 1, 2**62, 2**62 + 1, 2**63 - 1])
def test_keys_as_far_apart_as_int64_reaches_are_in_order(n_users, low, distance):
    # Where one word cannot hold the user beside the key, no sum of both may overflow.
    keys = np.array([low, min(low + distance, 2**63 - 1), low + 1, low], dtype=np.int64)
    users = np.array([n_users - 1, n_users - 1, 0, 0])
    before = keys.copy()
    order = event_order(users, keys, np.bincount(users, minlength=n_users))
    assert_array_equal(order, np.lexsort((keys, users)))
    assert_array_equal(keys, before)


@pytest.mark.parametrize("near", [1e-310, 0.7, 1.0, 3.0, 1e300])
def test_neighbouring_floats_are_in_order(near):
    up = near + np.spacing(near) * np.arange(4)
    keys = np.concatenate([up, -up])[[7, 0, 3, 5, 2, 6, 1, 4]]
    assert_array_equal(keys[_stable_argsort(keys)], np.sort(keys))


def test_minus_zero_is_no_less_than_zero():
    keys = np.array([0.0, 1.0, -0.0, 0.0, -1.0, -0.0])
    assert _stable_argsort(keys).tolist() == [4, 0, 2, 3, 5, 1]
    order = event_order(np.array([1, 0, 1, 1, 1, 1]), keys, np.array([1, 5]))
    assert order.tolist() == [1, 4, 0, 2, 3, 5]
    assert np.signbit(keys).tolist() == [False, False, True, False, True, True]  # as it was


def small_histories():
    table = np.array([[8, 1], [7, 1], [7, 9], [7, 2], [9, 9]])
    return build_histories(read_interactions(table, [1, -1, 1, 1, 0]), ItemVocabulary([1, 2]))


def test_histories_take_users():
    taken = small_histories().take([2, 0, 0])
    assert taken.users.tolist() == [9, 7, 7]
    assert taken.items.tolist() == [-1, 0, -1, 1, 0, -1, 1]
    assert taken.rows.tolist() == [4, 1, 2, 3, 1, 2, 3]
    assert taken.offsets.tolist() == [0, 1, 4, 7]
    assert small_histories().take([]).offsets.tolist() == [0]


def test_histories_drop_events_but_no_user():
    known = small_histories().known()
    assert known.users.tolist() == [7, 8, 9]
    assert known.offsets.tolist() == [0, 2, 3, 3]
    assert known.items.tolist() == [0, 1, 0]
    assert known.signs.tolist() == [-1, 1, 1]


def test_histories_of_one_sign():
    liked, events = small_histories().of_sign(1)
    assert liked.to_lists() == [[-1, 1], [0], []]
    assert events.tolist() == [1, 2, 3]
    neutral, events = small_histories().of_sign(0)
    assert neutral.to_lists() == [[], [], [-1]]
    assert events.tolist() == [4]


USERS_OF_ITEMS = st.lists(st.lists(st.integers(-1, 3), max_size=6), max_size=5)


@given(USERS_OF_ITEMS)
def test_events_that_repeat_an_item_and_the_last_of_an_item(lists):
    lengths = list(map(len, lists))
    items = np.array([item for user in lists for item in user], dtype=np.int64)
    users = np.repeat(np.arange(len(lists)), lengths)
    offsets = np.cumsum([0, *lengths])
    rows, signs = np.arange(len(items)), np.ones(len(items), np.int8)
    events = Histories(np.arange(len(lists)), items, signs, None, rows, offsets)
    # What the vocabulary does not know may be many items: it repeats nothing.
    repeats = [item >= 0 and item in user[:t] for user in lists for t, item in enumerate(user)]
    assert events.repeats().tolist() == repeats
    last = [item not in user[t + 1 :] for user in lists for t, item in enumerate(user)]
    assert is_last(users, items, np.array(lengths, np.int64)).tolist() == last


def histories_at(times, lengths, time_unit=None):
    n, offsets = len(times), np.cumsum([0, *lengths])
    codes = np.zeros(n, np.int64)
    signs = np.ones(n, np.int8)
    users = np.arange(len(lengths))
    return Histories(users, codes, signs, np.array(times), np.arange(n), offsets, time_unit)


@pytest.mark.parametrize(
    ("time_unit", "per_unit"), [(None, 1), ("s", 1), ("ms", 0.001), ("D", 86400)]
)
@pytest.mark.parametrize("dtype", [np.int64, np.float64])
def test_gaps_are_between_events_of_one_user(time_unit, per_unit, dtype):
    times = np.array([10, 10, 15, 900, 7, 9], dtype=dtype)
    # Users without events stand before, between and after the others.
    events = histories_at(times, [0, 3, 0, 1, 2, 0], time_unit)
    gaps = np.array([np.nan, 0, 5, np.nan, np.nan, 2])
    assert_array_equal(events.gaps(), gaps * per_unit)
    assert_array_equal(events.elapsed(), np.array([0, 0, 5, 0, 0, 2]) * per_unit)
    assert events.gap_tags(np.array([2.0, 3.0]) * per_unit).tolist() == [0, 1, 4, 0, 0, 2]
    assert events.gap_tags(np.empty(0)).tolist() == [0] * 6


@given(st.lists(st.lists(st.integers(-9, 9), max_size=4), max_size=5))
def test_first_event_of_each_user_alone_has_no_gap(lists):
    users = [sorted(times) for times in lists]
    events = histories_at([t for user in users for t in user], list(map(len, users)))
    expected = [
        np.nan if place == 0 else user[place] - user[place - 1]
        for user in users
        for place in range(len(user))
    ]
    assert_array_equal(events.gaps(), np.array(expected, dtype=float))


def test_events_without_times_have_no_gaps():
    events = Histories.of_one(np.arange(3), np.ones(3, np.int8))
    assert events.gaps() is None
    assert events.gap_tags(np.ones(9)).tolist() == [0, 0, 0]
    assert gap_edges(None).shape == (0,)


def test_gap_tags_by_hand():
    gaps = np.array([np.nan, -1.0, 0.0, 1e-9, 10.0, 10.1, 50.0, 50.1])
    assert gap_tags(gaps, np.array([10.0, 50.0])).tolist() == [0, 1, 1, 2, 2, 3, 3, 4]


def test_edges_of_gaps_span_what_occurs_at_equal_ratios():
    edges = gap_edges(np.arange(1.0, 1002.0))
    assert edges[[0, -1]] == pytest.approx([11, 1000])  # all but a hundredth and a thousandth
    assert edges[1:] / edges[:-1] == pytest.approx([(1000 / 11) ** (1 / 8)] * 8)


@given(st.lists(st.floats(0.01, 1e6), max_size=9), st.integers(0, 200), st.integers(0, 9))
def test_zero_and_unknown_gaps_move_no_edge(positive, n_zeros, n_unknown):
    gaps = np.array([*[0.0] * n_zeros, *positive, *[np.nan] * n_unknown])
    edges = gap_edges(gaps)
    assert_array_equal(edges, gap_edges(np.array(positive)))
    assert edges.shape == (9,)
    if not positive:
        assert edges.tolist() == [1.0] * 9


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), max_size=6), max_size=5))
def test_latest_events_of_each_sign_are_the_users_own(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    signs = np.array([sign for user in lists for sign in user], dtype=np.int64)
    expected = [
        [max((offset + i for i in range(n + 1) if user[i] == sign), default=-1) for sign in (1, -1)]
        for user, offset in zip(lists, offsets, strict=False)
        for n in range(len(user))
    ]
    assert_array_equal(latest_of_each_sign(signs, offsets), np.reshape(expected, (len(signs), 2)))


def of_lists(lists, times=None, time_unit=None, dtype=np.int64):
    items = np.array([item for user in lists for item in user], dtype=dtype)
    n = len(items)
    return Histories(
        users=np.arange(len(lists)),
        items=items,
        signs=np.ones(n, np.int8),
        times=None if times is None else np.array(times),
        rows=np.arange(n).astype(dtype),
        offsets=np.cumsum([0, *map(len, lists)]),
        time_unit=time_unit,
    )


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=5), max_size=6),
    st.integers(1, 9),
    st.sampled_from([np.int32, np.int64]),
)
def test_parts_hold_all_users_and_events_whatever_their_size(lists, size, dtype):
    histories = of_lists(lists, dtype=dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_PART", size)
        parts, repeats = list(histories.parts()), histories.repeats()
    found = [part.items[a:b].tolist() for *_, part in parts for a, b in pairwise(part.offsets)]
    assert found == lists
    for users, events, part in parts:
        assert part.users.tolist() == list(range(users.start, users.stop))
        assert part.rows.tolist() == list(range(events.start, events.stop))
        assert part.offsets[-1] - part.offsets[1] <= size  # beside what the first user has
    expected = [item in user[:n] for user in lists for n, item in enumerate(user)]
    assert repeats.tolist() == expected


@given(
    st.lists(st.lists(st.integers(0, 3), max_size=5), min_size=1, max_size=6),
    st.sampled_from([None, "s", "ns"]),
    st.sampled_from([np.int64, np.float64, None]),
    st.data(),
)
def test_gaps_of_some_events_are_those_among_all(lists, unit, dtype, data):
    n = sum(map(len, lists))
    times = None if dtype is None else np.arange(n, dtype=dtype) ** 2 / dtype(1)
    histories = of_lists(lists, None if times is None else times.astype(dtype), unit)
    events = np.array(data.draw(st.lists(st.integers(0, n - 1)) if n else st.just([])), np.int64)
    first = np.repeat(histories.offsets[:-1], histories.lengths)[events]
    gaps = histories.gaps_at(events, first)
    assert (gaps is None) == (times is None)
    if gaps is not None:
        assert_array_equal(gaps, histories.gaps()[events])
    assert_array_equal(histories.elapsed_at(events, first), histories.elapsed()[events])


def test_users_are_taken_up_to_their_stops_and_sampled_evenly():
    histories = of_lists([[1, 2, 3], [], [4, 5], [6]], dtype=np.int32)
    taken = histories.take([2, 0], np.array([1, 3, 4, 6]))
    assert taken.items.tolist() == [4, 1] and taken.items.dtype == taken.rows.dtype == np.int64
    assert taken.offsets.tolist() == [0, 1, 2] and taken.users.tolist() == [2, 0]
    assert histories.sample(6).items.tolist() == [1, 2, 3, 4, 5, 6]
    assert histories.sample(3).users.tolist() == [0, 2]
    assert histories.sample(1).users.tolist() == [0]
