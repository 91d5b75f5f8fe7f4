"""What the scripts under `examples/benchmarks` measure is what their pages say it is."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples" / "benchmarks"))
import training_step

SIZES = {"users": 20, "dim": 16, "dropout": 0.1}


def test_the_padded_step_has_the_loss_of_the_packed_one():
    padded, packed = training_step.losses_of_both(SIZES)
    assert packed == pytest.approx(padded, rel=1e-5)
