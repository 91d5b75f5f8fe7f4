"""Two doors to one model: the estimator, and what opens without scikit-learn and torch."""

import copy
import inspect
import io
import json
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import sparse
from tiny import FEEDBACKS, FRAMES, HISTORIES, TIMELESS, X, Y, tiny

from posneg_rec import ContrastiveSeqRecommender, serving
from posneg_rec.answering import EncoderMixin, ServedRecommender
from posneg_rec.parameters import DEFAULTS, PARAMETERS, check_parameters
from posneg_rec.persistence import ModelFileError

HEAVY = ("torch", "sklearn", "pandas", "polars", "pyarrow", "joblib", "matplotlib")


def served(model):
    file = io.BytesIO()
    model.save(file)
    return serving.load(file)


@pytest.fixture(scope="module", params=["joint", "pnfrec"])
def doors(request):
    model = tiny(objective=request.param, dislike_aversion=2.0).fit(X, Y)
    return model, served(model)


def outcome(call, *args, **kwargs):
    """What a call returns, or its error; what it warns of; and whether it was refused."""
    refused = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            answer = call(*args, **kwargs)
        except Exception as error:
            answer, refused = (type(error).__mro__, str(error)), True
    return answer, [(str(w.message), w.category, w.filename) for w in caught], refused


def assert_alike(one, other):
    (one, *warned), (other, *also_warned) = one, other
    assert warned == also_warned
    assert type(one) is type(other)
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other)
    elif hasattr(one, "equals"):
        assert one.equals(other)
    else:
        np.testing.assert_equal(one, other)


# -- What is loaded ----------------------------------------------------------------------------

ASKING = """
import json, sys
from posneg_rec import fitted, serving
fitted._MANY_SCORES_WITHOUT_TORCH = 0  # as many as pay off on a device
heavy = set(json.loads(sys.argv[2]))
def loaded():
    return sorted({name.partition(".")[0] for name in sys.modules} & heavy)
model = serving.load(sys.argv[1], mmap=True)
def refused(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (ValueError, TypeError):
        return
    raise AssertionError(args)
history = model.items_[:3].tolist()
items, scores = model.recommend(history, k=3, feedback=[1, 0, 1], times=[1, 2, 2])
model.score_items(history, items, feedback=[[1], [0], [1]])
model.similar_items(history[0])
model.unknown_items([*history, -7])
vectors = model.encode(history, feedback=[1, 0, 1]) @ model.item_vectors_.T
model.rerank(history, model.items_[vectors[0].argsort()[-9:]], k=3, feedback=[1, 0, 1])
assert "because" in model.explain(history[:1], history[1])._repr_html_()
refused(model.recommend, history, feedback=[1, "a", 1])
refused(model.recommend, history, feedback=[[1, 1, 0]])
refused(model.recommend, 7)
refused(model.recommend, [[1, 2], [3, 4, "a"]])
assert "scipy" not in sys.modules and not loaded(), loaded()
import numpy as np
model.explain(history, history[1], feedback=[1, 0, 1])
model.encode([history, history[::-1]])
model.recommend([history, history[::-1]], feedback=[[1, 0, 1], [1, 1, 1]])
rows = np.array([[1, history[0], 1], [1, history[1], 2], [2, history[1], 2]])
model.recommend(rows, feedback=np.array([1, 0, 1]), denied_items=[history[2]])
refused(model.recommend, rows * 1j)
refused(model.recommend, rows[:0])
refused(model.recommend, rows[:, :1])
refused(model.recommend, rows[None])
print(json.dumps([items.tolist(), scores.tolist(), loaded()]))
"""


def test_what_only_answers_loads_neither_torch_nor_scikit_learn_nor_frames(doors, tmp_path):
    model, _ = doors
    model.save(tmp_path / "model.posneg")
    arguments = [sys.executable, "-W", "ignore", "-c", ASKING, tmp_path / "model.posneg"]
    done = subprocess.run([*arguments, json.dumps(HEAVY)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    items, scores, loaded = json.loads(done.stdout)
    history = model.items_[:3].tolist()
    expected = model.recommend(history, k=3, feedback=[1, 0, 1], times=[1, 2, 2])
    assert items == expected[0].tolist() and loaded == []
    np.testing.assert_array_equal(np.array(scores, np.float32), expected[1])


# -- Both answer alike -------------------------------------------------------------------------

ROWS = np.array([[1, 2, 5], [1, 3, 6], [2, 3, 1]])
ANSWERED = [
    ("recommend", ([1, 2, 3],), {"k": 4}),
    ("recommend", ([1, 2, 3],), {"k": 4, "feedback": [1, 0, 1], "times": [1, 5, 9]}),
    ("recommend", (np.array([1, 2]),), {"k": 99, "dislike_aversion": 0}),
    ("recommend", ([],), {"exclude_seen": False}),
    ("recommend", (["1"],), {"k": 2}),
    ("recommend", (HISTORIES,), {"k": 3, "feedback": FEEDBACKS, "allowed_items": range(9)}),
    ("recommend", (X,), {"k": 3, "feedback": Y, "denied_items": {1, 2}}),
    ("score_items", ([1, 2],), {"feedback": [True, False]}),
    ("score_items", ([1, 2], [3, -9]), {"dislike_aversion": 9}),
    ("similar_items", (3, 4), {}),
    ("unknown_items", ([3, -4],), {}),
    ("unknown_items", (X,), {}),
    ("encode", (X,), {"feedback": Y, "dislike_aversion": 1}),
    ("encode", ([3, 2],), {"times": [1, 9]}),
    ("rerank", ([3, 2], range(1, 9), 3), {"feedback": [1, 0]}),
]
REFUSED = [
    ("recommend", ([1, 2],), {"feedback": [1]}, ValueError),
    ("recommend", ([1, 2],), {"feedback": [1, 3]}, ValueError),
    ("recommend", ([1, 2],), {"feedback": [1, None]}, ValueError),
    ("recommend", ([1, 2],), {"feedback": [[1, 1]]}, ValueError),
    ("recommend", ([1, 2],), {"feedback": np.matrix([[1], [1]])}, TypeError),
    ("recommend", ([1, 2],), {"feedback": sparse.csr_array([[1, 1]])}, TypeError),
    ("recommend", ([1, 2],), {"times": [2, 1]}, ValueError),
    ("recommend", ([1, 2],), {"times": ["a", "b"]}, TypeError),
    ("recommend", ([1, 2],), {"k": 0}, ValueError),
    ("recommend", ([1, 2],), {"exclude_seen": "no"}, TypeError),
    ("recommend", ([1, 2],), {"dislike_aversion": -1}, ValueError),
    ("recommend", ([1, 2],), {"allowed_items": ["a"]}, ValueError),
    ("recommend", ("12",), {}, TypeError),
    ("recommend", (12,), {}, TypeError),
    ("recommend", ({1, 2},), {}, TypeError),
    ("recommend", (sparse.csr_array([[1, 1]]),), {}, TypeError),
    ("recommend", (np.matrix([[1, 2, 3]]),), {}, TypeError),
    ("recommend", (ROWS[:, :2],), {}, ValueError),
    ("recommend", (ROWS[:0],), {}, ValueError),
    ("recommend", (ROWS * 1j,), {}, ValueError),
    ("recommend", (ROWS[None],), {}, ValueError),
    ("recommend", (np.array(3),), {}, ValueError),
    ("recommend", (pd.DataFrame({"a": [1], "b": [2]}),), {}, ValueError),
    ("recommend", ([(1, 2, 3), (1, 3, 4)],), {}, TypeError),
    ("score_items", ([1, 2], ["a"]), {}, ValueError),
    ("score_items", (X,), {}, ValueError),
    ("similar_items", (-9,), {}, ValueError),
    ("rerank", ([1], ["a"]), {}, ValueError),
    ("encode", (7,), {}, TypeError),
    ("encode", (ROWS[:, :2],), {}, ValueError),
    ("encode", ([1, 2],), {"feedback": [1]}, ValueError),
]


@pytest.mark.parametrize(("name", "args", "kwargs"), ANSWERED)
def test_both_doors_answer_and_warn_alike(name, args, kwargs, doors):
    one, other = (outcome(getattr(door, name), *args, **kwargs) for door in doors)
    assert not one[2], one
    assert_alike(one, other)


@pytest.mark.parametrize("kind", FRAMES)
def test_both_doors_answer_frames_alike(kind, doors):
    frame = FRAMES[kind](X)
    one, other = (outcome(door.recommend, frame, k=2, feedback=Y) for door in doors)
    assert isinstance(one[0], type(frame))
    assert_alike(one, other)


@pytest.mark.parametrize(("name", "args", "kwargs", "kind"), REFUSED)
def test_both_doors_refuse_in_the_same_words(name, args, kwargs, kind, doors):
    one, other = (outcome(getattr(door, name), *args, **kwargs) for door in doors)
    assert kind in one[0][0], one
    assert_alike(one, other)


def test_columns_are_those_of_the_file():
    frame = FRAMES["pandas"](X).set_axis(["who", "what", "at"], axis=1)
    columns = {"user_column": "who", "item_column": "what", "time_column": "at"}
    model = tiny(**columns).fit(frame, Y)
    light = served(model)
    pd.testing.assert_frame_equal(light.recommend(frame, k=2), model.recommend(frame, k=2))
    one, other = (outcome(door.recommend, X, k=2) for door in (model, light))
    assert_alike(one, other)
    assert light.feature_names_in_.tolist() == ["who", "what", "at"]


def test_attributes_are_those_of_a_fitted_estimator(doors):
    model, light = doors
    names = [
        name for name, _ in inspect.getmembers(EncoderMixin, lambda x: isinstance(x, property))
    ]
    assert {"items_", "weights_", "history_", "gap_edges_", "feedback_coding_"} <= set(names)
    for name in names:
        if hasattr(model, name):
            np.testing.assert_equal(getattr(light, name), getattr(model, name))
        else:
            assert not hasattr(light, name)
    assert not hasattr(served(tiny().fit(*TIMELESS)), "feature_names_in_")


def test_the_options_of_the_file_are_the_defaults_of_a_call(doors):
    model, light = doors
    assert light.dislike_aversion == model.dislike_aversion == 2.0
    light = copy.copy(light)
    light.dislike_aversion = 0.5
    np.testing.assert_array_equal(
        light.score_items([1, 2]), model.score_items([1, 2], dislike_aversion=0.5)
    )


def test_it_says_what_it_cannot_do(doors):
    model, light = doors
    assert not isinstance(light, ContrastiveSeqRecommender)
    for name in ("fit", "partial_fit", "score", "target_ranks", "save", "set_params"):
        assert hasattr(model, name)
        with pytest.raises(AttributeError, match=rf"For {name} open .*Recommender\.load"):
            getattr(light, name)
    with pytest.raises(AttributeError, match="object has no attribute 'nonsense'"):
        light.nonsense  # noqa: B018
    assert repr(light) == f"ServedRecommender({model.fitted_!r})"


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_copies_answer_as_well(copied, doors):
    _, light = doors
    np.testing.assert_array_equal(copied(light).score_items([1]), light.score_items([1]))


def test_other_files_are_refused_in_the_same_words(tmp_path):
    path = tmp_path / "no.posneg"
    path.write_bytes(b"PK\3\4 nothing")
    with pytest.raises(ModelFileError, match=r"no\.posneg is cut short or damaged"):
        serving.load(path)
    with pytest.raises(FileNotFoundError):
        serving.load(tmp_path / "absent.posneg")
    with pytest.raises(TypeError, match="mmap=True needs the path"):
        serving.load(io.BytesIO(), mmap=True)


# -- Parameters --------------------------------------------------------------------------------


def test_parameters_and_defaults_are_those_of_the_constructor():
    signature = inspect.signature(ContrastiveSeqRecommender.__init__).parameters
    found = {name: p.default for name, p in signature.items() if name != "self"}
    assert list(found) == list(PARAMETERS) and found == DEFAULTS
    check_parameters(DEFAULTS)
    assert ServedRecommender._get_param_names() == list(found)


values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.sampled_from([999, 1000, 1001, 2**24, 2**24 + 1, 2**32 - 1, 2**32, 10**400]),
    st.sampled_from([0.0, 0.5, 1.0, -0.5, np.inf, np.nan, np.float32(0.5), np.int8(3), np.True_]),
    st.sampled_from(["auto", "joint", "dot", "past", "recent", "float32", "", "cpu"]),
    st.lists(st.integers(), max_size=2),
    st.tuples(st.integers(), st.integers()),
)


@given(name=st.sampled_from(list(PARAMETERS)), value=values)
@example(name="dropout", value=1.0)
@example(name="n_layers", value=1000)
@example(name="validation_fraction", value=0)
@example(name="random_state", value=np.random.RandomState(0))
def test_a_parameter_can_be_what_scikit_learn_lets_it_be(name, value):
    one, *_ = outcome(ContrastiveSeqRecommender(**{name: value})._validate_params)
    other, *_ = outcome(check_parameters, {name: value})
    assert (one is None) == (other is None)
    if one is not None:
        assert one[1] == other[1]
