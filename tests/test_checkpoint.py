"""A fit that is killed at any epoch and started again ends as if nothing had happened."""

import errno
import functools
import io
import json
import os
import signal
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from test_fitting import OTHER_Y, OTHERS, TRAIN, TRAIN_Y
from tiny import Hooks, StopAfter, X, Y, as_pandas, same_weights, tiny

import posneg_rec
from posneg_rec import ContrastiveSeqRecommender, archive
from posneg_rec.checkpoint import digest
from posneg_rec.persistence import ModelFileError

pytestmark = pytest.mark.usefixtures("few_steps")

# What runs in a process of its own, is killed after so many epochs, and starts again.
FITS = {
    "joint": {"max_epochs": 4, "early_stopping": False},
    "joint, early stopping": {"max_epochs": 6, "n_iter_no_change": 2, "learning_rate": 0.1},
    "joint, drawn": {"max_epochs": 3, "n_negatives": 6, "ema_decay": 0.0},
    "pnfrec, drawn": {"max_epochs": 3, "objective": "pnfrec", "n_negatives": 6},
}
EXACT = {"precision": "float32", "device": "cpu", "dropout": 0.3}


class Interrupt(Hooks):
    """A callback that ends a fit after an epoch, by an error or a signal."""

    def __init__(self, epoch, how):
        self.epoch, self.how, self.seen = epoch, how, []

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch":
            self.seen.append(context.task_id + 1)
            if context.task_id + 1 == self.epoch:
                self.how()


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    raise KeyboardInterrupt


def outcome(model):
    """All that a fit leaves behind, but for the time that it took."""
    history = {name: value for name, value in model.history_.items() if name != "seconds"}
    return (
        {name: value.tobytes() for name, value in model.weights_.items()},
        None if model.fitted_.memory is None else model.fitted_.memory[1:],
        model.item_likes_.tolist(),
        history,
        model.n_iter_,
    )


def interrupted(path, epoch, fit, how=stop, **params):
    """Break a fit in this process at the end of an epoch, before its checkpoint is written."""
    model = tiny(**EXACT | params)
    model.set_callbacks(Interrupt(epoch, how))
    with pytest.raises(KeyboardInterrupt):
        fit(model, checkpoint=path)
    assert path.is_file()


def on_all(model, **options):
    return model.fit(X, Y, **options)


def on_others(model, **options):
    return model.fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y, **options)


# ------------------------------------------------------------------------------ resuming


def test_a_fit_that_is_killed_ends_as_an_unbroken_one(tmp_path):
    """By SIGKILL, in processes that know of each other by the file alone."""
    code = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from test_checkpoint import EXACT, FITS, Interrupt, kill, on_all
from tiny import tiny
import posneg_rec.objectives, posneg_rec.training, torch
posneg_rec.training._MIN_STEPS = 3  # as here
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()  # imports, once for all children
for epoch, (name, params) in enumerate(FITS.items()):
    child = os.fork()
    if not child:
        model = tiny(**EXACT | params)
        model.set_callbacks(Interrupt(epoch % 3 + 1, kill))
        on_all(model, checkpoint=f"{sys.argv[2]}/{name}")
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FITS)
    for epoch, (name, params) in enumerate(FITS.items()):
        model = tiny(**EXACT | params)
        watching = Interrupt(0, None)
        model.set_callbacks(watching)
        assert outcome(on_all(model, checkpoint=tmp_path / name)) == unbroken(name, on_all)
        assert watching.seen[0] == epoch % 3 + 1  # at whose end it was killed, so it ran again
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def whole():
    return on_all(tiny(**EXACT))


@functools.cache
def unbroken(name, fit):
    return outcome(fit(tiny(**EXACT | FITS[name])))


@pytest.mark.parametrize("name", ["joint, early stopping", "pnfrec, drawn"])
def test_a_fit_that_is_broken_again_and_again_ends_as_an_unbroken_one(name, tmp_path):
    path, params, fit = tmp_path / "checkpoint", FITS[name], on_all
    expected = unbroken(name, fit)
    n_epochs = expected[-1]
    assert n_epochs > 2
    for epoch in range(1, n_epochs + 1):
        interrupted(path, epoch, fit, **params)
    model = fit(tiny(**EXACT | params), checkpoint=path)
    assert outcome(model) == expected
    assert not path.exists()


def test_a_fit_with_a_validation_set_resumes(tmp_path):
    name = "joint, early stopping"
    interrupted(tmp_path / "checkpoint", 2, on_others, **FITS[name])
    model = on_others(tiny(**EXACT | FITS[name]), checkpoint=tmp_path / "checkpoint")
    assert outcome(model) == unbroken(name, on_others)


def test_what_a_callback_decided_is_kept(tmp_path):
    """A kill between a callback's stop and the end of the fit does not take the stop back."""
    path = tmp_path / "checkpoint"
    model = tiny(max_epochs=5, **EXACT)
    model.set_callbacks(StopAfter(2))
    expected = outcome(on_all(model))

    class LastMoment(StopAfter):
        def on_fit_task_end(self, estimator, context):
            if context.task_name != "epoch":
                raise KeyboardInterrupt
            return super().on_fit_task_end(estimator, context)

    model = tiny(max_epochs=5, **EXACT)
    model.set_callbacks(LastMoment(2))
    with pytest.raises(KeyboardInterrupt):
        on_all(model, checkpoint=path)
    assert "fitted_" not in vars(model) and path.is_file()
    assert outcome(on_all(tiny(max_epochs=5, **EXACT), checkpoint=path)) == expected


def test_a_callback_that_counts_epochs_counts_those_before_the_kill(tmp_path):
    path = tmp_path / "checkpoint"
    interrupted(path, 3, on_all, max_epochs=6)
    model = tiny(max_epochs=6, **EXACT)
    model.set_callbacks(StopAfter(4))
    assert on_all(model, checkpoint=path).n_iter_ == 4


@pytest.mark.parametrize("random_state", [None, "instance"])
def test_what_was_held_out_stays_held_out_whatever_is_drawn_anew(tmp_path, random_state):
    def params():
        state = np.random.RandomState(5) if random_state else None
        return EXACT | {"max_epochs": 3, "random_state": state}

    path = tmp_path / "checkpoint"
    interrupted(path, 2, on_all, **params())
    held, states = [], []
    with archive.reading(path, mmap=False) as reader:
        start = reader.header["start"]
    original = posneg_rec.fitting._hold_out

    def hold_out(histories, can_be_hit, n_items, fraction, rng):
        states.append(rng.bit_generator.state)
        held.append(original(histories, can_be_hit, n_items, fraction, rng))
        return held[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(posneg_rec.fitting, "_hold_out", hold_out)
        model = tiny(**params())
        if random_state:
            model.random_state.randint(9)  # another number would come
        on_all(model, checkpoint=path)
    assert states == [start]
    assert model.n_iter_ == 3


def test_precision_stays_as_the_stopwatch_found_it(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    fast = [True]
    monkeypatch.setattr(posneg_rec.training, "_bfloat16_is_fast_on_cpu", lambda: fast[0])
    interrupted(path, 2, on_all, precision="auto")
    fast[0] = False
    model = on_all(tiny(**EXACT | {"precision": "auto"}), checkpoint=path)
    assert model.precision_ == "bfloat16"


def test_a_checkpoint_changes_nothing_and_goes(tmp_path, whole):
    path = tmp_path / "checkpoint"
    model = on_all(tiny(**EXACT), checkpoint=str(path))
    assert same_weights(model, whole)
    assert list(tmp_path.iterdir()) == []
    link = tmp_path / "link"
    link.symlink_to(path)
    interrupted(link, 2, on_all)
    assert link.is_symlink() and path.is_file()
    on_all(tiny(**EXACT), checkpoint=link)
    assert [entry.name for entry in tmp_path.iterdir()] == ["link"]


def test_a_fit_without_anything_to_learn_needs_no_epoch(tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.warns(UserWarning, match="No user has two events"):
        model = tiny().fit([[1], [2]], checkpoint=path)
    assert model.n_iter_ == 0 and not path.exists()


# ------------------------------------------------------------------------------ other fits


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "checkpoint"
    interrupted(path, 2, on_all)
    return path.read_bytes()


ROWS = X.copy()
ROWS[7, 1] = (ROWS[7, 1] + 1) % 8
LATER = X.copy()
LATER[:, 2] = 2 * LATER[:, 2]
SIGNS = Y.copy()
SIGNS[3] = -SIGNS[3]


@pytest.mark.parametrize(
    ("changes", "passed", "difference"),
    [
        ({"learning_rate": 0.02}, (X, Y), "learning_rate=0.01, now 0.02"),
        ({"random_state": 1}, (X, Y), "random_state=0, now 1"),
        ({"random_state": None}, (X, Y), "random_state=0, now None"),
        ({"max_epochs": 9}, (X, Y), "max_epochs=2, now 9"),
        ({"objective": "pnfrec"}, (X, Y), "objective='joint', now 'pnfrec'"),
        ({"dropout": 0.1, "batch_size": 8}, (X, Y), "batch_size=16, now 8"),
        ({}, (ROWS, Y), "checksum of the interactions"),
        ({}, (X[1:], Y[1:]), "checksum of the interactions"),
        ({}, (LATER, Y), "checksum of the interactions"),
        ({}, (X, SIGNS), "checksum of the interactions"),
        ({}, (np.add(X, [0, 1, 0]), Y), "checksum of the interactions"),
        ({}, (X, Y, np.linspace(0.1, 1, len(X))), "checksum of sample_weight"),
    ],
)
def test_a_checkpoint_of_another_fit_is_refused_and_stays(
    tmp_path, checkpoint, changes, passed, difference
):
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    rows, feedback, *weight = passed
    model = tiny(**EXACT | changes)
    with pytest.raises(ValueError, match=f"is one of another fit: .*{difference}"):
        model.fit(rows, feedback, sample_weight=weight[0] if weight else None, checkpoint=path)
    assert path.read_bytes() == checkpoint and "fitted_" not in vars(model)


def test_order_of_rows_and_names_of_columns_make_no_other_fit(tmp_path, checkpoint, whole):
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    order = np.random.default_rng(0).permutation(len(X))
    model = tiny(**EXACT | {"verbose": 1, "item_column": "item"})
    model.fit(as_pandas(X[order]), Y[order], checkpoint=path)
    assert outcome(model) == outcome(whole)


def test_a_checkpoint_of_another_validation_set_or_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    interrupted(path, 2, on_others)
    model = tiny(**EXACT)
    with pytest.raises(ValueError, match="of another fit: checksum of X_val="):
        model.fit(TRAIN, TRAIN_Y, X_val=OTHERS[5:], y_val=OTHER_Y[5:], checkpoint=path)
    with pytest.raises(ValueError, match=r"checksum of X_val=.*, now False"):
        model.fit(TRAIN, TRAIN_Y, checkpoint=path)
    for module in (posneg_rec, torch):
        with monkeypatch.context() as patch:
            patch.setattr(module, "__version__", "9.9")
            name = module.__name__
            with pytest.raises(ValueError, match=f"another fit: {name}='.*', now '9.9'"):
                on_others(model, checkpoint=path)


def test_equal_parameters_of_other_types_are_no_difference(tmp_path):
    path = tmp_path / "checkpoint"
    graded = {"positive_threshold": (4, 5)}
    model = tiny(**EXACT | graded)
    model.set_callbacks(Interrupt(2, stop))
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y + 4, checkpoint=path)
    model = tiny(**EXACT | {"positive_threshold": [4.0, 5.0], "max_epochs": np.int64(2)})
    assert model.fit(X, Y + 4, checkpoint=path).n_iter_ == 2


def test_digest_tells_values_kinds_and_shapes_apart():
    found = [
        digest(*parts)
        for parts in (
            (np.array([1, 2]),),
            (np.array([1.0, 2.0]),),
            (np.array([[1, 2]]),),
            (np.array([1]), np.array([2])),
            (np.array(["1", "2"], object),),
            (np.array([1, 2], object),),
            (np.array(["1', '2"], object),),
            (None,),
            (),
        )
    ]
    assert len(set(found)) == len(found)
    assert digest(np.arange(6)[::2]) == digest(np.array([0, 2, 4]))
    assert digest(np.array([1], ">i8")) == digest(np.array([1], "<i8"))


# ------------------------------------------------------------------------------ bad files


def rewritten(path, change):
    """Change what a checkpoint holds, and make its checksums right again."""
    with archive.reading(path, mmap=False) as reader:
        header = dict(reader.header)
        dtypes = {name: "|u1" if name == "generator" else "<f4" for name in reader.names}
        arrays = {name: reader.array(name, dtype) for name, dtype in dtypes.items()}
    change(header, arrays)
    header.pop("checksums", None)
    archive.write(path, header, arrays)


def of_state(**changes):
    return lambda header, arrays: header["state"].update(changes)


def without(name):
    return lambda header, arrays: arrays.pop(name)


@pytest.mark.parametrize(
    "change",
    [
        lambda header, arrays: header.pop("made_from"),
        lambda header, arrays: header.update(state=3),
        lambda header, arrays: header.update(precision="float8"),
        lambda header, arrays: header.update(start={"bit_generator": "MT19937"}),
        lambda header, arrays: header["start"]["state"].update(state=-1),
        of_state(history=None),
        of_state(history=[[2, {}, None, 0.1]]),
        of_state(history=[[1, {"loss": "x"}, None, 0.1]]),
        of_state(best_epoch=7),
        of_state(rng={}),
        of_state(touched=["nothing"]),
        of_state(optimizer_steps=[]),
        without("model/item_embedding"),
        without("generator"),
        lambda header, arrays: arrays.update(generator=np.zeros(3, np.uint8)),
        lambda header, arrays: arrays.update(
            {"model/item_embedding": arrays["model/item_embedding"][1:]}
        ),
    ],
)
def test_a_made_up_checkpoint_is_one_error_and_stays(tmp_path, checkpoint, change):
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    rewritten(path, change)
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="checkpoint"):
        on_all(tiny(**EXACT), checkpoint=path)
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_named_and_stays(tmp_path, checkpoint):
    path = tmp_path / "checkpoint"
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as file:
        inside = file.getinfo("model/item_embedding.npy").header_offset + 300
    flipped = bytearray(checkpoint)
    flipped[inside] ^= 1
    for data in (bytes(flipped), checkpoint[: len(checkpoint) // 2], b"", b"\x80\x04N.", b"text"):
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=str(path)):
            on_all(tiny(**EXACT), checkpoint=path)
        assert path.read_bytes() == data


def test_models_and_checkpoints_are_not_taken_for_each_other(tmp_path, checkpoint, whole):
    path = tmp_path / "model.posneg"
    whole.save(path)
    before = path.read_bytes()
    with pytest.raises(ModelFileError, match="holds a model, not a checkpoint: read it with Con"):
        on_all(tiny(**EXACT), checkpoint=path)
    assert path.read_bytes() == before
    path.write_bytes(checkpoint)
    with pytest.raises(ModelFileError, match=r"holds a checkpoint, not a model: .*fit\("):
        ContrastiveSeqRecommender.load(path)


def test_a_checkpoint_holds_arrays_and_json_alone(tmp_path, checkpoint):
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    with np.load(path, allow_pickle=False) as file:
        kinds = {file[name].dtype.str for name in file.files}
        header = json.loads(file["header"].tobytes())
    assert kinds == {"<f4", "|u1"}
    assert header["content"] == "checkpoint" and header["state"]["history"][0][0] == 1


# ------------------------------------------------------------------------------ full, read-only


@pytest.mark.parametrize("path", [3, True, b"bytes", ["list"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="checkpoint must be a path"):
        on_all(tiny(), checkpoint=path)


def failing(monkeypatch, fails_at):
    """Let the disk be full at some of the writes, of which the first comes before any epoch."""
    original, n_writes = os.fsync, []

    def fsync(descriptor):
        if not os.path.isdir(f"/proc/self/fd/{descriptor}"):
            n_writes.append(1)
            if len(n_writes) - 1 in fails_at:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(archive.os, "fsync", fsync)


def test_a_disk_that_is_full_from_the_start_is_an_error_before_training(tmp_path, monkeypatch):
    failing(monkeypatch, {0})
    model = tiny(**EXACT)
    watching = Interrupt(0, None)
    model.set_callbacks(watching)
    path = tmp_path / "checkpoint"
    with pytest.raises(OSError, match="checkpoint cannot be written: No space left") as caught:
        on_all(model, checkpoint=path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert watching.seen == [] and list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_an_error_before_training(tmp_path):
    with pytest.raises(FileNotFoundError, match="checkpoint cannot be written"):
        on_all(tiny(), checkpoint=tmp_path / "nowhere" / "checkpoint")
    with pytest.raises(IsADirectoryError):
        on_all(tiny(), checkpoint=tmp_path)


def test_a_folder_that_is_read_only_is_an_error_before_training(tmp_path, monkeypatch):
    original = os.open

    def read_only(path, flags, *mode):  # to root nothing else is
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return original(path, flags, *mode)

    monkeypatch.setattr(archive.os, "open", read_only)
    with pytest.raises(OSError, match="checkpoint cannot be written: Read-only") as caught:
        on_all(tiny(), checkpoint=tmp_path / "checkpoint")
    assert caught.value.filename == str(tmp_path / "checkpoint")


def test_a_disk_that_fills_up_is_a_warning_and_the_last_checkpoint_stays(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    params = EXACT | {"max_epochs": 4}
    expected = outcome(on_all(tiny(**params)))
    failing(monkeypatch, {2, 3})
    model = tiny(**params)
    model.set_callbacks(Interrupt(4, stop))
    with (
        pytest.raises(KeyboardInterrupt),
        pytest.warns(UserWarning, match="After epoch 2 .* could not be written .No space") as told,
    ):
        on_all(model, checkpoint=path)
    assert len(told) == 1 and told[0].filename == __file__
    monkeypatch.undo()
    model = tiny(**params)
    watching = Interrupt(0, None)
    model.set_callbacks(watching)
    assert outcome(on_all(model, checkpoint=path)) == expected
    assert watching.seen == [2, 3, 4]


def test_a_checkpoint_that_cannot_be_removed_is_named(tmp_path, monkeypatch):
    def unlink(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    path = tmp_path / "checkpoint"
    monkeypatch.setattr(posneg_rec.checkpoint.os, "unlink", unlink)
    with pytest.warns(UserWarning, match="could not be removed .Permission denied") as told:
        model = on_all(tiny(**EXACT), checkpoint=path)
    assert model.n_iter_ == 2 and told[0].filename == __file__
