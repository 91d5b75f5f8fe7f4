"""The house itself: who may import whom, and what loads when."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import posneg_rec

PACKAGE = Path(posneg_rec.__file__).parent

# What each module may import of ours at its top level; torch only where it is said.
ALLOWED = {
    "__init__": set(),
    "_lazy": set(),
    "_sklearn": set(),
    "sequences": set(),
    "frames": set(),
    "ids": {"_lazy", "frames", "sequences"},
    "columns": {"ids", "sequences"},
    "feedback": {"frames", "ids", "sequences"},
    "interactions": {"columns", "feedback", "frames", "ids", "sequences"},
    "preprocessing": {"_sklearn", "columns", "frames", "ids", "interactions", "sequences"},
    "ranks": {"frames", "ids"},
    "evaluation": {"ranks"},
    "metrics": {"_sklearn", "evaluation", "frames", "interactions", "ranks"},
    "model_selection": {"columns", "frames", "ids", "interactions", "sequences"},
    "datasets": {"_sklearn"},
    "nn": {"sequences"},
    "losses": {"nn"},
    "training": {"nn"},
    "objectives": {"losses", "nn", "sequences", "training"},
    "memory": {"_lazy", "sequences"},
    "serving": {"_lazy", "memory", "sequences"},
    "accelerated": {"nn", "sequences", "serving"},
    "fitted": {"_lazy", "frames", "ids", "interactions", "memory", "sequences", "serving"},
    "archive": set(),
    "persistence": {"archive", "memory", "sequences", "serving"},
    "fitting": {
        "_sklearn",
        "columns",
        "fitted",
        "ids",
        "interactions",
        "memory",
        "metrics",
        "model_selection",
        "sequences",
    },
    "recommender": {
        "_sklearn",
        "columns",
        "frames",
        "fitted",
        "fitting",
        "interactions",
        "metrics",
        "model_selection",
        "persistence",
    },
    "onnx": {"memory", "recommender"},
    "pipeline": {
        "_sklearn",
        "columns",
        "frames",
        "ids",
        "interactions",
        "metrics",
        "model_selection",
        "persistence",
        "sequences",
    },
}
WITH_TORCH = {"nn", "losses", "training", "objectives", "accelerated"}
WITH_SKLEARN = {
    "_sklearn",
    "datasets",
    "evaluation",
    "feedback",
    "fitting",
    "interactions",
    "metrics",
    "model_selection",
    "onnx",
    "pipeline",
    "preprocessing",
    "ranks",
    "recommender",
}


def top_level_imports(module):
    """Modules that `module` imports when it is imported itself."""
    for node in ast.parse((PACKAGE / f"{module}.py").read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.module == "posneg_rec":
                yield from (f"posneg_rec.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_no_private_name_of_scikit_learn_outside_one_room():
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sklearn"):
                names = [*node.module.split("."), *(alias.name for alias in node.names)]
                assert path.stem == "_sklearn" or not any(n.startswith("_") for n in names), names


def test_every_method_is_known_to_training_and_to_answering():
    from posneg_rec import nn, objectives, recommender, serving

    names = set(objectives.OBJECTIVES)
    assert names == set(serving.METHODS) == set(nn.ENCODERS)
    (options,) = recommender.ContrastiveSeqRecommender._parameter_constraints["objective"]
    assert options.options == names
    for name in names:
        encoder = objectives.OBJECTIVES[name].encoder
        assert encoder is nn.ENCODERS[name]
        assert encoder.answering == serving.METHODS[name].encoder


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_go_one_way(module):
    imports = set(top_level_imports(module))
    ours = {name.split(".")[1] for name in imports if name.startswith("posneg_rec.")}
    assert ours <= ALLOWED[module]
    heavy = {name.split(".")[0] for name in imports} & {"torch", "pandas", "polars", "pyarrow"}
    assert heavy <= ({"torch"} if module in WITH_TORCH else set())
    assert module in WITH_SKLEARN or not any(name.startswith("sklearn") for name in imports)


def test_public_names_load_without_torch_and_are_listed():
    code = """
import sys
import posneg_rec
assert "sklearn" not in sys.modules and "torch" not in sys.modules
for name in posneg_rec.__all__:
    getattr(posneg_rec, name)
    assert name in dir(posneg_rec)
from posneg_rec import datasets, metrics, model_selection, serving
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        posneg_rec.nonsense  # noqa: B018
