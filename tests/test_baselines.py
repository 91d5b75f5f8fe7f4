"""Baselines of the library, each beside a plain twin."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import popularity
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_validate
from tiny import FRAMES, X, Y

from posneg_rec.baselines import ItemItemRecommender, PopularityRecommender
from posneg_rec.metrics import aversion_curve, evaluate, recommender_scores
from posneg_rec.model_selection import FutureLeakWarning, LeaveLastOutSplit

RATINGS = np.where(Y == 1, 5, 2)
BOTH = pytest.mark.parametrize(
    "model",
    [PopularityRecommender(), ItemItemRecommender(penalty=2.0)],
    ids=["popularity", "item-item"],
)


@pytest.fixture
def dense():
    """Every two of nine items are liked together by somebody: histories, their feedback."""
    rng = np.random.default_rng(0)
    histories = [rng.permutation(9)[: rng.integers(4, 9)].tolist() for _ in range(60)]
    return histories, [rng.choice([1, 1, -1], len(history)).tolist() for history in histories]


# -- What they count -------------------------------------------------------------------------


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_popularity_ranks_as_the_plain_one(exclude_seen):
    plain = popularity.PopularityRecommender(positive_threshold=4).fit(X, RATINGS)
    model = PopularityRecommender(positive_threshold=4).fit(X, RATINGS)
    np.testing.assert_array_equal(model.items_, plain.items_)
    for targets in ("last", "all"):
        arguments = {"targets": targets, "exclude_seen": exclude_seen}
        expected = plain.target_ranks(X, RATINGS, **arguments)
        found = model.target_ranks(X, RATINGS, **arguments)
        for name in ("users", "rows", "signs", "ranks"):
            order = np.argsort(expected.rows)
            np.testing.assert_array_equal(
                getattr(found, name)[np.argsort(found.rows)], getattr(expected, name)[order]
            )


@pytest.mark.parametrize("likes_only", [True, False])
def test_popularity_by_hand(likes_only):
    histories = [["a", "b", "c"], ["b", "c"], ["c", "b"], ["c", "a"]]
    feedback = [[1, 1, -1], [1, -1], [0, 1], [-1, 1]]  # likes: a 2, b 3, c none
    model = PopularityRecommender(likes_only=likes_only).fit(histories, feedback)
    items, scores = model.recommend([], k=3)
    assert items.tolist() == (["b", "a", "c"] if likes_only else ["c", "b", "a"])
    assert (np.diff(scores) < 0).all()
    # No history changes it, but for what it holds.
    assert model.recommend(["c"], k=2)[0].tolist() == ["b", "a"]
    np.testing.assert_array_equal(model.score_items(["c", "a"]), model.score_items([]))


def test_item_item_is_the_closed_form_where_all_items_met(dense):
    histories, feedback = dense
    model = ItemItemRecommender(n_neighbours=8, penalty=3.0).fit(histories, feedback)
    likes = np.zeros((60, 9))
    for user, (items, signs) in enumerate(zip(histories, feedback, strict=True)):
        likes[user, [item for item, sign in zip(items, signs, strict=True) if sign == 1]] = 1
    assert (likes.T @ likes > 0).all()
    inverse = np.linalg.inv(likes.T @ likes + 3.0 * np.eye(9))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    # A dislike of the history counts for nothing.
    scores = model.score_items([2, 7, 4], feedback=[1, -1, 1])
    np.testing.assert_allclose(scores, weights[2] + weights[4], atol=1e-5)


def test_what_nothing_goes_with_is_ordered_by_likes():
    histories = [["a", "b"]] * 2 + [["c"]] * 3 + [["d"]] * 5 + [["e"]] * 4
    model = ItemItemRecommender(penalty=1.0).fit(histories)
    assert model.recommend(["a"], k=4)[0].tolist() == ["b", "d", "e", "c"]
    # Nothing of it is known: as from any model, what is popular.
    with pytest.warns(UserWarning, match="what is popular is recommended"):
        assert model.recommend([5], k=3)[0].tolist() == ["d", "e", "c"]


def test_fewer_neighbours_are_fewer_weights(dense):
    histories, feedback = dense
    model = ItemItemRecommender(n_neighbours=2).fit(histories, feedback)
    assert np.bincount(model.fitted_.memory.items.next.items).max() == 2


# -- The face --------------------------------------------------------------------------------


@BOTH
def test_answers_agree(model):
    model = clone(model).fit(X, Y)
    rows = X[X[:, 0] == X[0, 0]]
    history, signs = rows[:-1, 1], Y[: len(rows) - 1]
    items, scores = model.recommend(history, k=5, feedback=signs)
    of_all = model.score_items(history, feedback=signs)
    np.testing.assert_allclose(of_all[np.searchsorted(model.items_, items)], scores, rtol=1e-6)
    of_all[np.isin(model.items_, history)] = -np.inf
    np.testing.assert_array_equal(items, model.items_[np.argsort(-of_all, kind="stable")[:5]])
    target = np.arange(len(rows)) == len(rows) - 1
    (rank,) = model.target_ranks(rows, Y[: len(rows)], targets=target).ranks
    everything, _ = model.recommend(
        history, k=len(model.items_) - len(np.unique(history)), feedback=signs
    )
    if rows[-1, 1] in everything:
        assert everything[rank - 1] == rows[-1, 1]
    else:
        assert rank == len(model.items_) + 1


@BOTH
@pytest.mark.parametrize("frame", FRAMES)
def test_frames_come_back_as_they_went(model, frame):
    table = FRAMES[frame](X)
    model = clone(model).fit(table, Y)
    answer = model.recommend(table, k=3, feedback=Y)
    assert type(answer) is type(table)
    alone = clone(model).fit(X, Y).recommend(X, k=3, feedback=Y)
    assert pl.DataFrame(answer)["item"].to_list() == alone["item"].tolist()


@BOTH
def test_tools_for_models_take_them(model):
    evaluation = evaluate(clone(model).fit(X, Y), X, Y, targets="all", n_bootstraps=5)
    assert 0 < evaluation["coverage"] <= 1
    scores = cross_validate(
        model, X, Y, cv=LeaveLastOutSplit(), scoring=recommender_scores, error_score="raise"
    )
    train, test = next(LeaveLastOutSplit().split(X))
    by_hand = clone(model).fit(X[train], Y[train])
    assert scores["test_ndcg_delta"][0] == by_hand.score(X[test], Y[test])


@BOTH
def test_denied_and_seen_items_do_not_come(model):
    model = clone(model).fit(X, Y)
    top, _ = model.recommend([], k=3)
    assert top[0] not in model.recommend([], k=3, denied_items=top[:1])[0]
    assert model.recommend([], k=1, allowed_items=top[2:])[0].tolist() == [top[2]]
    assert top[1] not in model.recommend(top[1:2], k=5)[0]
    assert top[1] in model.recommend(top[1:2], k=len(model.items_), exclude_seen=False)[0]


@BOTH
def test_where_items_repeat_seen_ones_come_again(model):
    histories = [["a", "b", "a", "b"], ["b", "a", "b"]]
    model = clone(model).fit(histories)
    assert model.excludes_seen_ is False
    assert sorted(model.recommend(["a"], k=2)[0]) == ["a", "b"]
    assert clone(model).set_params(exclude_seen=True).fit(histories).excludes_seen_ is True


@BOTH
def test_pickled_it_answers_the_same_and_knows_nobody(model):
    model = clone(model).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    for one, other in zip(model.recommend([2, 3]), again.recommend([2, 3]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert again.fitted_.last_seen is None


@BOTH
def test_all_filters_are_those_of_the_recommender(model):
    model = clone(model).fit(X, Y)
    top, _ = model.recommend([], k=6)
    assert model.recommend([], k=3, pinned_items=top[[4, 3]])[0].tolist() == top[[4, 3, 0]].tolist()
    assert model.recommend([], k=1, boosts={top[5]: 100.0})[0].tolist() == [top[5]]
    groups = dict.fromkeys(top[:3].tolist(), "a")
    found, _ = model.recommend([], k=3, groups=groups, max_per_group=1)
    assert found.tolist() == top[[0, 3, 4]].tolist()
    met = top[:3].tolist()
    assert set(met) & set(model.recommend(met, k=len(model.items_) - 2, exclude_seen=2)[0]) == {
        met[0]
    }
    table = model.recommend([[], []], k=1, denied_items=[top[:1], None])
    assert table["item"].tolist() == [top[1], top[0]]
    assert model.unknown_items([top[0], -5]).tolist() == [-5]


def test_one_history_is_answered_as_many_are():
    model = ItemItemRecommender(penalty=2.0).fit(X, Y)
    histories = [[item] for item in model.items_.tolist()]
    table = model.recommend(histories, k=3)
    for user, history in enumerate(histories):
        items, scores = model.recommend(history, k=3)
        np.testing.assert_array_equal(table["item"][table["user"] == user], items)
        np.testing.assert_allclose(table["score"][table["user"] == user], scores, rtol=1e-6)


def test_an_explanation_is_the_weight_of_each_like(dense):
    histories, feedback = dense
    model = ItemItemRecommender(n_neighbours=8, penalty=3.0).fit(histories, feedback)
    why = model.explain([2, 7, 4], 5, feedback=[1, -1, 1])
    for event, item in enumerate([2, 7, 4]):
        alone = model.score_items([item], [5]) - model.score_items([item], [5], feedback=[-1])
        np.testing.assert_allclose(why.effects[event], 0 if item == 7 else alone[0], atol=1e-6)
    np.testing.assert_allclose(why.memory_effects, why.effects, atol=1e-6)
    assert why.score == pytest.approx(model.score_items([2, 7, 4], [5], feedback=[1, -1, 1])[0])
    popular = PopularityRecommender().fit(histories, feedback)
    assert not popular.explain([2, 7, 4], 5).effects.any()


# -- What goes wrong -------------------------------------------------------------------------


@BOTH
def test_without_a_fit_there_is_no_answer(model):
    model = clone(model)
    for ask in (lambda: model.recommend([1]), lambda: model.target_ranks(X, Y)):
        with pytest.raises(NotFittedError):
            ask()
    assert not hasattr(model, "items_")


@BOTH
def test_what_a_baseline_has_none_of_is_said(model):
    model = clone(model).fit(X, Y)
    for ask in (model.recommend, model.score_items, lambda *_, **o: model.explain([1], 1, **o)):
        with pytest.raises(ValueError, match="knows no probability to be liked"):
            ask([1], dislike_aversion=0.0)
    for interactions in ([1], [[1], [2]]):
        with pytest.raises(ValueError, match=r"vectors of items, and a \w+ has none"):
            model.recommend(interactions, k=1, diversity=0.5)
    for name in ("encode", "rerank", "similar_items", "item_vectors_", "weights_", "n_iter_"):
        assert not hasattr(model, name)
    with pytest.raises(TypeError, match="has no aversion to vary"):
        aversion_curve(model, X, Y)


@BOTH
def test_a_future_that_leaks_is_told_where_it_was_asked(model):
    model = clone(model).fit(X, Y)
    with pytest.warns(FutureLeakWarning) as caught:
        model.target_ranks(X[X[:, 2] < np.median(X[:, 2])])
    assert [warning.filename for warning in caught] == [__file__]


@BOTH
def test_a_fit_that_fails_leaves_the_old_one(model):
    model = clone(model).fit(FRAMES["pandas"](X), Y)
    before = dict(vars(model))
    for bad in ((X, Y[:3]), (X[:0], Y[:0])):
        with pytest.raises(ValueError):
            model.fit(*bad)
    with pytest.raises(ValueError, match="two names of one argument"):
        model.fit(X, Y, feedback=Y)
    assert vars(model) == before


@pytest.mark.parametrize(
    "model",
    [
        ItemItemRecommender(penalty=0),
        ItemItemRecommender(n_neighbours=0),
        PopularityRecommender(likes_only="yes"),
        PopularityRecommender(exclude_seen="never"),
    ],
)
def test_parameters_are_checked(model):
    with pytest.raises(ValueError, match="parameter"):
        model.fit(X, Y)


@BOTH
def test_what_is_not_liked_or_not_read_is_told(model):
    with pytest.warns(UserWarning, match="None of the 3 events is liked"):
        clone(model).fit([[1, 2, 3]], [[-1, -1, -1]])
    table = pd.DataFrame({"user": [1, 1], "item": [1, 2], "rating": [1, 5]})
    with pytest.warns(UserWarning, match="the column 'rating' is not read"):
        clone(model).fit(table)


@BOTH
def test_other_columns_than_those_of_the_fit_are_refused(model):
    table = FRAMES["pandas"](X)
    model = clone(model).fit(table, Y)
    assert model.n_features_in_ == 3
    with pytest.raises(ValueError, match="feature"):
        model.target_ranks(table.assign(more=1), Y)
    with pytest.raises(ValueError, match="No item of the rows"):
        model.target_ranks(table.assign(item=table["item"].astype(str)), Y)
