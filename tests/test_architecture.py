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
    "_sklearn": {"frames"},
    "_typing": set(),
    "sequences": set(),
    "frames": set(),
    "ids": {"_lazy", "frames", "sequences"},
    "columns": {"ids", "sequences"},
    "feedback": {"frames", "ids", "sequences"},
    "interactions": {"columns", "feedback", "frames", "ids", "sequences"},
    "store": {"columns", "feedback", "frames", "ids", "interactions", "sequences"},
    "preprocessing": {"_sklearn", "columns", "frames", "ids", "interactions", "sequences"},
    "ranks": {"_sklearn", "frames", "ids"},
    "evaluation": {"_sklearn", "ranks"},
    "beyond_accuracy": {"_sklearn", "frames", "ids", "ranks", "sequences"},
    "metrics": {
        "_sklearn",
        "beyond_accuracy",
        "evaluation",
        "frames",
        "interactions",
        "ranks",
    },
    "progress": set(),
    "display": set(),
    "item_displays": {"display", "ranks", "sequences"},
    "plotting": {"display", "evaluation", "frames", "item_displays", "ranks"},
    "reporting": {"columns", "evaluation", "frames", "ids", "interactions", "ranks", "sequences"},
    "model_selection": {"_sklearn", "columns", "frames", "ids", "interactions", "sequences"},
    "datasets": {"_sklearn", "progress"},
    "nn": {"sequences"},
    "losses": {"nn"},
    "checkpoint": {"archive", "persistence"},
    "distributed": set(),
    "momentum": set(),
    "recording": set(),
    "training": {"checkpoint", "distributed", "momentum", "nn", "recording"},
    "objectives": {"losses", "nn", "sequences", "training"},
    "memory": {"_lazy", "linalg", "sequences"},
    "selection": {"sequences"},
    "filters": {"frames", "ids", "selection", "sequences"},
    "queries": {"_lazy", "memory", "sequences"},
    "linalg": set(),
    "inference": {"linalg", "queries", "sequences"},
    "scoring": {"_lazy", "inference", "linalg", "memory", "queries", "selection"},
    "serving": {"answering", "persistence"},
    "accelerated": {"inference", "nn", "queries", "scoring", "selection", "sequences"},
    "explanation": {"sequences"},
    "fitted": {
        "_lazy",
        "explanation",
        "filters",
        "frames",
        "ids",
        "inference",
        "interactions",
        "memory",
        "progress",
        "queries",
        "scoring",
        "selection",
        "sequences",
    },
    "archive": set(),
    "persistence": {"archive", "inference", "memory", "sequences"},
    "parameters": set(),
    "answering": {"_typing", "columns", "frames", "parameters"},
    "fitting": {
        "_sklearn",
        "checkpoint",
        "columns",
        "fitted",
        "frames",
        "ids",
        "interactions",
        "memory",
        "metrics",
        "model_selection",
        "sequences",
    },
    "base": {
        "answering",
        "columns",
        "fitted",
        "frames",
        "interactions",
        "metrics",
        "model_selection",
        "ranks",
        "sequences",
    },
    "recommender": {
        "_sklearn",
        "answering",
        "base",
        "checkpoint",
        "fitted",
        "fitting",
        "frames",
        "interactions",
        "parameters",
        "persistence",
        "progress",
        "ranks",
    },
    "baselines": {
        "_lazy",
        "_sklearn",
        "base",
        "columns",
        "fitted",
        "fitting",
        "frames",
        "ids",
        "inference",
        "interactions",
        "memory",
        "model_selection",
        "queries",
        "ranks",
        "sequences",
    },
    "onnx": {"memory", "recommender", "scoring"},
    "pipeline": {
        "_sklearn",
        "_typing",
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
WITH_TORCH = {"nn", "losses", "distributed", "recording", "training", "objectives", "accelerated"}
WITH_SKLEARN = {
    "_sklearn",
    "base",
    "baselines",
    "beyond_accuracy",
    "datasets",
    "evaluation",
    "fitting",
    "metrics",
    "model_selection",
    "onnx",
    "pipeline",
    "preprocessing",
    "ranks",
    "recommender",
    "reporting",
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
    from posneg_rec import inference, nn, objectives, recommender

    names = set(objectives.OBJECTIVES)
    assert names == set(inference.METHODS) == set(nn.ENCODERS)
    (options,) = recommender.ContrastiveSeqRecommender._parameter_constraints["objective"]
    assert options.options == names
    for name in names:
        encoder = objectives.OBJECTIVES[name].encoder
        assert encoder is nn.ENCODERS[name]
        assert encoder.answering == inference.METHODS[name].encoder


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
assert dir(posneg_rec) == posneg_rec.__all__
for name in posneg_rec.__all__:
    getattr(posneg_rec, name)
assert posneg_rec.interactions.read_interactions  # not offered, but there
from posneg_rec import baselines, datasets, metrics, model_selection, serving
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        posneg_rec.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute '_nonsense'"):
        posneg_rec._nonsense  # noqa: B018
