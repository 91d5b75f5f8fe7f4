"""The ONNX graph, bound to the NumPy path it is written after."""

import functools
import json
import uuid
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from tiny import TIMELESS, X, Y, tiny

from posneg_rec import make_recommender_pipeline
from posneg_rec.memory import ItemWeights, WeighedMemory
from posneg_rec.onnx import to_onnx

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
pytestmark = [
    pytest.mark.usefixtures("few_steps"),
    # Histories are drawn that a model knows nothing of.
    pytest.mark.filterwarnings("ignore:None of the .* items passed"),
]


def small(**changes):
    """Make a model of one epoch: what its weights are is drawn below."""
    return tiny(**{"max_epochs": 1} | changes)


@functools.cache
def items_of_memory():
    return small(early_stopping=False).fit(X, Y).fitted_.memory.items


def with_memory(model, seed=0, fading=0.5, user_left=0.97):
    """Put random weights into the memory, which a tiny world may have found no use for."""
    rng, fitted, n_items = np.random.default_rng(seed), model.fitted_, len(model.items_)
    items = items_of_memory()
    pairs = [(row, column) for row in range(n_items) for column in range(n_items) if row != column]
    rows, columns = np.array([pair for pair in pairs if rng.random() < 0.3]).T

    def random_weights(old):
        return ItemWeights(
            np.searchsorted(rows, np.arange(n_items + 1)),
            columns.astype(np.int32),
            rng.normal(size=len(rows)).astype(np.float32),
            old.evidence,
        )

    items = replace(items, next=random_weights(items.next), taste=random_weights(items.taste))
    items = replace(items, fading=fading, user_left=user_left)
    model.fitted_ = replace(fitted, memory=WeighedMemory(items))
    return model


def without(model, *ends):
    """Take parameters away, as a model of an older file, or of many users, has none of them."""
    weights = {name: value for name, value in model.weights_.items() if not name.endswith(ends)}
    model.fitted_ = replace(model.fitted_, weights=weights)
    return model


BIASES = "distance_bias", "gap_bias"
MODELS = {
    "joint": lambda: with_memory(small().fit(X, Y), fading=0.9, user_left=0.6),
    "joint without memory": lambda: small(item_memory=False, n_layers=2, n_heads=2).fit(X, Y),
    "joint without times": lambda: with_memory(small(n_heads=2).fit(*TIMELESS)),
    "joint without layers": lambda: with_memory(small(n_layers=0).fit(X, Y), fading=1.0),
    "joint without dislikes": lambda: small(item_memory=False).fit(X, np.ones(len(X))),
    "joint of many users": lambda: without(small().fit(X, Y), "latest.weight"),
    "joint of an older file": lambda: without(
        with_memory(small().fit(X, Y), fading=0.0, user_left=1.0), *BIASES
    ),
    "pnfrec": lambda: small(objective="pnfrec", n_heads=2).fit(X, Y),
    "pnfrec, deep": lambda: small(objective="pnfrec", n_layers=3, max_len=3).fit(X, Y),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "None of the")
        model = MODELS[request.param]()
    # Large enough that what is left out is seen.
    rng = np.random.default_rng(1)
    weights = {
        name: value + rng.normal(0, 0.3, value.shape).astype(np.float32)
        for name, value in model.weights_.items()
    }
    edges = 2.0 ** np.arange(1, 1 + len(model.gap_edges_))  # that some gaps meet exactly
    model.fitted_ = replace(model.fitted_, weights=weights, gap_edges=edges)
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    to_onnx(model, path)
    return model, onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


EVENTS = st.lists(
    st.tuples(
        st.integers(-1, 20),
        st.sampled_from([1, -1, 0]),
        st.one_of(st.integers(0, 4), st.integers(0, 2_000)),
    ),
    max_size=40,
)


@settings(max_examples=25)
@given(events=EVENTS, aversion=st.sampled_from([0.0, 0.7, 5.0, 100.0]), timed=st.booleans())
def test_scores_are_those_of_the_numpy_path(pair, events, aversion, timed):
    model, session = pair
    codes = np.array([code for code, _, _ in events], dtype=np.int64)
    signs = np.array([sign for _, sign, _ in events], dtype=np.int64)
    times = np.cumsum([gap for _, _, gap in events], dtype=np.int64)
    moments = times.astype(float) if timed else np.full(len(codes), np.nan)
    # 1, -1 and 0 as a model that met no 0 or no dislike would not read them.
    fitted = replace(model.fitted_, feedback_coding="signed")
    expected = fitted.score_items(
        np.where(codes < 0, -1, model.items_[codes]),  # -1 is no item of this world
        None,
        feedback=signs,
        times=times if timed else None,
        dislike_aversion=aversion,
    )
    (found,) = session.run(
        None,
        {
            "items": codes,
            "signs": signs,
            "times": moments,
            "dislike_aversion": np.array(aversion, dtype=np.float32),
        },
    )
    assert found.dtype == np.float32 and found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * (1 + aversion))


@pytest.mark.parametrize(
    ("kind", "written"),
    [(lambda n: n, lambda n: n), (str, str), (lambda n: uuid.UUID(int=n), None)],
)
def test_a_file_says_which_item_a_code_is(kind, written, tmp_path):
    histories = [[kind(n), kind(n + 1), kind(n + 2)] for n in range(5)]
    model = small(early_stopping=False).fit(histories)
    to_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    ids = json.loads(session.get_modelmeta().custom_metadata_map["items"])
    assert ids == [(written or str)(item) for item in model.items_.tolist()]


def test_what_is_no_fitted_recommender_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    with pytest.raises(NotFittedError):
        to_onnx(tiny(), path)
    with pytest.raises(TypeError, match="of a pipeline, its last step"):
        to_onnx(make_recommender_pipeline(tiny()), path)
    assert not path.exists()


def test_a_model_that_no_file_holds_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("posneg_rec.onnx._MOST_BYTES", 1_000)
    with pytest.raises(ValueError, match="an ONNX file holds 2 at most"):
        to_onnx(small().fit(X, Y), tmp_path / "model.onnx")
