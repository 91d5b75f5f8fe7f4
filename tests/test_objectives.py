"""Windows, batches and losses: each against what it must be by hand."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import losses_of

from posneg_rec import objectives, training
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.objectives import JointObjective, PNFRecObjective
from posneg_rec.sequences import PackedSequences
from posneg_rec.training import Settings, train

SETTINGS = Settings(
    embedding_dim=8,
    n_layers=1,
    n_heads=1,
    max_len=4,
    dropout=0.1,
    negative_weight=0.3,
    contrastive_weight=0.2,
    contrastive_similarity="dot",
    contrastive_negatives="window",
    temperature=1.0,
    windows="recent",
    n_negatives=None,
    ema_decay=0.0,
    learning_rate=0.01,
    batch_size=2,
    max_epochs=3,
    n_iter_no_change=2,
    device="cpu",
    precision="float32",
)


def with_settings(**changes):
    return Settings(**vars(SETTINGS) | changes)


def objective(events, kind=PNFRecObjective, sample_weight=None, **settings):
    """An objective on rows (user, item, sign), in the rows' order, and its settings."""
    rows = np.array(events)
    interactions = read_interactions(rows[:, :2], rows[:, 2])
    histories = build_histories(interactions, ItemVocabulary.from_ids(rows[:, 1]))
    return kind(histories, with_settings(**settings), sample_weight)


def run(trained, n_items=6, seed=0, **options):
    return train(trained, n_items, trained.settings, rng=np.random.default_rng(seed), **options)


EVENTS = [(0, 0, 1), (0, 3, -1), (0, 1, 1), (0, 4, -1), (0, 2, 1), (1, 5, -1), (1, 0, 1), (1, 1, 1)]


def test_signs_part_and_dislikes_before_each_like_are_counted():
    made = objective(EVENTS, sample_weight=np.arange(8, dtype=np.float32)).read(np.arange(2))
    assert made.liked.to_lists() == [[0, 1, 2], [0, 1]]
    assert made.disliked.to_lists() == [[3, 4], [5]]
    assert made.n_dislikes_before.tolist() == [0, 1, 2, 1, 1]
    assert made.liked_weights.tolist() == [0, 2, 4, 6, 7]
    assert made.disliked_weights.tolist() == [1, 3, 5]


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
def test_weights_go_with_the_callers_rows_in_whatever_order(kind):
    rows = np.array([(1, 0, 1), (0, 1, 1), (1, 2, 1), (0, 3, -1), (1, 4, -1), (0, 5, 1)])
    made = objective(rows, kind, np.arange(6, dtype=np.float32))
    if kind is PNFRecObjective:
        assert made.read(np.arange(2)).liked_weights.tolist() == [1, 5, 0, 2]
        assert made.read(np.array([1, 0])).liked_weights.tolist() == [0, 2, 1, 5]
        assert made.read(np.arange(2)).disliked_weights.tolist() == [3, 4]
    else:
        assert made.weights(np.arange(6)).tolist() == [1, 3, 5, 0, 2, 4]
        assert made.weights(np.array([4, 1])).tolist() == [2, 3]


def test_joint_events_keep_their_signs_and_neutral_ones_no_weight():
    events = [(0, 0, 1), (0, 3, 0), (0, 1, -1), (1, 2, 1)]
    made = objective(events, JointObjective, np.array([1, 2, 3, 4], dtype=np.float32))
    assert made.weights(np.arange(4)).tolist() == [1, 0, 3, 4]
    assert made.trainable_users().tolist() == [0]


# Two likes; two dislikes after a like; an event of either sign; a neutral event.
SEVERAL = [
    (0, 0, 1),
    (0, 1, 1),
    (1, 2, 1),
    (1, 3, -1),
    (1, 4, -1),
    (2, 5, 1),
    (3, 5, -1),
    (4, 0, 0),
]


@pytest.mark.parametrize(
    ("kind", "negative_weight", "unweighted", "users"),
    [
        (PNFRecObjective, 0.3, [], [0, 1]),
        (PNFRecObjective, 0.0, [], [0]),
        (PNFRecObjective, 0.3, [0, 2, 3], [0, 1]),  # first events are no targets anyway
        (PNFRecObjective, 0.3, [4], [0]),
        (PNFRecObjective, 0.3, [1], []),  # no like to learn from: the dislikes are no use
        (JointObjective, 0.3, [], [0, 1]),
        (JointObjective, 0.0, [0, 2, 3], [0, 1]),
        (JointObjective, 0.3, [1, 3, 4], []),
    ],
)
def test_users_train_who_have_a_target_of_weight(kind, negative_weight, unweighted, users):
    weights = np.ones(len(SEVERAL), np.float32)
    weights[unweighted] = 0
    for given_weights in [weights] if unweighted else [weights, None]:
        made = objective(SEVERAL, kind, given_weights, negative_weight=negative_weight)
        assert made.trainable_users().tolist() == users


PACKED = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5)


@given(PACKED, st.integers(1, 7), st.data())
def test_recent_windows_are_the_last_events(lists, length, data):
    users = np.array(data.draw(st.permutations(range(len(lists)))))
    packed = PackedSequences.from_lists(lists)
    windows = objectives._Windows.draw(packed, users, length, None)
    taken = PackedSequences(packed.values[windows.index], windows.offsets)
    assert taken.to_lists() == [lists[user][-length:] for user in users]
    assert windows.starts.tolist() == [max(0, len(lists[user]) - length) for user in users]


@given(PACKED, st.integers(1, 7), st.integers(0, 99))
def test_random_windows_are_full_runs_of_events(lists, length, seed):
    packed = PackedSequences.from_lists(lists)
    users = np.arange(len(lists))
    windows = objectives._Windows.draw(packed, users, length, np.random.default_rng(seed))
    for user, start in enumerate(windows.starts):
        taken = packed.values[windows.index[windows.offsets[user] : windows.offsets[user + 1]]]
        assert taken.tolist() == lists[user][start : start + length]
        assert len(taken) == min(length, len(lists[user]))


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
@pytest.mark.parametrize("n_negatives", [None, 3])
@pytest.mark.parametrize(
    ("windows", "seen"),
    [("recent", {(3, 4, 5)}), ("random", {(0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5)})],
)
def test_batches_are_of_the_windows_that_are_asked_for(kind, n_negatives, windows, seen):
    events = [(0, item, 1) for item in range(6)]
    made = objective(events, kind, windows=windows, max_len=2, n_negatives=n_negatives)
    model, rng = made.model(6, torch.Generator().manual_seed(0)), np.random.default_rng(0)
    with mock.patch.object(
        objectives, "_items_of_batch", wraps=objectives._items_of_batch
    ) as taken:
        for _ in range(60):
            list(losses_of(made, model, np.array([0]), rng, None))
    assert {tuple(call.args[3].tolist()) for call in taken.call_args_list} == seen


def test_random_windows_reach_every_part_of_a_history():
    packed = PackedSequences.from_lists([list(range(10))])
    rng = np.random.default_rng(0)
    starts = {
        int(objectives._Windows.draw(packed, np.array([0]), 4, rng).starts[0]) for _ in range(200)
    }
    assert starts == set(range(7))


@given(PACKED)
def test_targets_are_the_inputs_shifted_within_each_user(lists):
    packed = PackedSequences.from_lists(lists)
    windows = objectives._Windows.draw(packed, np.arange(len(lists)), 9, None)
    inputs, targets, offsets, n_targets = windows.shifted()
    assert n_targets == len(targets)
    for index, expected in ((inputs, [x[:-1] for x in lists]), (targets, [x[1:] for x in lists])):
        assert PackedSequences(packed.values[index], offsets).to_lists() == expected


@given(PACKED, st.integers(1, 9), st.integers(1, 7))
def test_padding_ends_at_a_multiple_and_weighs_nothing(lists, longest, multiple):
    packed = PackedSequences.from_lists(lists)
    windows = objectives._Windows.draw(packed, np.arange(len(lists)), longest + 1, None)
    plain = windows.shifted()
    with mock.patch.object(objectives, "_POSITIONS_MULTIPLE", multiple):
        padded_to = windows.shifted(longest)
    n = plain.n_targets
    assert padded_to.n_targets == n and len(padded_to.inputs) == len(padded_to.targets)
    assert len(padded_to.targets) % multiple == 0 and len(padded_to.targets) - n < multiple
    for real, padded in zip(plain[:2], padded_to[:2], strict=True):
        assert padded[:n].tolist() == real.tolist()
    assert padded_to.offsets[: len(plain.offsets)].tolist() == plain.offsets.tolist()
    assert (
        padded_to.offsets[-1] == len(padded_to.inputs)
        and np.diff(padded_to.offsets).max() <= longest
    )
    assert set(padded_to.inputs[n:]) | set(padded_to.targets[n:]) <= set(windows.index)
    weights = padded_to.weights((padded_to.targets + 1).astype(np.float32))
    assert weights[:n].tolist() == (plain.targets + 1).tolist() and not weights[n:].any()
    assert padded_to.weights(None).tolist() == [1] * n + [0] * (len(weights) - n)


@given(st.integers(0, 10**6))
def test_few_sizes_are_eight_between_two_powers_of_two(n):
    size = objectives._few_sizes(n)
    assert n <= size <= max(n, n * 9 / 8) and objectives._few_sizes(size) == size
    assert size % (1 << max(0, (size - 1).bit_length() - 4)) == 0
    between = range(max(1, 2 ** (max(n, 1).bit_length() - 1)), 2 ** max(n, 1).bit_length())
    if n < 2000:
        assert len({objectives._few_sizes(other) for other in between}) <= 9


@given(PACKED, st.integers(1, 9))
def test_parts_of_few_shapes_end_at_few_sizes_and_weigh_nothing_there(lists, longest):
    packed = PackedSequences.from_lists(lists)
    windows = objectives._Windows.draw(packed, np.arange(len(lists)), longest + 1, None)
    plain, few = windows.shifted(), windows.shifted(longest, few_shapes=True)
    n = plain.n_targets
    assert few.n_targets == n and few.weights(None).sum() == n
    assert few.inputs[:n].tolist() == plain.inputs.tolist()
    assert few.offsets[: len(plain.offsets)].tolist() == plain.offsets.tolist()
    assert len(few.inputs) == few.offsets[-1] and np.diff(few.offsets).max(initial=0) <= longest
    if n:
        assert len(few.inputs) % objectives._POSITIONS_MULTIPLE == 0
        n_sequences = len(few.offsets) - 1
        assert objectives._few_sizes(n_sequences) == n_sequences


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
@pytest.mark.parametrize("negatives", ["window", "past"])
@pytest.mark.parametrize("few_shapes", [False, True])
def test_padding_changes_no_loss_and_no_gradient(kind, negatives, few_shapes):
    made = objective(EVENTS, kind, contrastive_negatives=negatives)
    users = np.arange(2)
    results = []
    for multiple, is_few in ((1, False), (8, few_shapes)):
        model = made.model(6, torch.Generator().manual_seed(0))
        with mock.patch.multiple(
            objectives,
            _POSITIONS_MULTIPLE=multiple,
            _TIMELESS_SHARE=0,
            _wants_few_shapes=lambda device, is_few=is_few: is_few,
        ):
            ((loss, *terms),) = losses_of(made, model, users, np.random.default_rng(0), None)
        loss.backward()
        results.append([loss.detach(), *terms, *(p.grad for p in model.parameters())])
    for plain, padded_to in zip(*results, strict=True):
        torch.testing.assert_close(plain, padded_to)


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
@pytest.mark.parametrize("negatives", ["window", "past"])
@pytest.mark.parametrize("weights", [None, np.arange(8, dtype=np.float32)])
def test_parts_of_a_batch_add_up_to_it(kind, negatives, weights):
    made = objective(EVENTS, kind, weights, contrastive_negatives=negatives)
    results, n_parts = [], []
    for most in (100, 4):
        model = made.model(6, torch.Generator().manual_seed(0))
        sums = torch.zeros(1 + len(made.terms))
        with mock.patch.multiple(objectives, _MAX_POSITIONS=most, _TIMELESS_SHARE=0):
            n_parts.append(0)
            for losses in losses_of(made, model, np.arange(2), np.random.default_rng(0), None):
                losses[0].backward()
                sums += torch.stack([loss.detach() for loss in losses])
                n_parts[-1] += 1
        results.append([sums, *(p.grad for p in model.parameters())])
    assert n_parts == [1, 2]
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(whole, cut)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.integers(1, 9))
def test_parts_cover_all_users_in_order(n_positions, most):
    parts = objectives._parts(np.array(n_positions), most)
    users = [user for part in parts for user in range(part.start, part.stop)]
    assert users == list(range(len(n_positions)))
    for part in parts:
        assert sum(n_positions[part]) < most + max(n_positions[part])


def batch_of(monkeypatch, made, *functions):
    """What functions of `objectives` get in the one batch of an epoch, users in order."""
    caught = []

    def catching(original):
        def catch(*args, **options):
            caught.append((*args, *options.values()))
            return original(*args, **options)

        return catch

    for name in functions:
        monkeypatch.setattr(objectives, name, catching(getattr(objectives, name)))

    class InOrder(np.random.Generator):
        def permutation(self, users):
            return users

    monkeypatch.setattr(training, "_MIN_STEPS", 1)
    monkeypatch.setattr(objectives, "_POSITIONS_MULTIPLE", 1)
    settings = with_settings(max_epochs=1, batch_size=9)
    train(made, 6, settings, rng=InOrder(np.random.PCG64(0)))
    return caught


def by_user(layout):
    """The items that each user's positions are contrasted with."""
    return [row[:n].tolist() for row, n in zip(layout.negatives, layout.n_negatives, strict=True)]


def test_window_contrast_uses_the_negative_encoders_inputs(monkeypatch):
    ((_, positive, negative, dislikes, *_),) = batch_of(
        monkeypatch, objective(EVENTS), "composite_loss"
    )
    assert positive.targets.tolist() == [1, 1, 2]  # the shorter sequence, user 1's, first
    assert negative.targets.tolist() == [4]
    assert by_user(dislikes) == [[], [3]]  # each user's latest dislike is left out
    assert dislikes.n_visible is None


def test_contrast_is_with_the_users_own_dislikes_in_whatever_order_the_encoders_read(monkeypatch):
    # User 0 has fewer likes, user 1 fewer dislikes.
    rows = [(0, 0, 1), (0, 1, 1), (0, 3, -1), (0, 4, -1), (0, 5, -1)]
    rows += [(1, 0, 1), (1, 1, 1), (1, 2, 1), (1, 5, -1), (1, 3, -1)]
    weights = np.arange(1, 11, dtype=np.float32)
    ((_, positive, negative, dislikes, *_),) = batch_of(
        monkeypatch, objective(rows, sample_weight=weights), "composite_loss"
    )
    assert positive.targets.tolist() == [1, 1, 2]
    assert positive.weights.tolist() == pytest.approx(np.array([2, 7, 8]) / 17)
    assert by_user(dislikes) == [[3, 4], [5]]
    assert negative.targets.tolist() == [3, 4, 5]
    assert negative.weights.tolist() == pytest.approx(np.array([10, 4, 5]) / 19)


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
def test_batch_whose_targets_have_no_weight_costs_nothing(kind):
    made = objective(EVENTS, kind, np.array([1, 0, 0, 0, 0, 1, 1, 1], dtype=np.float32))
    model = made.model(6, torch.Generator().manual_seed(0))
    ((loss, *terms),) = losses_of(made, model, np.array([0]), np.random.default_rng(0), None)
    assert [loss.item(), *(term.item() for term in terms)] == [0] * (1 + len(terms))


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
def test_draws_for_a_batch_are_also_of_its_dislikes(kind, monkeypatch):
    made = objective([*EVENTS, (1, 4, 0)], kind)
    ((*_, named, dislikes),) = batch_of(monkeypatch, made, "_items_of_batch")
    assert set(named) == set(range(6))
    assert dislikes.tolist() == [5, 3, 4]


@pytest.mark.parametrize(
    ("kind", "parts"),
    [(PNFRecObjective, ["positive", "negative"]), (JointObjective, ["encoder", "like_logits"])],
)
def test_each_part_of_a_model_drops_by_the_generator(kind, parts):
    made = objective(EVENTS, kind)
    model = made.model(6, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    calls = []
    for name in parts:
        part = getattr(model, name)
        owner, method = (part, "forward") if isinstance(part, torch.nn.Module) else (model, name)
        spy = mock.Mock(wraps=getattr(owner, method))
        setattr(owner, method, spy)
        calls.append(spy)
    list(losses_of(made, model, np.arange(2), np.random.default_rng(0), generator))
    for spy in calls:
        (call,) = spy.call_args_list
        assert generator in call.args


def test_joint_encoder_is_shown_nothing_of_its_targets(monkeypatch):
    made = objective(EVENTS, JointObjective)
    monkeypatch.setattr(objectives, "_POSITIONS_MULTIPLE", 1)
    model = made.model(6, torch.Generator().manual_seed(0))
    with mock.patch.object(model, "embed_events", wraps=model.embed_events) as read:
        list(losses_of(made, model, np.arange(2), np.random.default_rng(0), None))
    ((_, codes, signs, _, latest),) = [call.args for call in read.call_args_list]
    assert codes.tolist() == [5, 0, 0, 3, 1, 4]  # user 1's are fewer and go first
    assert signs.tolist() == [-1, 1, 1, -1, 1, -1]
    assert latest.tolist() == [[-1, 0], [1, 0], [2, -1], [2, 3], [4, 3], [4, 5]]


def test_past_contrast_shows_each_target_the_dislikes_before_it(monkeypatch):
    made = objective(EVENTS, contrastive_negatives="past")
    ((_, positive, _, dislikes, *_),) = batch_of(monkeypatch, made, "composite_loss")
    assert positive.targets.tolist() == [1, 1, 2]
    assert by_user(dislikes) == [[5], [3, 4]]
    assert dislikes.n_visible.tolist() == [1, 1, 2]


def test_past_contrast_counts_from_where_a_window_of_dislikes_starts(monkeypatch):
    # Of user 0 three dislikes precede the one target, the latest of them in the window of two;
    # of user 1 none does, and one is before the window.
    rows = [(0, 0, 1), (0, 3, -1), (0, 4, -1), (0, 1, 1), (0, 5, -1), (0, 2, 1), (0, 0, -1)]
    rows += [(1, 1, 1), (1, 2, 1), (1, 3, -1), (1, 4, -1), (1, 5, -1)]
    made = objective(rows, contrastive_negatives="past", max_len=1)
    ((_, positive, _, dislikes, *_),) = batch_of(monkeypatch, made, "composite_loss")
    assert positive.targets.tolist() == [2, 2]
    assert by_user(dislikes) == [[5, 0], [4, 5]]
    assert dislikes.n_visible.clamp(0).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("a", "b", "has_negative", "has_dislikes"),
    [(0.3, 0.2, True, True), (0.3, 0, True, False), (0, 0.2, False, True), (0, 0, False, False)],
)
def test_a_weight_of_zero_skips_its_work(monkeypatch, a, b, has_negative, has_dislikes):
    made = objective(EVENTS, negative_weight=a, contrastive_weight=b)
    ((_, _, negative, dislikes, *_),) = batch_of(monkeypatch, made, "composite_loss")
    assert (negative is not None) == has_negative
    assert (dislikes is not None) == (has_negative or has_dislikes)
    trained, history = run(made)
    assert any(name.startswith("negative") for name in trained) == has_negative
    assert (history[0].losses["negative_loss"] > 0) == has_negative
    assert (history[0].losses["contrastive_loss"] > 0) == has_dislikes


def test_joint_targets_are_the_next_event_and_its_sign(monkeypatch):
    made = objective([*EVENTS[:3], (0, 4, 0), *EVENTS[4:]], JointObjective)
    items, feedback = batch_of(monkeypatch, made, "item_loss", "feedback_loss")
    assert items[2].tolist() == [0, 1, 3, 1, 4, 2]
    assert feedback[1].tolist() == [1, 1, -1, 1, 0, 1]
    expected = pytest.approx(np.array([1, 1, 1, 1, 0, 1]) / 5)  # weights of a mean
    assert items[4].tolist() == feedback[2].tolist() == expected


def test_windows_hide_all_their_times_or_none(monkeypatch):
    n_users, n_events = 1000, 5
    users = np.repeat(np.arange(n_users), n_events)
    rows = np.column_stack([users, users % 6, np.arange(len(users))])  # a unit apart
    histories = build_histories(read_interactions(rows), ItemVocabulary.from_ids(rows[:, 1]))
    made = JointObjective(histories, with_settings(), gap_edges=np.array([0.5, 2.0]))
    monkeypatch.setattr(objectives, "_POSITIONS_MULTIPLE", 1)
    model = made.model(6, torch.Generator().manual_seed(0))
    with mock.patch.object(model, "embed_events", wraps=model.embed_events) as read:
        list(losses_of(made, model, np.arange(n_users), np.random.default_rng(0), None))
    tags = np.concatenate([call.args[3].numpy() for call in read.call_args_list]).reshape(-1, 4)
    hidden = ~tags.any(1)
    assert len(tags) == n_users
    assert (tags[~hidden] == [0, 3, 3, 3]).all()
    assert hidden.mean() == pytest.approx(0.1, abs=0.03)  # three standard errors


BOTH = pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.lists(st.integers(0, 5), max_size=5),
    st.integers(3, 12),
)
def test_drawn_negatives_come_as_often_as_they_are_said_to(events, dislikes, n_negatives):
    sampler = objectives._NegativeSampler(np.array(events), n_negatives)
    drawn, expected = np.zeros(6), np.full(6, np.nan)
    rng = np.random.default_rng(0)
    for _ in range(600):
        codes, log_expected = sampler.draw(rng, 6, np.array(dislikes, dtype=np.int64))
        assert len(codes) == n_negatives
        np.add.at(drawn, codes, 1 / 600)
        expected[codes] = np.exp(log_expected)
    assert expected.sum() == pytest.approx(n_negatives, rel=1e-5)
    # Poisson-like counts: six standard errors.
    assert (np.abs(drawn - expected) < 6 * np.sqrt(expected / 600)).all()


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5), st.data()
)
def test_what_is_held_out_is_drawn_as_if_it_were_not_there(lists, data):
    kept = [data.draw(st.integers(1, len(items))) for items in lists]
    packed = PackedSequences.from_lists(lists)
    spans = objectives._Spans(packed.offsets[:-1], np.array(kept))
    trained = [item for items, n in zip(lists, kept, strict=True) for item in items[:n]]
    whole = objectives._NegativeSampler(packed.values.astype(np.int32), 9, spans)
    alone = objectives._NegativeSampler(np.array(trained), 9)
    for drawn, expected in zip(
        *(each.draw(np.random.default_rng(0), 6, np.array([2])) for each in (whole, alone)),
        strict=True,
    ):
        assert drawn.tolist() == expected.tolist()


@BOTH
def test_training_up_to_stops_is_training_on_what_is_before_them(kind):
    rows = np.array([*EVENTS, (0, 5, 1), (1, 3, -1), (1, 4, 1)])
    interactions = read_interactions(rows[:, :2], rows[:, 2])
    histories = build_histories(interactions, ItemVocabulary.from_ids(rows[:, 1]))
    stops = histories.offsets[1:] - np.array([1, 2])
    settings = with_settings(n_negatives=3, windows="random", contrastive_negatives="past")
    alone = kind(histories.take([0, 1], stops), settings)
    until = kind(histories, settings, stops=stops)
    assert until.n_positions() == alone.n_positions() == 8
    (one, _), (other, _) = run(alone), run(until)
    assert all(value.tobytes() == other[name].tobytes() for name, value in one.items())


@BOTH
def test_sampled_steps_move_only_the_items_they_touch(kind):
    made = objective(EVENTS, kind, n_negatives=3, max_epochs=1)
    end, history = run(made, n_items=500)
    made.settings = with_settings(n_negatives=3, max_epochs=0)
    start, _ = run(made, n_items=500)
    moved = (start["item_embedding"] != end["item_embedding"]).any(1)
    assert moved[:6].all() and moved.sum() <= 6 + 3
    assert np.isfinite(history[0].losses["loss"])


@BOTH
@pytest.mark.parametrize("n_negatives", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_that_lack_the_first_event_train(kind, n_negatives, batch_size):
    # The very first event's item has the last code, and hardly a batch draws it: where a batch
    # asks for its vector, there is none.
    rows = [(user, 4 * user + t, 1) for user in range(12) for t in range(4)]
    rows[0] = (0, 1000, 1)
    made = objective(rows, kind, n_negatives=n_negatives, batch_size=batch_size)
    assert made.sampler.items[0] == made.sampler.items.max() == 47
    _, history = run(made, n_items=48)
    assert len(history) == 3 and all(np.isfinite(log.losses["loss"]) for log in history)


@BOTH
def test_drawing_every_item_is_training_on_the_whole_catalogue(kind, monkeypatch):
    """Losses and weights after a step, for both optimisers start alike."""

    def draw(self, rng, n_items, dislikes):
        return np.arange(n_items), np.zeros(n_items, dtype=np.float32)

    monkeypatch.setattr(objectives._NegativeSampler, "draw", draw)
    monkeypatch.setattr(training, "_MIN_STEPS", 1)
    settings = {"max_epochs": 1, "dropout": 0.0, "batch_size": 9}
    full, full_log = run(objective(EVENTS, kind, **settings))
    sampled, sampled_log = run(objective(EVENTS, kind, n_negatives=3, **settings))
    assert full_log[0].losses == pytest.approx(sampled_log[0].losses, rel=1e-5)
    for name, values in full.items():
        if not name.endswith("attention_in.bias"):  # that of the keys has no gradient but noise
            np.testing.assert_allclose(sampled[name], values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("n_users", "shown"), [(499, True), (500, False)])
def test_few_users_are_shown_the_latest_items(n_users, shown):
    events = [(user, item, 1) for user in range(n_users) for item in range(2)]
    made = objective(events, JointObjective)
    assert (made.model(2, torch.Generator()).latest is not None) == shown
