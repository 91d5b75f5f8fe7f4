"""The loop: what it minimises, keeps and leaves alone."""

import doctest
import itertools
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_objectives import BOTH, EVENTS, objective, run, with_settings

from posneg_rec import training
from posneg_rec.objectives import PNFRecObjective


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

    def validate(weights, log):
        seen.append(weights)
        return next(scores)

    best, history = run(objective(EVENTS, kind, max_epochs=9), validate=validate)
    assert [epoch.validation_score for epoch in history] == [0.1, 0.3, 0.2, 0.25]
    assert all(np.array_equal(best[name], seen[1][name]) for name in best)


def test_without_validation_all_epochs_run_unless_told_to_stop():
    def epochs(on_epoch):
        return [epoch.epoch for epoch in run(objective(EVENTS), on_epoch=on_epoch)[1]]

    assert epochs(None) == [1, 2, 3]
    assert epochs(lambda log, _: len(log) == 2) == [1, 2]


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


class Single(torch.nn.Module):
    """One number that starts at 0."""

    def __init__(self):
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(1))


class Minimised:
    """An objective of one user, whose losses, part by part, are functions of one number."""

    terms = ()

    def __init__(self, *functions):
        self.functions = functions

    def model(self, n_items, generator):
        return Single()

    def trainable_users(self):
        return np.arange(1)

    def n_positions(self):
        return 1

    def parts(self, model, users, rng):
        yield from self.functions

    def losses(self, model, part, generator):
        return (part(model.x).sum(),)


def minimise(*parts, **settings):
    made, rng = Minimised(*parts), np.random.default_rng(0)
    weights, history = training.train(made, 1, with_settings(**settings), rng=rng)
    return float(weights["x"][0]), [log.losses["loss"] for log in history]


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
@pytest.mark.parametrize(
    ("loss", "learning_rate"),
    [
        (lambda x: torch.sqrt(x) * 0, 0.01),  # a gradient of 0 times infinity
        (lambda x: x, 1e39),  # a step beyond what float32 reaches
    ],
)
def test_weight_that_is_not_finite_ends_a_fit_whose_losses_are(loss, learning_rate, ema_decay):
    assert loss(torch.zeros(1)) == 0
    with pytest.raises(FloatingPointError, match=r"epoch 1 \(\{'loss': 0\.0\}\)"):
        minimise(loss, max_epochs=1, learning_rate=learning_rate, ema_decay=ema_decay)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_loss_that_is_not_finite_ends_a_fit_whose_weights_are(value):
    with pytest.raises(FloatingPointError, match="epoch 1 "):
        minimise(lambda x: x + value, max_epochs=1)


def test_weights_as_of_an_epoch_are_the_averaged_ones():
    copies = []

    def on_epoch(log, weights):
        copies.append(float(weights()["x"][0]))
        return False

    rng, settings = np.random.default_rng(0), with_settings(ema_decay=0.5, max_epochs=2)
    weights, _ = training.train(Minimised(lambda x: x), 1, settings, rng=rng, on_epoch=on_epoch)
    # Steps of 0.01 each, of which the average takes 9 / 10, then 9 / 11.
    second = 0.009 + (0.02 - 0.009) * 9 / 11
    assert copies == pytest.approx([-0.009, -second], rel=1e-4)
    assert float(weights["x"][0]) == copies[-1]


def test_equal_scores_keep_the_first_of_the_weights():
    seen = []
    best, history = run(
        objective(EVENTS, max_epochs=9), validate=lambda weights, log: seen.append(weights) or 0.5
    )
    assert len(history) == 3  # two without a better score
    assert all(np.array_equal(best[name], seen[0][name]) for name in best)


@pytest.mark.parametrize(("ema_decay", "share"), [(0.0, 1.0), (0.5, 0.9), (0.95, 0.9)])
def test_average_counts_the_weights_after_the_step(ema_decay, share):
    # Adam's first step is the learning rate, against the gradient.
    x, losses = minimise(lambda x: 3 * x, max_epochs=1, ema_decay=ema_decay)
    assert x == pytest.approx(-0.01 * share, rel=1e-5)
    assert losses == [0.0]  # of the weights before the step


def test_a_step_follows_all_parts_of_its_batch_and_no_other():
    seen = []

    def part(factor):
        def loss(x):
            seen.append((round(x.item(), 4), None if x.grad is None else x.grad.item()))
            return factor * x + 1

        return loss

    x, losses = minimise(part(2), part(-5), max_epochs=2)
    assert seen == [(0, None), (0, 2), (0.01, None), (0.01, 2)]
    assert x == pytest.approx(0.02, rel=1e-4)
    assert losses == pytest.approx([2, 2 - 0.03])


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


def test_a_device_without_float64_is_never_taken_and_refused_by_name(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert training.resolve_device("auto") == torch.device("cpu")
    original = torch.empty

    def empty(*shape, device=None, dtype=None):
        if dtype == torch.float64 and device.type == "mps":  # as there
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return original(*shape, dtype=dtype)

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"device='mps' is not to be had here \(Cannot .* float64"):
        training.resolve_device("mps")
    assert training.resolve_device("cpu") == torch.device("cpu")


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


def test_average_of_decay_zero_is_a_copy_of_the_last_weights():
    model = Row()
    average = training._Average(model, 0.0)
    for value in (1.0, 4.0):
        with torch.no_grad():
            model.item_embedding.fill_(value)
        average.update()
    kept = average.to_numpy()["item_embedding"]
    with torch.no_grad():
        model.item_embedding.fill_(7.0)
    assert kept.dtype == np.float32 and (kept == 4.0).all()


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
    weights, _ = run(
        objective(EVENTS, kind, ema_decay=0.9), validate=lambda w, log: seen.append(w) or 0
    )
    last, _ = run(objective(EVENTS, kind))
    assert any((weights[name] != last[name]).any() for name in weights)
    assert any((seen[0][name] == weights[name]).all() for name in weights)


def batches_of_an_epoch(n_users, batch_size, n_epochs=1):
    """The users of each step, of users with two events."""
    events = [(user, item, 1) for user in range(n_users) for item in range(2)]
    made = objective(events, batch_size=batch_size, max_epochs=n_epochs)
    batches, original = [], made.parts

    def parts(model, users, rng):
        batches.append(users.tolist())
        return original(model, users, rng)

    made.parts = parts
    run(made, n_items=2)
    return batches


@given(st.integers(1, 50), st.integers(1, 60))
def test_few_users_make_many_steps(n_users, batch_size):
    sizes = [len(batch) for batch in batches_of_an_epoch(n_users, batch_size)]
    assert len(sizes) >= min(32, n_users)
    assert max(sizes) <= batch_size


@pytest.mark.parametrize(("batch_size", "n_batches"), [(500, 4), (501, 4), (600, 4), (2001, 1)])
def test_batches_of_many_users_are_as_large_as_asked(batch_size, n_batches):
    sizes = [len(batch) for batch in batches_of_an_epoch(2000, batch_size)]
    assert sizes == [2000 // n_batches] * n_batches


def test_each_epoch_takes_the_users_in_an_order_of_its_own():
    order = list(itertools.chain(*batches_of_an_epoch(40, 4, n_epochs=2)))
    first, second = order[:40], order[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert sorted(first) != first != second != sorted(second)


@given(st.integers(1, 7), st.integers(1, 4))
def test_every_user_is_in_one_batch_of_at_most_batch_size(n_users, batch_size):
    batches = batches_of_an_epoch(n_users, batch_size)
    assert sorted(itertools.chain(*batches)) == list(range(n_users))
    assert max(map(len, batches)) <= batch_size


def test_documentation_shows_what_happens_and_names_tests_that_there_are():
    here = Path(__file__).parent
    text = (here.parent / "docs" / "train.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    examples = "\n".join(snippet for snippet in snippets if ">>>" in snippet)
    test = doctest.DocTestParser().get_doctest(examples, {}, "train.md", None, None)
    assert len(test.examples) > 10
    assert doctest.DocTestRunner().run(test).failed == 0
    named = set(re.findall(r"`(test_\w+)`", text))
    there = {
        name
        for path in here.glob("test_*.py")
        for name in re.findall(r"def (\w+)", path.read_text())
    }
    assert len(named) > 30 and named <= there
