"""What a type checker tells a user: see typed_program.py, which mypy's own run reads as well."""

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from posneg_rec import ContrastiveSeqRecommender
from posneg_rec._typing import RecommendOptions
from posneg_rec.pipeline import RecommenderPipeline

TESTS = Path(__file__).parent


def _pyright(folder, program):
    """Return the errors that pyright finds in a program, as (line, rule)."""
    pytest.importorskip("basedpyright")
    (folder / "program.py").write_text(program)
    settings = {
        "extraPaths": [str(TESTS.parent)],
        "typeCheckingMode": "standard",
        "reportUnnecessaryTypeIgnoreComment": "error",
        "reportUnusedExpression": "none",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(run.stdout)["generalDiagnostics"]
    lines = program.splitlines()
    return [(lines[entry["range"]["start"]["line"]], entry["message"]) for entry in found]


def test_pyright_agrees_with_every_line(tmp_path):
    assert _pyright(tmp_path, (TESTS / "typed_program.py").read_text()) == []


def test_pyright_sees_what_is_claimed_wrongly(tmp_path):
    program = (TESTS / "typed_program.py").read_text()
    wrong = [
        "assert_type(model.recommend(table), Ranking)",
        "assert_type(model.fit(table, feedback), RecommenderPipeline)",
        "model.n_iter_  # type: ignore",
    ]
    found = _pyright(tmp_path, "\n".join([program, *wrong]))
    assert [line for line, _ in found] == wrong


def test_the_options_of_recommend_are_typed_as_they_are_taken():
    taken = inspect.signature(ContrastiveSeqRecommender.recommend).parameters.values()
    keywords = {parameter.name for parameter in taken if parameter.kind is parameter.KEYWORD_ONLY}
    assert keywords == set(RecommendOptions.__annotations__)
    # A pipeline hands them on, whatever they are called.
    (last,) = list(inspect.signature(RecommenderPipeline.recommend).parameters.values())[3:]
    assert last.kind is last.VAR_KEYWORD
