"""The recipes of the page "Beyond one machine", each on its engine with two workers.

Engines start processes of their own and expect to own theirs, so each recipe runs in a new one.
"""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from tiny import X, Y, as_pandas, tiny

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.model_selection import check_users_apart

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "beyond.md").read_text()


def code_under(heading):
    """Take the first code that the page shows under a heading."""
    section = PAGE.split(f"\n## {heading}\n" if heading[0] != "#" else f"\n{heading}\n")[1]
    return re.search(r"```python\n(.*?)\n```", section, flags=re.DOTALL)[1]


def run(code, folder):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with a model, rows in any order, and the answers of one process."""
    folder = tmp_path_factory.mktemp("beyond")
    rows = as_pandas(X).assign(liked=Y == 1).sample(frac=1, random_state=0)
    model = tiny().fit(rows, rows["liked"])
    model.save(folder / "model.posneg")
    rows.to_parquet(folder / "rows.parquet")
    return folder, model.recommend(rows, k=5, feedback=rows["liked"])


@pytest.mark.parametrize("engine", ["dask", "ray", "spark"])
def test_two_workers_answer_as_one_process_does(engine, world):
    pytest.importorskip({"dask": "distributed", "spark": "pyspark"}.get(engine, engine))
    folder, expected = world
    before = "import pandas as pd\nrows = pd.read_parquet('rows.parquet')\n"
    answer = code_under("Answers for very many users")
    after = f"\nanswers.to_parquet('{engine}.parquet')"
    # Workers start in folders of their own.
    answer = answer.replace('"model.posneg"', repr(str(folder / "model.posneg")))
    recipe = code_under(f"### {engine.capitalize()}")
    assert len(answer.splitlines()) + len(recipe.splitlines()) < 20
    run("\n".join([before, answer, recipe, after]), folder)
    found = pd.read_parquet(folder / f"{engine}.parquet").sort_values(["user", "rank"])
    expected = expected.sort_values(["user", "rank"])
    for name in ("user", "item", "rank"):
        assert found[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)


def test_rows_that_are_cut_answer_users_twice_and_the_check_says_so(world):
    folder, expected = world
    rows = pd.read_parquet(folder / "rows.parquet").sort_values("user", kind="stable")
    model, middle = ContrastiveSeqRecommender.load(folder / "model.posneg"), 5
    parts = rows[:middle], rows[middle:]
    assert rows["user"].iloc[middle - 1] == rows["user"].iloc[middle]
    answers = [model.recommend(part, k=5, feedback=part["liked"]) for part in parts]
    assert sum(map(len, answers)) == len(expected) + 5
    with pytest.raises(ValueError, match="1 user is in more than one part"):
        check_users_apart(answer["user"] for answer in answers)


WORLD = """
from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.datasets import make_opposing_patterns
world = make_opposing_patterns(n_users=16, random_state=0)
model = ContrastiveSeqRecommender(embedding_dim=8, max_epochs=1, random_state=0)
"""


def searches(library):
    """Take the page's code of searches that imports a library."""
    fences = re.findall(r"```python\n(.*?)\n```", PAGE.split("\n## Searches\n")[1], flags=re.DOTALL)
    (found,) = [code for code in fences if code.startswith(f"import {library}\n")]
    return found


def test_a_trial_of_optuna_sees_each_epoch_and_is_pruned():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = {}
    exec(WORLD + searches("optuna"), names)
    fitted = names["ContrastiveSeqRecommender"](
        embedding_dim=8, max_epochs=3, random_state=0, **names["study"].trials[0].params
    ).fit(names["world"].interactions, names["world"].feedback)
    expected = dict(enumerate(fitted.history_["validation_score"], start=1))
    assert names["study"].trials[0].intermediate_values == expected
    assert names["study"].trials[0].value == max(expected.values())

    class AtTheSecond(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.last_step == 2

    study = optuna.create_study(pruner=AtTheSecond())
    study.optimize(names["objective"], n_trials=1)
    (trial,) = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED and list(trial.intermediate_values) == [
        1,
        2,
    ]


def test_a_grid_over_workers_of_dask_scores_as_in_one_process(tmp_path):
    pytest.importorskip("distributed")
    told = "\nprint('told', search.cv_results_['mean_test_score'].tolist())"
    here = searches("joblib").replace('joblib.parallel_config(backend="dask")', "nullcontext()")
    here = here.replace("client = Client(n_workers=2, threads_per_worker=1)", "").replace(
        "client.close()", ""
    )
    names = {}
    exec(f"from contextlib import nullcontext\n{WORLD}{here}", names)
    expected = names["search"].cv_results_["mean_test_score"].tolist()
    found = run(WORLD + searches("joblib") + told, tmp_path)
    np.testing.assert_allclose(eval(found.partition("told ")[2]), expected, atol=1e-6)


def test_trials_of_ray_tune_tell_each_epochs_score(tmp_path):
    pytest.importorskip("ray")
    told = """
for result in results:
    print("told", result.config["learning_rate"], result.metrics_dataframe["score"].tolist())
print("best", best.config["learning_rate"], best.metrics["score"])
"""
    lines = run(WORLD + searches("ray") + told, tmp_path)
    told = re.findall(r"^told (\S+) (\[.*\])$", lines, flags=re.MULTILINE)
    found = {float(rate): eval(scores) for rate, scores in told}
    names = {}
    exec(WORLD, names)
    highest = {}
    for rate, scores in found.items():
        model = names["model"].set_params(max_epochs=3, learning_rate=rate)
        model.fit(names["world"].interactions, names["world"].feedback)
        expected = model.history_["validation_score"]
        np.testing.assert_allclose(scores, expected[: len(scores)], atol=1e-6)
        highest[rate] = max(scores)
    assert set(found) == {1e-3, 1e-2} and max(map(len, found.values())) == 3
    ((rate, score),) = re.findall(r"^best (\S+) (\S+)$", lines, flags=re.MULTILINE)
    assert float(rate) == max(highest, key=highest.get)
    assert float(score) == pytest.approx(max(highest.values()), abs=1e-6)


@pytest.mark.parametrize("make", [list, np.array, pd.Series, pl.Series, pa.array])
@pytest.mark.parametrize("name", [str, int])
def test_users_in_two_parts_are_named(make, name):
    parts = [[1, 1, 2], [], [3], [4, 2, 2], [1]]
    parts = [make([name(user) for user in part]) for part in parts]
    check_users_apart(parts[:3])
    check_users_apart(iter(parts[:3]))
    with pytest.raises(ValueError, match=rf"^2 users are in more .*: {name(2)!r}, {name(1)!r}\. "):
        check_users_apart(parts)


def test_parts_that_cannot_be_compared_are_refused():
    with pytest.raises(
        TypeError, match="different types: an earlier part has integer ids, got str"
    ):
        check_users_apart([[1], ["1"]])
    check_users_apart([[1.0, 2.0], [3]])
    with pytest.raises(ValueError, match="1 user is in more than one part"):
        check_users_apart([[1.0, 2.5], [1]])
    with pytest.raises(TypeError, match="got one pandas DataFrame"):
        check_users_apart(pd.DataFrame({"user": [1]}))


def test_a_day_is_scored_before_it_is_learned():
    names = runpy.run_path(str(ROOT / "examples" / "days.py"))
    scores, seconds = names["simulate"](n_users=12, n_days=2, drift=0.5, max_epochs=1)
    first, second = zip(*scores.values(), strict=True)
    assert len(set(first)) == 1 and len(set(second)) > 1
    assert [len(seconds[name]) for name in scores] == [0, 2, 2]
