"""Vectors of histories and of items: their products rank as the model does, or bound it."""

import copy
import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import FEEDBACKS, HISTORIES, X, Y, tiny

from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.interactions import build_histories
from posneg_rec.memory import ItemMemory, TasteWeights, WeighedMemory

# Histories are drawn that a model knows nothing of.
pytestmark = pytest.mark.filterwarnings("ignore:None of the .* items passed")


def remembering(model):
    """Give a model a memory of its events, so that it surely has one."""
    fitted = model.fitted_
    histories = build_histories(fitted.read(X, Y, {}), fitted.vocabulary)
    memory = ItemMemory.fit(histories, len(fitted.items), next_penalty=5.0, taste_penalty=5.0)
    model.fitted_ = dataclasses.replace(
        fitted, memory=WeighedMemory(memory, 4.0, TasteWeights(0.4, 1.5, 0.1))
    )
    return model


@pytest.fixture(scope="module")
def models():
    joint = tiny().fit(X, Y)

    def changed(**parts):
        model = copy.copy(joint)
        model.fitted_ = dataclasses.replace(joint.fitted_, memory=None, **parts)
        return model

    larger = {name: 4 * value for name, value in joint.weights_.items()}
    return {
        "joint": changed(),
        "sure": changed(weights=larger),  # of logits far from where the tangents touch
        "likes": changed(dislikes=np.zeros_like(joint.item_dislikes_)),
        "memory": remembering(copy.copy(joint)),
        "pnfrec": tiny(objective="pnfrec").fit(X, Y),
    }


events = st.lists(st.tuples(st.sampled_from([*np.unique(X[:, 1]).tolist(), -7]), st.booleans()))


def unnormalised(model, items, signs, aversion):
    """Scores of all items but for the log of the sum that makes probabilities of them."""
    scores = model.score_items(items, feedback=signs, dislike_aversion=aversion)
    if model.objective == "pnfrec" or not np.isin(items, model.items_).any():
        return scores
    # What comes next alone has probabilities that sum up to 1.
    following = model.score_items(items, feedback=signs, dislike_aversion=0)
    np.testing.assert_allclose(np.exp(following.astype(float)).sum(), 1, rtol=1e-4)
    fitted = model.fitted_
    histories = fitted._histories(items, signs, None, {})
    scorer = fitted._scorer_after(histories, dislike_aversion=0)
    next_logits = scorer.model.logits(scorer._states[:1], slice(0, len(scores)))[0]
    if fitted.memory is not None:
        recalled = scorer.queries.recall(fitted.memory.items, slice(0, 1))
        next_logits = next_logits + fitted.memory.next_weight * recalled.next_scores()[0]
    return scores + np.logaddexp.reduce(next_logits)


@pytest.mark.parametrize("name", ["pnfrec", "joint", "sure", "likes"])
@given(history=events, aversion=st.sampled_from([0.0, 0.5, 5.0]))
def test_products_bound_scores_and_are_those_of_logits(name, history, aversion, models):
    model = models[name]
    items, signs = [item for item, _ in history], [liked for _, liked in history]
    query = model.encode(items, feedback=signs, dislike_aversion=aversion)
    vectors = model.item_vectors_
    assert query.dtype == vectors.dtype == np.float32
    assert query.shape == (1, vectors.shape[1]) and len(vectors) == len(model.items_)
    scores = unnormalised(model, items, signs, aversion)
    products = vectors @ query[0]
    if name in ("pnfrec", "likes") or aversion == 0:
        np.testing.assert_allclose(products, scores, rtol=1e-4, atol=1e-4)
    assert (products >= scores - 1e-4 * (1 + np.abs(scores))).all()


@given(history=events, aversion=st.sampled_from([0.0, 5.0]))
def test_with_what_neighbours_add_products_bound_the_scores_of_a_memory(history, aversion, models):
    model = models["memory"]
    items, signs = [item for item, _ in history], [liked for _, liked in history]
    histories = model.fitted_._histories(items, signs, None, {})
    scorer = model.fitted_._scorer_after(histories, dislike_aversion=aversion)
    scores = unnormalised(model, items, signs, aversion)
    added = scorer.of_neighbours()[0]
    bounds = model.encode(items, feedback=signs, dislike_aversion=aversion)[0]
    bounds = model.item_vectors_ @ bounds + added
    assert (bounds >= scores - 1e-4 * (1 + np.abs(scores))).all()
    if aversion == 0:
        np.testing.assert_allclose(bounds, scores, rtol=1e-4, atol=1e-4)
    # Without neighbours of the history an item has no more than its product.
    near = np.zeros(len(scores), bool)
    for weights in (model.fitted_.memory.items.next, model.fitted_.memory.items.taste):
        for code in model.fitted_.vocabulary.encode(items):
            if code >= 0:
                near[weights.items[weights.offsets[code] : weights.offsets[code + 1]]] = True
    assert (added[~near] == 0).all()


@pytest.mark.parametrize("name", ["pnfrec", "joint", "sure", "memory", "likes"])
@given(
    history=events,
    n_found=st.integers(1, 24),
    k=st.integers(1, 6),
    exclude_seen=st.booleans(),
    aversion=st.sampled_from([0.5, 5.0]),
)
def test_what_is_called_exact_is(name, history, n_found, k, exclude_seen, aversion, models):
    model = models[name]
    items, signs = [item for item, _ in history], [liked for _, liked in history]
    options = {"feedback": signs, "dislike_aversion": aversion}
    products = model.item_vectors_ @ model.encode(items, **options)[0]
    found = model.items_[np.argsort(-products)[:n_found]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The history has fewer than k=")
        answer = model.rerank(items, found, k, exclude_seen=exclude_seen, **options)
    scores = model.score_items(items, **options)
    if exclude_seen:
        scores[np.isin(model.items_, items)] = -np.inf
    k_best = np.sort(scores)[::-1][:k]
    own = scores[model.fitted_.vocabulary.encode(answer.items)]
    assert (np.diff(own) <= 1e-4).all() and (own > -np.inf).all()
    # Of one answer, scores differ from those by one number.
    assert np.ptp(own - answer.scores) < 1e-3 if len(own) else True
    if answer.is_exact:
        np.testing.assert_allclose(own, k_best[k_best > -np.inf], rtol=1e-4, atol=1e-4)
    if n_found == len(model.items_):
        assert answer.is_exact


def test_candidates_that_leave_better_items_out_are_not_called_exact(models):
    model = models["joint"]
    items, scores = model.recommend([1, 2, 3], k=20, feedback=[1, 0, 1])
    worst = items[np.argsort(scores)[:3]]
    answer = model.rerank([1, 2, 3], worst, k=2, feedback=[1, 0, 1])
    assert set(answer.items) <= set(worst) and not answer.is_exact
    with pytest.warns(UserWarning, match=r"fewer than k=5 candidates \(1\)"):
        few = model.rerank([1, 2, 3], [items[0]], k=5, feedback=[1, 0, 1])
    assert few.items.tolist() == [items[0]] and not few.is_exact
    with pytest.warns(UserWarning, match=r"fewer than k=5 candidates \(0\)"):
        nothing = model.rerank([int(items[0])], [items[0]], k=5)
    assert len(nothing.items) == len(nothing.scores) == 0 and not nothing.is_exact
    with pytest.raises(ValueError, match=r"candidates can hold none .* got strings"):
        model.rerank([1], ["a"])
    with pytest.raises(ValueError, match="1 of 2 candidates are not among the items of the fit"):
        model.rerank([1], [items[0], -99])
    with pytest.raises(ValueError, match="Expected one history"):
        model.rerank(X, [1])


@pytest.mark.parametrize("name", ["pnfrec", "joint", "memory"])
def test_many_histories_have_the_vectors_that_each_has(name, models):
    model = models[name]
    many = model.encode(HISTORIES, feedback=FEEDBACKS, dislike_aversion=2)
    for vector, history, feedback in zip(many, HISTORIES, FEEDBACKS, strict=True):
        one = model.encode(history, feedback=feedback, dislike_aversion=2)
        np.testing.assert_allclose(vector, one[0], rtol=1e-3, atol=1e-4)
    frame = pd.DataFrame(X, columns=["user", "item", "time"])
    np.testing.assert_array_equal(
        model.encode(frame.iloc[::-1], feedback=Y[::-1]), model.encode(X, feedback=Y)
    )
    timed = model.encode(HISTORIES[0], times=X[: len(HISTORIES[0]), 2], feedback=FEEDBACKS[0])
    table = model.encode(X[: len(HISTORIES[0])], feedback=FEEDBACKS[0])
    np.testing.assert_array_equal(timed, table)


def test_a_model_that_no_epoch_has_trained_encodes_what_is_popular():
    with pytest.warns(UserWarning, match="No user has two"):
        model = tiny().fit([["a"], ["b"], ["a"]])
    products = model.item_vectors_ @ model.encode(["b"])[0]
    np.testing.assert_allclose(products, model.score_items(["b"]), rtol=1e-6)


def test_a_hundred_found_by_vectors_hold_the_top_ten():
    world = make_opposing_patterns(
        n_users=150, n_pairs=4, group_size=60, min_events=15, max_events=30, random_state=0
    )
    model = tiny(embedding_dim=16, item_memory=False).fit(world.interactions, world.feedback)
    assert len(model.items_) > 400
    vectors = model.encode(world.interactions, feedback=world.feedback)
    found = np.argsort(-(vectors @ model.item_vectors_.T), axis=1)[:, :100]
    table = model.recommend(world.interactions, k=10, feedback=world.feedback, exclude_seen=False)
    top = model.fitted_.vocabulary.encode(table["item"]).reshape(len(found), 10)
    hits = [np.isin(best, near).mean() for best, near in zip(top, found, strict=True)]
    assert np.mean(hits) > 0.99
