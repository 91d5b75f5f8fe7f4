"""Several processes make one fit: what one process would have made, and the same on all of them."""

import copy
import datetime
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint import Interrupt
from test_fitting import OTHER_Y, OTHERS, TRAIN, TRAIN_Y
from test_objectives import BOTH, objective
from tiny import X, Y, losses_of, tiny

from posneg_rec import ContrastiveSeqRecommender, distributed, objectives, training
from posneg_rec.training import Share

EXACT = {"dropout": 0.0, "precision": "float32", "device": "cpu", "batch_size": 11}
IN_FLOAT32 = objectives._Objective.model
TRAIN_MD = Path(__file__).parents[1] / "docs" / "train.md"
WEIGHT = np.random.default_rng(0).uniform(0, 1, len(X))


# ------------------------------------------------------------------------------ what is fitted


def in_float64():
    """Let sums of other orders agree, and few large batches be made."""
    training._MIN_STEPS = 3
    objectives._Objective.model = lambda *given: IN_FLOAT32(*given).double()


def few_draws():
    """Let the draws be the same wherever they are made."""
    objectives._NegativeSampler.draw = lambda self, rng, n_items, dislikes: (
        np.array([0, 3, 5]),
        np.log(np.array([0.5, 0.25, 0.75], np.float32)),
    )


def joint():
    return tiny(**EXACT | {"max_epochs": 3}).fit(X, Y, sample_weight=WEIGHT)


def pnfrec():
    return tiny(objective="pnfrec", **EXACT).fit(X, Y, sample_weight=WEIGHT)


def one_user_a_batch():
    return tiny(**EXACT | {"batch_size": 1, "max_epochs": 1}).fit(X[:70], Y[:70])


def stopped_early():
    model = tiny(max_epochs=9, n_iter_no_change=1, learning_rate=0.1, **EXACT)
    return model.fit(TRAIN, TRAIN_Y, X_val=OTHERS, y_val=OTHER_Y)


def drawn(name="joint"):
    return tiny(objective=name, n_negatives=3, **EXACT).fit(X, Y)


def pnfrec_drawn():
    return drawn("pnfrec")


def gone_on():
    model = tiny(**EXACT | {"early_stopping": False, "max_epochs": 1}).fit(X, Y)
    rows = X[:60].copy()
    rows[::7, 1] += 50
    return model.partial_fit(rows, Y[:60])


def drawn_anew():
    """Of draws and dropout each process has its own."""
    return tiny(random_state=None, n_negatives=4, **EXACT | {"dropout": 0.3}).fit(X, Y)


def stopped_by_one():
    model = tiny(**EXACT | {"max_epochs": 6})
    place = distributed.place()
    if place.rank == place.n_processes - 1:
        model.set_callbacks(Stop(2))
    return model.fit(X, Y)


class Stop(Interrupt):
    def __init__(self, epoch):
        super().__init__(epoch, None)

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id + 1 == self.epoch


EQUAL = [joint, pnfrec, one_user_a_batch, stopped_early, gone_on]  # to one process
EQUAL_DRAWN = [drawn, pnfrec_drawn]
ALIKE = [drawn_anew, stopped_by_one]  # on all processes
CASES = [*EQUAL, *EQUAL_DRAWN, *ALIKE]


def resumed(folder):
    """Break all processes, and go on: as if nothing had been."""
    params = EXACT | {"dropout": 0.3, "n_negatives": 4, "max_epochs": 3}
    expected = tiny(**params).fit(X, Y)
    model = tiny(**params)
    model.set_callbacks(Interrupt(2, interrupt))
    path = Path(folder, "checkpoint")
    try:
        model.fit(X, Y, checkpoint=path)
    except KeyboardInterrupt:
        dist.barrier()
        assert path.is_file()
    again = tiny(**params).fit(X, Y, checkpoint=path)
    same = all((again.weights_[name] == value).all() for name, value in expected.weights_.items())
    dist.barrier()
    return [same, again.n_iter_, path.exists()]


def interrupt():
    raise KeyboardInterrupt


def refused():
    """What is not the same in all processes is told to all of them."""
    rank, messages = distributed.place().rank, []
    for params, rows in (({}, X[rank:]), ({"embedding_dim": 4 + 4 * rank}, X), ({}, TRAIN)):
        y = {len(TRAIN): TRAIN_Y}.get(len(rows), Y[len(Y) - len(rows) :])
        try:
            tiny(**EXACT | {"max_epochs": 1} | params).fit(rows, y)
            messages.append("")
        except ValueError as error:
            messages.append(str(error))
    try:
        tiny(**EXACT).fit(X, Y, checkpoint="/nowhere/at/all")
    except OSError as error:
        messages.append(type(error).__name__)
    return messages


# ------------------------------------------------------------------------------ in processes


def rank_of(folder, rank, n_processes):
    in_float64()
    if n_processes > 1:
        join(f"{folder}/{n_processes}", rank, n_processes, 60)
    for case in CASES:
        if case in EQUAL_DRAWN:
            draw = objectives._NegativeSampler.draw
            few_draws()
        model = case()
        if case in EQUAL_DRAWN:
            objectives._NegativeSampler.draw = draw
        name = f"{folder}/{case.__name__}-{n_processes}-{rank}"
        memory = model.fitted_.memory
        further = [] if memory is None else [memory.next_weight, *memory.taste_weights]
        np.savez(f"{name}.npz", **model.weights_, further=further)
        Path(f"{name}.json").write_text(json.dumps(model.history_))
    if n_processes == 2:
        objectives._Objective.model = IN_FLOAT32
        told = {"resumed": resumed(folder), "refused": refused()}
        Path(f"{folder}/told-{rank}.json").write_text(json.dumps(told))


def losing(how):
    """One process fails at its first epoch; what do the others say, and how soon?"""

    def fit(folder, rank, n_processes):
        join(f"{folder}/{how}", rank, n_processes, 3)
        model = tiny(**EXACT)
        if rank == 1:
            model.set_callbacks(Interrupt(1, {"dies": die, "raises": fail}[how]))
        start = time.monotonic()
        try:
            model.fit(X, Y)
            told = "nothing"
        except RuntimeError as error:
            told = str(error)
        seconds = time.monotonic() - start
        Path(f"{folder}/{how}-{rank}.json").write_text(json.dumps([told, seconds]))
        while how == "raises" and not Path(f"{folder}/{how}-{1 - rank}.json").exists():
            time.sleep(0.05)  # a process that lives on, and answers nobody

    return fit


def script(folder, rank, n_processes):
    """Run what the docs show, started as torchrun would."""
    training._MIN_STEPS = 3
    os.chdir(folder)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(n_processes)}
    exec(re.search(r"```python\n(# fit.py\n.*?)```", TRAIN_MD.read_text(), re.DOTALL)[1], {})


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise RuntimeError("of the callback")


def join(file, rank, n_processes, seconds):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{file}",
        rank=rank,
        world_size=n_processes,
        timeout=datetime.timedelta(seconds=seconds),
    )


def launch(folder):
    """Run it all in forks of a process that has imported everything and trained nothing."""
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    for targets in (
        [(rank_of, 1), (rank_of, 2)],
        [(rank_of, 3), (script, 2)],
        [(losing("dies"), 2), (losing("raises"), 2)],
    ):
        children = []
        for target, n_processes in targets:
            for rank in range(n_processes):
                child = os.fork()
                if not child:
                    try:
                        target(folder, rank, n_processes)
                    except BaseException:
                        traceback.print_exc()
                        os._exit(1)
                    os._exit(0)
                children.append(child)
        for child in children:
            os.waitpid(child, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import test_distributed
test_distributed.launch(sys.argv[2])
"""
    here = os.path.dirname(__file__)
    done = subprocess.run([sys.executable, "-c", code, here, str(folder)], stderr=subprocess.PIPE)
    assert done.returncode == 0
    (folder / "stderr").write_bytes(done.stderr)
    return folder


def results(folder, case, n_processes):
    """What each process has: weights, and the log without the times."""
    found = []
    for rank in range(n_processes):
        name = folder / f"{case.__name__}-{n_processes}-{rank}"
        assert name.with_suffix(".npz").exists(), (folder / "stderr").read_text()[-3000:]
        with np.load(name.with_suffix(".npz")) as file:
            weights = dict(file)
        history = json.loads(name.with_suffix(".json").read_text())
        history.pop("seconds")
        found.append((weights, history))
    return found


@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("case", CASES)
def test_all_processes_end_alike(folder, case, n_processes):
    (weights, history), *others = results(folder, case, n_processes)
    for other, log in others:
        assert other.keys() == weights.keys() and log == history
        assert all((other[name] == value).all() for name, value in weights.items())


@pytest.mark.parametrize("n_processes", [2, 3])
@pytest.mark.parametrize("case", [*EQUAL, *EQUAL_DRAWN])
def test_without_dropout_they_end_where_one_process_does(folder, case, n_processes):
    (expected, one), (weights, several) = (results(folder, case, n)[0] for n in (1, n_processes))
    assert one["epoch"] == several["epoch"]
    for name in one:
        if one[name][0] is not None:
            np.testing.assert_allclose(several[name], one[name], rtol=1e-6)
    for name, value in expected.items():
        # Kept as float32, made in float64: sums of another order are equal but for the last bit.
        rtol = 1e-4 if name == "further" else 2e-7
        np.testing.assert_allclose(weights[name], value, rtol=rtol, atol=1e-9, err_msg=name)


def test_early_stopping_stops_all_of_them_at_the_epoch_where_one_would(folder):
    for n_processes in (1, 2, 3):
        _, history = results(folder, stopped_early, n_processes)[0]
        assert 1 < len(history["epoch"]) < 9


def test_a_callback_of_one_of_them_stops_all(folder):
    for n_processes in (1, 2, 3):
        _, history = results(folder, stopped_by_one, n_processes)[0]
        assert history["epoch"] == [1, 2]


def test_they_resume_together(folder):
    for rank in range(2):
        told = json.loads((folder / f"told-{rank}.json").read_text())
        assert told["resumed"] == [True, 3, False]


def test_processes_that_do_not_fit_the_same_are_all_told_so(folder):
    for rank in range(2):
        rows, params, nothing, path = json.loads((folder / f"told-{rank}.json").read_text())[
            "refused"
        ]
        assert "checksum of the interactions='" in rows and "in process 1. Pass all rows" in rows
        assert "embedding_dim=4 in process 0, 8 in process 1" in params
        assert nothing == ""  # and all of them go on
        assert path == "FileNotFoundError"


@pytest.mark.parametrize("how", ["dies", "raises"])
def test_a_process_that_is_lost_ends_the_others_with_an_error(folder, how):
    told, seconds = json.loads((folder / f"{how}-0.json").read_text())
    assert "Process 0 of the 2 of this fit got no answer from the others" in told
    assert seconds < 30  # the timeout is three, and torch's own half an hour
    if how == "raises":
        assert json.loads((folder / f"{how}-1.json").read_text())[0] == "of the callback"


def test_the_script_of_the_docs_runs(folder):
    model = ContrastiveSeqRecommender.load(folder / "model.posneg")
    assert model.n_iter_ == 3 and len(model.recommend([2, 72], k=3)[0]) == 3


# ------------------------------------------------------------------------------ shares

EVENTS = [(u, i, [1, -1, 1, 0][(u + i) % 4]) for u in range(7) for i in range(u % 5 + 1)]


@BOTH
@settings(max_examples=10)
@given(
    n_shares=st.sampled_from([1, 2, 3, 5, 9]),
    users=st.permutations(range(7)),
    seed=st.integers(0, 99),
)
def test_shares_of_a_batch_add_up_to_it(kind, n_shares, users, seed):
    """Each by itself, of the same draws from the batch's stream."""
    made = objective(EVENTS, kind, windows="random", max_len=2, dropout=0.0)
    model = made.model(6, torch.Generator().manual_seed(0)).double()
    rng, users = np.random.default_rng(seed), np.array(users)

    def losses(*share):
        own = copy.deepcopy(rng)
        model.zero_grad()
        sums = torch.zeros(1 + len(made.terms), dtype=torch.float64)
        for parts in losses_of(made, model, users, own, torch.Generator(), *share):
            parts[0].backward()
            sums += torch.stack([part.detach() for part in parts])
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
        grads = torch.cat([(g.to_dense() if g.is_sparse else g).reshape(-1) for g in grads])
        return torch.cat([sums, grads]), own.bit_generator.state

    whole, _ = losses()
    shares = [losses(Share(i, n_shares, np.random.default_rng(i))) for i in range(n_shares)]
    torch.testing.assert_close(sum(found for found, _ in shares), whole)
    assert all(state == shares[0][1] for _, state in shares)  # none of them has drawn more


def test_alone_there_is_nothing_to_ask():
    assert distributed.place() == (0, 1)
    assert distributed.gathered(3) == [3] and distributed.from_first(lambda: 4) == 4
    values = torch.ones(2)
    assert distributed.summed(values) is values
