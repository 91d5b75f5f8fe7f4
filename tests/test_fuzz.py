"""Some hundred programs of the fuzz; tests/fuzz.py runs any number."""

import warnings

import numpy as np
import pandas as pd
import pytest
from fuzz import Fault, Program, run_case, run_range
from tiny import X, Y, as_pandas, same_weights, tiny

from posneg_rec import ContrastiveSeqRecommender, SequenceBuilder
from posneg_rec.baselines import PopularityRecommender
from posneg_rec.datasets import make_opposing_patterns
from posneg_rec.metrics import evaluate

N_CASES = 200
pytestmark = pytest.mark.usefixtures("few_steps")


def test_every_call_meets_its_contract_or_names_the_cause():
    faults, outcomes = run_range("ci", range(N_CASES))
    assert not faults, "\n\n".join(faults)
    # A fuzz that is refused everywhere, or nowhere, says nothing.
    for name in (
        *("fit", "recommend", "recommend_many", "score", "fit with a validation set"),
        *("explain", "encode", "rerank", "aversion_curve", "fit a baseline", "ask a baseline"),
    ):
        assert outcomes[f"{name}: answered"] and outcomes[f"{name}: refused"], outcomes


def broken(monkeypatch, call):
    """Let all programs do one call, and one that breaks a promise."""

    def do(self):
        self.call("broken", call, self.model, [1, 2, 3])

    monkeypatch.setattr(Program, "run", do)
    with pytest.raises(Fault) as caught:
        run_case("ci", 0)
    return str(caught.value)


def test_what_breaks_a_promise_is_found_and_told(monkeypatch):
    def raises(error):
        raise error

    told = broken(monkeypatch, lambda model, x: x.append(1))
    assert told.startswith("python tests/fuzz.py --seed ci --case 0")
    assert "broken (None, [1, 2, 3])" in told and "changed what it was given" in told
    assert "another type" in broken(monkeypatch, lambda model, x: raises(KeyError(1)))
    assert "did not raise" in broken(monkeypatch, lambda model, x: raises(ValueError("ours?")))
    assert "did not raise" in broken(monkeypatch, lambda model, x: np.zeros(3) + np.zeros(2))
    assert "a foreign warning" in broken(
        monkeypatch, lambda model, x: warnings.warn("x", RuntimeWarning, stacklevel=1)
    )
    assert "NumPy's numbers" in broken(monkeypatch, lambda model, x: np.random.rand(1000))


# -- What it found --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return tiny().fit(as_pandas(X), Y)


TWICE = pd.concat([as_pandas(X)] * 2, axis=1)
NO_TABLES = {
    "a dict": ({"a": 1}, TypeError, "pass pd.DataFrame"),
    "text": ("", TypeError, "interactions must be"),
    "a number": (0, TypeError, "interactions must be"),
    "names that occur twice": (TWICE, ValueError, "two columns of interactions have one name"),
    "complex numbers": (X + 1j, ValueError, "Complex data not supported: interactions are"),
}


@pytest.mark.parametrize("what", NO_TABLES)
@pytest.mark.parametrize("call", ["fit", "partial_fit", "recommend", "score", "target_ranks"])
def test_what_is_no_table_is_said_before_its_columns_are_looked_for(what, call, model):
    passed, error, message = NO_TABLES[what]
    with pytest.raises(error, match=message) as caught:
        getattr(tiny() if call == "fit" else model, call)(passed)
    assert len(str(caught.value)) < 400


@pytest.fixture(scope="module")
def beside():
    """What else reads tables."""
    baseline, builder = PopularityRecommender(), SequenceBuilder()
    baseline.fit(as_pandas(X), Y)
    return {
        "recommend": baseline.recommend,
        "score": baseline.score,
        "target_ranks": baseline.target_ranks,
        "transform": builder.fit(as_pandas(X)).transform,
        "X_val": lambda passed: tiny().fit(as_pandas(X), Y, X_val=passed, y_val=Y),
    }


@pytest.mark.parametrize("what", NO_TABLES)
@pytest.mark.parametrize("call", ["recommend", "score", "target_ranks", "transform", "X_val"])
def test_all_that_read_tables_say_it_alike(what, call, beside):
    passed, error, message = NO_TABLES[what]
    with pytest.raises(error, match=message) as caught:
        beside[call](passed)
    assert len(str(caught.value)) < 400


SWITCHES = ["max_len", "embedding_dim", "n_heads", "learning_rate", "user_column", "temperature"]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [True, np.True_])
def test_a_switch_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a number, got .*True"):
        tiny(**{name: value}).fit(X, Y)


@pytest.mark.parametrize("name", ["max_len", "batch_size", "embedding_dim", "max_epochs"])
def test_small_numbers_of_numpy_are_numbers(name):
    few = X[:60], Y[:60]
    plain = tiny(**{name: 4}).fit(*few)
    assert same_weights(tiny(**{name: np.int8(4)}).fit(*few), plain)


def test_what_may_be_a_switch_still_is():
    tiny(verbose=False, early_stopping=np.False_, random_state=True).fit(X, Y)


@pytest.mark.parametrize(
    "weights",
    [int, "heavy", {"a": 1}, [[1, 2], [3]], np.inf, np.nan, 1 + 2j, [np.inf] * len(X), -1, [1]],
)
def test_weights_are_named(weights):
    with pytest.raises((TypeError, ValueError), match="sample_weight"):
        tiny().fit(X, Y, sample_weight=weights)


@pytest.mark.parametrize("bad", [[[1, 2], 3], [[1], [2, 3]], [(1, 2), [3]]])
def test_lists_in_place_of_values_are_named(bad, model):
    with pytest.raises(ValueError, match=r"feedback must hold one value per entry, got \[[\[(]"):
        tiny().fit(X, bad)
    with pytest.raises(ValueError, match=r"targets must hold one value per entry, got \[[\[(]"):
        model.target_ranks(as_pandas(X), Y, targets=bad)


def test_without_a_seed_the_global_state_is_left_alone(model):
    before = np.random.get_state()[1].tobytes(), np.random.get_state()[2]
    evaluate(model, as_pandas(X), Y, n_bootstraps=700)
    world = make_opposing_patterns(n_users=5)
    other = make_opposing_patterns(n_users=5)
    assert before == (np.random.get_state()[1].tobytes(), np.random.get_state()[2])
    assert world.interactions.tolist() != other.interactions.tolist()


def test_a_fit_that_is_refused_says_nothing_foreign():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError, match="sample_weight must be real"):
            ContrastiveSeqRecommender().fit(X, Y, sample_weight=1j)
