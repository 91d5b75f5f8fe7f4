import re
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

from posneg_rec.frames import MISSING_ID
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.metrics import recommender_scorer
from posneg_rec.model_selection import (
    FutureLeakWarning,
    LastSeen,
    LeaveLastOutSplit,
    TemporalSplit,
    UserHoldoutSplit,
    find_targets,
    held_out_mask,
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
    train = [0, 5, 6, 8, 9]
    splitter = LeaveLastOutSplit(per_sign=True)
    assert folds(splitter, X, signs) == [(train, [0, 1, 2, 3, 5, 6, 7]), (train, [0, 1])]
    assert splitter.get_n_splits() == 2
    # The other way round: the last dislike comes after the last like.
    assert folds(splitter, X[:5], [1, 1, -1, -1, 0]) == [([0], [0, 1]), ([0], [0, 1, 2, 3])]


def test_both_held_out_rows_are_scored():
    """Whatever scorer: the mean over both folds is half of what one ranking of both gives."""
    items = [[0, 1, 2, 3, 4], [3, 4, 0, 1, 2], [4, 2, 3, 0, 1], [1, 0, 2, 3, 4]]
    X = np.column_stack([np.repeat(np.arange(4), 5), np.ravel(items)])
    y = np.tile([1, 1, 1, 0, 1], 4)
    splitter = LeaveLastOutSplit(per_sign=True)
    scorer = recommender_scorer("mrr")
    results = cross_validate(
        PopularityRecommender(),
        X,
        y,
        cv=splitter,
        scoring={name: recommender_scorer("mrr", feedback=name) for name in ("liked", "disliked")}
        | {"delta": scorer},
    )
    train, _ = next(splitter.split(X, y))
    mask = np.tile([False, False, False, True, True], 4)
    ranks = PopularityRecommender().fit(X[train], y[train]).target_ranks(X, y, targets=mask)
    liked, disliked = (ranks.mean("mrr", feedback=name) for name in ("liked", "disliked"))
    assert 0 not in (liked, disliked, liked - disliked)
    np.testing.assert_allclose(results["test_liked"], [liked, 0])
    np.testing.assert_allclose(results["test_disliked"], [0, -disliked])
    np.testing.assert_allclose(results["test_delta"].sum(), liked - disliked)


def test_signs_come_from_the_threshold():
    X = np.column_stack([[1] * 4, np.arange(4)])
    splitter = LeaveLastOutSplit(per_sign=True, positive_threshold=4)
    assert folds(splitter, X, [5, 3, 5, 4]) == [([0], [0, 1, 2, 3]), ([0], [0, 1])]
    assert folds(LeaveLastOutSplit(), X, [5, 3, 5, 4]) == [([0, 1, 2], [0, 1, 2, 3])]


@settings(deadline=None, max_examples=100)
@given(table=tables(), per_sign=st.booleans())
def test_leave_last_out_knows_no_future(table, per_sign):
    X, y, kept = table
    splitter = LeaveLastOutSplit(per_sign=per_sign)
    try:
        splits = folds(splitter, X, y)
    except ValueError as error:
        kind = "(liked |disliked )" if per_sign else ""
        assert re.match(f"No user has a {kind}row to hold out", str(error))
        assume(False)
    assert len(splits) == splitter.get_n_splits()
    histories = {
        user: sorted((row for row in kept if X[row, 0] == user), key=lambda row: (X[row, 2], row))
        for user in set(X[kept, 0])
    }
    targets = [
        {
            user: [row for row in rows[1:] if sign is None or y[row] == sign][-1:]
            for user, rows in histories.items()
        }
        for sign in ((1, -1) if per_sign else (None,))
    ]
    for (train, test), targets_of in zip(splits, targets, strict=True):
        assert leaks(X, train, test) == []
        check_test_fold(X, train, test)
        # What scorers rank, each user's last row, is the row held out in this fold.
        tested = set(X[test, 0])
        assert tested == {user for user, rows in targets_of.items() if rows}
        for user, rows in histories.items():
            if user in tested:
                assert max((r for r in test if r in rows), key=rows.index) == targets_of[user][0]
            held_out_rows = [row for of in targets for row in of[user]]
            first = min(map(rows.index, held_out_rows), default=len(rows))
            assert [row in train for row in rows] == [i < first for i in range(len(rows))]


def test_someone_must_have_a_history():
    with pytest.raises(ValueError, match="No user has a row to hold out"):
        next(LeaveLastOutSplit().split(np.array([[1, 10], [2, 10]])))
    X = np.array([[1, 10], [1, 11], [1, 12]])
    for y, kind in [([-1, 1, 1], "disliked"), ([1, -1, -1], "liked"), (None, "disliked")]:
        with pytest.raises(ValueError, match=f"No user has a {kind} row to hold out"):
            next(LeaveLastOutSplit(per_sign=True).split(X, y))


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


@pytest.mark.parametrize(
    "splitter", [TemporalSplit(), LeaveLastOutSplit(), UserHoldoutSplit(item_column="what")]
)
@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"when": pd.to_datetime(["2020"] * 2), "who": ["a", "a"], "what": [1, 2]}),
        pl.DataFrame({"who": ["a", "a"], "what": [1, 2], "how": ["well", "badly"]}),
    ],
    ids=["time first", "third is no time"],
)
def test_columns_that_cannot_be_read_are_to_be_named(splitter, frame):
    name = type(splitter).__name__
    with pytest.raises((TypeError, ValueError), match=rf"{name}\(user_column=\.\.\., item_col"):
        next(splitter.split(frame))


def test_an_error_of_data_in_named_columns_is_no_matter_of_names():
    splitter = TemporalSplit(user_column=0, item_column=1, time_column=2)
    with pytest.raises(ValueError, match=r"is missing") as error:
        next(splitter.split(np.array([[1, 2, np.nan], [1, 3, 4]])))
    assert "user_column" not in str(error.value)


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


@settings(deadline=None, max_examples=60)
@given(table=tables(), splitter=st.sampled_from([TemporalSplit(quantile=0.5), LeaveLastOutSplit()]))
def test_what_is_held_out_was_not_trained_on(table, splitter):
    X, y, _ = table
    try:
        ((train, test),) = splitter.split(X, y)
    except ValueError:
        assume(False)
    mask = held_out_mask(train, test)
    assert mask.tolist() == [row not in set(train.tolist()) for row in test]
    ranks = PopularityRecommender().fit(X[train]).target_ranks(X[test], targets=mask)
    assert sorted(test[ranks.rows].tolist()) == held_out(train.tolist(), test.tolist())


# -- targets ---------------------------------------------------------------------------------


def histories_of(X, **options):
    events = read_interactions(X, **options)
    return build_histories(events, ItemVocabulary(events.item_ids))


def test_targets_by_hand():
    # In time order: user 1 rows 2, 4, 0; user 2 rows 1, 5; users 3 and 4 rows 3 and 6.
    histories = histories_of(SMALL)
    for targets, rows in [
        ("last", [0, 5]),
        ("all", [0, 4, 5]),
        (np.array([1, 0, 0, 1, 1, 0, 0], dtype=bool), [0, 3, 4]),
        (pd.Series([False, True, True] + [False] * 4), [1, 2]),
        ([False] * 7, []),
    ]:
        positions = find_targets(histories, targets, 7)
        assert positions.dtype == np.int64
        assert histories.rows[positions].tolist() == rows


@settings(deadline=None, max_examples=100)
@given(table=tables())
def test_a_target_has_an_earlier_row_of_its_user(table):
    X, _, kept = table
    histories = histories_of(X)
    earlier = [any(X[o, 0] == X[r, 0] and is_later(X, r, o) for o in kept) for r in kept]
    later = [any(X[o, 0] == X[r, 0] and is_later(X, o, r) for o in kept) for r in kept]
    every = [row for row, found in zip(kept, earlier, strict=True) if found]
    last = [r for r, e, n in zip(kept, earlier, later, strict=True) if e and not n]
    rows = {t: histories.rows[find_targets(histories, t, len(X))].tolist() for t in ("last", "all")}
    assert rows == {"last": last, "all": every}
    mask = np.ones(len(X), dtype=bool)
    assert histories.rows[find_targets(histories, mask, len(X))].tolist() == kept


@pytest.mark.parametrize(
    "targets", ["first", None, 3, [0, 1, 1, 0, 0, 0, 0], np.ones(6, bool), np.ones((7, 1), bool),
                "x" * 999, ["last"]],
)  # fmt: skip
def test_other_targets_are_refused(targets):
    with pytest.raises(
        ValueError, match=r"'last', 'all' or a bool array .* per row \(7\)"
    ) as error:
        find_targets(histories_of(SMALL), targets, 7)
    assert len(str(error.value)) < 150


def warn_of(trained, scored, targets="last", **columns):
    histories = histories_of(scored)
    warn_if_future_leaks(
        LastSeen.of(histories_of(trained)),
        histories,
        find_targets(histories, targets, len(scored)),
        columns,
    )


def events(times):
    """A row at time 0 and one at the given time for each user."""
    return np.array([[user, 0, when] for user, time in times.items() for when in (0, time)])


def dated(times, unit, type_=pd.DataFrame):
    rows = events(times)
    when = (np.datetime64("2020-01-01", "s") + rows[:, 2]).astype(f"M8[{unit}]")
    return type_({"user": rows[:, 0], "item": rows[:, 1], "time": when})


def test_targets_before_what_was_trained_on_are_counted():
    trained = events({1: 7, 2: 7, 3: 7})
    with pytest.warns(FutureLeakWarning, match=r"2 of 4 targets lie before .*KFold.*Split\(\) "):
        warn_of(trained, events({0: 1, 1: 6, 2: 7, 3: 2}))
    # A user's only row is no target unless a mask says so.
    alone = np.array([[1, 0, 3], [2, 0, 5], [2, 0, 9]])
    warn_of(trained, alone)
    with pytest.warns(FutureLeakWarning, match="1 of 1 targets"):
        warn_of(trained, alone, np.array([True, False, False]))
    with pytest.warns(FutureLeakWarning, match="2 of 3 targets"):
        warn_of(trained, alone, np.ones(3, dtype=bool))


def test_the_advice_names_the_columns_of_the_model():
    with pytest.warns(
        FutureLeakWarning, match=r"TemporalSplit\(user_column='who', time_column=0\)"
    ):
        warn_of(events({1: 7}), events({1: 6}), user_column="who", item_column=None, time_column=0)


@pytest.mark.parametrize("units", [("ns", "us"), ("us", "ns"), ("ms", "ns"), ("us", "ms")])
@pytest.mark.parametrize("type_", [pd.DataFrame, pl.DataFrame])
def test_leaks_are_found_whatever_the_unit(units, type_):
    trained = dated({1: 700, 2: 700}, units[0], type_)
    scored = dated({1: 699, 2: 700}, units[1], type_)
    with pytest.warns(FutureLeakWarning, match="1 of 2 targets"):
        warn_of(trained, scored)


def test_a_time_that_was_rounded_is_not_earlier():
    row = dated({1: 700}, "ns")
    row["time"] += pd.Timedelta("500ms")
    warn_of(row, dated({1: 700}, "s"))
    warn_of(dated({1: 700}, "s"), row)
    # Far from what nanoseconds can tell.
    far = row.assign(time=np.array(["1000-01-01", "3000-01-01"], dtype="M8[s]"))
    warn_of(row, far)
    with pytest.warns(FutureLeakWarning):
        warn_of(far, row)


@pytest.mark.parametrize(
    ("trained", "scored"),
    [
        (events({1: 7, 2: 1}), events({1: 7, 2: 2})),
        (events({1: 7}), events({2: 1})),
        (dated({1: 7}, "s"), events({1: 1})),
        (events({1: 7})[:, :2], events({1: 1})),
        (events({1: 7}), events({1: 1})[:, :2]),
    ],
    ids=["later", "another user", "no datetimes", "not known", "no times"],
)
def test_nothing_that_leaks_is_no_warning(trained, scored):
    warn_of(trained, scored)


def test_last_seen_is_read_off_histories():
    histories = histories_of(np.array([[5, 0, 3], [4, 0, 9], [5, 1, 1]]))
    seen = LastSeen.of(histories)
    assert (seen.users.tolist(), seen.times.tolist(), seen.unit) == ([4, 5], [9, 3], None)
    assert LastSeen.of(replace(histories, times=None)) is None
    assert LastSeen.of(histories_of(dated({1: 7}, "ms"))).unit == "ms"
