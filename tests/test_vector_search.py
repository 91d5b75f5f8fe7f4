"""The example of an index of vectors, small."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import X, Y, tiny

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import vector_search

INSTALLED = {name for name, (package, _) in vector_search.INDEXES.items() if find_spec(package)}


def table(path, *arguments):
    vector_search.main([*arguments, "--queries", "8", "--json", str(path)])
    found = json.loads(path.read_text())
    return found, {row.pop("index"): row for row in found["indexes"]}


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
def test_indexes_find_what_is_near_among_synthetic_vectors(tmp_path, capsys):
    options = ["--items", "2000", "--dim", "16", "-k", "5", "--candidates", "50"]
    sizes, rows = table(tmp_path / "out.json", *options)
    assert (sizes["n_items"], sizes["dim"], sizes["candidates"]) == (2000, 16, 50)
    assert set(rows) == {"exact (NumPy)"} | INSTALLED
    assert all(row["recall"] > 0.7 for row in rows.values())
    assert rows["exact (NumPy)"]["recall"] == rows.get("faiss flat", {"recall": 1})["recall"] == 1
    assert "2,000 items of 16 numbers, 8 queries" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
def test_candidates_of_a_model_become_its_own_answers(tmp_path):
    tiny().fit(X, Y).save(tmp_path / "model.posneg")
    arguments = ["--model", str(tmp_path / "model.posneg"), "-k", "3", "--candidates", "20"]
    sizes, rows = table(tmp_path / "out.json", *arguments)
    assert sizes["n_items"] == 24
    for name in {"exact (NumPy)", "faiss flat"} & set(rows):
        assert rows[name]["recall_of_model"] == rows[name]["certified"] == 1


def test_what_is_not_installed_is_left_out(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(vector_search, "find_spec", lambda name: None)
    _, rows = table(tmp_path / "out.json", "--items", "50", "--dim", "4")
    assert set(rows) == {"exact (NumPy)"}
    assert "hnswlib is left out: hnswlib is not installed" in capsys.readouterr().out
