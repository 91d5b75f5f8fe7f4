"""Serve a model from an installed wheel, in an environment without torch: run, not imported.

``.ci/run`` makes the environment. It shows that the documented way to install for serving works.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import posneg_rec
from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.pipeline import RecommenderPipeline

TESTS = Path(__file__).resolve().parent

assert find_spec("torch") is None, "this environment is to have no torch"
assert not Path(posneg_rec.__file__).is_relative_to(TESTS.parent / "posneg_rec"), "not the wheel"

model = ContrastiveSeqRecommender.load(TESTS / "model_format_2_joint.posneg")
history = ["a", "d", "z z", "é\0"]
items, scores = model.recommend(
    history, k=3, feedback=[5, 1, 3, 4], times=[0, 50, 5000, 5010], exclude_seen=False
)
assert list(items) == ["d", "z z", "鱼"], items
table = model.recommend([["a", "d"], ["z z"]], k=2)
assert table["rank"].tolist() == [1, 2, 1, 2], table
assert np.isfinite(model.score_items(["a"])).all()

pipeline = RecommenderPipeline.load(TESTS / "pipeline_format_2.posneg")
assert len(pipeline.recommend(pipeline[-1].items_[:2], k=1)[0]) == 1
assert "torch" not in sys.modules
print("served without torch:", *items)
