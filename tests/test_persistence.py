"""The model file: exact round trips, nothing executable, and clear refusals."""

import datetime
import json
import uuid
import zipfile
from pathlib import Path

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from posneg_rec import ContrastiveSeqRecommender, persistence


def fitted(ids, **params):
    """A model of four items whose raw ids are `ids`."""
    rows = np.empty((16, 2), dtype=object)
    rows[:, 0] = np.repeat(np.arange(4), 4)
    rows[:, 1] = np.array(ids, dtype=object)[np.arange(16) % 4]
    params = {"embedding_dim": 4, "max_epochs": 1, "random_state": 0} | params
    return ContrastiveSeqRecommender(**params).fit(rows)


IDS = {
    "int": [2**60 + 1, -3, 5, 7],
    "str": ["a", "é\0", "", "d"],
    "uuid": [uuid.UUID(int=2**100 + i) for i in range(4)],
    "float": [0.1, 1.5, 2.0, 1e300],
}


@pytest.mark.parametrize("kind", IDS)
def test_round_trip_is_exact(kind, tmp_path):
    model = fitted(IDS[kind], positive_threshold=None, dropout=0.1)
    model.save(tmp_path / "model.posneg")
    loaded = ContrastiveSeqRecommender.load(tmp_path / "model.posneg")
    assert loaded.get_params() == model.get_params()
    assert loaded.items_.dtype == model.items_.dtype
    assert loaded.items_.tolist() == model.items_.tolist()
    state = {name for name in vars(model) if name.endswith("_")}
    assert {name for name in vars(loaded) if name.endswith("_")} == state
    for name, value in model.weights_.items():
        assert loaded.weights_[name].tobytes() == value.tobytes()
    assert loaded.history_ == model.history_ and loaded.n_iter_ == 1
    answers = [m.recommend([IDS[kind][0]], k=3) for m in (model, loaded)]
    assert answers[0][0].tolist() == answers[1][0].tolist()
    assert answers[0][1].tobytes() == answers[1][1].tobytes()


def test_names_of_columns_survive(tmp_path):
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"user": [0, 0, 1, 1], "item": [0, 1, 0, 1]})
    model = ContrastiveSeqRecommender(embedding_dim=4, max_epochs=1, random_state=0).fit(frame)
    model.save(tmp_path / "model.posneg")
    loaded = ContrastiveSeqRecommender.load(tmp_path / "model.posneg")
    assert loaded.score(frame) == model.score(frame)
    assert list(loaded.feature_names_in_) == ["user", "item"]


def test_file_is_arrays_and_json_alone(tmp_path):
    fitted(IDS["str"]).save(tmp_path / "model.posneg")
    with zipfile.ZipFile(tmp_path / "model.posneg") as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())
    with np.load(tmp_path / "model.posneg", allow_pickle=False) as arrays:
        header = json.loads(arrays["header"].tobytes())
    assert header["format"] == persistence.FORMAT == 2
    assert header["ids"] == "str"


def test_files_of_every_format_load_for_ever():
    model = ContrastiveSeqRecommender.load(Path(__file__).with_name("model_format_1.posneg"))
    items, scores = model.recommend(["a"], k=3)
    assert items.tolist() == ["d", "é\0", ""]
    # The file holds no dislike, so these are log p(next) alone.
    np.testing.assert_allclose(scores, [-1.3608680, -1.3807044, -1.4022038], rtol=1e-5)


def test_newer_format_says_to_upgrade(tmp_path, monkeypatch):
    monkeypatch.setattr(persistence, "FORMAT", 9)
    fitted(IDS["int"]).save(tmp_path / "model.posneg")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"has model format 9; .* Upgrade posneg_rec"):
        ContrastiveSeqRecommender.load(tmp_path / "model.posneg")


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(ValueError, match="is no posneg_rec model file"):
        ContrastiveSeqRecommender.load(tmp_path / "other.npz")


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
