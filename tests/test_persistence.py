"""The model file: exact round trips, whole files or none, and nothing believed unchecked."""

import copy
import dataclasses
import datetime
import errno
import io
import itertools
import json
import os
import pickle
import stat
import struct
import subprocess
import sys
import tracemalloc
import uuid
import zipfile
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import RandomizedSearchCV
from sklearn.preprocessing import StandardScaler
from tiny import X, Y, same_weights, tiny

from posneg_rec import (
    ContrastiveSeqRecommender,
    RareItemMasker,
    SequenceBuilder,
    archive,
    make_recommender_pipeline,
    persistence,
    serving,
)
from posneg_rec.fitted import FittedModel
from posneg_rec.memory import ItemMemory, ItemWeights, TasteWeights, WeighedMemory
from posneg_rec.persistence import ModelFileError
from posneg_rec.pipeline import RecommenderPipeline

HERE = Path(__file__).parent
MARKUP = "<script>alert('x')</script>"


def fitted(ids, **params):
    """A model of four items whose raw ids are `ids`."""
    rows = np.empty((16, 2), dtype=object)
    rows[:, 0] = np.repeat(np.arange(4), 4)
    rows[:, 1] = np.array(ids, dtype=object)[np.arange(16) % 4]
    params = {"embedding_dim": 4, "max_epochs": 1, "random_state": 0} | params
    return ContrastiveSeqRecommender(**params).fit(rows)


def remembered(n_items, seed=0):
    """A memory of random weights, of which some items have none."""
    rng = np.random.default_rng(seed)

    def numbers(n):
        return rng.normal(size=n).astype(np.float32)

    def item_weights():
        rows, items = np.nonzero(rng.random((n_items, n_items)) < 0.5)
        offsets = np.searchsorted(rows, np.arange(n_items + 1)).astype(np.int64)
        return ItemWeights(
            offsets, items.astype(np.int32), numbers(len(items)), np.abs(numbers(n_items))
        )

    levels, counts = numbers(n_items), np.arange(n_items, dtype=np.float32)
    memory = ItemMemory(item_weights(), item_weights(), levels, counts, mean=0.1)
    return WeighedMemory(memory, 3.3, TasteWeights(0.2, 1.1, -0.3))


def invented(
    ids,
    *,
    method="joint",
    dim=2,
    n_layers=1,
    max_len=3,
    gated=True,
    biased=True,
    latest=True,
    two_sided=True,
    seed=0,
    n_epochs=1,
    columns=None,
    memory=False,
    **params,
):
    """A model of random weights, which takes no time to fit."""
    rng = np.random.default_rng(seed)
    parts = {"latest.weight": None} if latest else {}
    parts |= {"negative.": None} if two_sided else {}
    parts |= {"encoder.blocks.0.attention_in.bias": np.empty(4 * dim)} if gated else {}
    parts |= {"encoder.blocks.0.distance_bias": None} if biased else {}
    shapes = persistence._shapes(method, len(ids), dim, 1, max_len, n_layers, parts)
    sizes = {"objective": method, "embedding_dim": dim, "n_layers": n_layers, "max_len": max_len}
    model = ContrastiveSeqRecommender(**sizes | {"n_heads": 1} | params)
    columns_of_log = ("epoch", "loss", *persistence._TERMS[method], "validation_score", "seconds")
    history = {name: [0.5] * n_epochs for name in columns_of_log}
    model.fitted_ = FittedModel(
        method=method,
        n_heads=1,
        items=np.array(ids) if isinstance(ids[0], int | float) else np.array(ids, dtype=object),
        weights={name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()},
        likes=np.arange(len(ids)),
        dislikes=np.arange(len(ids))[::-1].copy(),
        gap_edges=np.geomspace(1, 100, 9) if latest else np.empty(0),
        feedback_coding="signed",
        positive_threshold=None,
        excludes_seen=False,
        precision="float32",
        history=history | {"epoch": list(range(1, n_epochs + 1))},
        memory=remembered(len(ids), seed) if memory and method == "joint" else None,
        n_features_in=None if columns is None else len(columns),
        feature_names_in=None if columns is None else np.array(columns, dtype=object),
    )
    return model


def saved(model):
    file = io.BytesIO()
    model.save(file)
    return file.getvalue()


def load(data):
    return ContrastiveSeqRecommender.load(io.BytesIO(data))


def assert_same(one, other):
    """Check that two models are the same to the last bit."""
    assert one.get_params() == other.get_params()
    assert {type(value) for value in other.get_params().values()} <= {
        bool, int, float, str, tuple, list, type(None),
    }  # fmt: skip
    a, b = one.fitted_, other.fitted_
    for name in ("items", "likes", "dislikes", "gap_edges", "feature_names_in"):
        left, right = getattr(a, name), getattr(b, name)
        if left is None:
            assert right is None
        else:
            assert left.dtype == right.dtype and left.tolist() == right.tolist()
            assert list(map(type, left.tolist())) == list(map(type, right.tolist()))
    assert a.weights.keys() == b.weights.keys()
    for name, value in a.weights.items():
        assert b.weights[name].dtype == np.float32 and b.weights[name].shape == value.shape
        assert b.weights[name].tobytes() == value.tobytes()
    for name in ("method", "n_heads", "feedback_coding", "positive_threshold", "excludes_seen"):
        assert getattr(a, name) == getattr(b, name)
        assert type(getattr(a, name)) is type(getattr(b, name))
    assert (a.precision, a.n_features_in, a.history) == (b.precision, b.n_features_in, b.history)
    assert (a.memory is None) == (b.memory is None)
    if a.memory is not None:
        assert a.memory[1:] == b.memory[1:] and type(b.memory.taste_weights) is TasteWeights
        left, right = a.memory.items.arrays(), b.memory.items.arrays()
        for name, value in left.items():
            assert right[name].dtype == value.dtype and right[name].shape == value.shape
            assert right[name].tobytes() == value.tobytes()


# -- Round trips -------------------------------------------------------------------------------

IDS = {
    "int": [2**60 + 1, -3, 5, 7],
    "str": ["a", "é\0", "", "d"],
    "uuid": [uuid.UUID(int=2**100 + i) for i in range(4)],
    "float": [0.1, 1.5, 2.0, 1e300],
    "beyond": ["\U0001f600", "\ufeff", "a\u0301", "\u00e1"],
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("kind", IDS)
def test_round_trip_is_exact(kind, mmap, tmp_path):
    options = {"positive_threshold": (2, 4), "dropout": 0.1, "early_stopping": False}
    model = fitted(IDS[kind], **options)
    assert model.fitted_.memory is not None
    model.save(tmp_path / "model.posneg")
    loaded = ContrastiveSeqRecommender.load(tmp_path / "model.posneg", mmap=mmap)
    assert_same(model, loaded)
    assert isinstance(loaded.positive_threshold, tuple)
    state = {name for name in vars(model) if name.endswith("_")}
    assert {name for name in vars(loaded) if name.endswith("_")} == state
    answers = [m.recommend([IDS[kind][0]], k=3) for m in (model, loaded)]
    assert answers[0][0].tolist() == answers[1][0].tolist()
    assert answers[0][1].tobytes() == answers[1][1].tobytes()
    # What was loaded goes on as what was fitted.
    again = [m.partial_fit([[IDS[kind][0], IDS[kind][1]]]) for m in (model, loaded)]
    assert again[0].weights_["item_embedding"].tobytes() == (
        again[1].weights_["item_embedding"].tobytes()
    )


@pytest.mark.parametrize("mmap", [False, True])
def test_what_is_remembered_answers_as_before(mmap, tmp_path):
    model = invented(list(range(1, 30)), memory=True, seed=3)
    model.save(tmp_path / "model.posneg")
    loaded = ContrastiveSeqRecommender.load(tmp_path / "model.posneg", mmap=mmap)
    histories, signs = [[3, 7, 9], [20, 4], [11]], [[1, -1, 1], [-1, 1], [1]]
    for one in (loaded, load(saved(loaded))):
        for history, feedback in zip(histories, signs, strict=True):
            before, after = (m.score_items(history, feedback=feedback) for m in (model, one))
            assert before.tobytes() == after.tobytes()
        tables = [m.recommend(histories, k=20, feedback=signs) for m in (model, one)]
        pd.testing.assert_frame_equal(*map(pd.DataFrame, tables), check_exact=True)
    # And by the memory, not the model alone.
    model.fitted_ = dataclasses.replace(model.fitted_, memory=None)
    without = model.score_items(histories[0], feedback=signs[0])
    assert np.abs(without - loaded.score_items(histories[0], feedback=signs[0])).max() > 0.1


texts = st.text(st.characters(), max_size=6)  # halves of pairs among them
id_lists = st.one_of(
    st.lists(st.integers(-(2**63) + 1, 2**63 - 1), min_size=1, max_size=5, unique=True),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5, unique=True),
    st.lists(texts, min_size=1, max_size=5, unique=True),
    st.lists(st.uuids(), min_size=1, max_size=5, unique=True),
)
models = st.builds(
    invented,
    id_lists,
    method=st.sampled_from(["joint", "pnfrec"]),
    dim=st.integers(1, 4),
    n_layers=st.integers(0, 2),
    max_len=st.integers(1, 4),
    gated=st.booleans(),
    latest=st.booleans(),
    two_sided=st.booleans(),
    seed=st.integers(0, 9),
    n_epochs=st.integers(0, 2),
    columns=st.none() | st.lists(texts, min_size=2, max_size=3),
    memory=st.booleans(),
    positive_threshold=st.none() | st.just(4) | st.just((2, 4.5)) | st.just([2, 4]),
    user_column=st.none() | texts | st.integers(0, 3),
    random_state=st.none() | st.integers(0, 2**32 - 1),
)


@given(model=models)
def test_every_model_comes_back_as_it_was(model):
    data = saved(model)
    assert_same(model, load(data))
    assert_same(model, load(saved(load(data))))  # and so again
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        assert whole.testzip() is None


def test_names_of_columns_survive_as_an_array(tmp_path):
    frame = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1]})
    model = ContrastiveSeqRecommender(embedding_dim=4, max_epochs=1, random_state=0).fit(frame)
    model.save(tmp_path / "model.posneg")
    loaded = ContrastiveSeqRecommender.load(tmp_path / "model.posneg")
    assert loaded.score(frame) == model.score(frame)
    for one in (model, loaded):
        assert isinstance(one.feature_names_in_, np.ndarray)
        assert one.feature_names_in_.dtype == object
        assert one.feature_names_in_.tolist() == ["user", "item"]


def test_parameters_of_numpy_are_written_as_plain_numbers(tmp_path):
    chosen = {
        "user_column": np.array([0]),
        "embedding_dim": np.arange(4, 5),
        "n_heads": np.arange(1, 2),
        "dropout": np.array([0.25]),
        "early_stopping": np.array([True]),
        "objective": np.array(["joint"]),
    }
    search = RandomizedSearchCV(
        tiny(max_epochs=1), chosen, n_iter=1, cv=[(np.arange(len(X)), np.arange(len(X)))]
    ).fit(X, Y)
    model = search.best_estimator_
    assert isinstance(model.embedding_dim, np.integer)
    model.save(tmp_path / "model.posneg")
    loaded = ContrastiveSeqRecommender.load(tmp_path / "model.posneg")
    found = {name: getattr(loaded, name) for name in chosen}
    assert found == {name: values[0] for name, values in chosen.items()}
    assert [type(value) for value in found.values()] == [int, int, int, float, bool, str]
    assert type(loaded.fitted_.n_heads) is int and type(loaded.fitted_.method) is str


def test_ids_that_are_strings_of_numpy_work():
    model = invented(["a", "b"])
    model.fitted_.items[:] = [np.str_("é\0"), np.str_("b")]
    model.user_column = np.str_("user\0")
    assert load(saved(model)).user_column == "user\0"
    assert [type(item) for item in load(saved(model)).items_] == [str, str]
    assert load(saved(model)).items_.tolist() == ["é\0", "b"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("random_state", np.random.RandomState(0)),
        ("positive_threshold", (2, np.inf)),
        ("positive_threshold", ((1, 2), 3)),
        ("user_column", object()),
        ("dropout", np.array(0.5)),
    ],
)
def test_a_parameter_that_cannot_be_written_is_named(name, value):
    with pytest.raises(TypeError, match=rf"parameter {name}=.* joblib\.dump"):
        saved(invented([1, 2], **{name: value}))


def test_a_parameter_that_could_not_be_read_again_is_not_written():
    with pytest.raises(ValueError, match="'dropout' parameter"):
        saved(invented([1, 2]).set_params(dropout=7))


def test_what_needs_pickle_is_refused_and_an_older_file_stays(tmp_path):
    path = tmp_path / "model.posneg"
    fitted(IDS["int"]).save(path)
    before = path.read_bytes()
    with pytest.raises(TypeError, match=r"ids of type date .* joblib\.dump"):
        fitted([datetime.date(2025, 1, day) for day in range(1, 5)]).save(path)
    with pytest.raises(TypeError, match=r"parameter random_state=.* int random_state"):
        fitted(IDS["int"], random_state=np.random.RandomState(0)).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["model.posneg"]
    with pytest.raises(NotFittedError):
        ContrastiveSeqRecommender().save(path)


def test_needs_neither_torch_nor_sklearn():
    code = "import sys, posneg_rec.persistence\nprint({'torch', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


# -- What a file holds -------------------------------------------------------------------------


def test_file_is_arrays_and_json_alone_and_says_where_it_comes_from(tmp_path):
    path = tmp_path / "model.posneg"
    frame = pd.DataFrame({"user": [f"user-{u}@example.org" for u in X[:, 0]], "item": X[:, 1]})
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    model = tiny().fit(frame, Y)
    model.save(path)
    assert b"example.org" not in path.read_bytes()
    with zipfile.ZipFile(path) as whole:
        assert all(name.endswith(".npy") for name in whole.namelist())
        assert {info.compress_type for info in whole.infolist()} == {zipfile.ZIP_STORED}
    with np.load(path, allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
        np.testing.assert_array_equal(
            arrays["weights/item_embedding"], model.weights_["item_embedding"]
        )
    assert header["format"] == persistence.FORMAT == 4 and header["ids"] == "int64"
    assert header["written_by"].startswith("posneg-rec 0.")
    written = datetime.datetime.fromisoformat(header["written_at"])
    assert before <= written <= datetime.datetime.now(datetime.UTC)
    assert header["fitted_on"] == {
        "n_items": len(model.items_),
        "n_liked": np.count_nonzero(Y == 1),
        "n_disliked": np.count_nonzero(Y == -1),
        "n_epochs": 2,
    }


def test_a_new_parameter_makes_a_new_format():
    # A file of format 4 has just these. Who adds a parameter, or takes one away, gives the format
    # its next number and reads what the older ones lack as its default.
    names = set(ContrastiveSeqRecommender().get_params())
    names |= set(RareItemMasker().get_params()) | set(SequenceBuilder().get_params())
    assert persistence.FORMAT == 4 and names == set(PARAMETERS_OF_FORMAT_4.split())


PARAMETERS_OF_FORMAT_4 = """
batch_size contrastive_negatives contrastive_similarity contrastive_weight device dislike_aversion
dropout duplicates early_stopping ema_decay embedding_dim exclude_seen item_column item_memory
learning_rate max_epochs max_len max_length min_events min_items_per_user min_users_per_item n_heads
n_iter_no_change n_layers n_negatives negative_weight objective positive_threshold precision
random_state session_gap temperature time_column user_column validation_fraction verbose windows
"""


def test_shapes_and_terms_are_those_of_the_modules_that_are_trained():
    from posneg_rec.nn import ENCODERS
    from posneg_rec.objectives import OBJECTIVES

    assert {name: kind.terms for name, kind in OBJECTIVES.items()} == persistence._TERMS
    with_memory = {name for name, kind in OBJECTIVES.items() if kind.has_memory}
    assert with_memory == persistence._WITH_MEMORY
    sizes = {"n_layers": 2, "n_heads": 2, "max_len": 3, "dropout": 0.0}
    options = {
        "joint": [
            dict(shows_latest=a, gated=b, biased=c)
            for a, b, c in itertools.product([0, 1], repeat=3)
        ],
        "pnfrec": [dict(two_sided=a) for a in (0, 1)],
    }
    for method, kind in ENCODERS.items():
        for option in options[method]:
            module = kind(5, 4, **sizes, **option)
            shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
            present = {name: np.empty(shape) for name, shape in shapes.items()}
            assert persistence._shapes(method, 5, 4, 2, 3, 2, present) == shapes


# -- Files of every format ---------------------------------------------------------------------

UUIDS = [uuid.UUID(int=2**100 + 7**i) for i in range(6)]
INTS = [2**60 + 1, -3, 5, 7, 11, 13]
# By the probability to come next and be liked, which an aversion of 1 has always meant.
GRADED = {"feedback": [5, 1, 3, 4], "times": [0, 50, 5000, 5010], "dislike_aversion": 1.0}
# The file, a question, and what it was answered by those who wrote it.
GOLDEN = {
    # Of the first joint models: no times, no gates. It holds no dislike, so scores are log p(next).
    "model_format_1": (
        {"interactions": ["a"]},
        ["d", "é\0", ""],
        [-1.3608680, -1.3807044, -1.4022038],
    ),
    # Of the first version, which had one method and no name for it.
    "model_format_1_first": (
        {"interactions": [INTS[0], INTS[2], INTS[4]], "feedback": [1, -1, 1]},
        [7, 13, -3],
        [0.02333566, -0.02099408, -0.07930952],
    ),
    # Its writer took the odds of being liked as the fit had them, not as they would be where 45 %
    # is disliked, and gave other scores.
    "model_format_1_joint": (
        {"interactions": ["a", "d", "z z", "é\0"], "exclude_seen": False} | GRADED,
        ["a", "", "鱼"],
        [-2.5077009, -2.5085249, -2.5186503],
    ),
    "model_format_1_pnfrec": (
        {"interactions": [UUIDS[1], UUIDS[2], UUIDS[4]], "feedback": [5, 1, 4]},
        [UUIDS[5], UUIDS[0], UUIDS[3]],
        [0.0015938, -0.05543578, -0.06369174],
    ),
    # With a memory.
    "model_format_2_joint": (
        {"interactions": ["a", "d", "z z", "é\0"], "exclude_seen": False} | GRADED,
        ["d", "z z", "鱼"],
        [-2.273268, -2.3879752, -2.4265516],
    ),
    "model_format_2_pnfrec": (
        {"interactions": [UUIDS[1], UUIDS[2], UUIDS[4]], "feedback": [5, 1, 4]}
        | {"exclude_seen": True},
        [UUIDS[5], UUIDS[3], UUIDS[0]],
        [0.73274112, 0.54260319, -0.54399252],
    ),
    # Attention has biases by distance and time.
    "model_format_3_joint": (
        {"interactions": ["a", "d", "z z", "é\0"], "exclude_seen": False} | GRADED,
        ["", "z z", "a"],
        [-1.7195482, -1.7279193, -2.1140559],
    ),
    # Of what the user liked and disliked, the latest says most.
    "model_format_4_joint": (
        {"interactions": ["a", "d", "z z", "é\0"], "exclude_seen": False} | GRADED,
        ["z z", "鱼", "a"],
        [-1.3872861, -2.3291938, -2.4988329],
    ),
    # With a memory too.
    "pipeline_format_2": (
        {"interactions": [INTS[0], INTS[2], INTS[4]], "feedback": [1, -1, 1]}
        | {"exclude_seen": True, "dislike_aversion": 1.0},
        [7, 13, -3],
        [-2.1775138, -2.1961133, -2.4651835],
    ),
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("name", GOLDEN)
def test_files_of_every_format_load_for_ever(name, mmap, tmp_path):
    kind = RecommenderPipeline if name.startswith("pipeline") else ContrastiveSeqRecommender
    question, items, scores = GOLDEN[name]
    model = kind.load(HERE / f"{name}.posneg", mmap=mmap)
    model.save(tmp_path / "again.posneg")
    again = [kind.load(tmp_path / "again.posneg", mmap=mmap)]
    if kind is ContrastiveSeqRecommender:
        again.append(serving.load(HERE / f"{name}.posneg", mmap=mmap))
    for one in (model, *again):
        answer = one.recommend(k=3, **question)
        assert answer[0].tolist() == items
        np.testing.assert_allclose(answer[1], scores, rtol=1e-5, atol=1e-6)


def test_all_golden_files_are_asked():
    assert {path.stem for path in HERE.glob("*.posneg")} == set(GOLDEN)


def test_what_golden_files_say_of_their_fit():
    first = ContrastiveSeqRecommender.load(HERE / "model_format_1_first.posneg")
    assert first.objective == "pnfrec" and first.items_.tolist() == sorted(INTS)
    assert first.item_likes_.tolist() == [12, 13, 11, 8, 10, 9]
    for version in (1, 2):
        joint = ContrastiveSeqRecommender.load(HERE / f"model_format_{version}_joint.posneg")
        assert joint.positive_threshold == (2, 4) == joint.fitted_.positive_threshold
        assert joint.feature_names_in_.tolist() == ["user", "item", "time"]
        assert isinstance(joint.feature_names_in_, np.ndarray)
        assert joint.items_.tolist() == ["", "a", "d", "z z", "é\0", "鱼"]
        likes, dislikes = {
            1: ([6, 5, 5, 6, 9, 5], [5, 1, 3, 6, 4, 9]),
            2: ([88, 92, 87, 92, 82, 93], [13, 12, 3, 10, 15, 12]),
        }[version]
        assert joint.item_likes_.tolist() == likes
        assert joint.item_dislikes_.tolist() == dislikes
        assert joint.feedback_coding_ == "graded" and joint.n_iter_ == 2
        assert joint.excludes_seen_ == (version == 1)
        edges = {1: [115.92, 38965.312], 2: [5, 156181.5]}[version]
        np.testing.assert_allclose(joint.gap_edges_[[0, -1]], edges)
    assert ContrastiveSeqRecommender.load(HERE / "model_format_1.posneg").fitted_.memory is None
    memory = joint.fitted_.memory
    np.testing.assert_allclose(memory.next_weight, 7.593009106358162)
    weights = [0.26552149925964, 1.8959313742317094, -0.07500993326362064]
    np.testing.assert_allclose(memory.taste_weights, weights)
    np.testing.assert_allclose(memory.items.mean, 0.680628272251309)
    assert memory.items.counts.tolist() == [66, 66, 57, 61, 69, 63]
    pipeline = RecommenderPipeline.load(HERE / "pipeline_format_2.posneg")
    assert [name for name, _ in pipeline.steps] == ["masker", "none", "builder", "recommender"]
    assert pipeline[0].items_.tolist() == sorted(INTS) and pipeline[0].n_features_in_ == 3
    assert pipeline[0].min_users_per_item == 2 and pipeline[2].max_length == 20


def test_newer_format_says_to_upgrade_whatever_else_it_has(tmp_path):
    path = tmp_path / "model.posneg"
    header = np.frombuffer(b'{"format": 9, "new": [[1]]}', np.uint8)
    with zipfile.ZipFile(path, "w") as whole:
        whole.writestr("header.npy", npy(header))
        whole.writestr("new.bin", b"0" * 999, zipfile.ZIP_DEFLATED)
    for kind in (ContrastiveSeqRecommender, RecommenderPipeline):
        with pytest.raises(ModelFileError, match=r"has model format 9; .* Upgrade posneg_rec"):
            kind.load(path)


def test_an_older_version_can_tell_that_a_file_is_newer(tmp_path):
    # As the reader of format 1 did it: the header is there, and names its format.
    invented([1, 2]).save(tmp_path / "model.posneg")
    with np.load(tmp_path / "model.posneg", allow_pickle=False) as arrays:
        assert json.loads(arrays["header"].tobytes())["format"] == 4


# -- File objects ------------------------------------------------------------------------------


class _Pipe(io.RawIOBase):
    """What can be written to, and nothing else."""

    def __init__(self):
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        self.data += bytes(data)
        return len(data)


def test_file_objects_are_written_and_read(tmp_path):
    model, path = invented(["a", "b"]), tmp_path / "model.posneg"
    buffer = io.BytesIO(b"before")
    buffer.seek(6)
    model.save(buffer)
    assert_same(model, ContrastiveSeqRecommender.load(buffer))  # wherever it stands
    buffer.seek(6)
    assert_same(model, ContrastiveSeqRecommender.load(buffer))
    with path.open("wb") as file:
        model.save(file)
        assert not file.closed
    for buffering in (-1, 0):
        with path.open("rb", buffering=buffering) as file:
            assert_same(model, ContrastiveSeqRecommender.load(file))
            assert not file.closed
    pipe = _Pipe()
    model.save(pipe)
    assert_same(model, load(pipe.data))
    for name in (str(path), os.fsencode(path).decode()):
        assert_same(model, ContrastiveSeqRecommender.load(name))


def test_what_is_no_binary_file_is_refused(tmp_path):
    path = tmp_path / "model.posneg"
    model = invented([1, 2])
    model.save(path)
    for bad in (io.StringIO(), 3, None, ["model"], path.open()):
        with pytest.raises(TypeError, match="a path or a binary file object"):
            ContrastiveSeqRecommender.load(bad)
        with pytest.raises(TypeError, match="a path or a binary file object"):
            model.save(bad)
        if hasattr(bad, "close"):
            bad.close()
    with pytest.raises(TypeError, match="can seek"):
        ContrastiveSeqRecommender.load(OneWay(path.read_bytes()))
    with pytest.raises(TypeError, match="mmap=True needs the path"):
        ContrastiveSeqRecommender.load(io.BytesIO(path.read_bytes()), mmap=True)
    with pytest.raises(FileNotFoundError, match=r"absent\.posneg"):
        ContrastiveSeqRecommender.load(tmp_path / "absent.posneg")


class OneWay(io.BytesIO):
    def seekable(self):
        return False


def test_files_beyond_what_32_bits_count(tmp_path, monkeypatch):
    # What zip files do beyond 4 GiB they do here beyond a kilobyte.
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    path, model = tmp_path / "model.posneg", invented(list(range(1, 400)))
    model.save(path)
    monkeypatch.undo()
    assert b"PK\6\6" in path.read_bytes()
    for mmap in (False, True):
        assert_same(model, ContrastiveSeqRecommender.load(path, mmap=mmap))


# -- Mapped into memory ------------------------------------------------------------------------


def test_mapped_arrays_are_parts_of_the_file_and_aligned(tmp_path):
    path = tmp_path / "model.posneg"
    model = invented(list(range(1, 40)), dim=3, memory=True)
    model.save(path)
    loaded = ContrastiveSeqRecommender.load(path, mmap=True)
    whole = path.read_bytes()
    names = ("items", "likes", "dislikes", "gap_edges")
    arrays = {name: getattr(loaded.fitted_, name) for name in names} | loaded.weights_
    arrays |= loaded.fitted_.memory.items.arrays()
    del arrays["mean"], arrays["fading"], arrays["user_left"]  # of the header
    for array in arrays.values():
        assert isinstance(array, np.memmap) and not array.flags.writeable
        assert array.ctypes.data % 64 == 0
        assert array.tobytes() in whole
    bases = {id(value._mmap) for value in loaded.weights_.values()}
    assert len(bases) == 1  # one mapping, one open file
    # A new file in its place leaves what is mapped alone, here and where a copy is sent.
    invented(list(range(1, 40)), dim=3, seed=1).save(path)
    assert_same(model, loaded)
    for again in (pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded)):
        assert_same(model, again)
        assert not any(isinstance(value, np.memmap) for value in again.weights_.values())
    joblib.dump(loaded, tmp_path / "model.joblib")
    assert_same(model, joblib.load(tmp_path / "model.joblib"))


def test_arrays_that_are_not_mapped_need_no_file(tmp_path):
    path = tmp_path / "model.posneg"
    model = invented([1, 2])
    model.save(path)
    loaded = ContrastiveSeqRecommender.load(path)
    path.write_bytes(b"")
    assert_same(model, loaded)
    assert not any(isinstance(value, np.memmap) for value in loaded.weights_.values())


# -- Whole files or none -----------------------------------------------------------------------


@pytest.fixture
def umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_mode_is_what_the_umask_gives_or_what_the_file_had(tmp_path):
    path, model = tmp_path / "model.posneg", invented([1, 2])
    model.save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    for mode in (0o600, 0o664, 0o444):
        path.chmod(mode)
        model.save(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path):
    model, other = invented([1, 2]), invented([3, 4])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    target, link = folder / "model.posneg", tmp_path / "current.posneg"
    link.symlink_to(Path("elsewhere", "model.posneg"))
    for one in (model, other):  # first into nothing, then over a file
        one.save(link)
        assert link.is_symlink() and not target.is_symlink()
        assert_same(one, ContrastiveSeqRecommender.load(target))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "current.posneg",
        "elsewhere",
        "model.posneg",
    ]
    loop = tmp_path / "loop.posneg"
    loop.symlink_to(loop)
    with pytest.raises(ValueError, match="cannot replace"):
        model.save(loop)
    with pytest.raises(IsADirectoryError):
        model.save(folder)
    with pytest.raises(ValueError, match="is a device"):
        model.save(os.devnull)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    with pytest.raises(FileNotFoundError, match=r"absent/model\.posneg"):
        model.save(tmp_path / "absent" / "model.posneg")


def test_no_link_that_was_planted_is_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path = tmp_path / "model.posneg"
    for name in ("model.posneg.part", ".model.posneg.part", "model.posneg.tmp"):
        (tmp_path / name).symlink_to(victim)
    invented([1, 2]).save(path)
    # Nor one of the very name that is drawn.
    monkeypatch.setattr(archive.secrets, "token_hex", lambda n: "foreseen")
    (tmp_path / ".foreseen.posneg.part").symlink_to(victim)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        invented([3, 4]).save(path)
    assert victim.read_text() == "precious" and path.read_bytes() == before
    assert (tmp_path / ".foreseen.posneg.part").is_symlink()  # it is not ours to take away


@pytest.mark.parametrize("n_writes", [0, 1, 7, 40])
def test_nothing_stays_behind_when_the_disk_is_full(n_writes, tmp_path, monkeypatch):
    path = tmp_path / "model.posneg"
    invented([1, 2]).save(path)
    before = path.read_bytes()
    _fill_disk(monkeypatch, n_writes)
    with pytest.raises(OSError) as caught:
        invented([3, 4]).save(path)
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["model.posneg"]
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_nothing_stays_behind_when_another_step_fails(call, tmp_path, monkeypatch):
    path = tmp_path / "model.posneg"
    invented([1, 2]).save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(archive.os, call, fail)
    with pytest.raises(OSError, match="broken"):
        invented([3, 4]).save(path)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["model.posneg"]
    assert path.read_bytes() == before


def test_what_is_written_reaches_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    steps = []
    for call in ("fsync", "replace"):
        real = getattr(os, call)

        def logged(*args, call=call, real=real):
            steps.append(call)
            return real(*args)

        monkeypatch.setattr(archive.os, call, logged)
    invented([1, 2]).save(tmp_path / "model.posneg")
    assert steps == ["fsync", "replace", "fsync"]  # the last one of the folder


def _fill_disk(monkeypatch, n_writes):
    left = iter(range(n_writes))

    class Full(io.FileIO):
        def write(self, data):
            if next(left, None) is None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(archive, "open", lambda d, mode: Full(d, mode), raising=False)


def test_writers_of_one_path_disturb_neither_each_other_nor_readers(tmp_path):
    path = tmp_path / "model.posneg"
    code = """
import sys
from test_persistence import invented
for turn in range(25):
    invented([1, 2, int(sys.argv[2])], seed=int(sys.argv[2])).save(sys.argv[1])
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE), str(Path(archive.__file__).parents[1])])
    }
    invented([1, 2, 10], seed=10).save(path)
    expected = {seed: invented([1, 2, seed], seed=seed) for seed in (10, 11)}
    writers = [
        subprocess.Popen([sys.executable, "-c", code, path, str(seed)], env=environment)
        for seed in expected
    ]
    n_reads = 0
    while any(writer.poll() is None for writer in writers) or not n_reads:
        model = ContrastiveSeqRecommender.load(path, mmap=bool(n_reads % 2))
        assert_same(expected[model.items_.tolist()[2]], model)
        n_reads += 1
    assert [writer.wait() for writer in writers] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["model.posneg"]


# -- Damaged files -----------------------------------------------------------------------------


def outcome(data, tmp_path=None):
    """What becomes of a file: its model, or None where it is refused as it should be."""
    try:
        if tmp_path is None:
            return load(data)
        (tmp_path / "damaged.posneg").write_bytes(data)
        return ContrastiveSeqRecommender.load(tmp_path / "damaged.posneg", mmap=True)
    except ModelFileError as error:
        assert "pickle" not in str(error)
        return None


@settings(max_examples=15)
@given(model=models, step=st.integers(150, 400))
def test_a_file_cut_anywhere_is_refused(model, step):
    data = saved(model)
    for size in [*range(0, len(data), step), len(data) - 1]:
        with pytest.raises(ModelFileError, match="The BytesIO"):
            load(data[:size])


@settings(max_examples=15)
@given(
    model=models,
    start=st.integers(0, 200),
    step=st.integers(150, 300),
    mask=st.integers(1, 255),
)
def test_a_flipped_byte_is_refused_or_changes_nothing(model, start, step, mask):
    data = bytearray(saved(model))
    for place in range(start, len(data), step):
        data[place] ^= mask
        found = outcome(bytes(data))
        if found is not None:
            assert_same(model, found)
        data[place] ^= mask


@pytest.mark.parametrize("name", ["model_format_1_joint", "model_format_2_joint"])
def test_every_byte_of_the_data_counts_mapped_or_not(name, tmp_path):
    data = bytearray((HERE / f"{name}.posneg").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        ends = [
            info.header_offset + 30 + sum(struct.unpack_from("<HH", data, info.header_offset + 26))
            for info in whole.infolist()
        ]
        places = [
            start + offset
            for start, info in zip(ends, whole.infolist(), strict=True)
            for offset in (0, 60, info.file_size - 1)
        ]
    for place in places:
        data[place] ^= 16
        assert outcome(bytes(data)) is None
        assert outcome(bytes(data), tmp_path) is None
        data[place] ^= 16
    assert outcome(bytes(data), tmp_path) is not None


# -- Files of strangers ------------------------------------------------------------------------


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def entries_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        return {name: whole.read(name) for name in whole.namelist()}


def zipped(entries, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as whole:
        for name, value in entries.items():
            whole.writestr(name, value)
    return file.getvalue()


def forged(change, model=None):
    """A file whose header and arrays are changed, with checksums that are right again."""
    data = saved(model or invented(["a", "b", "c"], columns=["user", "item"], memory=True, seed=5))
    with np.load(io.BytesIO(data)) as stored:
        arrays = dict(stored)
    header = json.loads(arrays.pop("header").tobytes())
    del header["checksums"]
    change(header, arrays)
    file = io.BytesIO()
    archive.write(file, header, arrays)
    return file.getvalue()


def put(where, *keys_and_value):
    """A change of header or arrays: put("header", "params", "dropout", 7)."""
    *keys, last, value = keys_and_value

    def change(header, arrays):
        place = header if where == "header" else arrays
        for key in keys:
            place = place[key]
        if value is DELETE:
            del place[last]
        else:
            place[last] = value(place[last]) if callable(value) else value

    return change


DELETE = object()


def _fill(value):
    def change(array):
        array = array.copy()
        array.flat[-1] = value
        return array

    return change


EMBEDDING, POSITIONS = "weights/item_embedding", "weights/encoder.position_embedding"
FORGED = {
    "a parameter of the wrong type": (
        put("header", "params", "dropout", "0.1"),
        "has a parameter that cannot be: .*'dropout'",
    ),
    "markup in a parameter": (
        put("header", "params", "windows", MARKUP),
        "has a parameter that cannot be: .*'windows'",
    ),
    "a parameter out of range": (put("header", "params", "n_layers", -1), "'n_layers'"),
    "an infinite parameter": (put("header", "params", "dropout", {"tuple": 1}), "'dropout'"),
    "a nested parameter": (put("header", "params", "verbose", [[1]]), "'verbose'"),
    "an object as parameter": (put("header", "params", "verbose", {"py": "os"}), "'verbose'"),
    "an unknown parameter": (put("header", "params", "__class__", 1), "not know: '__class__'"),
    "a missing parameter": (put("header", "params", "dropout", DELETE), "lacks .*'dropout'"),
    "no parameters": (put("header", "params", []), "has no parameters"),
    "an unknown key": (put("header", "more", 1), "unknown keys: 'more'"),
    "a missing key": (put("header", "ids", DELETE), "without 'ids'"),
    "an unknown key of the state": (put("header", "state", "x", 1), "unknown keys: 'x'"),
    "a missing key of the state": (put("header", "state", "method", DELETE), "without 'method'"),
    "a state that is none": (put("header", "state", [1]), "keys and values were expected"),
    "an unknown method": (put("header", "state", "method", MARKUP), 'has method="<script>'),
    "a method of no type": (put("header", "state", "method", ["joint"]), r"has method=\["),
    "the other method": (
        put("header", "state", lambda state: state | {"method": "pnfrec", "memory": None}),
        "has a history",
    ),
    "an unknown coding": (put("header", "state", "feedback_coding", MARKUP), "feedback_coding="),
    "an unknown precision": (put("header", "state", "precision", "int8"), "precision='int8'"),
    "no bool": (put("header", "state", "excludes_seen", 1), "excludes_seen=1"),
    "no threshold": (put("header", "state", "positive_threshold", "4"), "positive_threshold='4'"),
    "a threshold upside down": (
        put("header", "state", "positive_threshold", {"tuple": [4, 2]}),
        r"positive_threshold=\(4, 2\)",
    ),
    "no heads": (put("header", "state", "n_heads", 0), "n_heads=0"),
    "heads that do not divide": (put("header", "state", "n_heads", 3), "n_heads=3"),
    "heads that are true": (put("header", "state", "n_heads", True), "n_heads=True"),
    "markup in the history": (
        put("header", "state", "history", lambda h: h | {MARKUP: [1]}),
        "has a history that does not consist of epoch, loss",
    ),
    "a history that lacks a column": (
        put("header", "state", "history", "loss", DELETE),
        "does not consist",
    ),
    "a history of text": (put("header", "state", "history", "loss", [MARKUP]), "has loss="),
    "a history with gaps": (put("header", "state", "history", "loss", [None]), "has loss=None"),
    "a history of no lists": (put("header", "state", "history", "loss", 1), "no columns"),
    "a history of ragged columns": (
        put("header", "state", "history", "loss", [1.0, 2.0]),
        "differ in length",
    ),
    "a history that does not count": (
        put("header", "state", "history", "epoch", [7]),
        "does not count",
    ),
    "columns that are no number": (
        put("header", "state", "n_features_in", "2"),
        "has n_features_in='2'",
    ),
    "other names than columns": (
        put("header", "state", "feature_names_in", ["a"]),
        "1 feature names, and 2 columns",
    ),
    "names that are no strings": (
        put("header", "state", "feature_names_in", [1, 2]),
        "no strings",
    ),
    "a memory of text": (put("header", "state", "memory", "x"), "keys and values were expected"),
    "a memory without arrays": (
        put("arrays", "memory/next.offsets", DELETE),
        "lacks the array 'memory/next.offsets'",
    ),
    "a memory without levels": (
        put("arrays", "memory/levels", DELETE),
        "lacks the array 'memory/levels'",
    ),
    "arrays of no memory": (
        put("header", "state", "memory", None),
        "unknown arrays: 'memory/counts'",
    ),
    "an array too many of a memory": (
        put("arrays", "memory/mean", np.zeros(1)),
        "unknown arrays: 'memory/mean'",
    ),
    "a memory that lacks a weight": (
        put("header", "state", "memory", "next_weight", DELETE),
        "without 'next_weight'",
    ),
    "a memory of more": (put("header", "state", "memory", "x", 1), "unknown keys: 'x'"),
    "no format": (put("header", "format", DELETE), "names no format"),
    "a format of text": (put("header", "format", "2"), "names no format"),
    "format 0": (put("header", "format", 0), "names no format"),
    "ids of no kind": (put("header", "ids", "object"), "of kind 'object'"),
    "ids of another kind": (put("header", "ids", "uuid"), "has UUIDs of shape"),
    "ids that repeat": (put("arrays", "items", np.frombuffer(b"aaa", np.uint8)), "of which 2"),
    "ids that are no UTF-8": (
        put("arrays", "items", np.array([255, 255, 255], np.uint8)),
        "no UTF-8",
    ),
    "offsets that go back": (
        put("arrays", "item_offsets", np.array([0, 3, 1, 3])),
        "do not cut up",
    ),
    "offsets whose differences overflow": (
        put("arrays", "item_offsets", np.array([0, 2**63 - 1, -2, 3])),
        "do not cut up",
    ),
    "offsets beyond the text": (put("arrays", "item_offsets", np.array([0, 1, 2, 9])), "cut up"),
    "no offsets": (put("arrays", "item_offsets", np.array([], np.int64)), "the wrong shape"),
    "no items": (put("arrays", "item_offsets", np.array([0])), "do not cut up"),
    "other likes than items": (put("arrays", "likes", np.arange(4)), "has likes"),
    "negative counts": (put("arrays", "dislikes", _fill(-1)), "has dislikes"),
    "likes of floats": (
        put("arrays", "likes", np.zeros(3)),
        r"array 'likes' of dtype '<f8'.*expected '<i8'",
    ),
    "gap edges of another number": (put("arrays", "gap_edges", np.ones(8)), "gap_edges of shape"),
    "gap edges that descend": (put("arrays", "gap_edges", lambda a: a[::-1]), "ascending"),
    "gap edges that are not finite": (put("arrays", "gap_edges", _fill(np.nan)), "ascending"),
    "gap edges below 0": (put("arrays", "gap_edges", lambda a: a - 50), "positive"),
    "weights that are NaN": (put("arrays", EMBEDDING, _fill(np.nan)), "that are not finite"),
    "weights that are infinite": (put("arrays", POSITIONS, _fill(np.inf)), "are not finite"),
    "weights of float64": (put("arrays", EMBEDDING, lambda a: a.astype(float)), "expected '<f4'"),
    "a weight too many": (put("arrays", "weights/extra", np.ones(1, np.float32)), "'extra'"),
    "a layer too many": (
        put("arrays", "weights/encoder.blocks.7.attention_in.bias", np.ones(8, np.float32)),
        r"does not have: 'encoder\.blocks\.7",
    ),
    "a weight too few": (put("arrays", "weights/item_taste", DELETE), "'item_taste'"),
    "no item vectors": (put("arrays", EMBEDDING, DELETE), "lacks the weights 'item_embedding'"),
    "fewer vectors than items": (put("arrays", EMBEDDING, lambda a: a[:2]), "expected .3, 2."),
    "vectors of no dimension": (put("arrays", EMBEDDING, lambda a: a[:, :0]), "or their shape"),
    "vectors in a row": (put("arrays", EMBEDDING, lambda a: a.ravel()), "or their shape"),
    "another shape": (
        put("arrays", "weights/taste_level.weight", np.ones((2, 1), np.float32)),
        r"of shape \(2, 1\), expected \(1, 2\)",
    ),
    "an unknown array": (put("arrays", "more", np.ones(1)), "unknown arrays: 'more'"),
    "an array of another place": (put("arrays", "../../x", np.ones(1)), "unknown arrays: '../../x"),
    "a missing array": (put("arrays", "likes", DELETE), "lacks the array 'likes'"),
}


FORGED |= {
    f"{name} of a memory that is {value!r:.30}": (
        put("header", "state", "memory", name, value),
        f"has a memory with {name}=",
    )
    for name, values in {
        "mean": [None, "0", True, [0.1], 1.5, -2, 10**400],
        "fading": [None, "0", True, 1.5, -0.1, 10**400],
        "user_left": [None, "1", False, [1.0], 1.01, -1, 10**400],
        # What is finite as a float64 alone would make answers of NaN.
        "next_weight": [None, "1", True, [1.0], -1.0, 1e39, 10**400],
        "taste_weights": [
            None,
            1.0,
            "abc",
            [],
            [1.0, 1.0],
            [1.0] * 4,
            [1.0, 1.0, "1"],
            [1.0, None, 1.0],
            [True, 1.0, 1.0],
            [1.0, 1.0, 10**400],
            [-1e39, 1.0, 1.0],
            {"tuple": [1.0, 1.0, 1.0]},
            {"model": 1.0, "memory": 1.0, "offset": 1.0},
        ],
    }.items()
    for value in values
}
_PER_ITEM = ("next.evidence", "taste.evidence", "levels", "counts")
_BY_WEIGHT = [f"{part}.{name}" for part in ("next", "taste") for name in ("items", "weights")]
FORGED |= {
    f"{name} of a memory, {how}": (
        put("arrays", f"memory/{name}", change),
        f"array 'memory/{name}' of dtype .* and shape .*expected",
    )
    for name in [*_PER_ITEM, *_BY_WEIGHT, "next.offsets", "taste.offsets"]
    for how, change in {
        "one too few": lambda a: a[:-1],
        "one too many": lambda a: np.append(a, a[-1:]),
        "in a column": lambda a: a[:, None],
        "in pairs": lambda a: np.stack([a, a], axis=1),
        "a lone number": lambda a: np.array(a[0]),
        "none": lambda a: a[:0],
        "of another type": lambda a: a.astype(np.uint8),
    }.items()
}
FORGED |= {
    f"{name} of a memory that are {value}": (
        put("arrays", f"memory/{name}", _fill(value)),
        f"has a memory whose {name} are not finite",
    )
    for name in [*_PER_ITEM, "next.weights", "taste.weights"]
    for value in (np.nan, -np.inf)
}
FORGED |= {
    f"negative {name} of a memory": (
        put("arrays", f"memory/{name}", _fill(-1)),
        f"has a memory whose {name} are negative",
    )
    for name in ("next.evidence", "taste.evidence", "counts")
}


def _rows(*rows):
    """A change to the items of each row of a memory's weights, the weights to go with them."""

    def change(part):
        def of(header, arrays):
            offsets = np.cumsum([0, *map(len, rows)])
            items = np.array([item for row in rows for item in row], np.int32)
            arrays |= {
                f"memory/{part}.offsets": offsets,
                f"memory/{part}.items": items,
                f"memory/{part}.weights": np.ones(len(items), np.float32),
            }

        return of

    return change


def _offsets(*offsets):
    return lambda part: put("arrays", f"memory/{part}.offsets", np.array(offsets))


_WEIGHTS_OF_MEMORIES = {
    "that fall": (_offsets(0, 2, 1, 3), "offsets do not ascend from 0"),
    "that fall so far that a difference overflows": (
        _offsets(0, 2**63 - 1, -2, 3),
        "offsets do not ascend from 0",
    ),
    "that begin late": (_offsets(1, 2, 3, 3), "offsets do not ascend from 0"),
    "that begin below 0": (_offsets(-1, 0, 1, 3), "offsets do not ascend from 0"),
    "that run past the end": (_offsets(0, 1, 2, 99), "items' of .*expected"),
    "that end early": (_offsets(0, 0, 0, 1), "items' of .*expected"),
    "that run past all numbers": (_offsets(0, 1, 2, 2**63 - 1), "items' of .*expected"),
    "of an item beyond the last": (_rows([0, 3], [1], []), "items are none of its 3"),
    "of an item far beyond": (_rows([], [2**31 - 1], []), "items are none of its 3"),
    "of an item below 0": (_rows([-1, 0], [], []), "items are none of its 3"),
    "of items that fall": (_rows([1], [2, 0], []), "items do not ascend within a row"),
    "of items that repeat": (_rows([], [], [1, 1]), "items do not ascend within a row"),
    "of items that fall in the first row": (_rows([1, 0], [], [0]), "items do not ascend"),
}
FORGED |= {
    f"weights of {part} {what}": (change(part), f"has an? .*{part}.{message}")
    for what, (change, message) in _WEIGHTS_OF_MEMORIES.items()
    for part in ("next", "taste")
}


@pytest.mark.parametrize("what", FORGED)
def test_what_cannot_be_is_refused(what, tmp_path):
    change, message = FORGED[what]
    path = tmp_path / "model.posneg"
    path.write_bytes(forged(change))
    for mmap in (False, True):
        with pytest.raises(ModelFileError, match=message) as caught:
            ContrastiveSeqRecommender.load(path, mmap=mmap)
        assert str(caught.value).startswith(f"{path} ")
        assert len(str(caught.value)) < len(str(path)) + 400
        with pytest.raises(ModelFileError) as other:
            serving.load(path, mmap=mmap)
        assert str(other.value) == str(caught.value)


def test_an_unchanged_forgery_loads():
    # What is refused above is refused for its change alone.
    assert load(forged(lambda header, arrays: None)).items_.tolist() == ["a", "b", "c"]
    assert isinstance(load(forged(lambda h, a: None, invented(UUIDS))).items_[0], uuid.UUID)
    # Rows may begin wherever the one before ends, be empty, and fill the matrix or not at all.
    for rows in ([[2], [0, 1], []], [[], [], [0, 1, 2]], [[0, 1, 2]] * 3, [[], [], []]):
        loaded = load(forged(_rows(*rows)("next")))
        assert loaded.fitted_.memory.items.next.items.tolist() == list(itertools.chain(*rows))


def test_a_memory_beside_a_method_without_one_is_refused():
    with_memory = invented([1, 2], memory=True)
    model = invented([1, 2], method="pnfrec")
    assert model.fitted_.memory is None
    model.fitted_ = dataclasses.replace(model.fitted_, memory=with_memory.fitted_.memory)
    with pytest.raises(ModelFileError, match="a memory of items, which method 'pnfrec' does not"):
        load(saved(model))


def test_a_memory_stands_in_a_pipeline():
    one = RecommenderPipeline([("last", invented([1, 2, 3], memory=True))])
    data = saved(one)
    assert "0/memory/next.offsets.npy" in entries_of(data)
    assert_same(one[-1], RecommenderPipeline.load(io.BytesIO(data))[-1])
    for change, message in (
        (put("arrays", "0/memory/taste.items", _fill(3)), "taste.items are none of its 3"),
        (put("header", "steps", 0, "state", "memory", "mean", 7), "mean=7"),
    ):
        with pytest.raises(ModelFileError, match=message):
            RecommenderPipeline.load(io.BytesIO(forged(change, one)))


@pytest.mark.parametrize(
    ("ids", "bad", "message"),
    [
        ([1, 2], np.array([1, 1]), "of which 1 repeat"),
        ([1, 2], np.array([1, np.iinfo(np.int64).min]), "stands for a missing one"),
        ([1, 2], np.array([[1, 2]]), "of shape"),
        ([1, 2], np.array([], np.int64), "of shape"),
        ([0.5, 1.5], np.array([0.5, np.nan]), "no finite numbers"),
        (UUIDS[:2], np.zeros((2, 16), np.uint8), "of which 1 repeat"),
        (UUIDS[:2], np.zeros((2, 15), np.uint8), "UUIDs of shape"),
    ],
)
def test_ids_that_cannot_be_are_refused(ids, bad, message):
    with pytest.raises(ModelFileError, match=message):
        load(forged(put("arrays", "items", bad), invented(ids)))


class Bomb:
    """What a pickle may do."""

    def __reduce__(self):
        return (os.mkdir, ("ran",))


def pickled_array():
    file = io.BytesIO()
    np.lib.format.write_array(file, np.array([Bomb()], dtype=object), allow_pickle=True)
    return file.getvalue()


def _described(text):
    """An .npy entry of eight bytes under a description of one's own."""
    line = text.encode() + b" " * 30 + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + b"\0" * 8


def _remade(change):
    """A zip of a model's entries, as the writer would never make it."""
    return change(entries_of(saved(invented(["a", "b", "c"]))))


def _twice(entries):
    file = io.BytesIO()
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "w") as whole:
        for name, value in [*entries.items(), ("likes.npy", entries["dislikes.npy"])]:
            whole.writestr(name, value)
    return file.getvalue()


def _flagged(entries):
    data = bytearray(zipped(entries))
    data[data.index(b"PK\1\2") + 8] |= 1  # encrypted
    return bytes(data)


def _overlapping(entries):
    data = bytearray(zipped(entries))
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def _of_header(text):
    return zipped({"header.npy": npy(np.frombuffer(text, np.uint8))})


STRANGE = {
    "nothing": (lambda: b"", "is empty"),
    "text": (lambda: b"user,item\n1,2\n" * 9, "is no posneg_rec model file"),
    "zeros": (lambda: bytes(999), "is no posneg_rec model file"),
    "a pickle": (lambda: pickle.dumps(Bomb()), "but a pickle. If you know who made it"),
    "the end of a zip alone": (lambda: zipped({}), "has no header"),
    "a zip of other files": (lambda: zipped({"a.txt": "b"}), "has an entry 'a.txt'"),
    "arrays of others": (lambda: zipped({"a.npy": npy(np.ones(2))}), "it has no header"),
    "an array": (lambda: npy(np.ones(2)), "is no posneg_rec model file"),
    "compressed entries": (
        lambda: _remade(lambda e: zipped(e, compression=zipfile.ZIP_DEFLATED)),
        "is compressed",
    ),
    "a zip bomb": (
        lambda: _remade(
            lambda e: zipped(
                e | {"likes.npy": npy(np.zeros(2**20))}, compression=zipfile.ZIP_DEFLATED
            )
        ),
        "is compressed",
    ),
    "an entry twice": (lambda: _remade(_twice), "is there twice"),
    "an encrypted entry": (lambda: _remade(_flagged), "has flags"),
    "entries in one place": (lambda: _remade(_overlapping), "overlaps another"),
    "an entry beside arrays": (
        lambda: _remade(lambda e: zipped(e | {"../../run.py": b"x"})),
        "is no .npy file",
    ),
    "an array too many": (
        lambda: _remade(lambda e: zipped(e | {"/etc/passwd.npy": npy(np.ones(1))})),
        "not hold the arrays that its header lists",
    ),
    "an array of another file": (
        lambda: _remade(lambda e: zipped(e | {"likes.npy": e["dislikes.npy"]})),
        "not with the same checksums",
    ),
    "a header of objects": (lambda: zipped({"header.npy": pickled_array()}), "no plain array"),
    "a header of floats": (lambda: zipped({"header.npy": npy(np.ones(2))}), "expected '|u1'"),
    "a header of no JSON": (lambda: _of_header(b"\xff{"), "not the JSON of one"),
    "a header of a list": (lambda: _of_header(b"[1]"), "not the JSON of one"),
    "a header of two formats": (lambda: _of_header(b'{"format":1,"format":2}'), "not the JSON"),
    "a header of NaN": (lambda: _of_header(b'{"format":NaN}'), "not the JSON of one"),
    "a deep header": (lambda: _of_header(b"[" * 99999 + b"]" * 99999), "not the JSON of one"),
    "a header of a long number": (
        lambda: _of_header(b'{"format":' + b"9" * 99999 + b"}"),
        "not the JSON of one",
    ),
    "no more than a format": (lambda: _of_header(b'{"format":2}'), "not hold the arrays"),
    "no more than the old format": (lambda: _of_header(b'{"format":1}'), "without 'items'"),
}
DESCRIPTIONS = {
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "more than there is": "{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }",
    "less than there is": "{'descr': '|u1', 'fortran_order': False, 'shape': (7,), }",
    "a product that overflows to what there is": "{'descr': '|u1', 'fortran_order': False, "
    "'shape': (4294967296, 4294967296, 8), }",
    "an absurd size": "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999, 99999999999), }",
    "a size below 0": "{'descr': '|u1', 'fortran_order': False, 'shape': (-8,), }",
    "nothing of very much": "{'descr': '|u1', 'fortran_order': False, "
    "'shape': (0, 999999999999999999, 999999999999999999), }",
    "code": "{'descr': __import__('os').mkdir('ran'), 'fortran_order': False, 'shape': (8,), }",
    "records": "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (8,), }",
    "no description": "hello",
}
STRANGE |= {
    f"an array of {what}": (
        lambda text=text: zipped({"header.npy": _described(text)}),
        "array 'header'",
    )
    for what, text in DESCRIPTIONS.items()
}


@pytest.mark.parametrize("what", STRANGE)
def test_files_of_others_are_refused_in_little_memory_and_nothing_runs(what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make, message = STRANGE[what]
    path = tmp_path / "model.posneg"
    path.write_bytes(make())
    for kind, mmap in itertools.product(
        (ContrastiveSeqRecommender, RecommenderPipeline), (False, True)
    ):
        tracemalloc.start()
        with pytest.raises(ModelFileError) as caught:
            kind.load(path, mmap=mmap)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**20 + 40 * path.stat().st_size
        text = str(caught.value)
        assert text.startswith(f"{path} ") and "allow_pickle" not in text
        if kind is ContrastiveSeqRecommender:
            assert message in text
            with pytest.raises(ModelFileError) as other:
                serving.load(path, mmap=mmap)
            assert str(other.value) == text
    assert not (tmp_path / "ran").exists()


def test_old_files_are_checked_like_new_ones(tmp_path):
    good = entries_of((HERE / "model_format_1_joint.posneg").read_bytes())
    header = json.loads(np.load(io.BytesIO(good["header.npy"])).tobytes())

    def attempt(entries=None, **changes):
        changed = good | {
            "header.npy": npy(np.frombuffer(json.dumps(header | changes).encode(), np.uint8))
        }
        return load(zipped(changed | (entries or {})))

    assert attempt().n_iter_ == 2
    huge = npy(np.zeros((0, 2), np.float32)).replace(b"(0, 2)", b"(0, 9999999999999)")
    huge = huge.replace(b" " * 11 + b"\n", b"\n", 1)
    for message, entries, changes in [
        ("not know: 'nonsense'", None, {"params": header["params"] | {"nonsense": 1}}),
        ("'dropout'", None, {"params": header["params"] | {"dropout": MARKUP}}),
        ("n_heads=3", None, {"params": header["params"] | {"n_heads": 3}}),
        ("does not consist", None, {"state": header["state"] | {"history_": {MARKUP: [1]}}}),
        ("not of their kind", None, {"items": {"kind": "int64", "ids": [2**70]}}),
        ("not of their kind", None, {"items": {"kind": "uuid", "ids": [MARKUP]}}),
        ("not of their kind", None, {"items": {"kind": "object", "ids": [1]}}),
        ("of which 5 repeat", None, {"items": {"kind": "str", "ids": ["a"] * 6}}),
        ("not finite", {"weights/item_taste.npy": npy(np.full(6, np.nan, np.float32))}, {}),
        ("or their shape", {"weights/item_embedding.npy": npy(np.ones(6, np.float32))}, {}),
        ("array 'weights/item_embedding'", {"weights/item_embedding.npy": huge}, {}),
        ("unknown arrays: 'more'", {"more.npy": npy(np.ones(1))}, {}),
        ("no plain array", {"item_likes_.npy": pickled_array()}, {}),
    ]:
        with pytest.raises(ModelFileError, match=message):
            attempt(entries, **changes)


def test_no_string_of_a_file_is_rendered_as_markup():
    model = invented(
        [MARKUP, MARKUP + "2"],
        columns=[MARKUP, "item"],
        user_column=MARKUP,
        item_column=MARKUP,
        time_column=MARKUP,
        device=MARKUP,
    )
    loaded = load(saved(model))
    assert loaded.feature_names_in_[0] == MARKUP == loaded.device
    html = loaded._repr_html_() if hasattr(loaded, "_repr_html_") else ""
    html += loaded._repr_mimebundle_()["text/html"]
    assert "<script>alert" not in html and "alert(" in html
    # And in a pipeline, where steps have names too.
    masker = RareItemMasker(min_users_per_item=1, min_items_per_user=1, user_column=MARKUP)
    masker.fit(pd.DataFrame({MARKUP: [1, 2], "item": [MARKUP, "b"]}))
    pipeline = RecommenderPipeline([(MARKUP, masker), (MARKUP + "2", loaded)])
    again = RecommenderPipeline.load(io.BytesIO(saved(pipeline)))
    assert again.steps[0][0] == MARKUP and again[0].feature_names_in_[0] == MARKUP
    html = again._repr_mimebundle_()["text/html"]
    assert "<script>alert" not in html and "alert(" in html


# -- Pipelines ---------------------------------------------------------------------------------


def pipeline(*steps):
    steps = steps or (
        SequenceBuilder(max_length=8, duplicates="last"),
        "passthrough",
        RareItemMasker(min_users_per_item=2, min_items_per_user=np.int64(1)),
    )
    named = [(f"step {place}", step) for place, step in enumerate(steps)]
    return RecommenderPipeline([*named, ("last", tiny(max_epochs=1))])


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("frame", [False, True])
def test_pipelines_come_back_as_they_were(frame, mmap, tmp_path):
    rows = pd.DataFrame(X, columns=["user", "item", "time"]) if frame else X
    path = tmp_path / "pipeline.posneg"
    one = pipeline().fit(rows, Y)
    one.save(path)
    other = RecommenderPipeline.load(path, mmap=mmap)
    assert [name for name, _ in other.steps] == ["step 0", "step 1", "step 2", "last"]
    for a, b in zip(one.steps, other.steps, strict=True):
        assert type(a[1]) is type(b[1])
        if a[1] != "passthrough":
            assert a[1].get_params() == b[1].get_params()
    assert type(other[2].min_items_per_user) is int
    assert_same(one[-1], other[-1])
    assert other[2].items_.tolist() == one[2].items_.tolist()
    assert other[0].n_features_in_ == 3 and hasattr(other[0], "feature_names_in_") == frame
    assert other.score(rows, Y) == one.score(rows, Y)
    assert type(other.recommend(rows, k=2, feedback=Y)) is type(one.recommend(rows, k=2))
    again = other.fit(rows, Y)[-1]
    assert again.items_.tolist() == one[-1].items_.tolist() and same_weights(one[-1], again)


def test_a_pipeline_alone_of_a_recommender_and_one_of_a_masker_of_strings():
    alone = make_recommender_pipeline(tiny(max_epochs=1)).fit(X, Y)
    assert_same(alone[-1], RecommenderPipeline.load(io.BytesIO(saved(alone)))[-1])
    texts = X.astype(object)
    texts[:, 1] = [f"é\0{item}" for item in X[:, 1]]
    masker = RareItemMasker(min_users_per_item=10**6).fit(texts)  # which leaves nothing
    one = RecommenderPipeline([("masker", masker), ("last", alone[-1])])
    other = RecommenderPipeline.load(io.BytesIO(saved(one)))
    assert other[0].items_.tolist() == [] and other[0].items_.dtype == masker.items_.dtype


def test_steps_of_other_classes_are_refused_by_name():
    last = tiny(max_epochs=1).fit(X, Y)
    namesake = type("SequenceBuilder", (SequenceBuilder,), {})  # which may do something else
    for step in (StandardScaler().fit(X), namesake().fit(X)):
        with pytest.raises(TypeError, match=r"Step 'other' is of class .* joblib\.dump"):
            saved(RecommenderPipeline([("other", step), ("last", last)]))
    with pytest.raises(TypeError, match="Step 'last' is of class RecommenderPipeline"):
        saved(RecommenderPipeline([("last", make_recommender_pipeline(last))]))
    with pytest.raises(NotFittedError, match="SequenceBuilder"):
        saved(RecommenderPipeline([("builder", SequenceBuilder()), ("last", last)]))
    with pytest.raises(NotFittedError):
        saved(pipeline())
    with pytest.raises(TypeError, match="parameter session_gap="):
        bad = SequenceBuilder().fit(X).set_params(session_gap=np.float64(np.nan))
        saved(RecommenderPipeline([("builder", bad), ("last", last)]))


def test_a_folder_of_this_machine_is_left_out_with_a_warning(tmp_path):
    one = make_recommender_pipeline(
        SequenceBuilder(), tiny(max_epochs=1), memory=str(tmp_path / "memory"), verbose=True
    ).set_params(verbose=False)
    one.fit(X, Y)
    with pytest.warns(UserWarning, match=r"memory=.* set it again after loading"):
        data = saved(one)
    assert bytes(tmp_path) not in data
    assert RecommenderPipeline.load(io.BytesIO(data)).memory is None


def test_models_and_pipelines_are_told_apart():
    model = invented([1, 2])
    with pytest.raises(ModelFileError, match=r"holds a model, .*ContrastiveSeqRecommender\.load"):
        RecommenderPipeline.load(io.BytesIO(saved(model)))
    with pytest.raises(ModelFileError, match=r"holds a pipeline, .*RecommenderPipeline\.load"):
        load(saved(RecommenderPipeline([("last", model)])))
    with pytest.raises(ModelFileError, match="holds a model"):
        RecommenderPipeline.load(HERE / "model_format_1.posneg")


PIPELINES = {
    "a class of others": (put("header", "steps", 0, "class", "os.system"), "of class 'os.system'"),
    "a class of no name": (put("header", "steps", 0, "class", ["x"]), r"of class \["),
    "no class": (put("header", "steps", 0, "class", DELETE), "of class None"),
    "no name": (put("header", "steps", 0, "name", 3), "without a name"),
    "names that repeat": (put("header", "steps", 0, "name", "last"), "not distinct"),
    "a name of two": (put("header", "steps", 0, "name", "a__b"), "hold '__'"),
    "no steps": (put("header", "steps", []), "has no steps"),
    "steps of text": (put("header", "steps", ["passthrough"] * 4), "without a name"),
    "a step too many": (
        put("header", "steps", lambda s: [*s, {"name": "x", "class": "passthrough"}]),
        "is not the last step",
    ),
    "a step too few": (put("header", "steps", lambda s: s[:3]), "holds an array of no step"),
    "a parameter of a step": (put("header", "steps", 0, "params", "max_length", -1), "max_length"),
    "columns of a step": (put("header", "steps", 0, "state", "n_features_in", None), "no columns"),
    "items of a builder": (put("header", "steps", 0, "ids", "int64"), "unknown keys: 'ids'"),
    "no items of a masker": (put("header", "steps", 2, "ids", DELETE), "without 'ids'"),
    "a memory": (put("header", "params", "memory", "/tmp"), "unknown keys: 'memory'"),
    "steps as parameter": (put("header", "params", "steps", [1]), "unknown keys: 'steps'"),
    "a wordy pipeline": (put("header", "params", "verbose", MARKUP), "'verbose' parameter"),
    "items of the masker": (put("arrays", "2/items", np.array([1, 1])), "of which 1 repeat"),
    "weights of the recommender": (put("arrays", f"3/{EMBEDDING}", _fill(np.nan)), "not finite"),
    "an array of no step": (put("arrays", "9/items", np.array([1, 1])), "of no step"),
    "an array beside steps": (put("arrays", "items", np.array([1, 1])), "of no step"),
}


@pytest.fixture(scope="module")
def whole_pipeline():
    return pipeline().fit(X, Y)


@pytest.mark.parametrize("what", PIPELINES)
def test_what_no_pipeline_can_be_is_refused(what, whole_pipeline):
    change, message = PIPELINES[what]
    with pytest.raises(ModelFileError, match=message):
        RecommenderPipeline.load(io.BytesIO(forged(change, whole_pipeline)))
