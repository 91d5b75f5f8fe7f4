"""Laws of the losses, each held against a plain padded twin in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from posneg_rec.losses import (
    Dislikes,
    Positions,
    _chunk_shape,
    _row_maximum,
    composite_loss,
    contrastive_loss,
    feedback_loss,
    next_item_loss,
    sampled_next_item_loss,
)

SIMILARITIES = ("dot", "cosine")


def plain_next_item_loss(hidden, embedding, targets):
    """Every logit at once."""
    if len(targets) == 0:
        return 0.0 * (hidden.sum() + embedding.sum())
    return torch.nn.functional.cross_entropy(hidden @ embedding.T, targets)


def plain_contrastive_loss(world, similarity="dot", temperature=1.0, n_visible=None):
    """The formula, one position at a time."""
    costs = []
    for user in range(len(world["offsets"]) - 1):
        start, stop = world["negative_offsets"][user : user + 2].tolist()
        disliked = world["negatives"][start:stop].tolist()
        for t in range(*world["offsets"][user : user + 2].tolist()):
            h, target = world["hidden"][t], int(world["targets"][t])
            shown = disliked if n_visible is None else disliked[: int(n_visible[t])]

            def f(item, h=h):
                e = world["item_embedding"][item]
                if similarity == "cosine":
                    return torch.cosine_similarity(h, e, dim=0) / temperature
                return h @ e / temperature

            terms = [f(target)] + [f(item) for item in shown if item != target]
            costs.append(torch.stack(terms).logsumexp(0) - f(target))
    return torch.stack(costs).mean() if costs else torch.zeros(())


@st.composite
def worlds(draw, min_users=0, n_items=7, dim=3, scale=3.0):
    """A packed batch: some users without positions, some without dislikes."""
    lengths = draw(st.lists(st.integers(0, 4), min_size=min_users, max_size=5))
    dislikes = draw(st.lists(st.integers(0, 4), min_size=len(lengths), max_size=len(lengths)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def offsets(counts):
        return torch.tensor([0, *np.cumsum(counts)], dtype=torch.int64)

    def normal(*shape):
        return scale * torch.randn(shape, dtype=torch.float64, generator=generator)

    def items(n):
        return torch.randint(n_items, (n,), generator=generator)

    return {
        "hidden": normal(sum(lengths), dim),
        "item_embedding": normal(n_items, dim),
        "targets": items(sum(lengths)),
        "offsets": offsets(lengths),
        "negatives": items(sum(dislikes)),
        "negative_offsets": offsets(dislikes),
    }


def ce(world, **options):
    return next_item_loss(world["hidden"], world["item_embedding"], world["targets"], **options)


def users_of(world, users):
    """The batch that holds only `users`, in that order."""

    def rows(offsets):
        return torch.cat(
            [torch.arange(int(offsets[u]), int(offsets[u + 1])) for u in users]
            or [torch.empty(0, dtype=torch.int64)]
        )

    def packed(offsets):
        lengths = [int(offsets[u + 1] - offsets[u]) for u in users]
        return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)

    positions, negatives = rows(world["offsets"]), rows(world["negative_offsets"])
    return world | {
        "hidden": world["hidden"][positions],
        "targets": world["targets"][positions],
        "offsets": packed(world["offsets"]),
        "negatives": world["negatives"][negatives],
        "negative_offsets": packed(world["negative_offsets"]),
    }


# ------------------------------------------------------------------------------ next item


CHUNK_SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 8))  # positions, items of seven


@given(worlds(), CHUNK_SHAPES)
def test_chunks_give_the_loss_of_all_logits_at_once(world, shape):
    torch.testing.assert_close(
        ce(world, chunk_shape=shape),
        plain_next_item_loss(world["hidden"], world["item_embedding"], world["targets"]),
    )


@given(worlds(min_users=1), CHUNK_SHAPES)
def test_chunked_gradients_equal_the_twins(world, shape):
    leaves = [world[name].clone().requires_grad_() for name in ("hidden", "item_embedding")]
    ours = torch.autograd.grad(
        3 * next_item_loss(*leaves, world["targets"], chunk_shape=shape), leaves
    )
    plain = torch.autograd.grad(3 * plain_next_item_loss(*leaves, world["targets"]), leaves)
    torch.testing.assert_close(ours, plain)


@given(worlds(), st.integers(0, 2**16))
def test_weighted_mean_of_position_costs(world, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(len(world["targets"]), dtype=torch.float64, generator=generator)
    costs = torch.nn.functional.cross_entropy(
        world["hidden"] @ world["item_embedding"].T, world["targets"], reduction="none"
    )
    expected = (weights * costs).sum() / weights.sum() if len(costs) else torch.tensor(0.0)
    torch.testing.assert_close(ce(world, weights=weights), expected.double())


def test_position_without_weight_has_no_gradient():
    hidden = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    embedding = torch.randn(5, 3, dtype=torch.float64)
    loss = next_item_loss(hidden, embedding, torch.tensor([1, 2]), weights=torch.tensor([1.0, 0.0]))
    loss.backward()
    assert hidden.grad[0].abs().sum() > 0
    assert torch.equal(hidden.grad[1], torch.zeros(3, dtype=torch.float64))


def test_all_weights_zero_costs_nothing():
    loss = next_item_loss(
        torch.randn(2, 3), torch.randn(5, 3), torch.tensor([1, 2]), weights=torch.zeros(2)
    )
    assert loss == 0


def test_next_item_loss_by_hand():
    # Logits (0, log 3): the second item has probability 3/4.
    hidden = torch.tensor([[1.0]], dtype=torch.float64)
    embedding = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    loss = next_item_loss(hidden, embedding, torch.tensor([1]))
    assert float(loss) == pytest.approx(math.log(4 / 3))


@pytest.mark.parametrize("n_items", [0, 1, 100, 2**13, 2**15, 2**15 + 1, 2**20])
def test_chunks_on_an_accelerator_are_bounded_in_logits_rows_and_items(n_items):
    rows, items = _chunk_shape(n_items, torch.device("cuda"))
    assert items == min(max(n_items, 1), 2**15)
    assert rows == (2**13 if items <= 2**13 else 2**26 // items)


BELOW_ZERO = np.array([[-3.0, -1.0, -2.0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@example(BELOW_ZERO)
@example(-BELOW_ZERO)
@example(np.array([[-0.0, -1.0, -np.inf], [-1.0, 0.0, 1.0]]))
@given(
    hnp.arrays(float, st.tuples(st.integers(1, 3), st.integers(1, 4)), elements=st.floats(-9, 9))
)
def test_row_maximum_is_the_largest_number_of_a_row(dtype, rows):
    x = torch.from_numpy(rows).to(dtype)
    assert _row_maximum(x).tolist() == [max(row) for row in x.tolist()]


@pytest.mark.parametrize("shape", [None, (1, 1)])
@pytest.mark.parametrize("shift", [-5.0, -1.0, 1.0])
def test_bfloat16_loss_by_hand_whatever_the_sign_of_the_logits(shift, shape):
    # Two logits that differ by 2, and those of a second position by -2.
    hidden = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.bfloat16)
    embedding = torch.tensor([[shift, 1.0], [shift, -1.0]], dtype=torch.bfloat16)
    loss = next_item_loss(hidden, embedding, torch.tensor([0, 0]), chunk_shape=shape)
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(2))) / 2
    assert float(loss) == pytest.approx(expected, rel=0.01)


@given(worlds(min_users=1), st.floats(-50, 50))
def test_shifting_all_logits_of_a_position_changes_nothing(world, shift):
    # One more dimension that every item shares adds the same number to every logit.
    ones = torch.ones(len(world["item_embedding"]), 1, dtype=torch.float64)
    added = torch.full((len(world["hidden"]), 1), shift, dtype=torch.float64)
    shifted = world | {
        "hidden": torch.cat([world["hidden"], added], 1),
        "item_embedding": torch.cat([world["item_embedding"], ones], 1),
    }
    torch.testing.assert_close(ce(shifted), ce(world))
    torch.testing.assert_close(contrastive_loss(**shifted), contrastive_loss(**world))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_of_ten_thousand_stay_finite(dtype):
    hidden = torch.tensor([[1e4], [-1e4]], dtype=dtype, requires_grad=True)
    embedding = torch.tensor([[1.0], [-1.0], [0.5]], dtype=dtype, requires_grad=True)
    targets, offsets = torch.tensor([1, 0]), torch.tensor([0, 2])
    positive = Positions(hidden, targets, offsets)
    dislikes = Dislikes(torch.tensor([0, 1, 2]), torch.tensor([0, 3]))
    loss = composite_loss(
        embedding, positive, positive, dislikes, negative_weight=1.0, contrastive_weight=1.0
    )
    loss.total.backward()
    assert torch.isfinite(torch.stack(loss)).all()
    assert float(loss.positive) == pytest.approx(2e4, rel=0.01)
    assert torch.isfinite(hidden.grad).all() and torch.isfinite(embedding.grad).all()


# ------------------------------------------------------------------------------ sampled


@given(worlds())
def test_drawing_each_item_once_is_the_full_softmax(world):
    every = torch.arange(len(world["item_embedding"]))
    torch.testing.assert_close(
        sampled_next_item_loss(
            world["hidden"], world["item_embedding"], world["targets"], every, torch.zeros(7)
        ),
        ce(world),
    )


@given(worlds(min_users=1), st.data())
def test_sampled_sums_are_right_on_average(world, data):
    """Over all pairs of draws, weighed by how likely they are, as exact as a sum can be."""
    odds = data.draw(st.lists(st.integers(1, 9), min_size=7, max_size=7))
    q = torch.tensor(odds, dtype=torch.float64) / sum(odds)
    hidden, embedding, targets = (world[name] for name in ("hidden", "item_embedding", "targets"))
    for h, y in zip(hidden[:, None], targets[:, None], strict=True):
        mass = 0.0
        for pair in itertools.product(range(7), repeat=2):
            drawn = torch.tensor(pair)
            cost = sampled_next_item_loss(h, embedding, y, drawn, (2 * q[drawn]).log())
            # exp(cost) = estimated sum / exp(s_target)
            mass += q[drawn].prod() * cost.exp()
        torch.testing.assert_close(mass, ce(world | {"hidden": h, "targets": y}).exp())


def test_sampled_loss_by_hand():
    hidden, embedding = torch.tensor([[1.0]]), torch.tensor([[2.0], [1.0], [3.0]])
    loss = sampled_next_item_loss(
        hidden,
        embedding,
        torch.tensor([0]),
        negatives=torch.tensor([1, 1, 0, 2]),  # the target itself does not count
        log_expected=torch.tensor([0.5, 0.5, 9.0, 0.1]).log(),
    )
    expected = math.log(math.exp(2) + 4 * math.exp(1) + 10 * math.exp(3)) - 2
    assert float(loss) == pytest.approx(expected)


# ------------------------------------------------------------------------------ contrast


@pytest.mark.parametrize("similarity", SIMILARITIES)
@given(world=worlds(), temperature=st.floats(0.1, 2))
def test_packed_contrast_equals_the_formula(similarity, world, temperature):
    torch.testing.assert_close(
        contrastive_loss(**world, similarity=similarity, temperature=temperature),
        plain_contrastive_loss(world, similarity, temperature).double(),
    )


@given(worlds(min_users=1), st.data())
def test_only_visible_dislikes_count(world, data):
    n_visible = torch.tensor(
        data.draw(
            st.lists(
                st.integers(0, 4), min_size=len(world["targets"]), max_size=len(world["targets"])
            )
        ),
        dtype=torch.int64,
    )
    torch.testing.assert_close(
        contrastive_loss(**world, n_visible=n_visible),
        plain_contrastive_loss(world, n_visible=n_visible).double(),
    )


def test_contrast_by_hand():
    # Liked logit 1, disliked logits 0 and -1.
    loss = contrastive_loss(
        hidden=torch.tensor([[1.0]]),
        item_embedding=torch.tensor([[1.0], [0.0], [-1.0], [9.0]]),
        targets=torch.tensor([0]),
        offsets=torch.tensor([0, 1]),
        negatives=torch.tensor([1, 2]),
        negative_offsets=torch.tensor([0, 2]),
    )
    assert float(loss) == pytest.approx(math.log(1 + math.exp(-1) + math.exp(-2)))


def test_target_that_was_disliked_too_is_not_pushed_away():
    world = {
        "hidden": torch.randn(1, 3),
        "item_embedding": torch.randn(4, 3),
        "targets": torch.tensor([2]),
        "offsets": torch.tensor([0, 1]),
        "negatives": torch.tensor([2, 2]),
        "negative_offsets": torch.tensor([0, 2]),
    }
    assert contrastive_loss(**world) == 0


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_contrast_is_nothing_without_dislikes_and_falls_with_a_dislikes_logit(similarity):
    def loss(logit, n_dislikes=1):
        return contrastive_loss(
            hidden=torch.tensor([[1.0, 0.0]]),
            item_embedding=torch.tensor([[0.0, 1.0], [logit, 1.0]]),
            targets=torch.tensor([0]),
            offsets=torch.tensor([0, 1]),
            negatives=torch.tensor([1] * n_dislikes, dtype=torch.int64),
            negative_offsets=torch.tensor([0, n_dislikes]),
            similarity=similarity,
        )

    assert loss(1.0, n_dislikes=0) == 0
    assert loss(2.0) > loss(1.0) > loss(0.0) > loss(-1.0) > 0


def test_cosine_ignores_lengths_and_dot_does_not():
    generator = torch.Generator().manual_seed(0)
    world = {
        "item_embedding": torch.randn(4, 3, generator=generator),
        "targets": torch.tensor([0]),
        "offsets": torch.tensor([0, 1]),
        "negatives": torch.tensor([1, 2]),
        "negative_offsets": torch.tensor([0, 2]),
    }
    hidden = torch.randn(1, 3, generator=generator)
    for similarity, same in (("cosine", True), ("dot", False)):
        one, ten = (
            contrastive_loss(hidden=scale * hidden, similarity=similarity, **world)
            for scale in (1, 10)
        )
        assert torch.allclose(one, ten) == same


# ------------------------------------------------------------------------------ feedback


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.sampled_from([-1, 1])), max_size=9))
def test_feedback_loss_is_binary_cross_entropy(positions):
    logits, signs = (
        torch.tensor([position[part] for position in positions], dtype=torch.float64)
        for part in (0, 1)
    )
    costs = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, (signs == 1).double(), reduction="none"
    )
    loss = feedback_loss(logits, signs)
    torch.testing.assert_close(loss, costs.mean() if positions else torch.zeros_like(loss))
    assert torch.isfinite(loss) and loss >= 0
    torch.testing.assert_close(feedback_loss(logits, signs, reduction="sum"), costs.sum())


def test_neutral_target_needs_weight_zero_to_cost_nothing():
    weights = torch.tensor([1.0, 0.0])
    loss = feedback_loss(torch.tensor([0.5, 9.0]), torch.tensor([-1, 0]), weights=weights)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(0.5)))


# ------------------------------------------------------------------------------ both


@given(worlds())
def test_losses_are_finite_and_not_negative(world):
    for loss in (ce(world), contrastive_loss(**world)):
        assert torch.isfinite(loss) and loss >= -1e-12


@given(worlds(min_users=1), st.data())
def test_sums_add_over_a_split_of_the_batch(world, data):
    n_users = len(world["offsets"]) - 1
    left = data.draw(st.sets(st.integers(0, n_users - 1)))
    parts = [users_of(world, sorted(left)), users_of(world, sorted(set(range(n_users)) - left))]
    torch.testing.assert_close(
        sum(ce(part, reduction="sum") for part in parts), ce(world, reduction="sum")
    )
    torch.testing.assert_close(
        sum(contrastive_loss(**part, reduction="sum") for part in parts),
        contrastive_loss(**world, reduction="sum"),
    )


@given(worlds(min_users=1), st.randoms(use_true_random=False))
def test_order_of_users_does_not_matter(world, random):
    users = list(range(len(world["offsets"]) - 1))
    random.shuffle(users)
    shuffled = users_of(world, users)
    torch.testing.assert_close(ce(shuffled), ce(world))
    torch.testing.assert_close(contrastive_loss(**shuffled), contrastive_loss(**world))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_gradients_are_the_derivatives(similarity):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(5, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    embedding = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    targets, offsets = torch.tensor([0, 1, 2, 3, 1]), torch.tensor([0, 3, 5])
    dislikes = Dislikes(torch.tensor([4, 5, 1, 1]), torch.tensor([0, 2, 4]))

    def total(hidden, embedding):
        positive = Positions(hidden, targets, offsets)
        return composite_loss(
            embedding,
            positive,
            Positions(hidden * 0.5, targets, offsets),
            dislikes,
            negative_weight=0.3,
            contrastive_weight=0.7,
            similarity=similarity,
            temperature=0.5,
        ).total

    assert torch.autograd.gradcheck(total, (hidden, embedding))


@given(worlds(min_users=1), st.floats(0.01, 2), st.floats(0.01, 2))
def test_composite_is_the_weighted_sum_of_its_terms(world, a, b):
    positive = Positions(world["hidden"], world["targets"], world["offsets"])
    dislikes = Dislikes(world["negatives"], world["negative_offsets"])
    loss = composite_loss(
        world["item_embedding"],
        positive,
        Positions(-world["hidden"], world["targets"], world["offsets"]),
        dislikes,
        negative_weight=a,
        contrastive_weight=b,
    )
    torch.testing.assert_close(loss.positive, ce(world))
    torch.testing.assert_close(loss.contrastive, contrastive_loss(**world))
    torch.testing.assert_close(loss.total, loss.positive + a * loss.negative + b * loss.contrastive)


def test_weight_zero_needs_neither_negatives_nor_dislikes():
    hidden = torch.randn(2, 3, requires_grad=True)
    positive = Positions(hidden, torch.tensor([0, 1]), torch.tensor([0, 2]))
    loss = composite_loss(torch.randn(4, 3), positive, negative_weight=0.0, contrastive_weight=0.0)
    assert loss.total == loss.positive and loss.negative == loss.contrastive == 0


def test_batch_in_which_nobody_dislikes_has_gradients():
    hidden = torch.randn(2, 3, requires_grad=True)
    embedding = torch.randn(4, 3, requires_grad=True)
    empty = torch.tensor([0, 0])
    loss = composite_loss(
        embedding,
        Positions(hidden, torch.tensor([0, 1]), torch.tensor([0, 2])),
        Positions(hidden[:0], torch.empty(0, dtype=torch.int64), empty),
        Dislikes(torch.empty(0, dtype=torch.int64), empty),
        negative_weight=0.5,
        contrastive_weight=0.5,
    )
    loss.total.backward()
    assert loss.total == loss.positive > 0
    assert torch.isfinite(hidden.grad).all() and hidden.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("option", "message"),
    [({"reduction": "none"}, "'mean' or 'sum'"), ({"similarity": "l2"}, "'dot' or 'cosine'")],
)
def test_unknown_option_says_what_is_allowed(option, message):
    world = {
        "hidden": torch.zeros(1, 2),
        "item_embedding": torch.zeros(3, 2),
        "targets": torch.tensor([0]),
        "offsets": torch.tensor([0, 1]),
        "negatives": torch.tensor([1]),
        "negative_offsets": torch.tensor([0, 1]),
    }
    with pytest.raises(ValueError, match=message):
        contrastive_loss(**world, **option)
