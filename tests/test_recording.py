"""Recorded steps are the steps themselves: on the processor by a twin that does them again."""

import warnings
from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch
from test_objectives import BOTH, objective, run, with_settings
from tiny import X, Y, same_weights, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from posneg_rec import nn, objectives, recording, training
from posneg_rec.objectives import JointObjective
from posneg_rec.recording import Recorder, leaves, shape_of

RNG = np.random.default_rng(0)
# Histories of many lengths, in which some users like nothing and some dislike nothing.
MANY = [
    (user, int(RNG.integers(6)), int(RNG.choice([-1, 1], p=[share, 1 - share])))
    for user, share in enumerate(np.linspace(0, 1, 24))
    for _ in range(RNG.integers(1, 9))
]


def again(parameters):
    """Record as a device does: what is started reads and writes where the recorded did.

    It depends on what the part holds by then, and adds to the gradients that were there then.
    """

    def record(run, generator):
        result, places = torch.zeros(()), [p.grad for p in parameters]

        def replay():
            others = [p.grad for p in parameters]
            for p, place in zip(parameters, places, strict=True):
                p.grad = place
            found = run()
            result.resize_(found.shape).copy_(found)
            for p, place, other in zip(parameters, places, others, strict=True):
                assert p.grad is place  # nothing was made anew
                p.grad = other

        return result, replay

    return record


@pytest.fixture
def recorded(monkeypatch):
    """Let fits on the processor record, in parts of few shapes; tell the recorders."""
    made = []

    class Kept(Recorder):
        def __init__(self, add_gradients, parameters, generator, record):
            super().__init__(add_gradients, parameters, generator, record(parameters))
            made.append(self)

    def switch(on, record=again):
        monkeypatch.setattr(training, "_records", lambda device, settings: on)
        monkeypatch.setattr(training, "cuda_graphs", lambda: record)
        monkeypatch.setattr(training, "Recorder", Kept)
        monkeypatch.setattr(objectives, "_wants_few_shapes", lambda device: True)
        monkeypatch.setattr(objectives, "_POSITIONS_MULTIPLE", 4)
        return made

    return switch


def same(one, other):
    return all(one[name].tobytes() == other[name].tobytes() for name in other)


@BOTH
@pytest.mark.parametrize("most", [10**6, 12])  # positions of a part: batches of one, of several
@pytest.mark.parametrize("n_recordings", [32, 2, 0])
def test_a_fit_of_recorded_steps_is_the_fit(kind, most, n_recordings, recorded, monkeypatch):
    monkeypatch.setattr(objectives, "_MAX_POSITIONS", most)
    monkeypatch.setattr(recording, "_MOST", n_recordings)
    results = []
    for on in (False, True):
        made = recorded(on)
        fitted = objective(MANY, kind, batch_size=9, ema_decay=0.9, contrastive_negatives="past")
        results.append(run(fitted))
    (expected, log), (weights, recorded_log) = results
    assert same(weights, expected)
    assert [epoch.losses for epoch in recorded_log] == [epoch.losses for epoch in log]
    (recorder,) = made
    assert recorder._is_on and 0 <= len(recorder._recordings) <= n_recordings
    assert bool(recorder._recordings) == bool(n_recordings)


def test_a_parameter_that_no_part_reaches_keeps_no_gradient(monkeypatch):
    """Adam would move it by its momentum, for a gradient of zeros is one."""
    monkeypatch.setattr(recording, "_MOST", 2)
    a, b = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    generator = torch.Generator()

    def add_gradients(part):
        of_a, of_b = part
        loss = (a * of_a).sum() if of_b is None else (a * of_a).sum() + (b * of_b).sum()
        loss.backward()
        return loss.detach()[None]

    recorder = Recorder(add_gradients, [a, b], generator, again([a, b]))
    for _ in range(3):
        a.grad = b.grad = None
        recorder((torch.full((2,), 3.0), None))
        assert a.grad.tolist() == [3, 3] and b.grad is None
        recorder((torch.full((2,), 2.0), torch.full((2,), 5.0)))
        assert a.grad.tolist() == [5, 5] and b.grad.tolist() == [5, 5]
        recorder((torch.full((2,), 1.0), None))
        assert a.grad.tolist() == [6, 6] and b.grad.tolist() == [5, 5]
        # A third shape, which is not recorded, before one that is.
        a.grad = b.grad = None
        recorder((torch.full((2,), 3.0, dtype=torch.float64), None))
        assert a.grad.tolist() == [3, 3] and b.grad is None
        recorder((torch.full((2,), 2.0), torch.full((2,), 5.0)))
        assert a.grad.tolist() == [5, 5] and b.grad.tolist() == [5, 5]


def test_what_is_met_once_is_not_recorded():
    a, recorded = torch.nn.Parameter(torch.ones(2)), []

    def add_gradients(part):
        (a * part).sum().backward()
        return a.detach().sum()[None]

    def record(run, generator):
        recorded.append(len(recorded))
        return again([a])(run, generator)

    recorder = Recorder(add_gradients, [a], torch.Generator(), record)
    for n, expected in ((1, 0), (2, 0), (1, 1), (1, 1), (2, 2), (2, 2)):
        recorder(torch.ones(n))
        assert len(recorded) == expected
    assert a.grad.tolist() == [6, 6]


def test_parts_that_differ_in_more_than_numbers_have_recordings_of_their_own():
    x, plan = torch.zeros(3), nn.PackedPlan(4, None)
    parts = [(x, None), (x, x), (x.double(), None), (torch.zeros(4), None), (x, plan), (x, [])]
    parts += [(x, nn.PackedPlan(5, None)), (x, [(2, 3)]), (x, [(3, 2)]), ((x,), None)]
    assert len({shape_of(part) for part in parts}) == len(parts)
    assert shape_of((x + 1, None)) == shape_of((x, None))
    assert [len([*leaves(part)]) for part in parts] == [1, 2, 1, 1, 1, 1, 1, 1, 1, 1]


def fails(parameters):
    def record(run, generator):
        raise RuntimeError("operation not permitted when stream is capturing")

    return record


def draws_anew(parameters):
    """A recording that does not draw by the generator, so that its dropout is another."""

    def record(run, generator):
        result, replay = again(parameters)(run, generator)

        def replay_with_other_draws():
            generator.manual_seed(123)
            replay()

        return result, replay_with_other_draws

    return record


@pytest.mark.parametrize(
    ("record", "reason"),
    [(fails, "not permitted"), (draws_anew, "does not give what the step gave")],
)
def test_what_cannot_be_recorded_is_told_once_and_done_as_it_is(record, reason, recorded):
    models = []
    for on in (False, True):
        made = recorded(on, record)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            models.append(tiny(dropout=0.5, device="cpu", precision="float32").fit(X, Y))
    (told,) = [one for one in caught if "recorded" in str(one.message)]
    assert reason in str(told.message) and told.filename == __file__
    assert not made[0]._is_on and not made[0]._recordings
    assert same_weights(*models)


def test_only_a_device_with_graphs_records_and_no_drawn_items():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert training._records(cuda, with_settings())
    assert not training._records(cpu, with_settings())
    assert not training._records(torch.device("mps"), with_settings())
    assert not training._records(cuda, with_settings(n_negatives=9))


# The tensors of this device hold no numbers, so that nothing can depend on one.
EMPTY = torch.device("meta")


@pytest.fixture
def _no_autocast(monkeypatch):
    """That device knows of none."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *given, **options: nullcontext())


@BOTH
def test_an_epoch_on_a_device_has_few_shapes(kind):
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.geometric(0.03, 1000) + 1, 200)
    rows = np.repeat(np.arange(1000), lengths), rng.integers(6, size=lengths.sum())
    events = np.column_stack([*rows, rng.choice([-1, 1], size=lengths.sum())])
    made = objective(events, kind, max_len=50, n_heads=2)
    model, shapes = made.model(6, torch.Generator().manual_seed(0)).to(EMPTY), []
    for users in np.array_split(rng.permutation(1000), 50):
        shapes += [shape_of(part) for part in made.parts(model, users, rng)]
    assert len(shapes) == 50 and len(set(shapes)) <= 20


@pytest.mark.parametrize("negatives", ["window", "past"])
@BOTH
@pytest.mark.usefixtures("_no_autocast")
def test_losses_and_gradients_can_be_recorded(kind, negatives):
    made = objective(MANY, kind, contrastive_negatives=negatives, dropout=0.5)
    if kind is JointObjective:
        made.gap_edges = np.geomspace(0.5, 4, 9)
    model = made.model(6, torch.Generator().manual_seed(0)).to(EMPTY)
    (part, *_) = made.parts(model, np.arange(24), np.random.default_rng(0))
    assert kind is not JointObjective or part.elapsed is not None
    assert all(leaf.device == EMPTY for leaf in leaves(part))
    losses = made.losses(model, part, torch.Generator())
    losses[0].backward()
    assert all(p.grad is not None and p.grad.device == EMPTY for p in model.parameters())


class Counted(TorchDispatchMode):
    """Counts the operations that are started, but for those of a recording."""

    def __init__(self):
        super().__init__()
        self.n, self.is_on = 0, True

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.n += self.is_on and not function.is_view
        return function(*args, **(kwargs or {}))


@BOTH
def test_of_recorded_steps_a_tenth_is_started(kind, recorded, monkeypatch):
    monkeypatch.setattr(training, "_MIN_STEPS", 1)
    counted = Counted()

    def unseen(parameters):
        def record(run, generator):
            result, replay = again(parameters)(run, generator)

            def replay_unseen():
                counted.is_on = False
                replay()
                counted.is_on = True

            return result, replay_unseen

        return record

    rng = np.random.default_rng(0)
    events = np.column_stack(
        [np.repeat(np.arange(48), 8), rng.integers(6, size=384), rng.choice([-1, 1], size=384)]
    )
    a_step = []
    for on in (True, False):
        recorded(on, unseen)
        n = []
        for n_epochs, batch_size in ((2, 4), (4, 4), (2, 8), (4, 8)):
            made = objective(
                events, kind, batch_size=batch_size, max_epochs=n_epochs, ema_decay=0.9
            )
            counted.n = 0
            with counted:
                run(made)
            n.append(counted.n)
        # Two epochs of twelve steps less two of six, which take what an epoch takes beside.
        a_step.append((n[1] - n[0] - (n[3] - n[2])) / 12)
    assert a_step[0] < a_step[1] / 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["joint", "pnfrec"])
def test_a_fit_recorded_on_a_gpu_is_the_fit(method, precision):
    changes = {"objective": method, "device": "cuda", "precision": precision, "max_epochs": 5}
    losses = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Steps are not recorded")
        for on in (True, False):
            with mock.patch.object(training, "_records", lambda device, settings, on=on: on):
                losses.append(tiny(dropout=0.3, **changes).fit(X, Y).history_["loss"])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3 if precision == "float32" else 0.02)
