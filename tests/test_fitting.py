"""What a fit holds out, validates by, and takes over from the model that it goes on from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FEEDBACKS, HISTORIES, X, Y, as_pandas, same_weights, tiny

from posneg_rec import fitting
from posneg_rec.fitted import FittedModel
from posneg_rec.interactions import read_interactions
from posneg_rec.model_selection import FutureLeakWarning
from posneg_rec.sequences import Histories


def histories(lengths, signs=None):
    """Users with so many events, all liked if nothing else is said."""
    n = sum(lengths)
    return Histories(
        users=np.arange(len(lengths)),
        items=np.arange(n),
        signs=np.ones(n, np.int8) if signs is None else np.array(signs, np.int8),
        times=None,
        rows=np.arange(n),
        offsets=np.cumsum([0, *lengths]),
    )


def hold_out(events, fraction, n_items=100, seed=0, can_be_hit=None):
    if can_be_hit is None:
        can_be_hit = np.full(len(events.items), True)
    rng = np.random.default_rng(seed)
    return fitting._hold_out(events, can_be_hit, n_items, fraction, rng)


def n_held_of(events, validation):
    return [int(part.sum()) for part in np.split(validation.held, events.offsets[1:-1])]


# ------------------------------------------------------------------------------ held out


@pytest.mark.parametrize(
    ("length", "n_held"), [(2, 1), (3, 1), (19, 9), (20, 10), (21, 10), (22, 10), (100, 10)]
)
def test_latest_half_of_a_user_is_held_out_but_no_more_than_ten(length, n_held):
    events = histories([length, 1])  # nothing can be held out of one event
    validation = next(found for seed in range(20) if (found := hold_out(events, 0.5, seed=seed)))
    assert np.flatnonzero(validation.held).tolist() == list(range(length - n_held, length))
    assert validation.targets.tolist() == list(range(length - n_held, length))
    assert validation.users.tolist() == [0] * n_held


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=12), st.floats(0.01, 1.0), st.integers(0, 99)
)
def test_a_share_of_the_users_is_held_out_and_never_all(lengths, fraction, seed):
    events = histories(lengths)
    validation = hold_out(events, fraction, seed=seed)
    most = min(math.ceil(fraction * len(lengths)), len(lengths) - 1)
    if validation is None:
        return
    n_held = n_held_of(events, validation)
    assert 0 < np.count_nonzero(n_held) <= most
    for length, n in zip(lengths, n_held, strict=True):
        assert n in (0, min(length // 2, 10))
    if min(lengths) > 1:
        assert np.count_nonzero(n_held) == most


def test_likes_alone_are_targets_though_all_latest_events_are_held():
    events = histories([6, 6], [1, -1, 1, -1, 0, 1] * 2)
    validation = hold_out(events, 0.5)
    (user,) = np.unique(validation.users)
    assert np.flatnonzero(validation.held).tolist() == [6 * user + place for place in (3, 4, 5)]
    assert validation.targets.tolist() == [6 * user + 5]


def test_no_like_among_the_latest_events_is_no_validation():
    assert hold_out(histories([4, 4], [1, 1, -1, 0] * 2), 0.5) is None


@pytest.mark.parametrize(
    ("n_items", "n_held"),
    [
        (1, 4090),  # 2**12 at most, in tens
        (2**16, 4090),
        (2**19, 510),  # 2**28 scores
        (2**20, 250),
        (2**24, 250),  # 2**8 events whatever they cost
    ],
)
def test_held_events_of_all_users_together_have_a_limit(n_items, n_held):
    events = histories([20] * 500)
    validation = hold_out(events, 1.0, n_items=n_items)
    assert validation.held.sum() == len(validation.targets) == n_held
    assert set(n_held_of(events, validation)) == {0, 10}


@pytest.mark.parametrize(("most", "n_held"), [(9, 0), (10, 10), (19, 10), (20, 20), (29, 20)])
def test_a_user_beyond_the_limit_stays_in_training(monkeypatch, most, n_held):
    monkeypatch.setattr(fitting, "_MAX_VALIDATION_TARGETS", most)
    validation = hold_out(histories([40] * 4), 0.75)
    assert (0 if validation is None else validation.held.sum()) == n_held


def test_nothing_is_held_out_where_no_target_can_be_hit():
    events = histories([4, 4])
    with pytest.warns(UserWarning, match="All 2 events kept for early stopping repeat"):
        assert hold_out(events, 0.5, can_be_hit=np.full(8, False)) is None
    one = np.arange(8) % 4 == 3
    assert hold_out(events, 0.5, can_be_hit=one).held.sum() == 2


# ------------------------------------------------------------------------------ counts, settings


@pytest.mark.parametrize("n_items", [3, 5])
@pytest.mark.parametrize(
    ("weights", "likes", "dislikes"),
    [
        (None, [2, 1, 0], [0, 1, 1]),
        ([0.0, 0.5, 0.0, 1e-9, 0.0, 0.2, 1.0], [1, 0, 0], [0, 0, 1]),
    ],
)
def test_counts_are_of_likes_and_of_dislikes_of_weight(n_items, weights, likes, dislikes):
    events = Histories(
        users=np.arange(2),
        items=np.array([0, 1, 1, 2, 0, 2]),
        signs=np.array([1, -1, 1, -1, 1, 0], np.int8),
        times=None,
        rows=np.array([1, 2, 0, 3, 4, 6]),  # the caller's rows, one of which is left out
        offsets=np.array([0, 3, 6]),
    )
    weights = None if weights is None else np.array(weights, np.float32)
    counted = fitting._counts(events, n_items, fitting._new(events, weights, None), None)
    more = [0] * (n_items - 3)
    assert [part.tolist() for part in counted] == [likes + more, dislikes + more]


@pytest.mark.parametrize(("n_repeats", "excludes"), [(0, True), (1, True), (2, False), (5, False)])
def test_seen_items_are_left_out_unless_a_tenth_of_what_could_repeat_does(n_repeats, excludes):
    events = histories([11, 11, 1, *[0] * 10])  # in 20 events an item could be met again
    repeats = np.arange(23) < n_repeats
    assert fitting.resolve_exclude_seen("auto", events, repeats) is excludes
    for stated in (True, False):
        assert fitting.resolve_exclude_seen(stated, events, repeats) is stated


def test_users_of_one_event_cannot_repeat():
    assert fitting.resolve_exclude_seen("auto", histories([1, 1]), np.full(2, False)) is True


@pytest.mark.parametrize("scale", [1e-300, 1.0, 3, 1e300])
def test_weights_are_parts_of_the_largest_whatever_their_unit(scale):
    events = read_interactions(X[:4], Y[:4])
    weights = fitting._target_weights(np.array([0, 1, 4, 2]) * scale, events)
    assert weights.dtype == np.float32
    assert weights.tolist() == [0, 0.25, 1, 0.5]


def test_generator_is_our_own_and_differs_from_fit_to_fit():
    def first(state, n_before):
        return int(fitting._generator(state, n_before).integers(2**62))

    assert first(7, 0) == first(np.int64(7), 0) == int(np.random.default_rng(7).integers(2**62))
    numbers = [first(7, 0), first(7, 1), first(7, 2), first(8, 0), first(8, 1)]
    assert len({*numbers, first(None, 0), first(None, 0)}) == 7
    assert first(7, 2) == numbers[2]
    state = np.random.RandomState(0)
    assert first(state, 0) != first(state, 0)  # it goes on
    assert first(np.random.RandomState(0), 0) == first(np.random.RandomState(0), 3)


# ------------------------------------------------------------------------------ validation


def test_ranges_of_time_and_counts_to_validate_by_are_of_the_training_part_alone(monkeypatch):
    seen = []

    def ranks(self, events, users, targets, **options):
        seen.append((self, events))
        return np.ones(len(targets))

    gaps, choose = [], fitting.gap_edges
    monkeypatch.setattr(fitting, "gap_edges", lambda found: gaps.append(found) or choose(found))
    monkeypatch.setattr(FittedModel, "ranks", ranks)
    # The latest half of each user is of items of its own.
    rows = np.array(
        [(u, 10 * late + t, 4 * late + t) for u in range(4) for late in (0, 1) for t in range(4)]
    )
    feedback = np.tile([1, -1, 1, 1], 8)
    model = tiny(validation_fraction=0.75).fit(rows, feedback)
    validating, events = seen[0]
    assert len(events.items) == len(rows)  # what is ranked by is the whole past
    assert np.isfinite(gaps[0]).sum() == 3 * 3 + 7
    assert validating.likes.sum() + validating.dislikes.sum() == 4 * 4 + 4  # 3 of 4 users halved
    assert model.fitted_.likes.tolist() == (4 * np.array([1, 0, 1, 1] * 2)).tolist()
    assert model.fitted_.dislikes.tolist() == (4 * np.array([0, 1, 0, 0] * 2)).tolist()


@pytest.mark.parametrize("aversion", [0.0, 2.5])
def test_validation_score_is_the_ndcg_of_ten_of_the_held_out_likes(monkeypatch, aversion):
    asked = []

    def ranks(self, events, users, targets, **options):
        asked.append((events.signs[targets], options))
        return np.resize([1, 3, 11, 10], len(targets))

    monkeypatch.setattr(FittedModel, "ranks", ranks)
    model = tiny(dislike_aversion=aversion).fit(X, Y)
    gains = np.resize([1, 1 / 2, 0, 1 / math.log2(11)], len(asked[0][0]))
    assert len(gains) > 4
    assert model.history_["validation_score"] == pytest.approx([gains.mean()] * 2)
    for signs, options in asked:
        assert (signs == 1).all() and options == {"dislike_aversion": aversion, "device": "auto"}


def test_repeated_items_are_validated_on_where_they_can_be_recommended(recwarn):
    rows = np.array([[user, item] for user in range(4) for item in (0, 1, 0, 1)])
    feedback = np.array([1, -1, 1, 1] * 4)
    for exclude_seen in (False, "auto"):
        model = tiny(exclude_seen=exclude_seen).fit(rows, feedback)
        assert None not in model.history_["validation_score"]
    assert not recwarn
    with pytest.warns(UserWarning, match="repeat an item of their user"):
        model = tiny(exclude_seen=True).fit(rows, feedback)
    assert set(model.history_["validation_score"]) == {None}


# ------------------------------------------------------------------------------ a set of one's own

LAST = X[:, 0].max() - 9
OTHERS, OTHER_Y = X[X[:, 0] >= LAST], Y[X[:, 0] >= LAST]
TRAIN, TRAIN_Y = X[X[:, 0] < LAST], Y[X[:, 0] < LAST]


def watched(monkeypatch):
    """Fix the ranks, and note which events are ranked."""
    asked = []

    def ranks(self, events, users, targets, **options):
        asked.append((self, events, users, targets))
        return np.resize([1, 3, 11, 10], len(targets))

    monkeypatch.setattr(FittedModel, "ranks", ranks)
    return asked


@pytest.mark.parametrize("form", ["array", "pandas", "histories"])
def test_a_validation_set_is_ranked_and_nothing_of_the_rest_is_held_out(monkeypatch, form):
    asked = watched(monkeypatch)
    if form == "histories":
        train, y = HISTORIES[:30], FEEDBACKS[:30]
        others, other_y = HISTORIES[30:], FEEDBACKS[30:]
    else:
        make = as_pandas if form == "pandas" else np.asarray
        train, y, others, other_y = make(TRAIN), TRAIN_Y, make(OTHERS), OTHER_Y
    model = tiny().fit(train, y, X_val=others, y_val=other_y)
    validating, events, users, targets = asked[0]
    # Every like of the latest half of each of their users, and nothing else.
    expected = []
    for user in range(10):
        start, stop = events.offsets[user : user + 2]
        latest = np.arange(stop - min((stop - start) // 2, 10), stop)
        expected += latest[events.signs[latest] == 1].tolist()
    assert len(events.users) == 10 and targets.tolist() == expected
    assert events.items.tolist() == model.fitted_.vocabulary.encode(OTHERS[:, 1]).tolist()
    assert (np.repeat(np.arange(10), events.lengths)[targets] == users).all()
    # What is counted, before the end and at it, is all of the rest.
    for fitted in (validating, model.fitted_):
        assert fitted.likes.sum() == np.count_nonzero(TRAIN_Y == 1)
        assert fitted.dislikes.sum() == np.count_nonzero(TRAIN_Y == -1)
    gains = np.resize([1, 1 / 2, 0, 1 / math.log2(11)], len(targets))
    assert model.history_["validation_score"] == pytest.approx([gains.mean()] * 2)


def test_training_with_a_validation_set_is_training_on_all_the_rest():
    # Where each epoch is better than the one before, the last weights come back.
    model = tiny(max_epochs=1).fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)
    assert model.validation_fraction == 0.1
    other = tiny(max_epochs=1, validation_fraction=0.9)
    assert same_weights(model, other.fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y))
    assert not same_weights(model, tiny(max_epochs=1).fit(TRAIN, TRAIN_Y))


def test_a_validation_set_stops_a_fit_and_keeps_the_best_weights(monkeypatch):
    scores = iter([0.2, 0.4, 0.3, 0.1, 0.9])
    monkeypatch.setattr(fitting, "gain", lambda ranks, *which: np.full(len(ranks), next(scores)))
    sizes = {"max_epochs": 5, "n_iter_no_change": 2, "item_memory": False}
    model = tiny(**sizes).fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)
    assert model.history_["validation_score"] == pytest.approx([0.2, 0.4, 0.3, 0.1])
    scores = iter([0.2, 0.4])
    two = tiny(**sizes | {"max_epochs": 2}).fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)
    assert same_weights(model, two)


@pytest.mark.parametrize(("n_targets", "patience"), [(4, 10), (999, 10), (1000, 5)])
def test_of_few_targets_early_stopping_waits_longer(monkeypatch, n_targets, patience):
    monkeypatch.setattr(FittedModel, "ranks", lambda self, events, users, *_, **__: 0 * users + 1)
    train, y = X[X[:, 0] < 3], Y[X[:, 0] < 3]
    users, items = 100 + np.arange(n_targets).repeat(2), np.resize(train[:2, 1], 2 * n_targets)
    others = {"X_val": np.column_stack([users, items, items]), "y_val": np.ones(len(items))}
    flat = tiny(max_epochs=30, item_memory=False)
    assert flat.fit(train, y, **others).n_iter_ == 1 + patience  # the first epoch is the best
    asked = flat.set_params(n_iter_no_change=3)
    assert asked.fit(train, y, **others).n_iter_ == 1 + 3


def test_memory_is_weighed_by_the_validation_set(monkeypatch):
    seen = []

    def weighed(self, items, events, held):
        seen.append((items, events, held))
        return original(self, items, events, held)

    original = FittedModel.weighed
    monkeypatch.setattr(FittedModel, "weighed", weighed)
    tiny().fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)
    items, events, held = seen[-1]
    assert len(events.items) == len(OTHERS)
    assert held.sum() == np.minimum(events.lengths // 2, 10).sum()
    assert items.counts.sum() <= np.count_nonzero(TRAIN_Y)  # of the rows to train on alone


@pytest.mark.parametrize(
    ("found", "lost", "stays"),
    [(0, 0, True), (5, 1, True), (4, 3, True), (3, 4, True), (1, 6, False), (0, 2, False)],
)
def test_a_memory_goes_where_it_harms_by_more_than_a_standard_error(
    monkeypatch, found, lost, stays
):
    def ranks(self, events, users, targets, **options):
        places = np.resize([1, 99], len(targets))
        if self.memory is not None:
            places[1 : 2 * found : 2], places[0 : 2 * lost : 2] = 1, 99
        return places

    monkeypatch.setattr(FittedModel, "ranks", ranks)
    model = tiny(max_epochs=1).fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)
    assert (model.fitted_.memory is not None) is stays


def test_of_a_large_validation_set_some_users_are_ranked(monkeypatch):
    monkeypatch.setattr(fitting, "_MAX_VALIDATION_TARGETS", 10)
    asked = watched(monkeypatch)
    chosen = []
    for seed in (0, 0, 1, 2):
        tiny(random_state=seed).fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)
        chosen.append(sorted(set(asked[-1][2].tolist())))
    assert chosen[0] == chosen[1] and len({tuple(users) for users in chosen}) > 1
    assert all(0 < len(users) < 10 for users in chosen)


VALIDATION = {"X_val": OTHERS, "y_val": OTHER_Y}


@pytest.mark.parametrize(
    ("changes", "y", "passed", "message"),
    [
        ({"early_stopping": False}, TRAIN_Y, VALIDATION, "early_stopping=False"),
        ({}, TRAIN_Y, {"y_val": OTHER_Y}, "y_val is provided, but X_val"),
        ({}, TRAIN_Y, {"X_val": OTHERS}, "X_val is provided, but y_val"),
        ({}, None, VALIDATION, "y_val is provided, but y was not"),
        ({}, TRAIN_Y, {"X_val": OTHERS[:, :2], "y_val": OTHER_Y}, "X_val: X has 2 .*, but Contra"),
        ({}, TRAIN_Y, {"X_val": OTHERS, "y_val": OTHER_Y[1:]}, "X_val, y_val: .*[Ff]eedback"),
        ({}, TRAIN_Y, {"X_val": OTHERS[:0], "y_val": OTHER_Y[:0]}, "X_val: Found array with 0 sam"),
        ({}, TRAIN_Y, {"X_val": [[], []], "y_val": [[], []]}, "X_val, y_val: "),
        ({}, TRAIN_Y, {"X_val": OTHERS, "y_val": OTHER_Y * 3}, "X_val, y_val: "),
        (
            {},
            TRAIN_Y,
            {"X_val": np.add(OTHERS, [0, 1000, 0]), "y_val": OTHER_Y},
            r"X_val holds no item of X: it has \[10\d\d, .*, X has \[0, 1, 2, ...\]",
        ),
        (
            {},
            TRAIN_Y,
            {"X_val": [["a", "b"]], "y_val": [[1, 1]]},
            "X_val holds no item of X: the model knows integer ids, got strings",
        ),
        (
            {},
            TRAIN_Y,
            {"X_val": OTHERS[np.unique(OTHERS[:, 0], return_index=True)[1]], "y_val": [1] * 10},
            "None of the 10 users of X_val has a second event",
        ),
        ({}, TRAIN_Y, {"X_val": OTHERS, "y_val": -abs(OTHER_Y)}, "latest events .* is liked"),
        (
            {"exclude_seen": True},
            TRAIN_Y,
            {"X_val": [[1, 1], [2, 1, 2]], "y_val": [[1, 1], [1, 1, 1]]},
            "None of the 2 liked latest events of X_val .* 0 are of items .* 2 repeat",
        ),
        (
            {},
            TRAIN_Y,
            {"X_val": [[1, 999]], "y_val": [[1, 1]]},
            "None of the 1 liked latest events of X_val .* 1 are of items that X does not hold",
        ),
    ],
)
def test_validation_set_that_cannot_be_ranked_is_named(changes, y, passed, message):
    model = tiny(**changes)
    with pytest.raises(ValueError, match=message):
        model.fit(TRAIN, y, **passed)
    assert "fitted_" not in vars(model)


def test_unknown_items_of_a_validation_set_are_ignored_missed_and_named(monkeypatch):
    asked = watched(monkeypatch)
    others, feedback = [[1, 5, 999, 7], [888, 2, 3, 4]], [[1, 1, 1, 1], [1, 1, 1, 1]]
    with pytest.warns(
        UserWarning,
        match=r"2 of 8 events of X_val .* \(\[888, 999\]\)",
    ):
        tiny(item_memory=False).fit(TRAIN, TRAIN_Y, X_val=others, y_val=feedback)
    _, events, _, targets = asked[0]
    assert targets.tolist() == [2, 3, 6, 7]
    assert events.items[[2, 4]].tolist() == [-1, -1]


def test_graded_feedback_of_a_validation_set_is_read_by_the_threshold(monkeypatch):
    asked = watched(monkeypatch)
    model = tiny(positive_threshold=4)
    model.fit(TRAIN, TRAIN_Y + 4, X_val=OTHERS, y_val=OTHER_Y + 4)
    assert asked[0][1].signs.tolist() == OTHER_Y.tolist()


def test_zero_means_the_same_in_the_validation_set(monkeypatch):
    asked = watched(monkeypatch)
    signed = TRAIN_Y.copy()
    signed[::5] = 0
    tiny().fit(TRAIN, signed, X_val=OTHERS, y_val=np.maximum(OTHER_Y, 0))
    assert set(asked[0][1].signs) == {0, 1}  # neutral, though no -1 is in sight


@pytest.mark.parametrize("timeless", [False, True])
def test_a_validation_set_that_was_trained_on_is_named(recwarn, timeless):
    def of(rows):
        return rows[:, :2] if timeless else rows

    with pytest.warns(FutureLeakWarning, match=r"of \d+ targets of X_val are rows of X, too"):
        tiny().fit(of(X), Y, X_val=of(OTHERS), y_val=OTHER_Y)
    recwarn.clear()
    tiny().fit(of(TRAIN), TRAIN_Y, X_val=of(OTHERS), y_val=OTHER_Y)
    # The same users, but their later rows are not trained on: all rows before a target are there.
    lengths = np.bincount(X[:, 0].astype(int))
    place = np.concatenate([np.arange(length) for length in lengths])
    latest = place >= np.repeat(lengths - lengths // 2, lengths)
    if not timeless:
        tiny().fit(X[~latest], Y[~latest], X_val=X, y_val=Y)
    # Users of a list are told by their place alone.
    tiny().fit(HISTORIES, FEEDBACKS, X_val=HISTORIES[30:], y_val=FEEDBACKS[30:])
    assert not recwarn


# ------------------------------------------------------------------------------ going on


def test_partial_fit_holds_nothing_out():
    model = tiny().partial_fit(X, Y)
    counted = model.fitted_.likes.sum() + model.fitted_.dislikes.sum()
    assert model.partial_fit(X, Y).history_["validation_score"] == [None, None]
    assert counted == np.count_nonzero(Y)


def test_ranges_of_time_stay_as_the_first_fit_chose_them():
    model = tiny().fit(X, Y)
    edges = model.fitted_.gap_edges.copy()
    slower = X.copy()
    slower[:, 2] *= 1000
    model.partial_fit(slower, Y)
    np.testing.assert_array_equal(model.fitted_.gap_edges, edges)
    relearned = tiny().fit(slower, Y).fitted_.gap_edges
    np.testing.assert_allclose(relearned, 1000 * edges)


def test_new_fit_forgets_the_ranges_of_time():
    model = tiny().fit(X, Y)
    edges = model.fitted_.gap_edges.copy()
    slower = X.copy()
    slower[:, 2] *= 1000
    np.testing.assert_allclose(model.fit(slower, Y).fitted_.gap_edges, 1000 * edges)


@pytest.mark.parametrize("objective", ["joint", "pnfrec"])
@pytest.mark.parametrize("scale", [0.01, 100])
def test_items_that_join_start_as_small_as_a_new_models(objective, scale):
    model = tiny(objective=objective, learning_rate=1e-12).fit(X, Y)
    for value in model.weights_.values():
        value *= scale
    n_before = len(model.items_)
    fitted = model.weights_["item_embedding"].copy()
    rows = X.copy()
    rows[:, 1] += 1000 * (1 + rows[:, 0])  # nothing but items that nobody has met
    model.partial_fit(rows, Y)
    table = model.weights_["item_embedding"]
    np.testing.assert_allclose(table[:n_before], fitted, rtol=1e-6, atol=1e-9)
    joined = table[n_before:]
    assert joined.size > 1000
    assert joined.std() == pytest.approx(0.02, rel=0.1)
    assert abs(joined.mean()) < 0.002
    if objective == "joint":
        np.testing.assert_allclose(model.weights_["item_taste"][n_before:], 0, atol=1e-9)
