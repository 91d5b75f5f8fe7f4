"""Windows, batches and the loop: each against what it must be by hand."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posneg_rec import training
from posneg_rec.interactions import (
    ItemVocabulary,
    PackedSequences,
    build_histories,
    read_interactions,
)
from posneg_rec.training import Settings, TrainingSequences, train

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
    learning_rate=0.01,
    batch_size=2,
    max_epochs=3,
    n_iter_no_change=2,
    device="cpu",
    precision="float32",
)


def with_settings(**changes):
    return Settings(**vars(SETTINGS) | changes)


def sequences(events, sample_weight=None):
    """TrainingSequences of rows (user, item, sign), in the rows' order."""
    rows = np.array(events)
    interactions = read_interactions(rows[:, :2], rows[:, 2])
    histories = build_histories(interactions, ItemVocabulary.from_ids(rows[:, 1]))
    return TrainingSequences.from_histories(histories, sample_weight)


EVENTS = [(0, 0, 1), (0, 3, -1), (0, 1, 1), (0, 4, -1), (0, 2, 1), (1, 5, -1), (1, 0, 1), (1, 1, 1)]


def test_signs_part_and_dislikes_before_each_like_are_counted():
    data = sequences(EVENTS, np.arange(8, dtype=np.float32))
    assert data.liked.to_lists() == [[0, 1, 2], [0, 1]]
    assert data.disliked.to_lists() == [[3, 4], [5]]
    assert data.n_dislikes_before.tolist() == [0, 1, 2, 1, 1]
    assert data.liked_weights.tolist() == [0, 2, 4, 6, 7]
    assert data.disliked_weights.tolist() == [1, 3, 5]


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
    inputs, targets, offsets = windows.shifted()
    for index, expected in ((inputs, [x[:-1] for x in lists]), (targets, [x[1:] for x in lists])):
        assert PackedSequences(packed.values[index], offsets).to_lists() == expected


def dislikes_of_batch(monkeypatch, data, settings):
    """What the contrastive term of one batch gets."""
    caught = []

    def composite_loss(embedding, positive, negative, dislikes, **options):
        caught.append((positive, negative, dislikes))
        return original(embedding, positive, negative, dislikes, **options)

    original = training.composite_loss
    monkeypatch.setattr(training, "composite_loss", composite_loss)
    settings = with_settings(max_epochs=1, batch_size=9, **settings)

    class InOrder(np.random.Generator):
        def permutation(self, users):
            return users

    train(data, 6, settings, rng=InOrder(np.random.PCG64(0)))
    return caught[0]


def test_window_contrast_uses_the_negative_encoders_inputs(monkeypatch):
    positive, negative, dislikes = dislikes_of_batch(monkeypatch, sequences(EVENTS), {})
    assert positive.targets.tolist() == [1, 2, 1]
    assert negative.targets.tolist() == [4]
    assert dislikes.items.tolist() == [3]  # each user's latest dislike is left out
    assert dislikes.offsets.tolist() == [0, 1, 1]
    assert dislikes.n_visible is None


def test_past_contrast_shows_each_target_the_dislikes_before_it(monkeypatch):
    data = sequences(EVENTS)
    positive, _, dislikes = dislikes_of_batch(monkeypatch, data, {"contrastive_negatives": "past"})
    assert positive.targets.tolist() == [1, 2, 1]
    assert dislikes.items.tolist() == [3, 4, 5]
    assert dislikes.n_visible.tolist() == [1, 2, 1]


@pytest.mark.parametrize(
    ("a", "b", "has_negative", "has_dislikes"),
    [(0.3, 0.2, True, True), (0.3, 0, True, False), (0, 0.2, False, True), (0, 0, False, False)],
)
def test_a_weight_of_zero_skips_its_work(monkeypatch, a, b, has_negative, has_dislikes):
    weights = {"negative_weight": a, "contrastive_weight": b}
    _, negative, dislikes = dislikes_of_batch(monkeypatch, sequences(EVENTS), weights)
    assert (negative is not None) == has_negative
    assert (dislikes is not None) == (has_negative or has_dislikes)
    trained, history = train(
        sequences(EVENTS), 6, with_settings(**weights), rng=np.random.default_rng(0)
    )
    assert any(name.startswith("negative") for name in trained) == has_negative
    assert (history[0].negative_loss > 0) == has_negative
    assert (history[0].contrastive_loss > 0) == has_dislikes


def test_best_weights_come_back_and_patience_ends_the_loop():
    scores, seen = iter([0.1, 0.3, 0.2, 0.25, 0.9]), []

    def validate(weights):
        seen.append(weights)
        return next(scores)

    best, history = train(
        sequences(EVENTS),
        6,
        with_settings(max_epochs=9),
        rng=np.random.default_rng(0),
        validate=validate,
    )
    assert [epoch.validation_score for epoch in history] == [0.1, 0.3, 0.2, 0.25]
    assert all(np.array_equal(best[name], seen[1][name]) for name in best)


def test_without_validation_all_epochs_run_unless_told_to_stop():
    def run(on_epoch):
        return train(
            sequences(EVENTS), 6, SETTINGS, rng=np.random.default_rng(0), on_epoch=on_epoch
        )[1]

    assert [epoch.epoch for epoch in run(None)] == [1, 2, 3]
    assert [epoch.epoch for epoch in run(lambda log, _: log.epoch == 2)] == [1, 2]


def test_training_starts_from_given_weights():
    initial, _ = train(sequences(EVENTS), 6, SETTINGS, rng=np.random.default_rng(0))
    still, _ = train(
        sequences(EVENTS),
        6,
        with_settings(learning_rate=1e-12, max_epochs=1),
        rng=np.random.default_rng(1),
        initial_weights=initial,
    )
    for name, value in initial.items():
        np.testing.assert_allclose(still[name], value, atol=1e-9)


def test_loss_falls_to_the_bottom_on_a_sequence_that_repeats():
    data = sequences([(user, item, 1) for user in range(4) for item in (0, 1, 2, 3)])
    settings = with_settings(
        negative_weight=0, contrastive_weight=0, max_epochs=150, dropout=0.0, learning_rate=0.03
    )
    _, history = train(data, 4, settings, rng=np.random.default_rng(0))
    assert history[0].loss == pytest.approx(np.log(4), abs=0.2)
    assert history[-1].loss < 0.01


def test_batch_without_any_dislike_trains():
    data = sequences([(user, item, 1) for user in range(3) for item in range(4)])
    _, history = train(data, 4, SETTINGS, rng=np.random.default_rng(0))
    assert [epoch.negative_loss + epoch.contrastive_loss for epoch in history] == [0, 0, 0]
    assert history[-1].loss < history[0].loss


def test_loss_that_is_not_finite_says_when_and_what_to_lower():
    with pytest.raises(FloatingPointError, match=r"epoch 2 .*learning_rate \(now 1e\+38\)"):
        train(sequences(EVENTS), 6, with_settings(learning_rate=1e38), rng=np.random.default_rng(0))


def test_bfloat16_training_follows_float32():
    losses = {}
    for precision in ("float32", "bfloat16"):
        settings = with_settings(precision=precision, max_epochs=20, dropout=0.0)
        weights, history = train(sequences(EVENTS), 6, settings, rng=np.random.default_rng(0))
        losses[precision] = [epoch.loss for epoch in history]
        assert all(value.dtype == np.float32 for value in weights.values())
    assert losses["bfloat16"] != losses["float32"]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.05)


def test_training_leaves_the_global_states_alone():
    state, np_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    train(sequences(EVENTS), 6, SETTINGS, rng=np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], np_state)


@pytest.mark.parametrize(("tiles", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_is_bfloat16_where_the_cpu_has_tiles(monkeypatch, tiles, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles, raising=False)
    assert training.resolve_precision("auto", torch.device("cpu")) == expected
    assert training.resolve_precision("float32", torch.device("cpu")) == torch.float32


def test_nothing_to_learn_from_is_no_epoch():
    _, history = train(
        sequences([(0, 0, 1), (1, 1, -1)]), 2, SETTINGS, rng=np.random.default_rng(0)
    )
    assert history == []


@given(st.integers(1, 7), st.integers(1, 4))
def test_every_user_is_in_one_batch_of_at_most_batch_size(n_users, batch_size):
    data = sequences([(user, item, 1) for user in range(n_users) for item in range(2)])
    batches = []

    def batch_loss(model, data, users, *_):
        batches.append(users.tolist())
        return original(model, data, users, *_)

    original = training._batch_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_batch_loss", batch_loss)
        settings = with_settings(batch_size=batch_size, max_epochs=1)
        train(data, 2, settings, rng=np.random.default_rng(0))
    assert sorted(itertools.chain(*batches)) == list(range(n_users))
    assert max(map(len, batches)) <= batch_size
