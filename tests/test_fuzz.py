"""Some hundred programs of the fuzz; tests/fuzz.py runs any number."""

import pytest
from fuzz import Fault, Program, run_case, run_range

N_CASES, N_PARTS = 320, 8


@pytest.mark.parametrize("part", range(N_PARTS))
def test_every_call_meets_its_contract_or_names_the_cause(part):
    faults, outcomes = run_range("ci", range(part, N_CASES, N_PARTS))
    assert not faults, "\n\n".join(faults)
    # A fuzz that is refused everywhere, or nowhere, says nothing.
    for name in ("fit", "recommend", "recommend_many", "score"):
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
    import warnings

    import numpy as np

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
