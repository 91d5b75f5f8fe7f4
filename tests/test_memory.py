"""Laws of the memory of items, each held against plain twins in float64."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from tables import LAW

from posneg_rec import memory as module
from posneg_rec.memory import (
    NEXT_WEIGHT,
    TASTE_WEIGHTS,
    ItemMemory,
    TasteWeights,
    fit_next_weight,
    fit_taste_weights,
)
from posneg_rec.sequences import Histories, PackedSequences

N_ITEMS = 7
EVENTS = st.tuples(st.integers(-1, N_ITEMS - 1), st.sampled_from([1, -1, 0]))
HISTORIES = st.lists(st.lists(EVENTS, max_size=8), max_size=8)


def packed(lists):
    items = PackedSequences.from_lists([[item for item, _ in events] for events in lists])
    return items, np.array([sign for events in lists for _, sign in events], dtype=np.int8)


def histories_of(lists):
    items, signs = packed(lists)
    n_users, n_events = len(lists), len(signs)
    return Histories(
        np.arange(n_users), items.values, signs, None, np.arange(n_events), items.offsets
    )


def random_lists(n_users, n_items, n_events, seed=0):
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(n_users, n_items)) + rng.normal(size=n_items)
    return [
        [(int(item), 1 if taste[user, item] > 0 else -1) for item in items]
        for user, items in enumerate(rng.integers(n_items, size=(n_users, n_events)))
    ]


def last_signs(events):
    """What counts of a history, one event after the other."""
    found = {}
    for item, sign in events:
        if item >= 0 and sign != 0:
            found[item] = sign
    return found


def plain_levels(lists, n_items):
    signs = [[] for _ in range(n_items)]
    for events in lists:
        for item, sign in last_signs(events).items():
            signs[item].append(sign)
    mean = sum(map(sum, signs)) / max(sum(map(len, signs)), 1)
    return np.array([(sum(of_item) + 5 * mean) / (len(of_item) + 5) for of_item in signs])


def plain_deviations(lists, levels):
    """What item and user leave of each sign (Q, N), and what is the user's (Q,)."""
    rest, of_users = np.zeros((len(lists), len(levels))), np.zeros(len(lists))
    for user, events in enumerate(lists):
        signs = last_signs(events)
        deviations = {item: sign - levels[item] for item, sign in signs.items()}
        shares = {item: 0.97**n for n, item in enumerate(reversed(in_order(events)))}
        total = sum(shares[item] * deviations[item] for item in deviations)
        of_users[user] = total / (sum(shares.values()) + 5)
        for item, deviation in deviations.items():
            rest[user, item] = deviation - of_users[user]
    return rest, of_users


def in_order(events):
    """The items, by when each was met last with a sign that is not neutral."""
    last = {item: place for place, (item, sign) in enumerate(events) if sign != 0}
    return sorted(last_signs(events), key=last.__getitem__)


def plain_likes(lists, n_items):
    likes = np.zeros((len(lists), n_items))
    for user, events in enumerate(lists):
        for item, sign in last_signs(events).items():
            likes[user, item] = sign == 1
    return likes


def closed_form(features, penalty):
    """EASE."""
    inverse = np.linalg.inv(features.T @ features + penalty * np.eye(features.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return weights


@LAW
@given(HISTORIES, st.floats(0.5, 300))
def test_each_item_is_regressed_on_those_that_it_met(lists, penalty):
    memory = ItemMemory.fit(histories_of(lists), N_ITEMS, next_penalty=penalty)
    likes = plain_likes(lists, N_ITEMS)
    gram = likes.T @ likes
    expected = np.zeros_like(gram)
    for item in range(N_ITEMS):
        met = np.setdiff1d(np.flatnonzero(gram[item]), item)
        system = gram[np.ix_(met, met)] + penalty * np.eye(len(met))
        expected[met, item] = np.linalg.solve(system, gram[met, item])
    assert_allclose(memory.next.matrix.toarray(), expected, atol=1e-5)


@LAW
@given(HISTORIES, st.floats(0.5, 300))
def test_with_all_neighbours_next_is_the_closed_form(lists, penalty):
    lists = [*lists, [(item, 1) for item in range(N_ITEMS)]]  # so that all have met
    memory = ItemMemory.fit(
        histories_of(lists), N_ITEMS, n_neighbours=N_ITEMS, next_penalty=penalty
    )
    expected = closed_form(plain_likes(lists, N_ITEMS), penalty)
    assert_allclose(memory.next.matrix.toarray(), expected, atol=1e-5)
    assert_allclose(memory.levels, plain_levels(lists, N_ITEMS), atol=1e-6)


@pytest.mark.parametrize("penalty", [1.0, 50.0])
def test_with_all_neighbours_taste_is_the_closed_form(penalty):
    lists = random_lists(50, 12, 9, seed=2)
    memory = ItemMemory.fit(histories_of(lists), 12, n_neighbours=12, taste_penalty=penalty)
    rest, _ = plain_deviations(lists, plain_levels(lists, 12))
    assert_allclose(memory.taste.matrix.toarray(), closed_form(rest, penalty), atol=1e-5)


def test_items_that_never_met_are_no_neighbours():
    memory = ItemMemory.fit(histories_of([[(0, 1), (1, 1)], [(0, 1), (2, -1)]]), 3)
    assert memory.next.matrix.toarray().nonzero()[0].tolist() == [0, 1]
    assert memory.taste.matrix.toarray()[[1, 2], [2, 1]].tolist() == [0, 0]


def test_two_items_by_hand():
    # Both items: four likes of three and two users, two of them liked both; item 1 once disliked.
    lists = [[(0, 1), (1, 1)], [(1, 1), (0, 1)], [(0, 1), (1, -1)]]
    memory = ItemMemory.fit(histories_of(lists), 2, next_penalty=2.0)
    assert_allclose(memory.next.matrix.toarray(), [[0, 2 / (3 + 2)], [2 / (2 + 2), 0]])
    mean = 4 / 6
    assert_allclose(memory.levels, [(3 + 5 * mean) / 8, (1 + 5 * mean) / 8])
    assert memory.counts.tolist() == [3, 3]


@pytest.mark.parametrize("n_neighbours", [1, 4])
def test_of_few_neighbours_each_item_has_its_own_regression(n_neighbours):
    lists = random_lists(60, 12, 8)
    memory = ItemMemory.fit(
        histories_of(lists), 12, n_neighbours=n_neighbours, next_penalty=3.0, taste_penalty=5.0
    )
    rest, _ = plain_deviations(lists, plain_levels(lists, 12))
    for features, weights, penalty in (
        (plain_likes(lists, 12), memory.next, 3.0),
        (rest, memory.taste, 5.0),
    ):
        weights = weights.matrix.toarray()
        for item in range(12):
            chosen = np.flatnonzero(weights[:, item])
            assert len(chosen) == n_neighbours
            products = features.T @ features[:, item]
            squares = (features**2).sum(axis=0)
            gains = products**2 / (squares + penalty)
            gains[item] = -1
            assert set(chosen) == set(np.argsort(-gains)[:n_neighbours])
            others = features[:, chosen]
            system = others.T @ others + penalty * np.eye(n_neighbours)
            assert_allclose(weights[chosen, item], np.linalg.solve(system, products[chosen]), 1e-4)


@pytest.mark.parametrize(("n_items", "most"), [(10, 5), (20, 3), (40, 2)])
def test_a_small_catalogue_has_more_neighbours_an_item(monkeypatch, n_items, most):
    monkeypatch.setattr(module, "_N_WEIGHTS", 60)
    monkeypatch.setattr(module, "_NEIGHBOURS", (2, 5))
    memory = ItemMemory.fit(histories_of(random_lists(200, n_items, 8, seed=1)), n_items)
    for weights in (memory.next, memory.taste):
        assert np.bincount(weights.items).max() == most


@pytest.mark.parametrize("many_pairs", [40, 2**25])
def test_a_large_catalogue_has_the_same_weights(monkeypatch, many_pairs):
    lists = random_lists(40, 90, 6, seed=1)
    small = ItemMemory.fit(histories_of(lists), 90, n_neighbours=5)
    monkeypatch.setattr(module, "_SMALL_CATALOGUE", 80)
    monkeypatch.setattr(module, "_MANY_PAIRS", many_pairs)
    large = ItemMemory.fit(histories_of(lists), 90, n_neighbours=5)
    for name, array in small.arrays().items():
        assert_allclose(large.arrays()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_who_asks_for_many_neighbours_has_the_pairs_to_choose_them_from(monkeypatch):
    lists = random_lists(40, 30, 12, seed=1)
    whole = ItemMemory.fit(histories_of(lists), 30, n_neighbours=29)
    monkeypatch.setattr(module, "_SMALL_CATALOGUE", 3)
    monkeypatch.setattr(module, "_MOST_PAIRS", 3)
    cut = ItemMemory.fit(histories_of(lists), 30, n_neighbours=29)
    for name, array in whole.arrays().items():
        assert_allclose(cut.arrays()[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_of_a_large_catalogue_the_strongest_pairs_are_kept_on_both_sides(monkeypatch):
    monkeypatch.setattr(module, "_SMALL_CATALOGUE", 3)
    features = plain_likes(random_lists(80, 15, 6), 15)
    whole = features.T @ features
    from scipy import sparse

    cut = module._gram(sparse.csr_array(features), 3).toarray()
    assert_array_equal(cut, cut.T)
    assert_array_equal(cut[cut != 0], whole[cut != 0])
    assert 0 < (cut != 0).sum() < (whole != 0).sum()
    for row in range(15):
        third = np.sort(whole[row])[-3]
        assert (cut[row][whole[row] > third] > 0).all()


@LAW
@given(HISTORIES, HISTORIES.filter(len), st.sampled_from([0, 1, 24, 10**6]))
def test_recalled_is_the_sum_over_the_history(lists, asked, dense):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_DENSE", dense)
        check_recalled(lists, asked)


def check_recalled(lists, asked):
    memory = ItemMemory.fit(histories_of(lists), N_ITEMS, next_penalty=2.0, taste_penalty=2.0)
    recalled = memory.recall(*packed(asked))
    lately = np.zeros((len(asked), N_ITEMS))
    for query, events in enumerate(asked):
        signs = last_signs(events)
        liked = [item for item in in_order(events) if signs[item] == 1]
        for n_after, item in enumerate(reversed(liked)):
            lately[query, item] = 0.5 + 0.5 * 0.9**n_after
    following = lately @ memory.next.matrix.toarray()
    assert_allclose(recalled.next_scores(), following, atol=1e-5)
    rest, of_users = plain_deviations(asked, memory.levels)
    taste = memory.levels + of_users[:, None] + rest @ memory.taste.matrix.toarray()
    assert_allclose(recalled.taste_scores(), taste, atol=1e-5)
    for query, events in enumerate(asked):
        one = memory.recall(*packed([events]))
        for scores, whole in (
            (one.next_scores(), following),
            (one.taste_scores(), taste),
        ):
            assert scores.dtype == np.float32 and scores.shape == (1, N_ITEMS)
            assert_allclose(scores[0], whole[query], atol=1e-5)


@pytest.mark.parametrize("n_queries", [1, 5])
@pytest.mark.parametrize("many_scores", [0, 2**22])
def test_tiles_are_parts_of_the_whole_and_the_callers_to_change(
    monkeypatch, n_queries, many_scores
):
    monkeypatch.setattr(module, "_MANY_SCORES", many_scores)
    memory = ItemMemory.fit(histories_of(random_lists(30, 20, 8)), 20)
    asked = packed(random_lists(n_queries, 20, 5, seed=3))
    recalled = memory.recall(*asked)
    for scores in (recalled.next_scores, recalled.taste_scores):
        whole = scores().copy()
        assert whole.any()
        for tile in (slice(0, 7), slice(7, 20)):
            part = scores(tile)
            assert_array_equal(part, whole[:, tile])
            part[:] = 9
        assert_array_equal(scores(), whole)


def test_one_history_needs_no_scipy(tmp_path):
    memory = ItemMemory.fit(histories_of(random_lists(30, 20, 8)), 20)
    np.savez(tmp_path / "memory.npz", **memory.arrays())
    code = f"""
import sys
import numpy as np
from posneg_rec.memory import ItemMemory
from posneg_rec.sequences import PackedSequences
with np.load({str(tmp_path / "memory.npz")!r}) as arrays:
    memory = ItemMemory.from_arrays(dict(arrays))
recalled = memory.recall(PackedSequences.from_lists([[3, 4, 5]]), np.array([1, -1, 1]))
print(*recalled.next_scores()[0].tolist(), *recalled.taste_scores()[0].tolist())
assert "scipy" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    recalled = memory.recall(PackedSequences.from_lists([[3, 4, 5]]), np.array([1, -1, 1]))
    expected = [*recalled.next_scores()[0], *recalled.taste_scores()[0]]
    assert_array_equal(np.array(run.stdout.split(), dtype=np.float32), expected)


def test_the_latest_items_of_a_user_of_very_many_count(monkeypatch):
    monkeypatch.setattr(module, "_MOST_EVENTS", 2)
    lists = [[(0, 1), (1, 1), (2, -1), (0, 1)], [(3, 1), (4, 1)]]
    latest = [[(2, -1), (0, 1)], [(3, 1), (4, 1)]]
    memory = ItemMemory.fit(histories_of(lists), 5)
    expected = ItemMemory.fit(histories_of(latest), 5)
    for name, array in expected.arrays().items():
        assert_array_equal(memory.arrays()[name], array, err_msg=name)


def test_the_callers_data_is_left_alone():
    histories = histories_of(random_lists(10, 8, 5))
    before = histories.items.copy(), histories.signs.copy()
    prior = ItemMemory.fit(histories, 8)
    arrays = {name: array.copy() for name, array in prior.arrays().items()}
    ItemMemory.fit(histories, 8, prior=prior).recall(
        PackedSequences(histories.items, histories.offsets), histories.signs
    ).taste_scores()
    assert_array_equal(histories.items, before[0])
    assert_array_equal(histories.signs, before[1])
    for name, array in arrays.items():
        assert_array_equal(prior.arrays()[name], array, err_msg=name)


# -- One fit after the other -------------------------------------------------------------------


@LAW
@given(HISTORIES)
def test_what_histories_tell_nothing_of_stays(lists):
    prior = ItemMemory.fit(histories_of(lists), N_ITEMS, next_penalty=3.0)
    for nothing in ([], [[]], [[(-1, 1), (2, 0)]]):
        memory = ItemMemory.fit(histories_of(nothing), N_ITEMS, prior=prior)
        assert_allclose(memory.next.matrix.toarray(), prior.next.matrix.toarray(), atol=1e-6)
        assert_allclose(memory.taste.matrix.toarray(), prior.taste.matrix.toarray(), atol=1e-6)
        assert_allclose(memory.levels, prior.levels, atol=1e-6)
        assert_array_equal(memory.next.evidence, prior.next.evidence)
        assert_array_equal(memory.counts, prior.counts)


@LAW
@given(st.lists(st.lists(st.tuples(st.integers(0, 1), st.sampled_from([1, -1])), max_size=3)))
def test_of_two_items_two_fits_know_what_one_would(lists):
    half = len(lists) // 2
    both = ItemMemory.fit(histories_of(lists), 2, next_penalty=4.0)
    first = ItemMemory.fit(histories_of(lists[:half]), 2, next_penalty=4.0)
    second = ItemMemory.fit(histories_of(lists[half:]), 2, next_penalty=4.0, prior=first)
    assert_allclose(second.next.matrix.toarray(), both.next.matrix.toarray(), atol=1e-6)
    assert_allclose(second.levels, both.levels, atol=1e-6)
    assert_array_equal(second.next.evidence, both.next.evidence)
    assert_array_equal(second.counts, both.counts)


def test_small_fits_one_after_the_other_forget_nothing():
    lists = random_lists(400, 6, 4)
    whole = ItemMemory.fit(histories_of(lists), 6, next_penalty=5.0, taste_penalty=5.0)
    memory = None
    for start in range(0, 400, 20):
        memory = ItemMemory.fit(
            histories_of(lists[start : start + 20]),
            6,
            next_penalty=5.0,
            taste_penalty=5.0,
            prior=memory,
        )
    assert_allclose(memory.levels, whole.levels, atol=1e-5)
    for one, other in ((memory.next, whole.next), (memory.taste, whole.taste)):
        off = ~np.eye(6, dtype=bool)
        one, other = one.matrix.toarray()[off], other.matrix.toarray()[off]
        assert np.corrcoef(one, other)[0, 1] > 0.9
        assert 0.8 < np.abs(one).sum() / np.abs(other).sum() < 1.25


def test_items_that_join_have_neighbours_from_then_on():
    first = ItemMemory.fit(histories_of([[(0, 1), (1, 1)]] * 5), 2)
    lists = [[(1, 1), (2, 1)]] * 5
    memory = ItemMemory.fit(histories_of(lists), 4, prior=first)
    next_weights = memory.next.matrix.toarray()
    assert next_weights[1, 2] > 0 and next_weights[0, 1] > 0 and next_weights[3].sum() == 0
    assert memory.counts.tolist() == [5, 10, 5, 0]
    assert_allclose(memory.levels, 1)
    grown = first.grown(4)
    assert grown.n_items == 4
    assert_allclose(grown.recall(*packed([[(0, 1)]])).taste_scores()[0, 3], 1)
    with pytest.raises(ValueError, match="n_items must be at least 2, got 1"):
        first.grown(1)


# -- How much it counts ------------------------------------------------------------------------


def drawn_targets(weights, n_targets, n_items, *, scale=0.3):
    """Features, and targets drawn by them."""
    rng = np.random.default_rng(0)
    following, memory, liked = rng.normal(size=(3, n_targets, n_items)).astype(np.float32)
    memory *= scale
    following[rng.random(following.shape) < 0.2] = -np.inf
    scores = np.tensordot(weights, np.stack([following, memory, liked]), 1)
    targets = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    return lambda block: (following[block], memory[block], liked[block]), targets


@pytest.mark.parametrize("weights", [(1, 2, 1), (0.8, 6, 0.9), (1.2, 0, 1)])
def test_the_weight_that_targets_were_drawn_by_is_found(weights):
    features, targets = drawn_targets(weights, 3_000, 30)
    assert fit_next_weight(features, targets) == pytest.approx(weights[1] / weights[0], abs=0.5)


def test_a_memory_that_is_always_wrong_does_not_count():
    features, targets = drawn_targets((1, -3, 1), 2_000, 30)
    assert fit_next_weight(features, targets) == 0


def test_of_few_targets_little_is_learned():
    features, targets = drawn_targets((1, 0, 1), 3, 30, scale=0.05)
    assert fit_next_weight(features, targets) == pytest.approx(NEXT_WEIGHT, rel=0.3)
    assert fit_next_weight(features, targets[:0]) == NEXT_WEIGHT
    unknown = np.full(3, -1)
    assert fit_next_weight(features, unknown) == pytest.approx(NEXT_WEIGHT)


def test_blocks_change_nothing_and_very_many_targets_are_thinned_out(monkeypatch):
    features, targets = drawn_targets((1, 5, 1), 400, 20)
    whole = fit_next_weight(features, targets)
    monkeypatch.setattr(module, "_MANY_SCORES", 4 * 20 * 10)
    assert fit_next_weight(features, targets) == pytest.approx(whole, rel=1e-6)
    looked_at = set()

    def watched(block):
        looked_at.update(range(block.start, block.stop))
        return features(block)

    monkeypatch.setattr(module, "_MOST_SCORES", 20 * 100)
    fit_next_weight(watched, targets)
    assert len(looked_at) <= 100 and max(looked_at) > 300


def drawn_signs(weights, n_events):
    rng = np.random.default_rng(0)
    logits, taste = 2 * rng.normal(size=n_events), rng.normal(size=n_events)
    chance = 1 / (1 + np.exp(-(weights[0] * logits + weights[1] * taste + weights[2])))
    return logits, taste, np.where(rng.random(n_events) < chance, 1, -1)


@pytest.mark.parametrize("weights", [(0.3, 1.75, 0.0), (0.6, 0.5, 0.4), (0.0, 2.5, -0.5)])
def test_the_taste_weights_that_signs_were_drawn_by_are_found(weights):
    learned = fit_taste_weights(*drawn_signs(weights, 20_000))
    assert_allclose(learned, weights, atol=0.08)


def test_of_few_signs_little_is_learned():
    logits, taste, signs = drawn_signs((1.0, 0.0, 1.0), 4)
    assert_allclose(fit_taste_weights(logits, taste, signs), TASTE_WEIGHTS, atol=0.35)
    neutral = fit_taste_weights(logits, taste, np.zeros(4, dtype=int))
    assert_allclose(neutral, TASTE_WEIGHTS)


def test_neutral_events_tell_nothing_of_taste():
    logits, taste, signs = drawn_signs((0.6, 0.5, 0.4), 200)
    more = [np.append(values, 9.0) for values in (logits, taste)]
    learned = fit_taste_weights(*more, np.append(signs, 0))
    assert_allclose(learned, fit_taste_weights(logits, taste, signs))


def test_taste_is_a_sum_of_model_and_memory():
    logits = np.array([[1, 2]], dtype=np.float32)
    combined = TasteWeights(0.5, 2.0, -1.0).logit(logits, np.array([[3, -1]], dtype=np.float32))
    assert combined.dtype == np.float32
    assert_allclose(combined, [[5.5, -2]])
    assert_array_equal(logits, [[1, 2]])


# -- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_items": 2}, "must lie below n_items = 2, got 2"),
        ({"n_neighbours": 0}, "n_neighbours must be at least 1, got 0"),
        ({"next_penalty": 0.0}, r"next_penalty must be a positive number, got 0\.0"),
        ({"taste_penalty": np.inf}, "taste_penalty must be a positive number, got inf"),
        ({"taste_penalty": np.nan}, "taste_penalty must be a positive number, got nan"),
    ],
)
def test_what_is_out_of_range_is_named(changes, text):
    with pytest.raises(ValueError, match=text):
        ItemMemory.fit(histories_of([[(0, 1), (2, 1)]]), **{"n_items": 3} | changes)


def test_signs_without_items_are_an_error():
    memory = ItemMemory.fit(histories_of([[(0, 1), (1, 1)]]), 2)
    with pytest.raises(ValueError, match=r"one entry per item, 2, got shape \(1,\)"):
        memory.recall(PackedSequences.from_lists([[0, 1]]), np.array([1]))


def test_a_catalogue_of_one_item_or_none_has_no_neighbours():
    for n_items, lists in ((1, [[(0, 1)], [(0, -1)]]), (0, [[(-1, 1)]])):
        memory = ItemMemory.fit(histories_of(lists), n_items)
        recalled = memory.recall(*packed(lists))
        assert recalled.next_scores().shape == (len(lists), n_items)
        assert not recalled.next_scores().any()
