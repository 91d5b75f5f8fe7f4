import os
from pathlib import Path

import pytest
from hypothesis import settings

# Many small tensors: more threads only get into each other's way. torch reads this when it is
# first imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# scikit-learn's check_array_api_input skips itself without it; SciPy reads it when imported.
os.environ.setdefault("SCIPY_ARRAY_API", "1")

# Programs: a type checker reads the one, an environment without torch runs the other.
collect_ignore = ["serve_installed.py", "typed_program.py"]

settings.register_profile(
    "posneg_rec", deadline=None, max_examples=50, derandomize="CI" in os.environ
)
settings.load_profile("posneg_rec")


def _real_data(name):
    """Read a real data set as a pandas frame, or skip: the data may not be redistributed."""
    path = Path(os.environ.get("POSNEG_REC_DATA", ""), name)
    if not path.is_file():
        reason = f"{name} is not in the folder that POSNEG_REC_DATA names"
        if os.environ.get("POSNEG_REC_REQUIRE_DATA") == "1":
            pytest.fail(f"{reason}, and POSNEG_REC_REQUIRE_DATA=1")
        pytest.skip(reason)
    pd = pytest.importorskip("pandas")
    return pd.read_parquet(path, columns=["user_id", "item_id", "timestamp", "rating"])


@pytest.fixture(scope="session")
def ml_100k():
    return _real_data("ml-100k.parquet")


@pytest.fixture(scope="session")
def ml_1m():
    return _real_data("ml-1m.parquet")


@pytest.fixture(scope="module")
def few_steps():
    """Let epochs be as short as batches allow: for tests that ask little of what was learned."""
    from posneg_rec import training

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_MIN_STEPS", 3)
        yield


@pytest.fixture(scope="session")
def tiny_model():
    """A fitted model that no test may change; see tests/tiny.py for its world."""
    from tiny import X, Y, tiny

    return tiny(max_epochs=6).fit(X, Y)
