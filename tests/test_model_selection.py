from dataclasses import replace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from popularity import PopularityRecommender
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold, cross_validate

from posneg_rec.ids import MISSING_ID, ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.model_selection import (
    FutureLeakWarning,
    LastSeen,
    LeaveLastOutSplit,
    TemporalSplit,
    UserHoldoutSplit,
    leaking_rows,
    warn_if_future_leaks,
)


def folds(splitter, X, y=None):
    return [(train.tolist(), test.tolist()) for train, test in splitter.split(X, y)]


def held_out(train, test):
    return sorted(set(test) - set(train))


@st.composite
def tables(draw):
    """Rows (user, item, time), some masked, with feedback -1, 0 or 1."""
    n_rows = draw(st.integers(4, 30))
    column = [st.integers(0, 4), st.integers(0, 9), st.integers(0, draw(st.integers(3, 40)))]
    X = np.array([[draw(values) for values in column] for _ in range(n_rows)])
    masked = draw(st.lists(st.booleans(), min_size=n_rows, max_size=n_rows))
    assume(not all(masked))
    X[masked] = MISSING_ID
    y = np.array(draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=n_rows, max_size=n_rows)))
    kept = np.flatnonzero(~np.array(masked)).tolist()
    y[kept[0]] = -1  # without any -1, a 0 would read as disliked
    return X, y, kept


def is_later(X, one, other):
    """Whether row `one` comes after row `other`; at equal times, row order decides."""
    return (X[one, 2], one) > (X[other, 2], other)


def leaks(X, train, test):
    """The plain twin of `leaking_rows`."""
    return [
        row
        for row in held_out(train, test)
        if any(X[other, 0] == X[row, 0] and is_later(X, other, row) for other in train)
    ]


def check_test_fold(X, train, test):
    """Each user in the test fold brings the whole history up to the last row held out."""
    users = {X[row, 0] for row in test}
    for user in users:
        mine = [row for row in test if X[row, 0] == user]
        last = max(mine, key=lambda row: (X[row, 2], row))
        assert last not in train
        history = [row for row in range(len(X)) if X[row, 0] == user and not is_later(X, row, last)]
        assert mine == history


# -- TemporalSplit ---------------------------------------------------------------------------

SMALL = np.array(
    [[1, 10, 50], [2, 10, 10], [1, 11, 20], [3, 10, 30], [1, 12, 40], [2, 12, 60], [4, 10, 70]]
)


def test_temporal_split_by_hand():
    # Sorted times 10 20 30 40 50 60 70; positions rint(.5 * 6) = 3 and rint(.75 * 6) = 4.
    assert folds(TemporalSplit(n_splits=2, quantile=0.5), SMALL) == [
        ([1, 2, 3], [2, 4]),  # before 40 | user 1 with 20 as history of 40
        ([1, 2, 3, 4], [0, 1, 2, 4, 5, 6]),  # before 50 | users 1, 2 and 4
    ]


def test_default_is_one_cut_at_nine_tenths():
    X = np.column_stack([np.zeros(101, int), np.arange(101), np.arange(101)])
    assert folds(TemporalSplit(), X) == [(list(range(90)), list(range(101)))]


def test_rows_at_the_cut_time_are_held_out():
    X = np.array([[1, 1, 0], [2, 1, 0], [1, 2, 5], [2, 2, 5], [1, 3, 6]])
    assert folds(TemporalSplit(quantile=0.6), X) == [([0, 1], [0, 1, 2, 3, 4])]


@settings(deadline=None, max_examples=50)
@given(
    times=st.lists(st.integers(0, 10**9), min_size=2, max_size=40, unique=True),
    quantile=st.floats(0.3, 0.99),
)
@example(times=list(range(6)), quantile=0.5)  # half way: to the even position
@example(times=list(range(4)), quantile=0.5)
def test_cut_is_the_nearest_quantile(times, quantile):
    X = np.column_stack([np.zeros(len(times), int), np.arange(len(times)), times])
    expected = pd.Series(times).quantile(quantile, interpolation="nearest")
    assume(expected > min(times))
    assert TemporalSplit(quantile=quantile).cut_times(X).tolist() == [expected]


@settings(deadline=None, max_examples=100)
@given(table=tables(), n_splits=st.integers(1, 3), quantile=st.floats(0.2, 0.9))
def test_temporal_split_knows_no_future(table, n_splits, quantile):
    X, _, kept = table
    splitter = TemporalSplit(n_splits, quantile=quantile)
    try:
        splits = folds(splitter, X)
    except ValueError as error:
        assert "the windows would start at" in str(error)
        assume(False)
    assert len(splits) == n_splits
    tested = []
    for train, test in splits:
        new = held_out(train, test)
        assert train and new
        assert max(X[train, 2]) < min(X[new, 2])
        assert set(train) | set(new) <= set(kept)
        check_test_fold(X, train, test)
        tested += new
    # The windows share no row and leave none out.
    assert sorted(tested + splits[0][0]) == kept


def test_a_fold_that_would_be_empty_is_refused():
    X = np.array([[1, 1, 5], [1, 2, 5], [1, 3, 5], [1, 4, 6]])
    with pytest.raises(ValueError, match=r"quantile=0.5: the windows would start at \[5\]"):
        next(TemporalSplit(quantile=0.5).split(X))
    with pytest.raises(ValueError, match=r"start at \[6, 6\].*Change n_splits"):
        next(TemporalSplit(2, quantile=0.9).split(X))


def test_temporal_split_needs_times():
    with pytest.raises(ValueError, match=r"without a time column.*LeaveLastOutSplit"):
        next(TemporalSplit().split(SMALL[:, :2]))


def test_nanoseconds_are_not_rounded():
    start = pd.Timestamp("2026-01-01").value
    times = pd.to_datetime([start, start + 1, start + 2, start + 3])
    frame = pd.DataFrame({"user": 1, "item": range(4), "time": times})
    splitter = TemporalSplit(quantile=0.7)
    assert folds(splitter, frame) == [([0, 1], [0, 1, 2, 3])]
    assert splitter.cut_times(frame) == np.array([start + 2], dtype="datetime64[ns]")


@pytest.mark.parametrize(("n_splits", "quantile"), [(0, 0.5), (1, 0.0), (1, 1.0), (1, 1.5)])
def test_temporal_parameters_are_checked(n_splits, quantile):
    with pytest.raises(ValueError, match="n_splits" if n_splits == 0 else "quantile"):
        TemporalSplit(n_splits, quantile=quantile)


# -- LeaveLastOutSplit -----------------------------------------------------------------------


def test_leave_last_out_by_hand():
    # User 1 in time order: rows 2, 4, 0; user 2: rows 1, 5; users 3 and 4 have one row.
    assert folds(LeaveLastOutSplit(), SMALL) == [([1, 2, 3, 4, 6], [0, 1, 2, 4, 5])]
    # Without times, in row order: user 1 is rows 0, 2, 4.
    assert folds(LeaveLastOutSplit(), SMALL[:, :2]) == [([0, 1, 2, 3, 6], [0, 1, 2, 4, 5])]


def test_last_of_each_sign_by_hand():
    users = [1, 1, 1, 1, 1, 2, 2, 2, 3, 3]
    signs = [1, -1, 1, 1, 0, -1, 1, 1, 0, 0]
    X = np.column_stack([users, np.arange(10)])
    # User 1: last dislike row 1, last like row 3; row 4 is neither. User 2: its only dislike is
    # its first row, without history, so only row 7 is held out. User 3 has no sign.
    assert folds(LeaveLastOutSplit(per_sign=True), X, signs) == [
        ([0, 5, 6, 8, 9], [0, 1, 2, 3, 5, 6, 7])
    ]


def test_signs_come_from_the_threshold():
    X = np.column_stack([[1] * 4, np.arange(4)])
    splitter = LeaveLastOutSplit(per_sign=True, positive_threshold=4)
    assert folds(splitter, X, [5, 3, 5, 4]) == [([0], [0, 1, 2, 3])]
    assert folds(LeaveLastOutSplit(), X, [5, 3, 5, 4]) == [([0, 1, 2], [0, 1, 2, 3])]


@settings(deadline=None, max_examples=100)
@given(table=tables(), per_sign=st.booleans())
def test_leave_last_out_knows_no_future(table, per_sign):
    X, y, kept = table
    splitter = LeaveLastOutSplit(per_sign=per_sign)
    try:
        ((train, test),) = folds(splitter, X, y)
    except ValueError as error:
        assert "No user has a row to hold out" in str(error)
        assume(False)
    assert leaks(X, train, test) == []
    assert set(train) | set(test) <= set(kept)
    check_test_fold(X, train, test)
    tested = {X[row, 0] for row in test}
    alone = [row for row in kept if X[row, 0] not in tested]
    assert set(alone) <= set(train)
    for user in tested:
        rows = sorted((row for row in kept if X[row, 0] == user), key=lambda r: (X[r, 2], r))
        if not per_sign:
            assert held_out(train, [row for row in test if row in rows]) == [rows[-1]]
            continue
        lasts = [max((i for i, row in enumerate(rows) if y[row] == s), default=0) for s in (1, -1)]
        lasts = [last for last in lasts if last > 0]
        assert [row in train for row in rows] == [i < min(lasts) for i in range(len(rows))]
        assert [row in test for row in rows] == [i <= max(lasts) for i in range(len(rows))]


def test_someone_must_have_a_history():
    with pytest.raises(ValueError, match="No user has a row to hold out"):
        next(LeaveLastOutSplit().split(np.array([[1, 10], [2, 10]])))


# -- UserHoldoutSplit ------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(table=tables(), seed=st.integers(0, 9))
def test_held_out_users_are_new(table, seed):
    X, _, kept = table
    n_users = len(set(X[kept, 0]))
    assume(n_users > 2)
    splitter = UserHoldoutSplit(3, test_size=2, random_state=seed)
    splits = folds(splitter, X)
    assert len(splits) == 3
    for train, test in splits:
        assert sorted(train + test) == kept
        assert len({X[row, 0] for row in test}) == 2
        assert not {X[row, 0] for row in test} & {X[row, 0] for row in train}
        assert train == sorted(train) and test == sorted(test)
    assert splits == folds(splitter, X)


def test_users_are_drawn_anew():
    X = np.column_stack([np.arange(40), np.arange(40)])
    splits = folds(UserHoldoutSplit(4, test_size=0.25, random_state=0), X)
    assert len({tuple(test) for _, test in splits}) == 4
    assert {len(test) for _, test in splits} == {10}
    assert splits != folds(UserHoldoutSplit(4, test_size=0.25, random_state=1), X)


def test_a_list_of_histories_is_split_by_history():
    histories = [[1, 2], [3], [4, 5], [6]]
    ((train, test),) = folds(UserHoldoutSplit(1, test_size=1, random_state=0), histories)
    assert len(test) == 1
    assert sorted(train + test) == [0, 1, 2, 3]


@pytest.mark.parametrize("splitter", [TemporalSplit(), LeaveLastOutSplit()])
def test_a_history_cannot_be_cut_by_rows(splitter):
    with pytest.raises(TypeError, match=f"{type(splitter).__name__} cuts.*UserHoldoutSplit"):
        next(splitter.split([[1, 2], [3]]))


# -- all splitters ---------------------------------------------------------------------------

SPLITTERS = [
    TemporalSplit(2, quantile=0.4),
    LeaveLastOutSplit(),
    UserHoldoutSplit(2, test_size=2, random_state=0),
]


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_frames_split_as_arrays_do(splitter):
    columns = {"user_id": SMALL[:, 0], "item_id": SMALL[:, 1], "timestamp": SMALL[:, 2]}
    expected = folds(splitter, SMALL)
    assert folds(splitter, pd.DataFrame(columns, index=np.arange(7)[::-1])) == expected
    assert folds(splitter, pl.DataFrame(columns)) == expected
    assert folds(splitter, pa.table(columns)) == expected
    names = [f"user-{user}" for user in SMALL[:, 0]]
    assert folds(splitter, pl.DataFrame(columns | {"user_id": names})) == expected


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_columns_can_be_named(splitter):
    frame = pd.DataFrame({"when": SMALL[:, 2], "what": SMALL[:, 1], "who": SMALL[:, 0]})
    params = {name: value for name, value in vars(splitter).items() if "column" not in name}
    named = type(splitter)(**params, user_column="who", item_column="what", time_column="when")
    assert folds(named, frame) == folds(splitter, SMALL)


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_masked_frame_rows_are_in_no_fold(splitter):
    rows = SMALL.tolist()
    rows.insert(3, [None, None, None])
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    shift = np.array([0, 1, 2, 4, 5, 6, 7])
    assert folds(splitter, frame) == [
        (shift[train].tolist(), shift[test].tolist()) for train, test in folds(splitter, SMALL)
    ]


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_number_of_splits_is_known_without_data(splitter):
    assert splitter.get_n_splits() == len(folds(splitter, SMALL))
    assert splitter.get_n_splits(SMALL, None, None) == splitter.get_n_splits()


def test_splitters_look_like_those_of_scikit_learn():
    assert repr(TemporalSplit(3)) == (
        "TemporalSplit(item_column=None, n_splits=3, quantile=0.9, time_column=None,\n"
        "       user_column=None)"
    )
    copied = clone(TemporalSplit(3, quantile=0.8), safe=False)
    assert (copied.n_splits, copied.quantile) == (3, 0.8)


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_searches_score_what_was_held_out(splitter):
    """The ranks in a search are those of the targets that the splitter held out."""
    y = np.array([1, 1, 0, 1, 1, 0, 1])
    expected = [
        PopularityRecommender().fit(SMALL[train], y[train]).score(SMALL[test], y[test])
        for train, test in splitter.split(SMALL, y)
    ]
    search = GridSearchCV(PopularityRecommender(), {"dislike_weight": [0.0]}, cv=splitter)
    results = search.fit(SMALL, y).cv_results_
    scores = [results[f"split{i}_test_score"][0] for i in range(splitter.get_n_splits())]
    np.testing.assert_allclose(scores, expected)
    routed = cross_validate(PopularityRecommender(), SMALL, y, cv=splitter)["test_score"]
    np.testing.assert_allclose(routed, expected)


# -- leaks -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(table=tables(), seed=st.integers(0, 9))
def test_leaking_rows_agree_with_the_plain_definition(table, seed):
    X, _, kept = table
    for train, test in KFold(3, shuffle=True, random_state=seed).split(X):
        found = leaking_rows(X, train, test).tolist()
        assert found == leaks(X, *(np.intersect1d(fold, kept).tolist() for fold in (train, test)))


def test_a_split_of_rows_leaks_and_a_temporal_one_does_not():
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.integers(0, 5, 200), rng.integers(0, 9, 200), np.arange(200)])
    train, test = next(KFold(5, shuffle=True, random_state=0).split(X))
    assert len(leaking_rows(X, train, test)) > 30
    train, test = next(TemporalSplit().split(X))
    assert len(leaking_rows(X, train, test)) == 0


def last_seen(times, unit=None):
    return LastSeen(
        np.array(sorted(times)), np.array([times[user] for user in sorted(times)]), unit
    )


def test_targets_before_what_was_trained_on_are_counted():
    trained = last_seen({1: 7, 2: 7, 3: 7})
    with pytest.warns(FutureLeakWarning, match=r"2 of 4 targets lie before .*KFold"):
        warn_if_future_leaks(trained, last_seen({0: 1, 1: 6, 2: 7, 3: 2}))


@pytest.mark.parametrize(
    ("trained", "scored"),
    [
        (last_seen({1: 7, 2: 1}), last_seen({1: 7, 2: 2})),
        (last_seen({1: 7}), last_seen({2: 1})),
        (last_seen({1: 7}, "ns"), last_seen({1: 1}, "us")),
        (None, last_seen({1: 1})),
        (last_seen({1: 7}), None),
    ],
    ids=["later", "another user", "another unit", "not known", "no times"],
)
def test_nothing_that_leaks_is_no_warning(trained, scored):
    warn_if_future_leaks(trained, scored)


def test_last_seen_is_read_off_histories():
    events = read_interactions(np.array([[5, 0, 3], [4, 0, 9], [5, 1, 1]]))
    histories = build_histories(events, ItemVocabulary(events.item_ids))
    seen = LastSeen.of(histories, events.time_unit)
    assert (seen.users.tolist(), seen.times.tolist(), seen.unit) == ([4, 5], [9, 3], None)
    assert LastSeen.of(replace(histories, times=None), None) is None
