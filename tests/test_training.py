"""Windows, batches and the loop: each against what it must be by hand."""

import itertools
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posneg_rec import training
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.sequences import PackedSequences
from posneg_rec.training import JointObjective, PNFRecObjective, Settings, train

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
    made = objective(EVENTS, sample_weight=np.arange(8, dtype=np.float32))
    assert made.liked.to_lists() == [[0, 1, 2], [0, 1]]
    assert made.disliked.to_lists() == [[3, 4], [5]]
    assert made.n_dislikes_before.tolist() == [0, 1, 2, 1, 1]
    assert made.liked_weights.tolist() == [0, 2, 4, 6, 7]
    assert made.disliked_weights.tolist() == [1, 3, 5]


def test_joint_events_keep_their_signs_and_neutral_ones_no_weight():
    events = [(0, 0, 1), (0, 3, 0), (0, 1, -1), (1, 2, 1)]
    made = objective(events, JointObjective, np.array([1, 2, 3, 4], dtype=np.float32))
    assert made.events.to_lists() == [[0, 3, 1], [2]]
    assert made.signs.tolist() == [1, 0, -1, 1]
    assert made.weights.tolist() == [1, 0, 3, 4]
    assert made.trainable_users().tolist() == [0]


PACKED = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=5)


@given(PACKED, st.integers(1, 7), st.data())
def test_recent_windows_are_the_last_events(lists, length, data):
    users = np.array(data.draw(st.permutations(range(len(lists)))))
    packed = PackedSequences.from_lists(lists)
    windows = training._Windows.draw(packed, users, length, None)
    taken = PackedSequences(packed.values[windows.index], windows.offsets)
    assert taken.to_lists() == [lists[user][-length:] for user in users]
    assert windows.starts.tolist() == [max(0, len(lists[user]) - length) for user in users]


@given(PACKED, st.integers(1, 7), st.integers(0, 99))
def test_random_windows_are_full_runs_of_events(lists, length, seed):
    packed = PackedSequences.from_lists(lists)
    users = np.arange(len(lists))
    windows = training._Windows.draw(packed, users, length, np.random.default_rng(seed))
    for user, start in enumerate(windows.starts):
        taken = packed.values[windows.index[windows.offsets[user] : windows.offsets[user + 1]]]
        assert taken.tolist() == lists[user][start : start + length]
        assert len(taken) == min(length, len(lists[user]))


def test_random_windows_reach_every_part_of_a_history():
    packed = PackedSequences.from_lists([list(range(10))])
    rng = np.random.default_rng(0)
    starts = {
        int(training._Windows.draw(packed, np.array([0]), 4, rng).starts[0]) for _ in range(200)
    }
    assert starts == set(range(7))


@given(PACKED)
def test_targets_are_the_inputs_shifted_within_each_user(lists):
    packed = PackedSequences.from_lists(lists)
    windows = training._Windows.draw(packed, np.arange(len(lists)), 9, None)
    inputs, targets, offsets, n_targets = windows.shifted()
    assert n_targets == len(targets)
    for index, expected in ((inputs, [x[:-1] for x in lists]), (targets, [x[1:] for x in lists])):
        assert PackedSequences(packed.values[index], offsets).to_lists() == expected


@given(PACKED, st.integers(1, 9), st.integers(1, 7))
def test_filler_ends_at_a_multiple_and_weighs_nothing(lists, longest, multiple):
    packed = PackedSequences.from_lists(lists)
    windows = training._Windows.draw(packed, np.arange(len(lists)), longest + 1, None)
    plain = windows.shifted()
    with mock.patch.object(training, "_POSITIONS_MULTIPLE", multiple):
        filled = windows.shifted(longest)
    n = plain.n_targets
    assert filled.n_targets == n and len(filled.inputs) == len(filled.targets)
    assert len(filled.targets) % multiple == 0 and len(filled.targets) - n < multiple
    for real, padded in zip(plain[:2], filled[:2], strict=True):
        assert padded[:n].tolist() == real.tolist()
    assert filled.offsets[: len(plain.offsets)].tolist() == plain.offsets.tolist()
    assert filled.offsets[-1] == len(filled.inputs) and np.diff(filled.offsets).max() <= longest
    weights = filled.weights(np.arange(1, len(packed.values) + 1, dtype=np.float32))
    assert weights[:n].tolist() == (plain.targets + 1).tolist() and not weights[n:].any()
    assert filled.weights(None).tolist() == [1] * n + [0] * (len(weights) - n)


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
@pytest.mark.parametrize("negatives", ["window", "past"])
def test_filler_changes_no_loss_and_no_gradient(kind, negatives):
    made = objective(EVENTS, kind, contrastive_negatives=negatives)
    users = np.arange(2)
    results = []
    for multiple in (1, 8):
        model = made.model(6, torch.Generator().manual_seed(0))
        with mock.patch.multiple(training, _POSITIONS_MULTIPLE=multiple, _TIMELESS_SHARE=0):
            ((loss, *terms),) = made.losses(model, users, np.random.default_rng(0), None)
        loss.backward()
        results.append([loss.detach(), *terms, *(p.grad for p in model.parameters())])
    for plain, filled in zip(*results, strict=True):
        torch.testing.assert_close(plain, filled)


@pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])
@pytest.mark.parametrize("negatives", ["window", "past"])
@pytest.mark.parametrize("weights", [None, np.arange(8, dtype=np.float32)])
def test_parts_of_a_batch_add_up_to_it(kind, negatives, weights):
    made = objective(EVENTS, kind, weights, contrastive_negatives=negatives)
    results, n_parts = [], []
    for most in (100, 4):
        model = made.model(6, torch.Generator().manual_seed(0))
        sums = torch.zeros(1 + len(made.terms))
        with mock.patch.multiple(training, _MAX_POSITIONS=most, _TIMELESS_SHARE=0):
            n_parts.append(0)
            for losses in made.losses(model, np.arange(2), np.random.default_rng(0), None):
                losses[0].backward()
                sums += torch.stack([loss.detach() for loss in losses])
                n_parts[-1] += 1
        results.append([sums, *(p.grad for p in model.parameters())])
    assert n_parts == [1, 2]
    for whole, cut in zip(*results, strict=True):
        torch.testing.assert_close(whole, cut)


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), max_size=6), max_size=5))
def test_latest_events_of_each_sign_are_the_users_own(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    signs = np.array([sign for user in lists for sign in user], dtype=np.int64)
    expected = [
        [max((offset + i for i in range(n + 1) if user[i] == sign), default=-1) for sign in (1, -1)]
        for user, offset in zip(lists, offsets, strict=False)
        for n in range(len(user))
    ]
    np.testing.assert_array_equal(
        training._latest(signs, offsets), np.reshape(expected, (len(signs), 2))
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=9), st.integers(1, 9))
def test_parts_cover_all_users_in_order(n_positions, most):
    parts = training._parts(np.array(n_positions), most)
    users = [user for part in parts for user in range(part.start, part.stop)]
    assert users == list(range(len(n_positions)))
    for part in parts:
        assert sum(n_positions[part]) < most + max(n_positions[part])


def batch_of(monkeypatch, made, *functions):
    """What functions of `training` get in the one batch of an epoch, users in order."""
    caught = []

    def catching(original):
        def catch(*args, **options):
            caught.append((*args, *options.values()))
            return original(*args, **options)

        return catch

    for name in functions:
        monkeypatch.setattr(training, name, catching(getattr(training, name)))

    class InOrder(np.random.Generator):
        def permutation(self, users):
            return users

    monkeypatch.setattr(training, "_MIN_STEPS", 1)
    monkeypatch.setattr(training, "_POSITIONS_MULTIPLE", 1)
    settings = with_settings(max_epochs=1, batch_size=9)
    train(made, 6, settings, rng=InOrder(np.random.PCG64(0)))
    return caught


def test_window_contrast_uses_the_negative_encoders_inputs(monkeypatch):
    ((_, positive, negative, dislikes, *_),) = batch_of(
        monkeypatch, objective(EVENTS), "composite_loss"
    )
    assert positive.targets.tolist() == [1, 1, 2]  # the shorter sequence, user 1's, first
    assert negative.targets.tolist() == [4]
    assert dislikes.items.tolist() == [3]  # each user's latest dislike is left out
    assert dislikes.offsets.tolist() == [0, 0, 1]
    assert dislikes.n_visible is None


def test_past_contrast_shows_each_target_the_dislikes_before_it(monkeypatch):
    made = objective(EVENTS, contrastive_negatives="past")
    ((_, positive, _, dislikes, *_),) = batch_of(monkeypatch, made, "composite_loss")
    assert positive.targets.tolist() == [1, 1, 2]
    assert dislikes.items.tolist() == [5, 3, 4]
    assert dislikes.n_visible.tolist() == [1, 1, 2]


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


BOTH = pytest.mark.parametrize("kind", [PNFRecObjective, JointObjective])


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.lists(st.integers(0, 5), max_size=5),
    st.integers(3, 12),
)
def test_drawn_negatives_come_as_often_as_they_are_said_to(events, dislikes, n_negatives):
    sampler = training._NegativeSampler(np.array(events), n_negatives)
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
def test_drawing_every_item_is_training_on_the_whole_catalogue(kind, monkeypatch):
    """Losses and weights after a step, for both optimisers start alike."""

    def draw(self, rng, n_items, dislikes):
        return np.arange(n_items), np.zeros(n_items, dtype=np.float32)

    monkeypatch.setattr(training._NegativeSampler, "draw", draw)
    monkeypatch.setattr(training, "_MIN_STEPS", 1)
    settings = {"max_epochs": 1, "dropout": 0.0, "batch_size": 9}
    full, full_log = run(objective(EVENTS, kind, **settings))
    sampled, sampled_log = run(objective(EVENTS, kind, n_negatives=3, **settings))
    assert full_log[0].losses == pytest.approx(sampled_log[0].losses, rel=1e-5)
    for name, values in full.items():
        if not name.endswith("attention_in.bias"):  # that of the keys has no gradient but noise
            np.testing.assert_allclose(sampled[name], values, rtol=1e-3, atol=1e-5)


@BOTH
def test_total_is_the_sum_of_the_terms(kind):
    made = objective(EVENTS, kind)
    _, (first, *_) = run(made)
    weights = (1, 0.3, 0.2) if kind is PNFRecObjective else (1, 1)
    terms = [first.losses[name] for name in made.terms]
    assert first.losses["loss"] == pytest.approx(np.dot(weights, terms), rel=1e-5)
    assert min(terms) > 0


@BOTH
def test_best_weights_come_back_and_patience_ends_the_loop(kind):
    scores, seen = iter([0.1, 0.3, 0.2, 0.25, 0.9]), []

    def validate(weights):
        seen.append(weights)
        return next(scores)

    best, history = run(objective(EVENTS, kind, max_epochs=9), validate=validate)
    assert [epoch.validation_score for epoch in history] == [0.1, 0.3, 0.2, 0.25]
    assert all(np.array_equal(best[name], seen[1][name]) for name in best)


def test_without_validation_all_epochs_run_unless_told_to_stop():
    def epochs(on_epoch):
        return [epoch.epoch for epoch in run(objective(EVENTS), on_epoch=on_epoch)[1]]

    assert epochs(None) == [1, 2, 3]
    assert epochs(lambda log, _: log.epoch == 2) == [1, 2]


@BOTH
def test_training_starts_from_given_weights(kind):
    initial, _ = run(objective(EVENTS, kind))
    still, _ = run(
        objective(EVENTS, kind, learning_rate=1e-12, max_epochs=1), seed=1, initial_weights=initial
    )
    assert still.keys() == initial.keys()
    for name, value in initial.items():
        np.testing.assert_allclose(still[name], value, atol=1e-9)


@BOTH
def test_loss_falls_to_the_bottom_on_a_sequence_that_repeats(kind):
    events = [(user, item, 1 - 2 * (item % 2)) for user in range(4) for item in range(4)]
    if kind is PNFRecObjective:
        events = [(user, item, 1) for user, item, _ in events]
    settings = {"max_epochs": 150, "dropout": 0.0, "learning_rate": 0.03}
    _, history = run(objective(events, kind, contrastive_weight=0, **settings), n_items=4)
    first, last = history[0].losses, history[-1].losses
    per_event = np.log(4) + (0 if kind is PNFRecObjective else np.log(2))
    assert first["loss"] == pytest.approx(per_event, abs=0.4)
    assert last["loss"] < 0.02


@BOTH
def test_batch_without_any_dislike_trains(kind):
    made = objective([(user, item, 1) for user in range(3) for item in range(4)], kind)
    _, history = run(made, n_items=4)
    assert history[-1].losses["loss"] < history[0].losses["loss"]
    if kind is PNFRecObjective:
        assert {
            log.losses["negative_loss"] + log.losses["contrastive_loss"] for log in history
        } == {0}


def test_loss_that_is_not_finite_says_when_and_what_to_lower():
    with pytest.raises(FloatingPointError, match=r"epoch 1 .*learning_rate \(now 1e\+38\)"):
        run(objective(EVENTS, learning_rate=1e38))


@BOTH
def test_bfloat16_training_follows_float32(kind):
    losses = {}
    for precision in ("float32", "bfloat16"):
        made = objective(EVENTS, kind, precision=precision, max_epochs=20, dropout=0.0)
        weights, history = run(made)
        losses[precision] = [epoch.losses["loss"] for epoch in history]
        assert all(value.dtype == np.float32 for value in weights.values())
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@BOTH
def test_a_step_on_a_gpu_never_waits_for_it(kind, precision, monkeypatch):
    monkeypatch.setattr(training, "_MIN_STEPS", 1)
    events = [(user, item, (-1) ** item) for user in range(12) for item in range(6)]
    n_waits = []
    for batch_size in (12, 2):  # one step and six
        made = objective(
            events,
            kind,
            device="cuda",
            precision=precision,
            ema_decay=0.9,
            max_epochs=2,
            batch_size=batch_size,
        )
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run(made)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        n_waits.append(sum("synchronizing" in str(warning.message) for warning in caught))
    # Moving the model and reading the losses wait, however many steps there are.
    assert n_waits[0] == n_waits[1] > 0


@BOTH
def test_dropout_is_at_work_in_training_and_drawn_from_the_seed(kind):
    first = [
        run(objective(EVENTS, kind, dropout=dropout))[1][0].losses["loss"]
        for dropout in (0.0, 0.5, 0.5)
    ]
    assert first[0] != first[1] == first[2]


@BOTH
def test_training_leaves_the_global_states_alone(kind):
    state, np_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(objective(EVENTS, kind))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], np_state)


@pytest.mark.parametrize(
    ("float32", "bfloat16", "expected"),
    [(3.0, 1.0, torch.bfloat16), (3.0, 2.5, torch.float32), (1.0, 3.0, torch.float32)],
)
def test_auto_precision_is_bfloat16_where_it_multiplies_clearly_faster(
    monkeypatch, float32, bfloat16, expected
):
    clock = iter(np.cumsum([0, *[float32, 0] * 5, *[bfloat16, 0] * 5]))
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    training._bfloat16_is_fast_on_cpu.cache_clear()
    assert training.resolve_precision("auto", torch.device("cpu")) == expected
    training._bfloat16_is_fast_on_cpu.cache_clear()
    assert training.resolve_precision("float32", torch.device("cpu")) == torch.float32


@BOTH
def test_nothing_to_learn_from_is_no_epoch(kind):
    assert run(objective([(0, 0, 1), (1, 1, -1)], kind), n_items=2)[1] == []


class Row(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.item_embedding = torch.nn.Parameter(torch.zeros(3, 2))


@pytest.mark.parametrize("sparse", [False, True])
def test_average_moves_by_the_decay_and_faster_at_first(sparse):
    model = Row()
    average = training._Average(model, 0.5)
    expected = np.zeros((3, 2))
    for step, value in enumerate([1.0, 4.0, 2.0, 7.0], start=1):
        rows = torch.tensor([0, 2]) if sparse else torch.arange(3)
        with torch.no_grad():
            model.item_embedding[rows] = value
        grad = torch.zeros(3, 2)
        if sparse:
            grad = torch.sparse_coo_tensor(
                rows[None], torch.ones(2, 2), (3, 2), check_invariants=True
            )
        model.item_embedding.grad = grad
        average.update()
        share = max(9 / (step + 9), 0.5)
        expected[rows] += share * (value - expected[rows])
    np.testing.assert_allclose(average.to_numpy()["item_embedding"], expected, rtol=1e-6)


def test_rare_rows_are_averaged_over_their_own_steps():
    model = Row()
    average = training._Average(model, 0.99)
    for step in range(50):
        rows = torch.tensor([0]) if step < 49 else torch.tensor([0, 1])
        with torch.no_grad():
            model.item_embedding[rows] = 1.0
        values = torch.ones(len(rows), 2)
        model.item_embedding.grad = torch.sparse_coo_tensor(
            rows[None], values, (3, 2), check_invariants=True
        )
        average.update()
    assert average.to_numpy()["item_embedding"][1] == pytest.approx(0.9)


@BOTH
def test_averaged_weights_come_back_and_are_validated(kind):
    seen = []
    weights, _ = run(objective(EVENTS, kind, ema_decay=0.9), validate=lambda w: seen.append(w) or 0)
    last, _ = run(objective(EVENTS, kind))
    assert any((weights[name] != last[name]).any() for name in weights)
    assert any((seen[0][name] == weights[name]).all() for name in weights)


def batches_of_an_epoch(n_users, batch_size):
    """The users of each step, of users with two events."""
    events = [(user, item, 1) for user in range(n_users) for item in range(2)]
    made = objective(events, batch_size=batch_size, max_epochs=1)
    batches, original = [], made.losses

    def losses(model, users, *random):
        batches.append(users.tolist())
        return original(model, users, *random)

    made.losses = losses
    run(made, n_items=2)
    return batches


@given(st.integers(1, 50), st.integers(1, 60))
def test_few_users_make_many_steps(n_users, batch_size):
    sizes = [len(batch) for batch in batches_of_an_epoch(n_users, batch_size)]
    assert len(sizes) >= min(32, n_users)
    assert max(sizes) <= batch_size


@pytest.mark.parametrize(("n_users", "shown"), [(1999, True), (2000, False)])
def test_few_users_are_shown_the_latest_items(n_users, shown):
    events = [(user, item, 1) for user in range(n_users) for item in range(2)]
    made = objective(events, JointObjective)
    assert (made.model(2, torch.Generator()).latest is not None) == shown


def test_batches_of_many_users_are_as_large_as_asked():
    sizes = [len(batch) for batch in batches_of_an_epoch(2000, 500)]
    assert sizes == [500] * 4


@given(st.integers(1, 7), st.integers(1, 4))
def test_every_user_is_in_one_batch_of_at_most_batch_size(n_users, batch_size):
    batches = batches_of_an_epoch(n_users, batch_size)
    assert sorted(itertools.chain(*batches)) == list(range(n_users))
    assert max(map(len, batches)) <= batch_size
