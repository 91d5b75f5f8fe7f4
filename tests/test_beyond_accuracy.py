"""What accuracy does not tell, by hand and against plain loops."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from tiny import FEEDBACKS, FRAMES, HISTORIES, X, Y, as_pandas, tiny

from posneg_rec import RareItemMasker, make_recommender_pipeline
from posneg_rec.metrics import (
    TargetRanks,
    beyond_accuracy,
    calibration_error,
    coverage_at_k,
    gini_at_k,
    intra_list_distance_at_k,
    list_change_at_k,
    novelty_at_k,
    responsiveness,
)

CATALOGUE = ["a", "b", "c", "d"]
LISTS = st.lists(
    st.permutations(CATALOGUE).flatmap(
        lambda row: st.integers(0, 3).map(lambda n: row[:n] + [None] * (3 - n))
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def model():
    # Trained until dislikes move something.
    return tiny(max_epochs=12, learning_rate=0.05, early_stopping=False).fit(X, Y)


def test_novelty_is_the_bits_of_an_items_share():
    counts = [8, 4, 4, 0]  # 1, 2, 2 bits; and 4, as one of 16
    assert novelty_at_k([["a", "b"]], items=CATALOGUE, counts=counts, k=2) == 1.5
    assert novelty_at_k([["a", "b"]], items=CATALOGUE, counts=counts, k=1) == 1
    lists = [["a", "b"], ["d", None], [None, None]]
    assert novelty_at_k(lists, items=CATALOGUE, counts=counts, k=2) == (1.5 + 4) / 2
    assert np.isnan(novelty_at_k([[None]], items=CATALOGUE, counts=counts, k=1))
    with pytest.raises(ValueError, match="1 ids that are not among the items, such as 'z'"):
        novelty_at_k([["a", "z"]], items=CATALOGUE, counts=counts, k=2)
    for wrong in ([0, 0, 0, 0], [1, -1, 1, 1]):
        with pytest.raises(ValueError, match="counts must not be negative, and not all 0"):
            novelty_at_k([["a"]], items=CATALOGUE, counts=wrong, k=1)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        novelty_at_k([["a"]], items=CATALOGUE, counts=[1], k=1)


def test_gini_by_hand():
    assert gini_at_k([[1], [2], [3], [4]], n_items=4, k=1) == 0
    assert gini_at_k([[7], [7], [7]], n_items=4, k=1) == 0.75
    # Exposures 0, 1, 3: the mean difference of two, (1 + 3 + 2) * 2 / 9, by twice the mean.
    assert gini_at_k([["a", "b"], ["b", "b"]], n_items=3, k=2) == pytest.approx(12 / 9 / (8 / 3))
    assert np.isnan(gini_at_k([[None]], n_items=3, k=1))
    with pytest.raises(ValueError, match="2 different items but n_items=1"):
        gini_at_k([["a", "b"]], n_items=1, k=2)


@given(LISTS, st.integers(4, 6))
def test_gini_is_the_mean_difference_by_twice_the_mean(lists, n_items):
    shown = [item for row in lists for item in row if item]
    exposure = [shown.count(item) for item in CATALOGUE] + [0] * (n_items - 4)
    found = gini_at_k(lists, n_items=n_items, k=3)
    if not shown:
        assert np.isnan(found)
        return
    difference = np.mean([abs(a - b) for a in exposure for b in exposure])
    assert found == pytest.approx(difference / (2 * np.mean(exposure)))


VECTORS = np.array([[1, 0], [0, 2], [-3, 3], [0, 0]])


@given(LISTS, st.integers(1, 3))
def test_distance_is_the_mean_over_pairs(lists, k):
    def distance(one, other):
        a, b = (VECTORS[CATALOGUE.index(item)] for item in (one, other))
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return 1 - (a @ b / norms if norms else 0)

    pairs = [list(combinations(filter(None, row[:k]), 2)) for row in lists]
    expected = [np.mean([distance(*pair) for pair in row]) for row in pairs if row]
    found = intra_list_distance_at_k(lists, items=CATALOGUE, vectors=VECTORS, k=k)
    # A zero vector is unlike all, and pairs nobody with itself.
    np.testing.assert_allclose(found, np.mean(expected) if expected else np.nan, atol=1e-12)


def test_calibration_by_hand():
    # Bins (.2, .4] with .3, .4: |1 - .35| of two; (.4, .6] with .5: .5; [0, .2] with 0: 0.
    chances, liked = [0.3, 0.4, 0.5, 0.0], [True, True, False, False]
    assert calibration_error(liked, chances, n_bins=5) == pytest.approx((2 * 0.65 + 0.5) / 4)
    assert calibration_error(np.where(liked, 1, -1), chances, n_bins=1) == pytest.approx(0.2)
    assert calibration_error([1, 1], [1.0, 1.0]) == 0
    for wrong, message in (
        (([], []), "0 sample"),
        (([2], [0.5]), "y_true must hold 1, 0 and -1"),
        (([1], [1.5]), "y_prob must hold"),
        (([1], [np.nan]), "y_prob must hold"),
        (([1, 0], [0.5]), "inconsistent numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            calibration_error(*wrong)


@given(LISTS, st.data())
def test_change_is_the_share_that_is_new(lists, data):
    others = [[*data.draw(st.permutations(CATALOGUE))[:2], None] for _ in lists]
    changes = []
    for one, other in zip(lists, others, strict=True):
        a, b = {*filter(None, one)}, {*filter(None, other)}
        changes.append(1 - len(a & b) / max(len(a), len(b)))
    assert list_change_at_k(lists, others, k=3) == pytest.approx(np.mean(changes))
    assert list_change_at_k(others, others[::-1], k=3) == list_change_at_k(
        others[::-1], others, k=3
    )
    assert np.isnan(list_change_at_k([[None]], [[None]], k=1))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        list_change_at_k(lists, [*others, [None] * 3], k=3)


# -- Doors -----------------------------------------------------------------------------------


class OfTheLastEvent:
    """Recommends a, b, c after a like, and b, c, d after a dislike of an odd item."""

    def target_ranks(self, X, y, *, targets):
        rows = np.flatnonzero(np.diff(X[:, 0], append=-1))
        ranks = np.ones(len(rows), dtype=np.int64)
        return TargetRanks(X[rows, 0], rows, np.sign(np.asarray(y)[rows] - 2.5), ranks, 4)

    def recommend(self, X, k, *, feedback):
        asked = [
            (user, "bcd" if value < 3 and item % 2 else "abc")
            for (user, item), value in zip(X, feedback, strict=True)
        ]
        shown = dict(asked).items()  # of each user's last row
        return {
            "user": np.repeat([user for user, _ in shown], 3),
            "item": np.array([item for _, items in shown for item in items]),
            "rank": np.tile([1, 2, 3], len(shown)),
        }


def test_responsiveness_by_hand(model):
    rows = np.array([[1, 4], [1, 5], [2, 6], [3, 7], [3, 8], [4, 9]])
    grades = [1, 4, 5, 3, 3, 2]
    # User 1's list loses one of three, those of 2 and 3 (even items) stay, 4 disliked the last.
    assert responsiveness(OfTheLastEvent(), rows, grades, k=3) == pytest.approx(1 / 9)
    with pytest.raises(ValueError, match="does not read 3 as a dislike: pass as `dislike`"):
        responsiveness(OfTheLastEvent(), rows, [4, 4, 5, 3, 3, 3], k=3)
    high = [4, 4, 5, 3, 3, 3]
    found = responsiveness(OfTheLastEvent(), rows, high, k=3, dislike=1)
    assert found == pytest.approx(2 / 12)
    with pytest.raises(ValueError, match="no one's last event is a like"):
        responsiveness(OfTheLastEvent(), rows, [1] * 6, k=3)
    with pytest.raises(ValueError, match="feedback is None"):
        responsiveness(model, X, None)


def test_responsiveness_is_one_answer_beside_another(model):
    changes = []
    for user in np.unique(X[:, 0]):
        own = X[:, 0] == user
        items, signs, times = X[own, 1], Y[own], X[own, 2]
        if signs[-1] == 1:
            one, other = (
                set(model.recommend(items, k=5, feedback=said, times=times)[0])
                for said in (signs, [*signs[:-1], -1])
            )
            changes.append(1 - len(one & other) / 5)
    expected = pytest.approx(np.mean(changes))
    assert 0 < responsiveness(model, X, Y, k=5) == expected
    before = Y.copy()
    for feedback in (Y == 1, Y.tolist()):
        assert responsiveness(model, X, feedback, k=5) == expected
    np.testing.assert_array_equal(Y, before)
    graded, frame = pd.Series(np.where(Y == 1, 4.5, 1.0)), as_pandas(X)
    other = clone(model).set_params(positive_threshold=4).fit(frame, graded)
    for make in FRAMES.values():
        assert responsiveness(other, make(X), graded, k=5) == expected


def test_probabilities_are_those_that_scores_are_made_of(model):
    chances, signs = model.liked_probabilities(X, Y)
    likes, dislikes = model.item_likes_.sum() + 1, model.item_dislikes_.sum() + 1
    shift = np.log(0.55 / 0.45) - np.log(likes / dislikes)
    for user in np.unique(X[:, 0])[:8]:
        *before, last = np.flatnonzero(X[:, 0] == user)
        with_it, without = (
            model.score_items(
                X[before, 1],
                [X[last, 1]],
                feedback=Y[before],
                times=X[before, 2],
                dislike_aversion=aversion,
            )[0]
            for aversion in (1.0, 0.0)
        )
        chance = np.exp(float(with_it - without))  # in a world of 45 % dislikes
        logit = np.log(chance / (1 - chance)) - shift
        assert chances[user] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-3)
        assert signs[user] == Y[last]
    rows = np.array([[77, 3, 0], [77, 999, 1], [78, 3, 0]])
    everything = np.ones(3, dtype=bool)
    chances, signs = model.liked_probabilities(rows, [1, 0, -1], targets=everything)
    rate = (model.item_likes_ + 1) / (model.item_likes_ + model.item_dislikes_ + 2)
    assert chances[[0, 2]] == pytest.approx(rate[model.items_ == 3][0])  # nothing to read
    assert np.isnan(chances[1]) and signs.tolist() == [1, 0, -1]
    with pytest.raises(ValueError, match="objective='pnfrec' knows no probability"):
        tiny(objective="pnfrec").fit(X, Y).liked_probabilities(X, Y)


def test_the_door_measures_what_is_recommended(model):
    values = beyond_accuracy(model, X, Y, k=5, targets="all", n_bins=4)
    table = model.recommend(X, k=5, feedback=Y)
    lists = table["item"].reshape(-1, 5)
    items, vectors = model.items_, model.weights_["item_embedding"]
    counts = model.item_likes_ + model.item_dislikes_
    chances, signs = model.liked_probabilities(X, Y, targets="all")
    assert values == pytest.approx(
        {
            "coverage": coverage_at_k(lists, n_items=len(items), k=5),
            "gini": gini_at_k(lists, n_items=len(items), k=5),
            "novelty": novelty_at_k(lists, items=items, counts=counts, k=5),
            "intra_list_distance": intra_list_distance_at_k(
                lists, items=items, vectors=vectors, k=5
            ),
            "responsiveness": responsiveness(model, X, Y, k=5),
            "calibration_error": calibration_error(signs, chances, n_bins=4),
        }
    )
    frame = as_pandas(X)
    pipeline = make_recommender_pipeline(RareItemMasker(min_users_per_item=1), clone(model))
    found = beyond_accuracy(pipeline.fit(frame, Y), frame, Y, k=5, targets="all", n_bins=4)
    assert found == pytest.approx(values)


def test_the_door_leaves_open_what_cannot_be_measured():
    values = beyond_accuracy(tiny().fit(X), X, k=3)
    missing = {"responsiveness", "calibration_error"}
    assert {name for name, value in values.items() if np.isnan(value)} == missing
    values = beyond_accuracy(tiny(objective="pnfrec").fit(X, Y), X, Y, k=3)
    assert {name for name, value in values.items() if np.isnan(value)} == {"calibration_error"}
    lists = tiny().fit(HISTORIES, FEEDBACKS)
    values = beyond_accuracy(lists, HISTORIES, FEEDBACKS, k=3)
    assert 0 < values["responsiveness"] < 1 and 0 < values["calibration_error"] < 1
