"""A tiny model in a tiny world, for tests of the tools around a model."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec.datasets import make_opposing_patterns

PARAMS = {
    "embedding_dim": 8,
    "n_layers": 1,
    "max_len": 10,
    "max_epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.01,
    "random_state": 0,
}

_WORLD = make_opposing_patterns(
    n_users=40, n_pairs=1, group_size=8, min_events=6, max_events=12, random_state=0
)
X, Y = _WORLD.interactions, _WORLD.feedback

# The same without times, and with one history per user, which has none.
TIMELESS = X[:, :2], Y
_STARTS = np.flatnonzero(np.diff(X[:, 0]) > 0) + 1
HISTORIES, FEEDBACKS = (
    [part.tolist() for part in np.split(column, _STARTS)] for column in (X[:, 1], Y)
)


def tiny(**changes):
    return ContrastiveSeqRecommender(**PARAMS | changes)


def as_pandas(rows):
    return pd.DataFrame(rows, columns=["user", "item", "time"])


FRAMES = {
    "pandas": as_pandas,
    "polars": lambda rows: pl.from_pandas(as_pandas(rows)),
    "pyarrow": lambda rows: pa.Table.from_pandas(as_pandas(rows), preserve_index=False),
}


def same_weights(one, other):
    """Whether two recommenders are the same model, to the last bit."""
    return one.weights_.keys() == other.weights_.keys() and all(
        value.tobytes() == other.weights_[name].tobytes() for name, value in one.weights_.items()
    )


class Hooks:
    """A callback of scikit-learn that does nothing, for others to say what they do."""

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        pass


class StopAfter(Hooks):
    """A callback that ends a fit after some epochs."""

    def __init__(self, n_epochs):
        self.n_epochs = n_epochs

    def on_fit_task_end(self, estimator, context):
        return context.task_name == "epoch" and context.task_id + 1 >= self.n_epochs


def losses_of(objective, model, users, rng, generator=None, *share):
    """The losses of one part of a batch after the other."""
    for part in objective.parts(model, users, rng, *share):
        yield objective.losses(model, part, generator)
