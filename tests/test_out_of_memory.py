"""A device without room for a batch gets it in smaller parts, or a clear stop."""

import warnings

import numpy as np
import pytest
import torch
from tiny import X, Y, same_weights, tiny

from posneg_rec import objectives

EXACT = {"dropout": 0.0, "precision": "float32", "device": "cpu", "max_epochs": 2}

ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    torch.OutOfMemoryError("XPU out of memory."),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.95 GB)."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: not enough memory"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    MemoryError("Unable to allocate 9.00 GiB for an array"),
]


class Full(torch.autograd.Function):
    """Fails in the backward pass."""

    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        if ctx.error is not None:
            raise ctx.error
        return grads[0], None


@pytest.fixture
def room(monkeypatch):
    """Let a device have room for so many targets at a time; count those of each attempt."""
    attempts = []

    def leave(most, error=ERRORS[0], *, backward=False):
        def feedback_loss(logits, signs, *, weights, **options):
            n_targets = int((weights > 0).sum())
            attempts.append(n_targets)
            fails = error if n_targets > most else None
            if fails is not None and not backward:
                raise fails
            return original(Full.apply(logits, fails), signs, weights=weights, **options)

        original = objectives.feedback_loss
        monkeypatch.setattr(objectives, "feedback_loss", feedback_loss)

    leave.attempts = attempts
    return leave


@pytest.fixture(scope="module", autouse=True)
def _in_float64_and_large_batches(few_steps):
    original = objectives._Objective.model
    with pytest.MonkeyPatch.context() as patch:
        # Sums of other orders agree, and Adam makes no steps of rounding.
        patch.setattr(objectives._Objective, "model", lambda *given: original(*given).double())
        yield


@pytest.fixture(scope="module")
def expected():
    return tiny(**EXACT).fit(X, Y)


def assert_close(model, expected):
    for name, value in expected.weights_.items():
        np.testing.assert_allclose(model.weights_[name], value, rtol=2e-7, atol=1e-9, err_msg=name)
    assert model.history_["loss"] == pytest.approx(expected.history_["loss"], rel=1e-6)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_without_room_goes_through_in_parts_and_gives_the_same(
    room, expected, error, backward
):
    room(60, error, backward=backward)
    with pytest.warns(UserWarning, match=r"cpu has no room for \d+ users at a time") as w:
        model = tiny(**EXACT).fit(X, Y)
    assert_close(model, expected)
    assert max(room.attempts) > 60
    assert 1 <= len(w) <= 4 and w[0].filename == __file__
    # Once a size is found, no batch is tried as a whole again.
    after = room.attempts[max(i for i, n in enumerate(room.attempts) if n > 60) + 1 :]
    assert len(after) > 10 and max(after) <= 60


def test_what_a_failed_attempt_has_added_is_taken_back(room, expected, monkeypatch):
    # The short histories, which go first, have room, and the long ones have not.
    monkeypatch.setattr(objectives, "_MAX_POSITIONS", 32)
    room(27)
    with pytest.warns(UserWarning, match="has no room for"):
        model = tiny(**EXACT).fit(X, Y)
    n_good = room.attempts.index(next(n for n in room.attempts if n > 27))
    assert n_good >= 1
    assert_close(model, expected)


def test_a_batch_that_has_room_is_not_cut(room, expected):
    room(10**6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = tiny(**EXACT).fit(X, Y)
    assert same_weights(model, expected)


@pytest.mark.parametrize("settings", [{"n_negatives": 4}, {"dropout": 0.3}])
def test_cut_batches_train_with_draws_and_dropout_too_and_repeat(room, settings):
    room(60)

    def fit():
        with pytest.warns(UserWarning, match="has no room for"):
            return tiny(**EXACT | settings).fit(X, Y)

    model = fit()
    assert model.n_iter_ == 2
    assert same_weights(model, fit())


def test_the_events_of_one_user_cannot_be_cut(room):
    room(0)
    model = tiny(**EXACT)
    with (
        pytest.warns(UserWarning, match="has no room for"),
        pytest.raises(ValueError, match=r"no room on cpu for the events of one user .*max_len=10"),
    ):
        model.fit(X, Y)
    assert len(room.attempts) <= 6 and "fitted_" not in vars(model)


def test_an_optimiser_without_room_is_a_clear_stop(monkeypatch):
    def step(self):
        raise ERRORS[0]

    monkeypatch.setattr(torch.optim.SparseAdam, "step", step)
    with pytest.raises(ValueError, match="no room on cpu for a step of the optimiser"):
        tiny(**EXACT, n_negatives=4).fit(X, Y)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("memory")])
def test_other_errors_are_what_they_were(room, error):
    room(60, error)
    with pytest.raises(type(error)) as caught:
        tiny(**EXACT).fit(X, Y)
    assert caught.value is error
