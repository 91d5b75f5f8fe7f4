"""Scores, the top k and ranks against plain twins; NumPy against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from posneg_rec import serving
from posneg_rec.interactions import Histories, PackedSequences
from posneg_rec.nn import JointEncoder, TwoSidedEncoder

N_ITEMS = 11


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


def weights(*args, **options):
    parameters = trained(*args, **options).named_parameters()
    return {name: value.detach().numpy() for name, value in parameters}


BOTH = pytest.mark.parametrize("kind", [TwoSidedEncoder, JointEncoder])


@BOTH
@pytest.mark.parametrize(("n_heads", "n_layers"), [(1, 0), (1, 1), (2, 2), (4, 12)])
@given(data=st.data())
def test_numpy_and_torch_encode_alike_in_any_company(kind, n_heads, n_layers, data):
    model = weights(kind, n_heads, n_layers)
    tokens = st.integers(0, N_ITEMS * (3 if kind is JointEncoder else 1) - 1)
    lists = data.draw(st.lists(st.lists(tokens, max_size=6), min_size=2, max_size=6))
    together = serving.encode(model, PackedSequences.from_lists(lists), n_heads)
    for items, state in zip(lists, together, strict=True):
        alone = serving.encode(model, PackedSequences.from_lists([items]), n_heads)[0]
        np.testing.assert_allclose(state, alone, atol=2e-5)
        assert items or not state.any()


EVENTS = [(1, 1), (4, -1), (2, 0), (9, 1), (4, 1)]


def test_pnfrec_scores_are_the_positive_encoders_logits_on_the_likes():
    model, likes = trained(TwoSidedEncoder), torch.tensor([1, 9, 4])
    with torch.no_grad():
        state = model.positive(model.embed(likes), torch.tensor([0, 3]))[-1]
        expected = model.item_embedding @ state
    np.testing.assert_allclose(scores_after(model, EVENTS), expected, atol=1e-5)


@pytest.mark.parametrize("aversion", [0.0, 1.0, 2.5])
def test_joint_scores_are_log_likelihoods_after_all_events(aversion):
    model = trained(JointEncoder)
    items, signs = torch.tensor(EVENTS).T
    everything = torch.arange(N_ITEMS)
    with torch.no_grad():
        state = model.encoder(model.embed_events(items, signs), torch.tensor([0, 5]))[-1]
        comes = (model.item_embedding @ state).log_softmax(0)
        liked = model.like_logits(state.expand(N_ITEMS, -1), everything)
        expected = comes + aversion * torch.nn.functional.logsigmoid(liked)
    np.testing.assert_allclose(scores_after(model, EVENTS, aversion=aversion), expected, atol=1e-5)


def scores_after(model, events, **options):
    lists, signs = ([[event[part] for event in events]] for part in (0, 1))
    packed = histories(lists, signs)
    queries = queries_before(packed, [0], [len(events)], isinstance(model, TwoSidedEncoder))
    parameters = {name: value.detach().numpy() for name, value in model.named_parameters()}
    ((_, scores),) = serving.score_blocks(
        parameters, queries, 1, np.zeros(N_ITEMS, np.float32), exclude_seen=False, **options
    )
    return scores[0]


def queries_before(packed, users, stops, likes_only, max_len=6):
    return serving.Queries.before(
        packed,
        np.asarray(users),
        np.asarray(stops),
        n_items=N_ITEMS,
        max_len=max_len,
        likes_only=likes_only,
    )


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
    codes, best = serving.top_k(scores, k)
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
        scores, targets, serving.target_ranks(scores, targets), strict=True
    ):
        order = ranking(row)
        assert rank == (order.index(target) + 1 if target in order else n_items + 1)


def histories(lists, signs):
    offsets = np.cumsum([0, *map(len, lists)])
    return Histories(
        users=np.arange(len(lists)),
        items=np.concatenate([np.array(x, dtype=np.int64) for x in lists]),
        signs=np.concatenate([np.array(x, dtype=np.int8) for x in signs]),
        times=None,
        rows=np.arange(offsets[-1]),
        offsets=offsets,
    )


@pytest.mark.parametrize("likes_only", [True, False])
@given(data=st.data())
def test_queries_hold_what_came_before(likes_only, data):
    events = st.tuples(st.integers(-1, 5), st.sampled_from([-1, 0, 1]))
    users = data.draw(st.lists(st.lists(events, max_size=6), min_size=1, max_size=4))
    lists, signs = ([[e[part] for e in user] for user in users] for part in (0, 1))
    packed = histories(lists, signs)
    asked = [(u, n) for u, user in enumerate(users) for n in range(len(user) + 1)]
    asked = data.draw(st.permutations(asked))
    user, n_before = np.array(asked).T
    stops = packed.offsets[user] + n_before
    queries = queries_before(packed, user, stops, likes_only, max_len=2)
    for q, (u, n) in enumerate(asked):
        past = users[u][:n]
        if likes_only:
            expected = [item for item, sign in past if sign == 1 and item >= 0]
        else:
            expected = [item + N_ITEMS * (sign + 1) for item, sign in past if item >= 0]
        assert queries.inputs[int(queries.rows[q])].tolist() == expected[-2:]
        assert queries.seen[q].tolist() == [item for item, _ in past if item >= 0]


def test_equal_inputs_are_encoded_once():
    packed = histories([[0, 1, 2, 3], [4, 5]], [[1, -1, -1, 1], [-1, -1]])
    queries = queries_before(packed, [0, 0, 0, 1, 1], [1, 2, 3, 5, 6], likes_only=True)
    # After one like and any number of dislikes the input is the like; without likes it is empty.
    assert sorted(queries.inputs.to_lists()) == [[], [0]]


def test_blocks_score_seen_and_fallback_alike_whatever_their_size(monkeypatch):
    model = weights(TwoSidedEncoder)
    packed = histories([[0, 1, 2], [3], [4]], [[1, 1, -1], [-1], [1]])
    queries = queries_before(packed, np.arange(3), packed.offsets[1:], likes_only=True)
    fallback = np.arange(11, dtype=np.float32)

    def scores(**options):
        blocks = serving.score_blocks(model, queries, 1, fallback, **options)
        return np.concatenate([block for _, block in blocks])

    whole = scores()
    assert np.isneginf(whole).nonzero()[1].tolist() == [0, 1, 2, 3, 4]
    assert whole[1, 4:].tolist() == fallback[4:].tolist()  # nothing liked
    state = serving.encode(model, PackedSequences.from_lists([[0, 1]]), 1)[0]
    np.testing.assert_allclose(
        scores(exclude_seen=False)[0], model["item_embedding"] @ state, atol=1e-4
    )
    monkeypatch.setattr(serving, "_MAX_BLOCK_SCORES", 11)
    np.testing.assert_allclose(scores(), whole, atol=1e-5)
    assert len(list(serving.score_blocks(model, queries, 1, fallback))) == 3
