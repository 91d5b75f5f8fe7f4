"""The estimator from outside: what goes in, what comes out, what it never does."""

import copy
import pickle
import subprocess
import sys
import uuid
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import KFold, cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny import Hooks

from posneg_rec import ContrastiveSeqRecommender, objectives, serving, training
from posneg_rec.baselines import PopularityRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import evaluate, recommender_scorer
from posneg_rec.model_selection import (
    FutureLeakWarning,
    LeaveLastOutSplit,
    TemporalSplit,
    UserHoldoutSplit,
    held_out_mask,
)
from posneg_rec.recommender import PNFREC

SMALL = {"embedding_dim": 8, "n_layers": 1, "max_len": 6, "max_epochs": 2, "random_state": 0}


@pytest.mark.filterwarnings("ignore:No user has two events")  # each row another user
@pytest.mark.filterwarnings("ignore:None of the .* events is disliked")
@parametrize_with_checks(
    [
        ContrastiveSeqRecommender(positive_threshold=1, objective=objective, **SMALL)
        for objective in ("joint", "pnfrec")
    ],
    expected_failed_checks={},
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


def small(**changes):
    return ContrastiveSeqRecommender(**SMALL | changes)


def table(n_users=30, n_items=12, seed=0):
    """Interactions of distinct items per user, times out of order, and signed feedback."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(n_users), 8)
    items = np.concatenate([rng.permutation(n_items)[:8] for _ in range(n_users)])
    times = rng.permutation(len(users))
    feedback = rng.choice([-1, 1], size=len(users), p=[0.4, 0.6])
    return np.column_stack([users, items, times]), feedback


@pytest.fixture(scope="module")
def fitted():
    return small().fit(*table())


@pytest.fixture(scope="module")
def pnfrec():
    return small(objective="pnfrec").fit(*table())


# ----------------------------------------------------------------------------- a known world


@pytest.fixture(scope="module")
def world():
    world = make_opposing_patterns(n_users=600, random_state=0)
    train = world.interactions[:, 0] < 400
    return world, train


def fit_world(world, train, **settings):
    settings = {
        "embedding_dim": 32,
        "n_layers": 1,
        "max_len": 30,
        "learning_rate": 3e-3,
        "dropout": 0.1,
        "max_epochs": 40,
        "objective": "pnfrec",
    } | settings
    model = ContrastiveSeqRecommender(random_state=0, **settings)
    return model.fit(world.interactions[train], world.feedback[train])


def hit_rates(model, world, test):
    """Share of liked and of disliked events that are among the five recommended before them."""
    ranks = model.target_ranks(world.interactions[test], world.feedback[test], targets="all")
    return [float((ranks.ranks[ranks.signs == sign] <= 5).mean()) for sign in (1, -1)]


def test_contrast_keeps_what_is_liked_and_avoids_what_is_disliked(world):
    """Half of all likes are one of two items that the truth knows, so 0.75 is close to it."""
    world, train = world
    likes_only = fit_world(world, train, negative_weight=0, contrastive_weight=0)
    full = fit_world(world, train, negative_weight=0.5, contrastive_weight=1.0)
    liked, disliked = hit_rates(full, world, ~train)
    liked_alone, disliked_alone = hit_rates(likes_only, world, ~train)
    assert liked_alone > 0.75 and liked > liked_alone - 0.05
    assert disliked < disliked_alone - 0.2
    test = world.interactions[~train], world.feedback[~train]
    assert full.score(*test) > likes_only.score(*test) + 0.1


def test_joint_objective_avoids_dislikes_by_aversion_alone(world):
    world, train = world
    model = fit_world(world, train, objective="joint")
    rates = []
    for aversion in (0.0, 1.0, 3.0):
        model.set_params(dislike_aversion=aversion)
        rates.append(hit_rates(model, world, ~train))
    (liked, disliked), (_, disliked_less), (liked_at_most, disliked_least) = rates
    # Likes and dislikes of this world look alike but for the sign of their group.
    assert liked > 0.7 and disliked > 0.6
    assert disliked - 0.2 > disliked_less > disliked_least + 0.05
    assert liked_at_most > liked - 0.1


def test_dislikes_that_tell_nothing_cost_little():
    """What was disliked is noise here, which a model that sees likes only never reads."""
    world = make_opposing_patterns(n_users=600, informative_dislikes=False, random_state=0)
    train = world.interactions[:, 0] < 400
    likes_only = fit_world(world, train, negative_weight=0, contrastive_weight=0)
    # Where the last item tells what comes next, a memory has a price of its own.
    joint = fit_world(world, train, objective="joint", item_memory=False)
    liked_alone, _ = hit_rates(likes_only, world, ~train)
    liked, _ = hit_rates(joint, world, ~train)
    assert liked_alone > 0.7 and liked > liked_alone - 0.05


def test_where_all_is_liked_only_what_comes_next_counts_and_a_note_says_so():
    interactions, feedback = table()
    liked = np.ones_like(feedback)
    with pytest.warns(UserWarning, match="None of the 240 events is disliked.*threshold"):
        model = small().fit(interactions, liked)
    plain, averse = (
        model.recommend(interactions, feedback=liked, k=3, dislike_aversion=aversion)
        for aversion in (0, 50)
    )
    np.testing.assert_array_equal(plain, averse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small().fit(interactions)  # who passes no feedback needs no note


# ------------------------------------------------------------------------------- repeatable


def test_random_state_alone_repeats_a_fit_and_leaves_the_global_states():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    one, same, other = (small(random_state=seed).fit(*table()) for seed in (0, 0, 1))
    for name, value in one.weights_.items():
        assert np.array_equal(value, same.weights_[name])
    assert not np.array_equal(one.weights_["item_embedding"], other.weights_["item_embedding"])
    from_state = small(random_state=np.random.RandomState(3)).fit(*table())
    again = small(random_state=np.random.RandomState(3)).fit(*table())
    assert np.array_equal(from_state.weights_["item_embedding"], again.weights_["item_embedding"])
    small(random_state=None).fit(*table())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def as_pandas(rows):
    return pd.DataFrame(rows, columns=["user", "item", "time"])


FORMS = {
    "array": lambda rows: rows,
    "pandas": as_pandas,
    "polars": lambda rows: pl.from_pandas(as_pandas(rows)),
    "pyarrow": lambda rows: pa.Table.from_pandas(as_pandas(rows)),
    "shuffled columns": lambda rows: as_pandas(rows)[["time", "item", "user"]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_table_gives_the_same_model_and_its_own_kind_of_answer(fitted, form):
    rows, feedback = table()
    interactions = FORMS[form](rows)
    model = small().fit(interactions, feedback)
    assert np.array_equal(model.weights_["item_embedding"], fitted.weights_["item_embedding"])
    answer = model.recommend(interactions, k=2, feedback=feedback)
    expected = fitted.recommend(rows, k=2, feedback=feedback)
    if form == "array":
        assert answer.dtype.names == ("user", "item", "score", "rank")
    else:
        assert type(answer) is type(interactions)
    for name in expected.dtype.names:
        np.testing.assert_array_equal(np.asarray(answer[name]), expected[name])
    assert expected["user"].tolist() == np.repeat(np.arange(30), 2).tolist()
    assert expected["rank"].tolist() == [1, 2] * 30


@pytest.mark.parametrize(
    "recode",
    [
        lambda y: y == 1,
        lambda y: (y == 1).astype(int),
        lambda y: pd.Series(np.where(y == 1, 5.0, 2.0)),
        lambda y: list(y),
    ],
    ids=["bool", "zero-one", "graded", "list"],
)
def test_every_coding_of_feedback_gives_the_same_model(fitted, recode):
    rows, feedback = table()
    recoded = recode(feedback)
    threshold = 4 if isinstance(recoded, pd.Series) else None
    model = small(positive_threshold=threshold).fit(rows, recoded)
    assert np.array_equal(model.weights_["item_embedding"], fitted.weights_["item_embedding"])


def test_histories_fit_like_the_table_they_come_from():
    rows, feedback = table()
    order = np.lexsort((rows[:, 2], rows[:, 0]))
    rows, feedback = rows[order, :2], feedback[order]  # no times, for histories have none
    items, signs = (column.reshape(30, 8).tolist() for column in (rows[:, 1], feedback))
    model, from_table = small().fit(items, signs), small().fit(rows, feedback)
    assert np.array_equal(model.weights_["item_embedding"], from_table.weights_["item_embedding"])
    assert model.score(items, signs) == from_table.score(rows, feedback)


def test_time_between_events_is_read_in_any_unit():
    """Seconds as numbers and datetimes of two units make one model, which reads all of them."""
    rows, feedback = table()
    rows[:, 2] *= 37
    seconds = pd.DataFrame(rows, columns=["user", "item", "time"])
    model = small().fit(seconds, feedback)
    items, scores = model.recommend(seconds, 3, feedback=feedback)[["item", "score"]].T.to_numpy()
    for unit in ("s", "ms", "ns"):
        dates = seconds.assign(time=pd.to_datetime(seconds["time"], unit="s").astype(f"M8[{unit}]"))
        other = small().fit(dates, feedback)
        assert np.array_equal(model.weights_["gap_embedding"], other.weights_["gap_embedding"])
        answer = model.recommend(dates, 3, feedback=feedback)
        assert np.array_equal(answer["item"], items) and np.array_equal(answer["score"], scores)
    # Time counts: without it the answer is another.
    timeless = model.recommend(seconds[["user", "item"]], 3, feedback=feedback)
    assert not np.array_equal(timeless["score"], scores)


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(12) + 2**60 + 1,
        np.array([f"item {i:02}" for i in range(12)], dtype=object),
        np.array([uuid.UUID(int=2**100 + i) for i in range(12)], dtype=object),
    ],
    ids=["int64", "str", "uuid"],
)
def test_ids_come_back_exactly(fitted, ids):
    rows, feedback = table()
    frame = pd.DataFrame({"user": rows[:, 0], "item": ids[rows[:, 1]], "time": rows[:, 2]})
    model = small().fit(frame, feedback)
    expected = fitted.recommend([3, 4], k=5)[0]
    answer = model.recommend([ids[3], ids[4]], k=5)[0]
    assert answer.tolist() == ids[expected].tolist()
    assert type(answer.tolist()[0]) is type(ids.tolist()[0])


def test_the_callers_data_is_not_changed():
    rows, feedback = table()
    frame, series = as_pandas(rows), pd.Series(feedback)
    frame_before, series_before = frame.copy(), series.copy()
    model = small().fit(frame, series)
    model.recommend(frame, k=4, feedback=series)
    model.score(frame, series)
    pd.testing.assert_frame_equal(frame, frame_before)
    pd.testing.assert_series_equal(series, series_before)


# ------------------------------------------------------------------------------- recommend


def test_one_history_gets_exactly_k_unseen_items_best_first(fitted):
    items, scores = fitted.recommend([1, 2, 3], k=7)
    assert items.shape == scores.shape == (7,)
    assert not set(items) & {1, 2, 3}
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_array_equal(scores, fitted.score_items([1, 2, 3], items))
    everything, _ = fitted.recommend([1, 2, 3], k=12, exclude_seen=False)
    assert sorted(everything) == list(range(12))


def test_shortfall_is_flagged(fitted):
    with pytest.warns(UserWarning, match=r"1 of 1 histories have fewer than k=20 candidates"):
        items, _ = fitted.recommend([1, 2, 3], k=20)
    assert sorted(items) == [0, *range(4, 12)]
    with pytest.warns(UserWarning, match="1 of 2 histories"):
        answer = fitted.recommend([[1, 2, 3], [1]], k=10)
    assert np.bincount(answer["user"]).tolist() == [9, 10]


def test_many_histories_get_what_each_alone_gets(fitted):
    rows, feedback = table()
    answer = fitted.recommend(rows, k=3, feedback=feedback)
    for user in range(30):
        mine = np.flatnonzero(rows[:, 0] == user)
        mine = mine[np.argsort(rows[mine, 2])]
        items, scores = fitted.recommend(
            rows[mine, 1], k=3, feedback=feedback[mine], times=rows[mine, 2]
        )
        assert answer["item"][answer["user"] == user].tolist() == items.tolist()
        np.testing.assert_allclose(answer["score"][answer["user"] == user], scores, atol=1e-5)


def test_pnfrec_reads_likes_and_recommends_nothing_seen(pnfrec):
    liked_only, _ = pnfrec.recommend([1, 2], k=10)
    for sign in (-1, 0):
        items, scores = pnfrec.recommend([1, 5, 2], k=9, feedback=[1, sign, 1])
        np.testing.assert_array_equal(items, liked_only[liked_only != 5])
        np.testing.assert_array_equal(scores, pnfrec.score_items([1, 2], items))


def test_joint_reads_the_sign_of_every_event(fitted):
    answers = [fitted.recommend([1, 5, 2], k=9, feedback=[1, sign, 1]) for sign in (-1, 0, 1)]
    assert all(sorted(items) == sorted({*range(12)} - {1, 5, 2}) for items, _ in answers)
    assert len({scores.tobytes() for _, scores in answers}) == 3


def test_aversion_can_be_set_at_request_time(fitted):
    """What it adds to ``log p(next)`` is told by ``log p(liked)``, which an aversion of 1 adds."""
    zero, half, one, more = (
        dict(zip(*fitted.recommend([1, 2], k=10, dislike_aversion=aversion), strict=True))
        for aversion in (0, 0.5, 1, 2.5)
    )
    for item in zero:
        liked = np.exp(one[item] - zero[item])
        assert 0.25 < liked < 1  # of less the worth is none, which has no logarithm
        assert half[item] - zero[item] == pytest.approx(0.5 * np.log(liked), abs=1e-5)
        assert more[item] - zero[item] == pytest.approx(
            np.log(liked - 1.5 / 6 * (1 - liked)), abs=1e-5
        )
    probabilities = np.exp(fitted.recommend([], k=12, dislike_aversion=0)[1])
    assert sum(np.exp(list(zero.values()))) < 1 and probabilities.sum() < 1
    default = fitted.recommend([1, 2], k=10)
    assert default[1].tolist() == fitted.recommend([1, 2], k=10, dislike_aversion=6.0)[1].tolist()
    with pytest.raises(ValueError, match="dislike_aversion must be a finite number >= 0, got -1"):
        fitted.recommend([1], dislike_aversion=-1)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([3], r"one entry per event of the history \(2\), got shape \(1,\)"),
        ([3, 2], "times must not fall, .* after position 0: sort the history by time"),
        ([3, np.nan], "times is missing at position 1"),
    ],
)
def test_malformed_times_of_a_history(fitted, times, message):
    with pytest.raises(ValueError, match=message):
        fitted.recommend([1, 2], times=times)
    with pytest.raises(ValueError, match="a table has them in its time column"):
        fitted.recommend([[1, 2]], times=[[1, 2]])


def test_allowed_and_denied_items(fitted):
    ranking = fitted.recommend([1, 2], k=10)[0].tolist()
    allowed = [ranking[6], ranking[3], 1, 99]
    items, _ = fitted.recommend([1, 2], k=2, allowed_items=allowed)
    assert items.tolist() == [ranking[3], ranking[6]]
    items, _ = fitted.recommend([1, 2], k=8, denied_items=[ranking[0], ranking[4], 99])
    assert items.tolist() == [item for item in ranking if item not in (ranking[0], ranking[4])]
    items, _ = fitted.recommend([1, 2], k=1, allowed_items=allowed, denied_items=[ranking[3]])
    assert items.tolist() == [ranking[6]]


def test_unknown_items_are_ignored_and_named(fitted):
    items, scores = fitted.recommend([1, 999, 2, 77], k=5)
    expected = fitted.recommend([1, 2], k=5)
    assert items.tolist() == expected[0].tolist() and scores.tolist() == expected[1].tolist()
    assert fitted.unknown_items([1, 999, 2, 77]).tolist() == [77, 999]
    assert fitted.unknown_items(np.array([[0, 999], [0, 1]])).tolist() == [999]
    assert fitted.recommend([777], k=5)[0].tolist() == fitted.recommend([], k=5)[0].tolist()


@pytest.mark.parametrize("history", [[], [999], ()], ids=str)
def test_nothing_known_gets_the_popular_and_liked(fitted, history):
    items, scores = fitted.recommend(history, k=12)
    rows, feedback = table()
    likes = np.bincount(rows[feedback == 1, 1], minlength=12) + 1
    dislikes = np.bincount(rows[feedback == -1, 1], minlength=12) + 1
    expected = np.log(likes / likes.sum() * likes / (likes + dislikes))
    assert items.tolist() == np.lexsort((np.arange(12), -expected.astype(np.float32))).tolist()
    np.testing.assert_allclose(scores, np.sort(expected)[::-1], rtol=1e-6)


def test_only_one_event_users_train_nothing_and_get_the_popular():
    with pytest.warns(UserWarning, match="No user has two events") as caught:
        model = small().fit(np.column_stack([np.arange(6), [2, 2, 2, 1, 1, 0]]))
    assert caught[0].filename == __file__  # it points at the caller of fit
    assert model.recommend([0], k=2)[0].tolist() == [2, 1]
    assert model.history_["epoch"] == [] and model.n_iter_ == 0


def test_score_items_and_similar_items_by_hand(fitted):
    scores = fitted.score_items([1, 2], [3, 999, 1])
    assert np.isnan(scores).tolist() == [False, True, False]
    assert scores[[0, 2]].tolist() == fitted.score_items([1, 2])[[3, 1]].tolist()
    table = fitted.weights_["item_embedding"]
    cosines = np.array([table[4] @ e / np.linalg.norm(table[4]) / np.linalg.norm(e) for e in table])
    expected = [code for code in np.argsort(-cosines) if code != 4]
    items, similarities = fitted.similar_items(4, k=99)
    assert items.tolist() == expected
    np.testing.assert_allclose(similarities, cosines[expected], rtol=1e-5)
    with pytest.raises(ValueError, match=r"Item 999 is not among the 12 items of the fit"):
        fitted.similar_items(999)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "3"])
def test_k_must_be_a_positive_int(fitted, k):
    with pytest.raises(ValueError, match="k must be an int >= 1"):
        fitted.recommend([1], k=k)
    with pytest.raises(ValueError, match="k must be an int >= 1"):
        fitted.similar_items(1, k=k)


def test_score_items_wants_one_history(fitted):
    with pytest.raises(ValueError, match="Expected one history"):
        fitted.score_items([[1, 2]])


# ----------------------------------------------------------------------------------- scoring


def test_ranks_are_the_places_in_the_recommendations(fitted):
    rows, feedback = table()
    ranks = fitted.target_ranks(rows, feedback, targets="all")
    assert len(ranks) == len(rows) - 30 and (np.diff(ranks.rows) > 0).all()
    for row, rank, sign in list(zip(ranks.rows, ranks.ranks, ranks.signs, strict=True))[::7]:
        before = (rows[:, 0] == rows[row, 0]) & (rows[:, 2] < rows[row, 2])
        before = np.flatnonzero(before)[np.argsort(rows[before, 2])]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fewer than 12 candidates
            items, _ = fitted.recommend(
                rows[before, 1], k=12, feedback=feedback[before], times=rows[before, 2]
            )
        assert items.tolist().index(rows[row, 1]) + 1 == rank
        assert sign == feedback[row]


def test_last_targets_masks_and_all_agree(fitted):
    rows, feedback = table()
    everything = fitted.target_ranks(rows, feedback, targets="all")
    is_last = np.zeros(len(rows), dtype=bool)
    is_last[
        [np.flatnonzero(rows[:, 0] == u)[rows[rows[:, 0] == u, 2].argmax()] for u in range(30)]
    ] = True
    last = fitted.target_ranks(rows, feedback)
    masked = fitted.target_ranks(rows, feedback, targets=is_last)
    for ranks in (last, masked):
        assert ranks.rows.tolist() == np.flatnonzero(is_last).tolist()
        assert ranks.ranks.tolist() == everything.ranks[is_last[everything.rows]].tolist()
    with pytest.raises(ValueError, match="targets must be 'last', 'all' or a bool array"):
        fitted.target_ranks(rows, feedback, targets="first")
    with pytest.raises(ValueError, match=r"one entry per row \(240\)"):
        fitted.target_ranks(rows, feedback, targets=is_last[1:])


def test_targets_that_recommend_would_never_show_rank_last(fitted):
    rows = np.array([[0, 1, 500], [0, 1, 501], [1, 1, 500], [1, 999, 501]])  # seen before; unknown
    assert fitted.target_ranks(rows, [1, 1, 1, 1]).ranks.tolist() == [13, 13]
    assert fitted.target_ranks(rows, exclude_seen=False).ranks[0] <= 12


def test_score_is_ndcg_on_likes_minus_ndcg_on_dislikes(fitted):
    rows, feedback = table()
    ranks = fitted.target_ranks(rows, feedback)
    gains = np.where(ranks.ranks <= 10, 1 / np.log2(ranks.ranks + 1), 0)
    expected = gains[ranks.signs == 1].mean() - gains[ranks.signs == -1].mean()
    assert fitted.score(rows, feedback) == pytest.approx(expected)
    assert fitted.score(rows, feedback=feedback) == fitted.score(rows, feedback)
    liked = np.flatnonzero(np.isin(rows[:, 0], ranks.users[ranks.signs == 1]))
    assert fitted.score(rows[liked], feedback[liked]) == pytest.approx(
        gains[ranks.signs == 1].mean()
    )
    with pytest.raises(ValueError, match="two names of one argument"):
        fitted.score(rows, feedback, feedback=feedback)


def test_score_warns_when_the_future_leaks(tmp_path):
    rows, feedback = table()
    with pytest.warns(FutureLeakWarning, match="targets lie before rows of the same user"):
        cross_val_score(small(), rows, feedback, cv=KFold(3, shuffle=True, random_state=0))
    splitters = [TemporalSplit(), LeaveLastOutSplit(), UserHoldoutSplit(2, random_state=0)]
    for splitter in splitters:  # warnings are errors here
        cross_val_score(small(), rows, feedback, cv=splitter)
    model = small().fit(rows, feedback)
    early = rows[:, 2] < 100
    with pytest.warns(FutureLeakWarning):
        model.score(rows[early], feedback[early])
    pickle.loads(pickle.dumps(model)).score(rows[early], feedback[early])  # knows nobody


@pytest.mark.parametrize("kind", [small, PopularityRecommender])
def test_targets_that_were_trained_on_are_told(kind):
    rows, feedback = table()
    train, test = next(TemporalSplit(quantile=0.5).split(rows))
    model = kind().fit(rows[train], feedback[train])
    asked = rows[test], feedback[test]
    held = held_out_mask(train, test)
    model.target_ranks(*asked, targets=held)  # warnings are errors here
    model.target_ranks(*asked, targets=~held)  # all of them: asked for
    for targets in ("all", np.ones(len(test), bool)):
        with pytest.warns(FutureLeakWarning, match=r"targets=held_out_mask\(train, test\)"):
            model.target_ranks(*asked, targets=targets)
    with pytest.warns(FutureLeakWarning, match="no forecast"):
        evaluate(model, *asked, k=2, targets="all", n_bootstraps=2)
    train, test = next(UserHoldoutSplit(2, random_state=0).split(rows))
    model = kind().fit(rows[train], feedback[train])
    model.target_ranks(rows[test], feedback[test], targets="all")  # of others


@pytest.mark.parametrize("light", [False, True])
def test_a_request_of_which_nothing_is_known_is_told(fitted, light, tmp_path):
    model = fitted
    if light:
        fitted.save(tmp_path / "model.posneg")
        model = serving.load(tmp_path / "model.posneg")
    popular, _ = model.recommend([], k=3)
    with pytest.warns(UserWarning, match=r"None of the 2 items passed .* such as 1001, .* such as"):
        items, _ = model.recommend([1001, 1002], k=3)
    assert items.tolist() == popular.tolist()
    with pytest.warns(UserWarning, match="None of the 3 items passed"):
        model.recommend([[1001], [1002, 1003]], k=3)
    # A new item alone is nothing unusual, and one that is known makes the answer.
    for usual in ([1001], [1001, int(fitted.items_[0])], [[1001], [int(fitted.items_[0])]]):
        model.recommend(usual, k=3)  # warnings are errors here


def test_rows_of_which_nothing_is_known_are_told(fitted):
    rows, feedback = table()
    others = rows + np.array([0, 1000, 0])
    with pytest.warns(UserWarning, match=r"None of the 240 rows .*every target counts as missed"):
        ranks = fitted.target_ranks(others, feedback)
    assert (ranks.ranks == len(fitted.items_) + 1).all()


def test_feedback_keeps_the_meaning_it_had_in_fit():
    rows, feedback = table()
    signed = feedback.copy()
    signed[::5] = 0
    model = small().fit(rows, signed)
    zeros = np.where(signed[:16] == -1, 0, signed[:16])  # neither -1 nor dislikes in sight
    assert set(model.target_ranks(rows[:16], zeros, targets="all").signs) <= {0, 1}


# -------------------------------------------------------------------------- fit as a whole


@pytest.mark.filterwarnings("ignore:None of the .* events is disliked")
def test_validation_holds_out_the_latest_events_of_some_users(monkeypatch):
    seen = {}

    def train(objective, *args, validate, **options):
        items, spans = objective.histories.items, objective.spans
        parts = zip(spans.offsets, spans.lengths, strict=False)
        seen.update(events=[items[start : start + n] for start, n in parts], validate=validate)
        return original(objective, *args, validate=validate, **options)

    original = training.train
    monkeypatch.setattr(training, "train", train)
    rows, feedback = table(n_users=40)
    feedback[:] = 1
    model = small(validation_fraction=0.25).fit(rows, feedback)
    lengths = np.array([len(events) for events in seen["events"]])
    assert sorted(lengths) == [4] * 10 + [8] * 30  # of 8 events the latest half
    for user in np.flatnonzero(lengths == 4):
        mine = rows[rows[:, 0] == user]
        assert seen["events"][int(user)].tolist() == mine[mine[:, 2].argsort()][:4, 1].tolist()
    assert model.history_["validation_score"][0] > 0
    small(early_stopping=False).fit(rows, feedback)
    assert seen["validate"] is None and set(map(len, seen["events"])) == {8}


class _Stop(Hooks):
    """A callback that ends a fit after one epoch, by a vote or by an exception."""

    def __init__(self, error=None):
        self.error, self.epochs = error, 0

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.epochs += 1
            assert len(fitted_estimator.recommend([1, 2], k=3)[0]) == 3
            if self.error is not None:
                raise self.error
            return True


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_interrupted_fit_leaves_the_estimator_as_it_was(method):
    model = small()
    model.set_callbacks(_Stop(KeyboardInterrupt()))
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(*table())
    assert vars(model) == before
    with pytest.raises(NotFittedError):
        model.recommend([1])
    model.set_callbacks().fit(*table())
    model.set_callbacks(_Stop(KeyboardInterrupt()))
    before = dict(vars(model))
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(*table(n_items=15, seed=1))
    assert all(vars(model)[name] is value for name, value in before.items())
    assert vars(model).keys() == before.keys()


def test_failed_fit_leaves_an_earlier_state_usable(fitted):
    model = copy.deepcopy(fitted)
    expected = model.recommend([1, 2])[0].tolist()
    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        model.set_params(learning_rate=1e38).fit(*table())
    with pytest.raises(ValueError, match="positive_threshold"):
        model.set_params(learning_rate=1e-3).fit(table()[0], table()[1] + 3)
    assert model.recommend([1, 2])[0].tolist() == expected


def test_refit_forgets_the_earlier_fit(fitted):
    rows, feedback = table(n_items=15, seed=1)
    model = small().fit(as_pandas(rows + 100), feedback)
    model.recommend([101, 102])
    model.fit(*table())
    assert not hasattr(model, "feature_names_in_")
    assert model.recommend([1, 2])[0].tolist() == fitted.recommend([1, 2])[0].tolist()
    assert np.array_equal(model.weights_["item_embedding"], fitted.weights_["item_embedding"])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"embedding_dim": 10, "n_heads": 3}, "embedding_dim must divide by n_heads"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"contrastive_similarity": "cosin"}, "'contrastive_similarity' parameter"),
        ({"negative_weight": -0.1}, "'negative_weight' parameter"),
        ({"positive_threshold": "4"}, "positive_threshold"),
    ],
)
def test_bad_parameters_are_refused_in_fit(params, message):
    model = small(**params)
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(*table())


def test_history_logs_every_epoch(fitted, pnfrec):
    for model, terms in ((fitted, ["item"]), (pnfrec, ["positive", "negative", "contrastive"])):
        assert model.history_["epoch"] == [1, 2] and model.n_iter_ == 2
        assert all(len(model.history_[f"{term}_loss"]) == 2 for term in terms)
    a, b = pnfrec.negative_weight, pnfrec.contrastive_weight
    log = {name: np.array(values) for name, values in pnfrec.history_.items()}
    np.testing.assert_allclose(
        log["loss"],
        log["positive_loss"] + a * log["negative_loss"] + b * log["contrastive_loss"],
        rtol=1e-5,
    )


def test_verbose_draws_a_bar_per_epoch(capsys):
    small(verbose=1).fit(*table())
    lines = capsys.readouterr().err.splitlines()
    assert [line[:32] for line in lines] == [
        "epoch 1/2 [##########..........]",
        "epoch 2/2 [####################]",
    ]
    small().fit(*table())
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- weights, growth, callbacks


def test_weights_scale_and_drop_targets(fitted):
    rows, feedback = table()
    ones = small().fit(rows, feedback, sample_weight=np.ones(len(rows)))
    twos = small().fit(rows, feedback, sample_weight=np.full(len(rows), 2.0))
    for model in (ones, twos):  # means over positions: a common factor cancels
        np.testing.assert_allclose(
            model.weights_["item_embedding"], fitted.weights_["item_embedding"], atol=1e-6
        )
    with pytest.raises(ValueError, match="Negative values"):
        small().fit(rows, feedback, sample_weight=-np.ones(len(rows)))

    # Item 1 follows item 0 at half of the users, item 2 at the others; only the latter count.
    users = np.repeat(np.arange(40), 2)
    items = np.stack([np.zeros(40, int), np.where(np.arange(40) % 2, 1, 2)], 1).ravel()
    weight = np.where(items == 1, 0.0, 1.0)
    model = small(max_epochs=60, learning_rate=0.03, early_stopping=False)
    model.fit(np.column_stack([users, items]), sample_weight=weight)
    assert model.recommend([0], k=1)[0].tolist() == [2]


def test_partial_fit_grows_the_catalogue_and_keeps_codes_and_vectors():
    rows, feedback = table()
    model = small(learning_rate=1e-12).fit(rows, feedback)
    before = copy.deepcopy(model)
    grown_rows, grown_feedback = table(n_items=15, seed=1)
    grown_rows[:, 2] += 1000  # later than what was counted
    with pytest.warns(UserWarning, match="none of their earlier events is passed"):
        model.partial_fit(grown_rows, grown_feedback)
    assert model.items_[:12].tolist() == before.items_.tolist()
    assert sorted(model.items_[12:]) == [12, 13, 14]
    old, new = (m.weights_["item_embedding"] for m in (before, model))
    np.testing.assert_allclose(new[:12], old, atol=1e-9)
    assert 0.001 < np.abs(new[12:]).mean() < 0.1 and len(np.unique(new[12:])) == 24
    likes = np.bincount(grown_rows[grown_feedback == 1, 1], minlength=15)
    expected = likes[model.items_]
    expected[:12] += before.item_likes_
    assert model.item_likes_.tolist() == expected.tolist()
    assert model.history_["epoch"] == [1, 2, 3] == list(range(1, model.n_iter_ + 1))


@pytest.mark.parametrize("few_users", [0, 2000])
def test_partial_fit_keeps_the_kind_of_model_whatever_the_number_of_users(few_users, monkeypatch):
    monkeypatch.setattr(objectives, "_FEW_USERS", few_users)
    model = small().fit(*table())
    before = set(model.weights_)
    monkeypatch.undo()
    monkeypatch.setattr(objectives, "_FEW_USERS", 2000 - few_users)
    assert set(model.partial_fit(*table(seed=1)).weights_) == before
    assert ("latest.weight" in before) == (few_users > 0)
    assert len(model.recommend([1, 2], feedback=[1, -1], k=3)[0]) == 3


def test_partial_fit_learns_from_where_it_was():
    model = small(learning_rate=0.01)
    losses = [model.partial_fit(*table()).history_["loss"][-1] for _ in range(8)]
    assert model.n_iter_ == 8
    assert losses[-1] < losses[0] - 0.05


def test_failed_partial_fit_rolls_back(fitted):
    model = copy.deepcopy(fitted)
    rows, feedback = table(n_items=15, seed=1)
    for bad_rows, bad_feedback in ((rows, feedback * np.nan), (rows[:, :2], feedback)):
        before = pickle.dumps(model)
        with pytest.raises(ValueError):
            model.partial_fit(bad_rows, bad_feedback)
        assert pickle.dumps(model) == before


def test_callback_can_stop_a_fit():
    stop = _Stop()
    model = small(max_epochs=50)
    assert model.set_callbacks(stop).fit(*table()).n_iter_ == 1 == stop.epochs


def test_scoring_monitor_logs_the_score_of_each_epoch():
    monitor = ScoringMonitor(scoring={"score": recommender_scorer(feedback="delta")})
    model = small(early_stopping=False).set_callbacks(monitor, ProgressBar())
    rows, feedback = table()
    model.fit(rows, feedback)
    log = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    assert len(log) == 2
    assert log[-1]["score"] == pytest.approx(model.score(rows, feedback))


def test_callbacks_are_not_persisted():
    model = small().set_callbacks(_Stop()).fit(*table())
    loaded = pickle.loads(pickle.dumps(model))
    assert not hasattr(loaded, "_skl_callbacks") and hasattr(model, "_skl_callbacks")


# ------------------------------------------------------------------------------ persistence


@pytest.mark.parametrize(
    "roundtrip",
    [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, clone],
    ids=["pickle", "deepcopy", "clone"],
)
def test_copies_before_a_fit_keep_the_parameters(roundtrip):
    model = ContrastiveSeqRecommender(positive_threshold=(3, 4), dropout=0.3, random_state=7)
    assert roundtrip(model).get_params() == model.get_params()
    assert not hasattr(roundtrip(model), "weights_")


def test_clone_of_a_fitted_model_is_unfitted_and_fits_the_same(fitted):
    again = clone(fitted)
    assert not hasattr(again, "weights_")
    again.fit(*table())
    assert again.recommend([1, 2])[1].tolist() == fitted.recommend([1, 2])[1].tolist()


def test_loaded_model_answers_bit_equal_in_a_new_process_without_torch(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    fitted.save(tmp_path / "model.posneg")
    code = f"""
import sys, joblib
from posneg_rec import ContrastiveSeqRecommender
models = [joblib.load({str(tmp_path / "model.joblib")!r}),
          ContrastiveSeqRecommender.load({str(tmp_path / "model.posneg")!r})]
for model in models:
    items, scores = model.recommend([1, 2, 3], k=5)
    model.similar_items(3), model.score_items([1], [2])
    print(items.tolist(), scores.tobytes().hex())
assert "torch" not in sys.modules
"""
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    items, scores = fitted.recommend([1, 2, 3], k=5)
    assert out == [f"{items.tolist()} {scores.tobytes().hex()}"] * 2


def test_fitted_state_holds_arrays_and_numbers_and_nobody():
    rows, feedback = table()
    users = np.array([f"user-{user}@example.org" for user in rows[:, 0]], dtype=object)
    frame = pd.DataFrame({"user": users, "item": rows[:, 1], "time": rows[:, 2]})
    model = small().fit(frame, feedback)
    dumped = pickle.dumps(model)
    assert b"example.org" not in dumped and b"torch" not in dumped
    assert {type(value) for value in model.weights_.values()} == {np.ndarray}


def test_published_settings_are_the_papers():
    model = ContrastiveSeqRecommender(**PNFREC)
    assert (model.negative_weight, model.contrastive_weight) == (0.45, 0.25)
    assert (model.embedding_dim, model.max_len, model.objective) == (231, 50, "pnfrec")
    fitted = model.set_params(embedding_dim=8, max_epochs=1, random_state=0).fit(*table())
    assert {name.split(".")[0] for name in fitted.weights_} == {
        "item_embedding",
        "positive",
        "negative",
    }


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_model_fitted_on_a_gpu_agrees_with_the_cpus_and_opens_anywhere():
    rows, feedback = table()
    models = [
        small(device=device, precision="float32", dropout=0.0, max_epochs=5).fit(rows, feedback)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(models[0].history_["loss"], models[1].history_["loss"], rtol=1e-3)
    assert b"cuda" not in pickle.dumps(models[1].weights_)
