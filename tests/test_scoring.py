"""Scores, the top k and ranks against plain twins; NumPy against what torch trained."""

import copy
import itertools
import subprocess
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_linalg import blas_of
from threadpoolctl import threadpool_info
from tiny import X, Y, tiny

from posneg_rec import inference, scoring, selection
from posneg_rec.memory import ItemMemory, ItemWeights, TasteWeights, WeighedMemory
from posneg_rec.nn import Clock, JointEncoder, TwoSidedEncoder
from posneg_rec.queries import HistoryReader, Inputs, Queries
from posneg_rec.scoring import Worth
from posneg_rec.selection import Filters
from posneg_rec.sequences import N_GAP_TAGS, Histories, PackedSequences, gap_tags

N_ITEMS = 11
EDGES = np.geomspace(1, 100, N_GAP_TAGS - 3)


def trained(kind, n_heads=1, n_layers=1):
    model = kind(
        N_ITEMS,
        8,
        n_layers=n_layers,
        n_heads=n_heads,
        max_len=6,
        dropout=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():  # far from the initial values, biases and norms included
        for parameter in model.parameters():
            parameter.add_(
                0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    return model


def weights_of(model):
    return {name: value.detach().numpy() for name, value in model.named_parameters()}


def weights(*args, **options):
    return weights_of(trained(*args, **options))


def plain_log_worth(logits, aversion):
    """In float64, from what the docstring of `Worth` says."""
    liked = 1 / (1 + np.exp(-logits))
    if aversion <= 1:
        return aversion * np.log(liked)
    cost = (aversion - 1) / 6
    worth = liked - cost * (1 - liked)
    least = (0.02 + cost) / (1 + cost)  # the probability of the least worth
    slope = (1 + cost) * least * (1 - least) / 0.02
    below = np.log(0.02) + slope * (logits - np.log(least / (1 - least)))
    return np.where(worth >= 0.02, np.log(np.maximum(worth, 0.02)), below)


BOTH = pytest.mark.parametrize("kind", [TwoSidedEncoder, JointEncoder])


def inputs_of(lists):
    """Histories of (item, sign, gap tag) as an encoder's inputs; first tag 0: without times."""
    events = np.array([event for history in lists for event in history], dtype=np.int64)
    items, signs, tags = events.reshape(-1, 3).T
    elapsed = [np.cumsum([tag**2 for _, _, tag in events], dtype=float) for events in lists]
    for times, history in zip(elapsed, lists, strict=True):
        if history and history[0][2] == 0:
            times[:] = np.nan
    elapsed = np.concatenate([np.empty(0), *elapsed])
    offsets = np.cumsum([0, *map(len, lists)])
    return Inputs(items, signs.astype(np.int8), tags, elapsed, offsets)


def torch_states(model, lists):
    """What the trained modules make of packed histories, however long each is."""
    joint = isinstance(model, JointEncoder)
    codes, signs, gaps, elapsed, offsets = map(torch.from_numpy, inputs_of(lists))
    vectors = model.item_embedding[codes]
    if joint:
        vectors = vectors + model.sign_embedding[signs.long() + 1] + model.gap_embedding[gaps]
        shown = model.item_embedding[codes] @ model.latest.weight.T  # (T, 2d)
        dim = model.item_embedding.shape[1]
        for t in range(len(codes)):
            start = offsets[offsets <= t].max()
            for sign, part in ((1, slice(dim)), (-1, slice(dim, None))):
                found = start + (signs[start : t + 1] == sign).nonzero()
                if len(found):
                    added = torch.zeros_like(vectors)
                    added[t] = shown[found[-1, 0], part]
                    vectors = vectors + added
    vectors = vectors * model.item_embedding.shape[1] ** 0.5
    with torch.no_grad():
        return model.encode(vectors, offsets, Clock(elapsed, EDGES))[offsets[1:] - 1]


def ready(kind, parameters, n_heads=1):
    """The same model in NumPy."""
    method = inference.METHODS["joint" if kind is JointEncoder else "pnfrec"]
    return method(parameters, n_heads, EDGES)


EVENT = st.tuples(
    st.integers(0, N_ITEMS - 1), st.sampled_from([-1, 0, 1]), st.integers(0, N_GAP_TAGS - 1)
)


@BOTH
@pytest.mark.parametrize(("n_heads", "n_layers"), [(1, 0), (1, 1), (2, 2), (4, 12)])
@given(data=st.data())
def test_encodes_as_it_was_trained_in_any_company(kind, n_heads, n_layers, data):
    model = trained(kind, n_heads, n_layers)
    plain = ready(kind, weights_of(model), n_heads)
    lists = data.draw(st.lists(st.lists(EVENT, max_size=6), min_size=1, max_size=6))
    together = plain.encode(inputs_of(lists))
    for events, state in zip(lists, together, strict=True):
        alone = plain.encode(inputs_of([events]))[0]
        np.testing.assert_allclose(state, alone, atol=2e-5)
        if events:
            np.testing.assert_allclose(alone, torch_states(model, [events])[0], atol=5e-5)
        else:
            assert not state.any()


def test_histories_of_one_length_go_in_portions_that_fit_a_cache(monkeypatch):
    model = ready(JointEncoder, weights(JointEncoder))
    shapes, encode = [], model._encode

    def spy(items, *tags):
        shapes.append(items.shape)
        return encode(items, *tags)

    monkeypatch.setattr(model, "_encode", spy)
    monkeypatch.setattr(inference, "_MAX_EVENTS", 7)
    lengths = [3, 0, 3, 1, 3, 3, 3]
    states = model.encode(inputs_of([[(i, 1, 0) for i in range(length)] for length in lengths]))
    assert sorted(shapes) == [(1, 1), (1, 3), (2, 3), (2, 3)]
    np.testing.assert_allclose(states[[2, 4, 5, 6]], states[[0, 0, 0, 0]], atol=1e-5)


EVENTS = [(1, 1), (4, -1), (2, 0), (9, 1), (4, 1)]


def test_pnfrec_scores_are_the_positive_encoders_logits_on_the_likes():
    model, likes = trained(TwoSidedEncoder), torch.tensor([1, 9, 4])
    with torch.no_grad():
        state = model.encode(model.items().embed(likes), torch.tensor([0, 3]))[-1]
        expected = model.item_embedding @ state
    np.testing.assert_allclose(scores_after(model, EVENTS), expected, atol=1e-5)


AVERSIONS = st.sampled_from([0.0, 0.3, 1.0, 1.001, 2.5, 6.0, 7.0, 30.0])


@given(st.lists(st.floats(-12, 12), min_size=1, max_size=20), AVERSIONS)
def test_worth_is_its_plain_twin_and_so_is_its_slope(logits, aversion):
    logits = np.array(logits, dtype=np.float32)
    worth, before = Worth(aversion), logits.copy()
    exact = logits.astype(float)
    np.testing.assert_allclose(worth.log(logits), plain_log_worth(exact, aversion), 2e-5, 2e-5)
    step = 1e-5
    rise = plain_log_worth(exact + step, aversion) - plain_log_worth(exact - step, aversion)
    np.testing.assert_allclose(worth.slope(logits), rise / (2 * step), rtol=2e-3, atol=1e-5)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("aversion", [0.0, 0.5, 1.0, 2.0, 6.0, 1e6, 1e300])
def test_logs_of_worths_rise_are_concave_and_finite(aversion):
    logits = np.linspace(-20, 20, 801, dtype=np.float32)
    logs = Worth(aversion).log(logits).astype(float)
    assert np.isfinite(logs).all() and logs.max() <= 0
    rounding = np.spacing(np.abs(logs).max().astype(np.float32)) * 4
    assert (np.diff(logs) >= -1e-6).all() and (np.diff(logs, 2) <= 1e-6 + rounding).all()
    assert abs(Worth(aversion).log(np.array([np.inf], np.float32))) < 1e-28  # surely liked


@given(st.integers(0, 10**6), st.sampled_from([1.0, 2.5, 6.0, 7.0]))
def test_the_first_items_have_the_most_expected_likes_less_the_cost_of_dislikes(seed, aversion):
    rng = np.random.default_rng(seed)
    following = rng.dirichlet(np.ones(8))
    cost = (aversion - 1) / 6
    liked = rng.uniform((cost + 0.05) / (cost + 1), 1, size=8)  # all are worth something
    gains = following * (liked - cost * (1 - liked))
    logits = np.log(liked / (1 - liked)).astype(np.float32)
    first = np.argsort(-(np.log(following) + Worth(aversion).log(logits)))[:3]
    best = max(gains[list(items)].sum() for items in itertools.combinations(range(8), 3))
    assert gains[first].sum() == pytest.approx(best, rel=1e-4)


def test_what_one_dislike_costs_at_an_aversion_of_seven_is_one_like():
    even = Worth(7.0)
    logs = even.log(np.log(np.array([0.9, 0.6]) / np.array([0.1, 0.4])).astype(np.float32))
    np.testing.assert_allclose(logs, np.log([0.9 - 0.1, 0.6 - 0.4]), rtol=1e-5)


@pytest.mark.parametrize("aversion", [0.0, 1.0, 2.5])
def test_joint_scores_are_log_likelihoods_after_all_events(aversion):
    model = trained(JointEncoder)
    items, signs = torch.tensor(EVENTS).T
    times = np.array([3.0, 4.2, 4.2, 190.0, 190.5])
    gaps = torch.tensor([0, 3, 1, 11, 2])
    assert gap_tags(np.diff(times), EDGES).tolist() == gaps[1:].tolist()
    latest = torch.tensor([[0, -1], [0, 1], [0, 1], [3, 1], [4, 1]])  # liked, disliked
    everything = torch.arange(N_ITEMS)
    with torch.no_grad():
        vectors = model.embed_events(model.items(), items, signs, gaps, latest)
        clock = Clock(torch.from_numpy(times), EDGES)
        state = model.encode(vectors, torch.tensor([0, 5]), clock)[-1]
        comes = (model.item_embedding @ state).log_softmax(0)
        liked = model.like_logits(state.expand(N_ITEMS, -1), model.items(), everything)
        expected = comes.numpy() + plain_log_worth(liked.numpy().astype(float), aversion)
    np.testing.assert_allclose(
        scores_after(model, EVENTS, times, aversion=aversion), expected, atol=1e-5
    )


def scores_after(model, events, times=None, **options):
    lists, signs = ([[event[part] for event in events]] for part in (0, 1))
    packed = histories(lists, signs, times)
    queries = queries_before(packed, [0], [len(events)], isinstance(model, TwoSidedEncoder))
    return scorer(type(model), weights_of(model), queries, exclude_seen=False, **options).row(0)


def queries_before(packed, users, stops, likes_only, max_len=6):
    reader = HistoryReader(packed, max_len=max_len, likes_only=likes_only, gap_edges=EDGES)
    return reader.before(np.asarray(users), np.asarray(stops))


# Few distinct values make ties, -inf makes shortfalls.
SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 9)),
    elements=st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]),
)


def ranking(row):
    return sorted(np.flatnonzero(row > -np.inf), key=lambda code: (-row[code], code))


@given(SCORES, st.integers(1, 12))
def test_top_k_is_the_head_of_the_sorted_catalogue(scores, k):
    before = scores.copy()
    codes, best = scoring.top_k(scores, k)
    assert codes.shape == best.shape == (len(scores), k)
    for row, row_codes, row_best in zip(scores, codes, best, strict=True):
        expected = ranking(row)[:k]
        assert row_codes.tolist() == expected + [-1] * (k - len(expected))
        assert row_best.tolist() == row[expected].tolist() + [-np.inf] * (k - len(expected))
    np.testing.assert_array_equal(scores, before)


@given(SCORES, st.data())
def test_target_rank_is_its_place_in_the_sorted_catalogue(scores, data):
    n_items = scores.shape[1]
    targets = np.array([data.draw(st.integers(-1, n_items - 1)) for _ in scores])
    for row, target, rank in zip(
        scores, targets, scoring.target_ranks(scores, targets), strict=True
    ):
        order = ranking(row)
        assert rank == (order.index(target) + 1 if target in order else n_items + 1)


def histories(lists, signs, times=None):
    offsets = np.cumsum([0, *map(len, lists)])
    return Histories(
        users=np.arange(len(lists)),
        items=np.concatenate([np.array(x, dtype=np.int64) for x in lists]),
        signs=np.concatenate([np.array(x, dtype=np.int8) for x in signs]),
        times=times,
        rows=np.arange(offsets[-1]),
        offsets=offsets,
    )


@pytest.mark.parametrize("likes_only", [True, False])
@given(data=st.data())
def test_queries_hold_what_came_before(likes_only, data):
    events = st.tuples(st.integers(-1, 5), st.sampled_from([-1, 0, 1]))
    users = data.draw(st.lists(st.lists(events, max_size=6), min_size=1, max_size=4))
    lists, signs = ([[e[part] for e in user] for user in users] for part in (0, 1))
    packed = histories(lists, signs, times=1000 + np.arange(sum(map(len, users))) ** 2)
    asked = [(u, n) for u, user in enumerate(users) for n in range(len(user) + 1)]
    asked = data.draw(st.permutations(asked))
    user, n_before = np.array(asked).T
    stops = packed.offsets[user] + n_before
    queries = queries_before(packed, user, stops, likes_only, max_len=2)
    for q, (u, n) in enumerate(asked):
        past = users[u][:n]
        times = packed.times[packed.offsets[u] :]
        tags = [0, *gap_tags(np.diff(times).astype(float), EDGES).tolist()]
        expected = [
            (item, sign, tag, time - times[0])
            for (item, sign), tag, time in zip(past, tags, times, strict=False)
            if item >= 0 and (sign == 1 or not likes_only)
        ]
        start, stop = queries.inputs.offsets[queries.rows[q] :][:2]
        read = zip(*(part[start:stop].tolist() for part in queries.inputs[:4]), strict=True)
        assert list(read) == expected[-2:]
        assert queries.seen[q].tolist() == [item for item, _ in past if item >= 0]


def test_equal_inputs_are_encoded_once():
    packed = histories([[0, 1, 2, 3], [4, 5]], [[1, -1, -1, 1], [-1, -1]])
    queries = queries_before(packed, [0, 0, 0, 1, 1], [1, 2, 3, 5, 6], likes_only=True)
    # After one like and any number of dislikes the input is the like; without likes it is empty.
    assert sorted(queries.inputs.lengths.tolist()) == [0, 1]
    assert queries.inputs.items.tolist() == [0]


LIKES, DISLIKES = np.arange(2 * N_ITEMS).reshape(2, N_ITEMS) ** 2 % 7


def scorer(kind, parameters, queries, **options):
    return scoring.Scorer(ready(kind, parameters), LIKES, DISLIKES, queries, **options)


def plain_scores(asked):
    """Scores of all queries by all items as one matrix, in double precision, by definition."""
    w = {name: value.astype(float) for name, value in asked.model.weights.items()}
    states = asked._states[asked.queries.rows].astype(float)
    scores = states @ w["item_embedding"].T
    if "item_taste" in w:
        query = states @ w["taste_query.weight"].T + w["taste_query.bias"]
        level = states @ w["taste_level.weight"].T + w["taste_level.bias"]
        taste = query @ w["item_embedding"].T + w["item_taste"] + level
        if asked.memory is not None:
            recalled = asked.queries.recall(asked.memory.items, slice(0, len(scores)))
            scores += asked.memory.next_weight * recalled.next_scores()
            w_model, w_memory, offset = asked.memory.taste_weights
            taste = w_model * taste + w_memory * recalled.taste_scores() + offset
        taste += asked.liked_shift
        scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
        scores += plain_log_worth(taste, asked.aversion)
    popularity = (LIKES + 1) / (LIKES + 1).sum() * (LIKES + 1) / (LIKES + DISLIKES + 2)
    scores[asked.queries.inputs.lengths[asked.queries.rows] == 0] = np.log(popularity)
    if asked.filters.boosts is not None:
        scores += asked.filters.boosts
    return masked(scores, asked)


def masked(scores, asked):
    scores = scores.copy()
    if asked.exclude_seen:
        for row in range(len(scores)):
            scores[row, asked.queries.seen[row]] = -np.inf
    wanted = asked.filters
    if wanted.allowed is not None:
        scores[:, ~wanted.allowed] = -np.inf
    for row in range(len(scores)):
        if wanted.allowed_rows is not None and wanted.is_limited[row]:
            scores[row, np.setdiff1d(np.arange(N_ITEMS), wanted.allowed_rows[row])] = -np.inf
        for denied in wanted.denied_rows:
            scores[row, denied[row]] = -np.inf
    return scores


@st.composite
def memories(draw):
    """Memories whose sums are exact: few weights, all of them exact in binary."""

    def weights_of_items():
        pairs = draw(st.sets(st.tuples(*[st.integers(0, N_ITEMS - 1)] * 2), max_size=20))
        rows, columns = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2).T
        values = [draw(st.sampled_from([-1.0, 0.5, 2.0])) for _ in rows]
        return ItemWeights(
            np.searchsorted(rows, np.arange(N_ITEMS + 1)),
            columns.astype(np.int32),
            np.array(values, dtype=np.float32),
            np.ones(N_ITEMS, np.float32),
        )

    levels = np.array([0.5, -0.25] * N_ITEMS, dtype=np.float32)[:N_ITEMS]
    items = ItemMemory(weights_of_items(), weights_of_items(), levels, 0 * levels, 0.0)
    # What a user's signs deviate by is no binary number: it counts, but where it does no tie.
    taste = draw(st.sampled_from([TasteWeights(0.5, 0.0, 1.0), TasteWeights(0.5, 0.37, -1.0)]))
    return WeighedMemory(items, draw(st.sampled_from([0.0, 2.0])), taste)


@st.composite
def filters_of(draw, n_queries, n_items):
    """Filters of every kind, several of them or none at once."""
    item = st.integers(0, n_items - 1)
    lists = st.lists(st.lists(item, max_size=n_items), min_size=n_queries, max_size=n_queries)
    pinned = None
    if draw(st.booleans()):
        pinned = np.full((n_queries, 4), -1)
        for row in pinned:
            for place, code in enumerate(draw(st.lists(item, unique=True, max_size=4))):
                row[place] = code
    boost = st.sampled_from([0.0, 0.5, -8.0, 64.0])
    return Filters(
        allowed=draw(st.none() | hnp.arrays(bool, n_items)),
        allowed_rows=draw(st.none() | lists.map(PackedSequences.from_lists)),
        is_limited=draw(hnp.arrays(bool, n_queries)),
        denied_rows=tuple(map(PackedSequences.from_lists, draw(st.lists(lists, max_size=2)))),
        pinned=pinned,
        boosts=draw(st.none() | hnp.arrays(np.float32, n_items, elements=boost)),
        groups=draw(st.none() | hnp.arrays(np.int64, n_items, elements=st.integers(-1, 2))),
        max_per_group=draw(st.integers(1, 3)),
    )


def plain_answers(scores, filters):
    """What is shown of each row, all of it, one item after the other."""
    answers = []
    for query, row in enumerate(scores):
        order = ranking(row)
        first = [] if filters.pinned is None else filters.pinned[query].tolist()
        first = [code for code in first if code in order]
        shown, in_group = [], Counter()
        for code in [*first, *(code for code in order if code not in first)]:
            group = -1 if filters.groups is None else filters.groups[code]
            if group < 0 or in_group[group] < filters.max_per_group:
                shown.append(int(code))
                in_group[group] += 1
        answers.append(shown)
    return answers


@st.composite
def scorers(draw, kind):
    """Scorers of few queries, with many ties: items share vectors, which are exact in binary."""
    event = st.tuples(st.integers(-1, N_ITEMS - 1), st.sampled_from([-1, 0, 1]))
    users = draw(st.lists(st.lists(event, max_size=5), min_size=1, max_size=5))
    packed = histories(*([[event[part] for event in user] for user in users] for part in (0, 1)))
    queries = queries_before(
        packed, np.arange(len(users)), packed.offsets[1:], kind is TwoSidedEncoder
    )
    parameters = {name: np.round(2 * value) / 2 for name, value in weights(kind).items()}
    twins = draw(st.lists(st.integers(0, 4), min_size=N_ITEMS, max_size=N_ITEMS))
    for name in {"item_embedding", "item_taste"} & parameters.keys():
        parameters[name] = parameters[name][twins]
    asked = scorer(
        kind,
        parameters,
        queries,
        aversion=draw(st.sampled_from([0.0, 1.0, 4.0])),
        exclude_seen=draw(st.booleans()),
        filters=draw(filters_of(len(users), N_ITEMS)),
        memory=draw(st.none() | memories()) if kind is JointEncoder else None,
        liked_shift=draw(st.sampled_from([0.0, -2.0])),
    )
    asked._states = np.round(2 * asked._states) / 2  # sums without rounding, in any order
    return asked


@BOTH
@given(
    data=st.data(),
    k=st.integers(1, N_ITEMS + 2),
    tile_scores=st.integers(1, 40),
    tile_queries=st.integers(1, 6),
    long_list=st.sampled_from([0, 1]),  # every list from whole rows, none
)
def test_any_tiles_give_what_all_scores_at_once_give(
    kind, data, k, tile_scores, tile_queries, long_list
):
    asked = data.draw(scorers(kind))
    exact = plain_scores(asked)
    n_queries = len(exact)
    # What decides is float32 and lacks what is the same for a whole row.
    states, everything = asked._states[asked.queries.rows], slice(0, N_ITEMS)
    deciding = asked.model.logits(states, everything)
    boosts = 0 if asked.filters.boosts is None else asked.filters.boosts
    if asked.model.is_likelihood:
        liked = asked.model.liked_logits(states, everything)
        if asked.memory is not None:
            recalled = asked.queries.recall(asked.memory.items, slice(0, n_queries))
            deciding += asked.memory.next_weight * recalled.next_scores()
            liked = asked.memory.taste_weights.logit(liked, recalled.taste_scores())
        deciding += boosts
        liked += np.float32(asked.liked_shift)
        if asked.aversion:
            deciding += Worth(asked.aversion).log(liked)
    else:
        deciding += boosts
    empty = asked.queries.inputs.lengths[asked.queries.rows] == 0
    deciding[empty] = asked._fallback + boosts
    orders = plain_answers(masked(deciding, asked), asked.filters)
    targets = np.array(data.draw(st.lists(st.integers(-1, 10), min_size=5, max_size=5)))[:n_queries]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_TILE_SCORES", tile_scores)
        patch.setattr(scoring, "_TILE_QUERIES", tile_queries)
        patch.setattr(scoring, "_LONG_LIST", long_list)
        patch.setattr(scoring, "_MAX_ROW_SCORES", tile_queries * N_ITEMS)
        patch.setattr(scoring, "_MAX_MARKS", tile_queries * N_ITEMS)
        patch.setattr(scoring, "_MAX_POOLED", 4 * k)  # a few queries at a time
        patch.setattr(scoring, "_MAX_SELECTED", 2 * k)
        patch.setattr(selection, "_POOL_OF_GROUPS", 1)  # mostly too small
        codes, scores = asked.top_k(k)
        rows = [asked.row(query) for query in range(n_queries)]
        ranks = asked.ranks(targets)
        everybody = [ranking(row) for row in masked(deciding, asked)]
        by_aversion = asked.ranks_by_aversion(targets, [0.5, asked.aversion, 0.0])
        np.testing.assert_array_equal(by_aversion[1], ranks)
        for aversion, expected in zip((0.5, 0.0), by_aversion[::2], strict=True):
            asked.aversion = aversion
            np.testing.assert_array_equal(asked.ranks(targets), expected)
    for query, order in enumerate(orders):
        found = order[:k]
        padding = min(k, N_ITEMS) - len(found)
        assert codes[query].tolist() == found + [-1] * padding
        np.testing.assert_allclose(scores[query, : len(found)], exact[query, found], atol=2e-4)
        assert np.isneginf(scores[query, len(found) :]).all()
        np.testing.assert_allclose(rows[query], exact[query], atol=2e-4)
    for order, target, rank in zip(everybody, targets, ranks, strict=True):
        assert rank == (order.index(target) + 1 if target in order else N_ITEMS + 1)


@given(data=st.data())
def test_an_answer_does_not_depend_on_what_was_asked_before(data):
    fresh = data.draw(scorers(JointEncoder))
    used = copy.copy(fresh)
    used.parts_of(np.arange(N_ITEMS))  # for which a memory reads all of the queries
    used.query_vectors()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "_MAX_POOLED", 1)  # pools of one query at a time
        for one, other in zip(fresh.top_k(3), used.top_k(3), strict=True):
            np.testing.assert_array_equal(one, other)


def wide_scorer(n_queries, n_items):
    """Many items; nothing seen."""
    rng = np.random.default_rng(0)
    parameters = weights(JointEncoder)
    parameters["item_embedding"] = rng.standard_normal((n_items, 8), dtype=np.float32)
    parameters["item_taste"] = np.zeros(n_items, np.float32)
    items = rng.integers(0, n_items, (n_queries, 3)).tolist()
    inputs = inputs_of([[(item, 1, 0) for item in history] for history in items])
    seen = PackedSequences.from_lists([[]] * n_queries)
    queries = Queries(inputs, np.arange(n_queries), seen, np.empty(0, np.int8))
    counts = np.ones(n_items, np.int64)
    return scoring.Scorer(ready(JointEncoder, parameters), counts, counts, queries)


def test_long_lists_and_short_ones_are_heads_of_one_ranking(monkeypatch):
    n_items = 160
    asked = wide_scorer(n_queries=5, n_items=n_items)
    # Scores of a few values alone, in float32 without rounding: most of them are ties.
    asked.model.items[:] = np.arange(n_items)[:, None] % 7 == np.arange(8)
    asked._states = np.eye(8, dtype=np.float32)[:5]
    asked.aversion = 0.0
    monkeypatch.setattr(scoring, "_TILE_SCORES", 5 * 33)
    whole = []
    monkeypatch.setattr(
        asked,
        "_whole_rows",
        lambda block: whole.append(block) or type(asked)._whole_rows(asked, block),
    )
    everything, scores = asked.top_k(n_items)
    for query, row in enumerate(everything):
        liked = np.flatnonzero(np.arange(n_items) % 7 == query)
        rest = np.setdiff1d(np.arange(n_items), liked)
        assert row.tolist() == [*liked, *rest]
    for k in (1, 9, 10, 11, 30, 159, 161):
        whole.clear()
        codes, best = asked.top_k(k)
        assert bool(whole) == (k > n_items * scoring._LONG_LIST)
        np.testing.assert_array_equal(codes, everything[:, :k])
        np.testing.assert_allclose(best, scores[:, :k], rtol=1e-6)


def test_no_array_holds_all_queries_by_all_items(monkeypatch):
    asked = wide_scorer(n_queries=128, n_items=60_000)
    matrix = 4 * 128 * 60_000  # bytes
    for size in ("_TILE_SCORES", "_MAX_ROW_SCORES"):
        monkeypatch.setattr(scoring, size, 2**16)
    for ask in (lambda: asked.top_k(10), lambda: asked.ranks(np.arange(128))):
        tracemalloc.start()
        try:
            ask()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < matrix / 10


def test_tiles_that_cannot_improve_an_answer_are_not_finished(monkeypatch):
    asked = wide_scorer(n_queries=4, n_items=4000)
    monkeypatch.setattr(scoring, "_TILE_SCORES", 4 * 20)
    finished, liked_logits = [], asked.model.liked_logits

    def spy(states, items):
        finished.append(len(states))
        return liked_logits(states, items)

    monkeypatch.setattr(asked.model, "liked_logits", spy)
    asked.top_k(2)
    assert finished[0] == 4 and sum(finished) < 4 * 200 / 2


def test_filters_find_what_stands_far_down(monkeypatch):
    """In tiles that could not improve an answer, and behind a full group."""
    asked = wide_scorer(n_queries=4, n_items=4000)
    monkeypatch.setattr(scoring, "_TILE_SCORES", 4 * 20)
    order, scores = asked.top_k(4000)
    worst, best = order[:, -1], order[:, 0]
    asked.filters = Filters(pinned=worst[:, None])
    codes, found = asked.top_k(2)
    np.testing.assert_array_equal(codes, np.stack([worst, best], axis=1))
    np.testing.assert_allclose(found, scores[:, [-1, 0]], rtol=1e-5)
    boosts = np.zeros(4000, np.float32)
    boosts[worst] = 1000
    asked.filters = Filters(boosts=boosts)
    assert set(asked.top_k(4)[0].ravel()) == set(worst)
    groups = np.full(4000, -1)
    groups[order[0, :500]] = 7
    asked.filters = Filters(groups=groups, max_per_group=2)
    codes, _ = asked.top_k(3)
    assert codes[0].tolist() == order[0, [0, 1, 500]].tolist()
    ranked = np.argsort(order, axis=1)  # the place of each item
    expected = [row[:3] for row in plain_answers(-ranked, asked.filters)]
    assert codes.tolist() == expected


def test_answers_do_not_depend_on_the_number_of_threads(monkeypatch):
    asked = wide_scorer(n_queries=9, n_items=500)
    monkeypatch.setattr(scoring, "_TILE_QUERIES", 2)
    monkeypatch.setattr(scoring, "_TILE_SCORES", 100)
    answers = []
    for n_threads in (1, 3):
        blas_of(monkeypatch, n_threads)
        answers.append((*asked.top_k(5), asked.ranks(np.arange(9))))
    for one, many in zip(*answers, strict=True):
        np.testing.assert_array_equal(one, many)


def test_answers_leave_the_threads_of_the_process_alone():
    """A request never changes a limit, so none can be left behind."""
    before = [(info["filepath"], info["num_threads"]) for info in threadpool_info()]
    counts = []

    class Counting(inference.JointModel):
        def logits(self, states, items):
            counts.append([(i["filepath"], i["num_threads"]) for i in threadpool_info()])
            return super().logits(states, items)

    asked = wide_scorer(n_queries=9, n_items=500)
    asked.model = Counting(asked.model.weights, 1)
    asked.top_k(3)
    asked.row(0)
    assert counts and all(count == before for count in counts)


def test_underflow_is_no_error_whatever_the_caller_says():
    model = tiny().fit(X, Y)
    model.weights_["item_embedding"][:] *= 1e4
    with np.errstate(all="raise"):
        one = model.recommend([1, 2], k=3)
        model.recommend(X, k=3)
    assert np.isfinite(one[1]).all()


def test_neither_one_history_nor_many_need_torch(tmp_path):
    path = tmp_path / "model.posneg"
    model = tiny().fit(X, Y)
    model.save(path)
    np.save(tmp_path / "rows.npy", X)
    code = """
import sys
import numpy as np
from posneg_rec import ContrastiveSeqRecommender
model = ContrastiveSeqRecommender.load(sys.argv[1])
rows = np.load(sys.argv[2])
print(model.recommend([1, 2], k=3)[0].tolist(), model.recommend(rows, k=2)["item"].tolist())
model.score(rows)
assert "torch" not in sys.modules
"""
    arguments = [sys.executable, "-c", code, path, tmp_path / "rows.npy"]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    one, many = model.recommend([1, 2], k=3)[0], model.recommend(X, k=2)["item"]
    assert done.stdout == f"{one.tolist()} {many.tolist()}\n"
