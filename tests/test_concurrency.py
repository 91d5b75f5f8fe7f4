"""Threads and processes at one fitted object: what docs/reliability.md promises."""

import copy
import multiprocessing
import pickle
import random
import sys
import threading

import joblib
import pytest
from sklearn.base import clone
from tiny import X, Y, as_pandas, same_weights, tiny

from posneg_rec import ContrastiveSeqRecommender, make_recommender_pipeline
from posneg_rec.preprocessing import SequenceBuilder

N_THREADS, N_REQUESTS = 16, 1_000


@pytest.fixture(scope="module")
def alone():
    """Fits of one thread."""
    return [tiny(random_state=seed).fit(X, Y) for seed in range(3)]


@pytest.fixture(scope="module")
def model(alone):
    return alone[0]


def requests():
    """A thousand requests of every kind, each a function of a model."""
    rng = random.Random(0)
    catalogue = X[:, 1].tolist()
    table = X[:60]

    def one():
        n = rng.choice([0, 1, 5, 30])
        history = [rng.choice([*catalogue, 10**6]) for _ in range(n)]
        feedback = rng.choice([None, [rng.choice([-1, 1]) for _ in range(n)]])
        k = rng.choice([1, 3, 8])
        kind = rng.randrange(6)
        if kind == 0:
            return lambda model: model.score_items(history, feedback=feedback)
        if kind == 1:
            return lambda model: model.similar_items(catalogue[n], k)
        if kind == 2 and rng.random() < 0.1:
            return lambda model: model.recommend(table, k)["item"]
        if kind == 3 and rng.random() < 0.1:
            return lambda model: model.target_ranks(X, Y).ranks
        denied = rng.sample(catalogue, 2)
        return lambda model: model.recommend(
            history, k, feedback=feedback, denied_items=denied, exclude_seen=False
        )

    return [one() for _ in range(N_REQUESTS)]


def bits(answer):
    parts = answer if isinstance(answer, tuple) else (answer,)
    return tuple((part.dtype.str, part.tolist()) for part in parts)


def answered(model, jobs, change=None):
    """Answer all jobs on 16 threads, while another does `change` over and over."""
    answers, errors, stop = [None] * len(jobs), [], threading.Event()
    changes = 0

    def work(first):
        try:
            for number in range(first, len(jobs), N_THREADS):
                answers[number] = bits(jobs[number](model))
        except Exception as error:
            errors.append(error)

    def disturb():
        nonlocal changes
        try:
            while not stop.is_set() or changes < 2:
                change(changes)
                changes += 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(N_THREADS)]
    other = threading.Thread(target=disturb) if change else None
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in [*threads, *([other] if other else [])]:
            thread.start()
        for thread in threads:
            thread.join()
        stop.set()
        if other:
            other.join()
    finally:
        sys.setswitchinterval(interval)
    assert not errors, errors
    return answers


def test_a_thousand_requests_of_16_threads_are_the_serial_ones(model):
    jobs = requests()
    expected = [bits(job(model)) for job in jobs]
    fresh = pickle.loads(pickle.dumps(model))  # nothing is made ready yet
    assert answered(fresh, jobs) == expected


def test_requests_are_of_one_model_while_the_object_is_fitted_saved_and_loaded(model, tmp_path):
    """Refits, partial fits, saves, loads, pickles and clones, all of the object that answers.

    Fits of one object by several threads at a time are the caller's to order: here one fits.
    """
    jobs, path = requests(), tmp_path / "model.posneg"
    shared, models = copy.deepcopy(model), [model.fitted_]
    shared.fitted_ = model.fitted_

    def change(number):
        if number % 2:
            shared.set_params(random_state=number % 3).fit(X, Y)
        else:
            shared.partial_fit(X[:30], Y[:30])
        models.append(shared.fitted_)
        shared.save(path)
        loaded = ContrastiveSeqRecommender.load(path, mmap=bool(number % 3))
        assert same_weights(loaded, shared)
        assert same_weights(pickle.loads(pickle.dumps(shared)), shared)
        assert not clone(shared).__sklearn_is_fitted__()

    found = answered(shared, jobs, change)
    assert len(models) > 2
    at_a_time = []
    for fitted in models:
        one = copy.copy(model)
        one.fitted_ = fitted
        at_a_time.append(one)
    of_each = [[None] * len(jobs) for _ in models]
    for number, job in enumerate(jobs):
        for place, one in enumerate(at_a_time):
            of_each[place][number] = bits(job(one))
            if of_each[place][number] == found[number]:
                break
        else:
            raise AssertionError(f"request {number} got an answer of no model")


def test_a_pipeline_answers_threads_as_it_answers_one():
    table = as_pandas(X)
    pipeline = make_recommender_pipeline(SequenceBuilder(max_length=20), tiny()).fit(table, Y)
    jobs = [
        lambda model, n=n: model.recommend(table[: 10 + n], k=2)["item"].to_numpy()
        for n in range(40)
    ]
    expected = [bits(job(pipeline)) for job in jobs]
    assert answered(pipeline, jobs) == expected


def test_fits_of_several_objects_on_threads_are_the_fits_of_one(alone):
    together = joblib.Parallel(n_jobs=3, backend="threading")(
        joblib.delayed(tiny(random_state=seed).fit)(X, Y) for seed in range(3)
    )
    assert all(same_weights(*pair) for pair in zip(alone, together, strict=True))


# -- Processes -----------------------------------------------------------------------------------

# Methods are what they are sent: a function of this file would let them import all that it does.
HISTORIES_ASKED = [[1, 2, 3], [], [5], [3, 3, 3, 2]]


def answers_of(model):
    return [bits(model.recommend(history, 3)) for history in HISTORIES_ASKED]


def test_spawned_workers_answer_and_fit_as_the_parent(alone):
    """Processes started anew: what macOS and Windows always do, and Linux from Python 3.14."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.starmap(alone[0].recommend, [(history, 3) for history in HISTORIES_ASKED])
        fitted = pool.apply(tiny(random_state=1).fit, (X, Y))
    assert list(map(bits, found)) == answers_of(alone[0])
    assert same_weights(fitted, alone[1])


def test_workers_of_loky_answer_as_the_parent_from_one_copy(model, tmp_path):
    model.save(tmp_path / "model.posneg")
    mapped = ContrastiveSeqRecommender.load(tmp_path / "model.posneg", mmap=True)
    found = joblib.Parallel(n_jobs=2)(
        joblib.delayed(one.recommend)(history, 3)
        for one in (model, mapped)
        for history in HISTORIES_ASKED
    )
    assert list(map(bits, found)) == answers_of(model) * 2


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="there is no fork"
)
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_forked_after_a_fit_answers_and_fits(alone):
    """torch has computed in the parent; on one thread a child can go on."""
    model = alone[0]
    assert model.n_iter_
    with multiprocessing.get_context("fork").Pool(2) as pool:
        asked = [(history, 3) for history in HISTORIES_ASKED]
        found = pool.starmap_async(model.recommend, asked).get(120)
        fits = [pool.apply_async(tiny(random_state=seed).fit, (X, Y)) for seed in (1, 2)]
        fitted = [fit.get(120) for fit in fits]
    assert list(map(bits, found)) == answers_of(model)
    assert all(same_weights(*pair) for pair in zip(fitted, alone[1:], strict=True))
