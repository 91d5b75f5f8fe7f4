"""The scorer for accelerators against the plain one; torch's CPU stands in for a GPU."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scoring import (
    BOTH,
    EVENT,
    N_ITEMS,
    inputs_of,
    plain_answers,
    plain_scores,
    ranking,
    ready,
    scorers,
    trained,
    weights_of,
)
from tiny import X, Y, tiny

from posneg_rec import accelerated, fitted, scoring, selection
from posneg_rec.accelerated import AcceleratedScorer
from posneg_rec.queries import Queries
from posneg_rec.scoring import Scorer
from posneg_rec.sequences import PackedSequences

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def one_of(filters, query):
    return filters.take(np.array([query]))


def moved(plain):
    """The same scorer on a device, with the states that the plain one has."""
    given_fields = {field.name: getattr(plain, field.name) for field in fields(Scorer)}
    scorer = AcceleratedScorer(**given_fields, device=DEVICE)
    scorer._device_states = torch.from_numpy(plain._states).to(DEVICE)
    return scorer


@BOTH
@given(data=st.data(), k=st.integers(1, N_ITEMS + 2), max_scores=st.integers(1, 40))
def test_any_portions_give_what_the_plain_scorer_gives(kind, data, k, max_scores):
    plain = data.draw(scorers(kind))
    scorer, exact = moved(plain), plain_scores(plain)
    targets = np.array(data.draw(st.lists(st.integers(-1, 10), min_size=5, max_size=5)))
    targets = targets[: len(exact)]
    # What decides lacks what is the same for a whole row.
    deciding = scorer._scores(np.arange(len(exact)))[0].cpu().numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerated, "_MAX_SCORES", max_scores)
        patch.setattr(scoring, "_MAX_POOLED", 4 * k)
        patch.setattr(selection, "_POOL_OF_GROUPS", 1)
        codes, scores = scorer.top_k(k)
        ranks = scorer.ranks(targets)
        rows = [scorer.row(query) for query in range(len(exact))]
        by_aversion = scorer.ranks_by_aversion(targets, [0.5, scorer.aversion, 0.0])
        np.testing.assert_array_equal(by_aversion[1], ranks)
        scorer.aversion = 0.5
        np.testing.assert_array_equal(scorer.ranks(targets), by_aversion[0])
    assert codes.shape == scores.shape == (len(exact), min(k, N_ITEMS))
    for query, (row, target) in enumerate(zip(deciding, targets, strict=True)):
        np.testing.assert_allclose(rows[query], exact[query], atol=2e-4)
        order = ranking(row)
        (found,) = plain_answers(row[None], one_of(plain.filters, query))
        found = found[:k]
        assert codes[query].tolist() == found + [-1] * (codes.shape[1] - len(found))
        np.testing.assert_allclose(scores[query, : len(found)], exact[query, found], atol=2e-4)
        assert np.isneginf(scores[query, len(found) :]).all()
        assert ranks[query] == (order.index(target) + 1 if target in order else N_ITEMS + 1)


@BOTH
@pytest.mark.parametrize("n_heads", [1, 2])
@pytest.mark.parametrize("shows_latest", [False, True])
@given(data=st.data(), max_events=st.integers(1, 30))
def test_states_are_those_of_the_plain_model(kind, n_heads, shows_latest, data, max_events):
    weights = weights_of(trained(kind, n_heads, 2))
    if not shows_latest:
        weights.pop("latest.weight", None)
    model = ready(kind, weights, n_heads)
    lists = data.draw(st.lists(st.lists(EVENT, max_size=6), max_size=6))
    inputs = inputs_of(lists)
    nothing = PackedSequences.from_lists([[]] * len(lists))
    queries = Queries(inputs, np.arange(len(lists)), nothing, np.empty(0, np.int8))
    counts = np.ones(N_ITEMS, np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accelerated, "_MAX_EVENTS", max_events)
        scorer = AcceleratedScorer(model, counts, counts, queries, device=DEVICE)
    states = scorer._device_states.cpu().numpy()
    np.testing.assert_allclose(states, model.encode(inputs), atol=5e-5)
    assert scorer.top_k(2)[0].shape == (len(lists), 2)


def test_many_histories_are_answered_on_a_device_and_few_are_not(monkeypatch):
    made = []

    class Spy(AcceleratedScorer):
        def __post_init__(self):
            made.append(self.device)
            self.device = DEVICE
            super().__post_init__()

    monkeypatch.setattr(accelerated, "AcceleratedScorer", Spy)
    model = tiny(objective="pnfrec").fit(X, Y)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    n_users, n_items = len(np.unique(X[:, 0])), len(model.items_)
    expected = model.set_params(device="cpu").recommend(X, k=3, feedback=Y)
    ranks = model.target_ranks(X, Y, targets="all").ranks
    monkeypatch.setattr(fitted, "_MANY_SCORES", n_users * n_items)
    model.recommend(X, k=3, feedback=Y)
    assert not made  # on the CPU as it was asked
    for device, where in (("auto", "cuda"), ("cuda:1", "cuda:1")):
        model.set_params(device=device)
        model.recommend([1, 2], k=3)
        assert not made
        found = model.recommend(X, k=3, feedback=Y)
        assert made == [where]
        assert found["item"].tolist() == expected["item"].tolist()
        np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(model.target_ranks(X, Y, targets="all").ranks, ranks)
        made.clear()
