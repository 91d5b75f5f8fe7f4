"""The MLflow recipe of the docs, run as it stands."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import X, Y, as_pandas, tiny

ROOT = Path(__file__).parents[1]

if importlib.util.find_spec("mlflow") is None:
    pytest.skip("mlflow is not installed", allow_module_level=True)


def test_the_recipe_answers_as_the_model_does(tmp_path):
    text = (ROOT / "docs" / "serve_app.md").read_text()
    snippets = re.findall(r"```python\n# (.*?)\n(.*?)```", text, flags=re.DOTALL)
    assert [name for name, _ in snippets] == ["recommender.py", "log it"]
    (tmp_path / "recommender.py").write_text(snippets[0][1])
    table = as_pandas(X)
    model = tiny().fit(table, Y)
    model.save(tmp_path / "model.posneg")
    table.to_pickle(tmp_path / "table.pkl")
    before = """
import pandas as pd
from posneg_rec import ContrastiveSeqRecommender
interactions = pd.read_pickle("table.pkl")
model = ContrastiveSeqRecommender.load("model.posneg")
"""
    # In a process of its own, for MLflow warns of much and keeps state.
    (tmp_path / "log.py").write_text(before + snippets[1][1] + 'table.to_pickle("answer.pkl")\n')
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    done = subprocess.run(
        [sys.executable, "log.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    import pandas as pd

    expected = model.recommend(table, k=3)
    pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / "answer.pkl"), expected)
    assert not list((tmp_path / "served").rglob("*.pkl"))
