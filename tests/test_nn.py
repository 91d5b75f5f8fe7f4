"""The encoders: packed equals padded, causal, separate users, separate parameters."""

import itertools
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posneg_rec import nn
from posneg_rec.nn import (
    JointEncoder,
    SequenceEncoder,
    TwoSidedEncoder,
    attention_plan,
    dropout,
    packed_attention,
)
from posneg_rec.sequences import N_GAP_TAGS, gap_tags

LENGTHS = st.lists(st.integers(0, 5), min_size=1, max_size=5)


def offsets_of(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)


def encoder(n_heads=2, n_layers=2, max_len=6, seed=0):
    model = TwoSidedEncoder(
        9,
        4,
        n_layers=n_layers,
        n_heads=n_heads,
        max_len=max_len,
        dropout=0.3,
        two_sided=True,
        generator=torch.Generator().manual_seed(seed),
    ).double()
    # Large weights: with the initial ones a token hardly sees another.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model


def ragged(lengths, device="cpu"):
    return nn.Ragged.of(offsets_of(lengths), torch.device(device))


def repeated(counts, total):
    """As on a device."""
    return torch.arange(len(counts)).repeat_interleave(counts, output_size=total)


@given(LENGTHS)
def test_padding_goes_to_the_right_and_leads_back(lengths):
    padding, shape = ragged(lengths).padding(), (len(lengths), max(lengths))
    packed = torch.arange(1, sum(lengths) + 1)
    padded = padding.pad(packed).index_fill(0, padding.empty, 0).view(shape)
    rows = iter(packed.tolist())
    assert padded.tolist() == [
        [next(rows) for _ in range(n)] + [0] * (max(lengths) - n) for n in lengths
    ]
    assert torch.equal(padding.unpad(padded.flatten()), packed)


@given(LENGTHS, st.integers(1, 3), st.integers(0, 3), st.booleans())
def test_padding_of_heads_follows_from_the_offsets(lengths, n_heads, more, on_a_device):
    sequences = ragged(lengths)
    longest, offsets = sequences.longest + more, sequences.offsets.numpy()
    sequences = sequences._replace(longest=longest)
    filled = np.arange(longest) < np.array(lengths)[:, None, None]
    heads, places = np.arange(n_heads)[:, None], np.arange(longest)
    rows = (offsets[:-1, None, None] + places) * n_heads + heads  # (U, H, L)
    filled = np.broadcast_to(filled, rows.shape)
    expected = nn.Padding.of(np.where(filled, rows, 0), filled)
    with mock.patch.object(nn, "_repeated", repeated if on_a_device else nn._repeated):
        found = sequences.padding(n_heads)
        owners = [user for user, length in enumerate(lengths) for _ in range(length)]
        assert sequences.owners().tolist() == owners
        ages = [age for length in lengths for age in reversed(range(length))]
        assert sequences.ages().tolist() == ages
    assert torch.equal(found.rows, expected.rows)
    assert torch.equal(found.positions, expected.positions)
    assert sorted(found.empty.tolist()) == expected.empty.tolist()


@given(LENGTHS.filter(sum), st.integers(0, 100))
def test_gradients_of_padding_are_those_of_plain_indexing(lengths, seed):
    padding = ragged(lengths).padding()
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randn(sum(lengths), 2, generator=generator).requires_grad_()
    padded = torch.randn(len(padding.rows), 2, generator=generator)
    weights = padded.index_fill(0, padding.empty, 0)  # nothing may depend on padding
    (grad,) = torch.autograd.grad((padding.pad(packed) * weights).sum(), packed)
    (plain,) = torch.autograd.grad((packed[padding.rows] * weights).sum(), packed)
    assert torch.equal(grad, plain)
    padded.requires_grad_()
    weights = packed.detach()
    (grad,) = torch.autograd.grad((padding.unpad(padded) * weights).sum(), padded)
    (plain,) = torch.autograd.grad((padded[padding.positions] * weights).sum(), padded)
    assert torch.equal(grad, plain)


def attend(qkv, offsets, limit=2**20, bias=None, clock=None):
    n_heads = qkv.shape[2]
    with mock.patch.object(nn, "_MAX_GROUP_LOGITS", limit):
        sequences = nn.Ragged.of(offsets, qkv.device)
        plan = attention_plan(sequences, n_heads, padded=bias is not None)
    if clock is not None:
        plan = plan.timed(clock, n_heads)
    return packed_attention(qkv, plan, bias)


def fused(qkv, plan, bias):
    return nn._attend_fused(qkv, plan)


@given(LENGTHS, st.integers(1, 3), st.integers(1, 100))
def test_attention_plan_covers_all_heads_within_the_limit(lengths, n_heads, limit):
    with mock.patch.object(nn, "_MAX_GROUP_LOGITS", limit):
        plan = attention_plan(ragged(lengths), n_heads)
    # A number for each head of each token; sequence by sequence they must come back.
    packed = torch.arange(1, sum(lengths) * n_heads + 1).view(-1, n_heads)
    expected = [part.T for part in packed.split(lengths) if len(part)]
    padded = plan.heads.pad(packed.flatten()).index_fill(0, plan.heads.empty, 0)
    found = []
    for (n_sequences, longest), group in zip(plan.shapes, plan.split(padded), strict=True):
        assert n_sequences == 1 or n_sequences * int((group > 0).sum(1).max()) ** 2 <= limit
        assert n_sequences.bit_count() == 1
        assert group.all() or longest % nn._LENGTH_MULTIPLE == 0
        for sequence in group.view(n_sequences, n_heads, longest):
            length = int((sequence[0] > 0).sum())
            assert not sequence[:, length:].any()  # padding stands to the right
            found += [sequence[:, :length]] if length else []
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)
    assert torch.equal(plan.heads.unpad(padded), packed.flatten())
    # Queries, keys and values are the same thrice.
    vectors = torch.stack([packed, packed + 1000, packed + 2000], 1)  # (T, 3, H)
    qkv = plan.qkv.pad(vectors.flatten()).view(3, -1) if len(padded) else vectors.new_zeros(3, 0)
    for part, shift in zip(qkv, (0, 1000, 2000), strict=True):
        assert torch.equal(plan.heads.unpad(part), packed.flatten() + shift)
    assert torch.equal(plan.qkv.unpad(qkv.flatten()), vectors.flatten())


def test_sequences_of_one_length_are_attended_without_padding():
    plan = attention_plan(ragged([3, 3, 3, 3]), 1)
    assert plan.shapes == [(4, 3)] and len(plan.heads.empty) == 0


@given(LENGTHS, st.integers(1, 2), st.integers(0, 100), st.integers(1, 100))
def test_both_attentions_equal_softmax_over_each_users_past(lengths, n_heads, seed, limit):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, n_heads, 4, dtype=torch.float64, generator=generator)
    offsets = offsets_of(lengths)
    expected = torch.empty_like(qkv[:, 0])
    for start, stop in itertools.pairwise(offsets.tolist()):
        for t, head in itertools.product(range(start, stop), range(n_heads)):
            query, keys, values = (
                qkv[t, 0, head],
                qkv[start : t + 1, 1, head],
                qkv[start : t + 1, 2, head],
            )
            expected[t, head] = (keys @ query / 2).softmax(0) @ values
    torch.testing.assert_close(attend(qkv, offsets, limit), expected)
    with mock.patch.object(nn, "_attend_plainly", fused):  # the accelerators' way
        torch.testing.assert_close(attend(qkv, offsets, limit), expected)


@given(LENGTHS, st.integers(1, 2), st.integers(0, 100), st.integers(0, 3))
def test_one_group_of_all_sequences_is_attended_as_many_are(lengths, n_heads, seed, more):
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(sum(lengths), 3, n_heads, 4, dtype=torch.float64, generator=generator)
    bias = nn.AttentionBias(
        torch.randn(n_heads, 5, dtype=torch.float64, generator=generator),
        torch.zeros(n_heads, N_GAP_TAGS, dtype=torch.float64),
    )
    offsets, longest = offsets_of(lengths), max(lengths) + more if any(lengths) else 0
    plan = nn._of_one_group(ragged(lengths)._replace(longest=longest), n_heads)
    assert plan.shapes == ([(len(lengths), longest)] if longest else [])
    torch.testing.assert_close(packed_attention(qkv, plan, bias), attend(qkv, offsets, bias=bias))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 2), st.integers(0, 100))
def test_sequences_of_one_length_are_attended_on_an_accelerator_as_they_are(
    n_sequences, length, n_heads, seed
):
    offsets = offsets_of([length] * n_sequences)
    plan = attention_plan(ragged([length] * n_sequences, "meta"), n_heads)
    assert plan == nn.PackedPlan(length, None)
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(n_sequences * length, 3, n_heads, 4, generator=generator)
    torch.testing.assert_close(packed_attention(qkv, plan), attend(qkv, offsets))


@given(LENGTHS.filter(sum), st.integers(1, 2), st.integers(0, 100), st.integers(1, 100))
def test_attention_gradients_are_those_of_torchs_own(lengths, n_heads, seed, limit):
    generator = torch.Generator().manual_seed(seed)
    shape = (sum(lengths), 3, n_heads, 4)
    qkv = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.randn(len(qkv), n_heads, 4, dtype=torch.float64, generator=generator)
    offsets = offsets_of(lengths)
    (plain,) = torch.autograd.grad((attend(qkv, offsets, limit) * weights).sum(), qkv)
    with mock.patch.object(nn, "_attend_plainly", fused):
        (expected,) = torch.autograd.grad((attend(qkv, offsets, limit) * weights).sum(), qkv)
    torch.testing.assert_close(plain, expected)


@pytest.mark.parametrize("timed", [True, False])
@given(LENGTHS.filter(sum), st.integers(1, 2), st.integers(0, 100), st.integers(1, 100))
def test_biases_are_added_by_what_lies_between_two_events(timed, lengths, n_heads, seed, limit):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()

    n_events, offsets, edges = sum(lengths), offsets_of(lengths), np.geomspace(0.5, 4, 9)
    qkv = normal(n_events, 3, n_heads, 4)
    bias = nn.AttentionBias(normal(n_heads, 5), normal(n_heads, N_GAP_TAGS))
    weights = normal(n_events, n_heads, 4).detach()
    elapsed = torch.randint(0, 4, (n_events,), generator=generator).double().cumsum(0)
    elapsed[: lengths[0]] = torch.nan  # as in windows that hide their times
    clock = nn.Clock(elapsed, edges) if timed else None
    rows = []
    for start, stop in itertools.pairwise(offsets.tolist()):
        for t, head in itertools.product(range(start, stop), range(n_heads)):
            past = range(start, t + 1)
            logits = qkv[past, 1, head] @ qkv[t, 0, head] / 2
            logits = logits + bias.distance[head, [t - s for s in past]]
            if timed:
                gaps = (elapsed[t] - elapsed[past]).numpy()
                logits = logits + bias.gap[head, gap_tags(gaps, edges)]
            rows.append(logits.softmax(0) @ qkv[past, 2, head])
    expected = torch.stack(rows).view(n_events, n_heads, 4)
    attended = attend(qkv, offsets, limit, bias, clock)
    torch.testing.assert_close(attended, expected)
    of = (qkv, bias.distance) + ((bias.gap,) if timed else ())
    found, plain = (
        torch.autograd.grad((y * weights).sum(), of, allow_unused=True)
        for y in (attended, expected)
    )
    torch.testing.assert_close(found, plain)


def test_a_device_sums_the_gradient_of_biases_as_the_processor_does():
    generator = torch.Generator().manual_seed(0)
    bias = nn.AttentionBias(torch.zeros(2, 5), torch.zeros(2, N_GAP_TAGS))
    grad = torch.randn(3, 2, 5, 5, generator=generator)
    tags = torch.randint(0, N_GAP_TAGS, (3, 5, 5), generator=generator)
    found = bias.gradients(grad, tags)
    with mock.patch.object(nn, "_counts_in_order", lambda device: False):
        torch.testing.assert_close(bias.gradients(grad, tags), found)


@pytest.mark.parametrize(
    ("device", "dtype", "size", "capability", "taken"),
    [
        ("cuda", torch.bfloat16, 64, (8, 6), True),
        ("cuda", torch.bfloat16, 231, (8, 6), False),
        ("cuda", torch.bfloat16, 231, (9, 0), True),
        ("cuda", torch.bfloat16, 264, (9, 0), False),
        ("cuda", torch.bfloat16, 64, (7, 5), False),
        ("cuda", torch.float32, 64, (9, 0), False),
        ("cpu", torch.bfloat16, 64, (9, 0), False),
    ],
)
def test_only_what_the_kernel_for_variable_lengths_takes_goes_to_it(
    monkeypatch, device, dtype, size, capability, taken
):
    monkeypatch.setattr(nn.torch, "__version__", "2.11.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert nn._takes_any_lengths(torch.device(device), dtype, size) == taken


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("size", [32, 231])  # of a head; the kernel wants multiples of eight
def test_attention_of_packed_sequences_on_a_gpu_is_that_of_padded_ones(size):
    generator = torch.Generator().manual_seed(0)
    shape, offsets = (33, 3, 2, size), offsets_of([5, 0, 1, 20, 7])
    qkv, weights = (torch.randn(shape, generator=generator).bfloat16() for _ in range(2))
    results = []
    for place, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        x = qkv.detach().to(place, dtype).requires_grad_()
        plan = attention_plan(nn.Ragged.of(offsets, x.device), 2, dtype, size)
        assert isinstance(plan, nn.PackedPlan) == (place == "cuda")
        attended = packed_attention(x, plan)
        (grad,) = torch.autograd.grad((attended * weights[:, 0].to(attended)).sum(), x)
        results.append([found.detach().cpu().double() for found in (attended, grad)])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).norm() < 0.01 * expected.norm()


def test_bfloat16_products_stay_near_float64():
    """Of the whole encoder, forward and back: what autocast loses is rounding, no more."""
    generator = torch.Generator().manual_seed(0)
    model = TwoSidedEncoder(
        9, 64, n_layers=2, n_heads=2, max_len=6, dropout=0.0, generator=generator
    )
    with torch.no_grad():
        model.item_embedding.mul_(5)  # of a size that training gives them
    items, offsets = torch.arange(17) % 9, offsets_of([6, 4, 1, 6])
    weights = torch.randn(17, 64, generator=generator)
    results = []
    for dtype, rounds in ((torch.float32, True), (torch.float64, False)):
        model.zero_grad()
        model.to(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=rounds):
            hidden = model.encode(model.items().embed(items), offsets)
        (hidden * weights.to(hidden)).sum().backward()
        results.append([hidden.detach(), *(p.grad.clone() for p in model.positive.parameters())])
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(*results, strict=True)]
    assert 1e-4 < max(errors) < 0.02


@given(LENGTHS.filter(sum), st.data())
def test_later_events_and_other_users_change_nothing(lengths, data):
    model, offsets = encoder(), offsets_of(lengths)
    items = torch.arange(sum(lengths)) % 9
    changed = data.draw(st.integers(0, len(items) - 1))
    other = items.clone()
    other[changed] = (items[changed] + 1) % 9
    with torch.no_grad():
        before, after = (model.encode(model.items().embed(x), offsets) for x in (items, other))
    user = int(torch.searchsorted(offsets, changed, right=True)) - 1
    sees = torch.zeros(len(items), dtype=torch.bool)
    sees[changed : int(offsets[user + 1])] = True
    assert torch.equal(before[~sees], after[~sees])
    assert (before[sees] != after[sees]).any(1).all()


def test_positions_count_from_the_most_recent_event():
    """What stands in front moves no position, so without attention it changes nothing."""
    model = encoder(n_layers=0)
    with torch.no_grad():
        short, long = (
            model.encode(model.items().embed(torch.tensor(items)), offsets_of([len(items)]))
            for items in ([3, 4], [1, 2, 3, 4])
        )
    assert torch.equal(short, long[-2:])
    assert not torch.equal(short[0], short[1])


def test_no_two_parameters_start_alike_nor_are_shared():
    model = TwoSidedEncoder(
        8,
        8,
        n_layers=2,
        n_heads=1,
        max_len=8,
        dropout=0.0,
        two_sided=True,
        generator=torch.Generator().manual_seed(0),
    )
    drawn = {
        name: p for name, p in model.named_parameters() if p.ndim == 2 and not p.eq(p[0, 0]).all()
    }
    assert len(drawn) == 1 + 2 * (1 + 2 * 4)  # items; per side positions and 2 x 4 matrices
    for (name, one), (other_name, other) in itertools.combinations(drawn.items(), 2):
        assert one.shape != other.shape or not torch.equal(one, other), (name, other_name)
        assert one.data_ptr() != other.data_ptr()
    sides = [dict(side.named_parameters()) for side in (model.positive, model.negative)]
    assert sides[0].keys() == sides[1].keys()
    assert not {p.data_ptr() for p in sides[0].values()} & {p.data_ptr() for p in sides[1].values()}


def test_joint_encoder_starts_without_taste_and_with_distinct_parameters():
    model = JointEncoder(
        8,
        8,
        n_layers=1,
        n_heads=1,
        max_len=8,
        dropout=0.0,
        generator=torch.Generator().manual_seed(0),
    )
    drawn = [p for p in model.parameters() if p.ndim == 2]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))
    assert not model.item_taste.any() and model.sign_embedding.shape == (3, 8)


def test_like_logits_by_hand():
    model = JointEncoder(2, 2, n_layers=0, n_heads=1, max_len=1, dropout=0.0)
    values = {
        "item_embedding": [[1, 0], [0, 2]],
        "taste_query.weight": [[0, 1], [1, 0]],
        "taste_query.bias": [0, 0.5],
        "taste_level.weight": [[10, 0]],
        "taste_level.bias": [100],
        "item_taste": [0, 1000],
    }
    state = {name: torch.tensor(value, dtype=torch.float32) for name, value in values.items()}
    model.load_state_dict(state, strict=False, assign=True)
    hidden = torch.tensor([[3.0, 4.0]])
    # A h + a = (4, 3.5): item 1 gets 2 * 3.5 + 1000 + 10 * 3 + 100.
    assert model.like_logits(hidden, model.items(), torch.tensor([1])).tolist() == [1137.0]


def test_initial_values_come_from_the_generator_alone():
    state = torch.get_rng_state()
    one, same, other = (encoder(seed=seed).item_embedding for seed in (5, 5, 6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_keeps_the_mean_drops_the_rate_and_leaves_the_global_state():
    state = torch.get_rng_state()
    x = torch.ones(1001, 100, requires_grad=True)
    y = dropout(x, 0.25, torch.Generator().manual_seed(0))
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.01)
    assert torch.allclose(y[y != 0], torch.tensor(4 / 3))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())  # the gradient passes where the value did
    again = dropout(x, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(y, again)
    assert dropout(x, 0.25, None) is x
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
def test_dropout_is_as_strong_as_it_says(rate, dtype):
    """Within three standard errors, which are far below a hundredth of the rate."""
    n = 2**21 + 3
    y = dropout(torch.ones(n, dtype=dtype), rate, torch.Generator().manual_seed(0))
    share = float((y == 0).double().mean())
    assert share == pytest.approx(rate, abs=3 * (rate * (1 - rate) / n) ** 0.5 + 2**-17)
    level = round(rate * 2**16)
    scale = torch.tensor(2**16 / (2**16 - level), dtype=dtype)
    assert torch.equal(y.unique(), torch.stack([torch.zeros_like(scale), scale]))


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5])
def test_dropout_of_any_size_and_of_nearly_all_stays_finite(n):
    x = torch.ones(n, 1, requires_grad=True)
    for rate in (0.5, 0.999999999):
        y = dropout(x, rate, torch.Generator().manual_seed(0))
        assert y.shape == x.shape and torch.isfinite(y).all()
    y = dropout(torch.ones(2**20), 0.999999999, torch.Generator().manual_seed(0))
    assert y.unique().tolist() == [0.0, 2.0**16]  # the largest rate that leaves something
    assert dropout(x, 2**-18, torch.Generator().manual_seed(0)) is x


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_like_logits_drop_only_when_they_get_a_generator(rate):
    model = JointEncoder(
        3,
        8,
        n_layers=0,
        n_heads=1,
        max_len=1,
        dropout=rate,
        generator=torch.Generator().manual_seed(0),
    )
    hidden, codes = (
        torch.randn(20, 8, generator=torch.Generator().manual_seed(1)),
        torch.arange(20) % 3,
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        plain, again, dropped = (
            model.like_logits(hidden, model.items(), codes, *source)
            for source in ((), (None,), (generator,))
        )
        expected = model.like_logits(
            dropout(hidden, rate, torch.Generator().manual_seed(2)), model.items(), codes
        )
    assert torch.equal(plain, again)
    assert torch.equal(dropped, expected)
    assert torch.equal(dropped, plain) == (rate == 0)


def test_encoder_drops_only_when_it_gets_a_generator():
    model = SequenceEncoder(4, n_layers=1, n_heads=1, max_len=3, dropout=0.5)
    x, sequences = torch.randn(3, 4), ragged([3])
    with torch.no_grad():
        model.position_embedding.zero_()
        plain = model(x, sequences)
        assert torch.equal(plain, model(x, sequences))
        assert not torch.equal(plain, model(x, sequences, torch.Generator().manual_seed(0)))
