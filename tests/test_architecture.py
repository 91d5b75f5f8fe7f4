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
    "_sklearn": set(),
    "sequences": set(),
    "ids": {"sequences"},
    "interactions": {"ids", "sequences"},
    "preprocessing": {"_sklearn", "ids", "interactions", "sequences"},
    "metrics": {"_sklearn"},
    "model_selection": {"ids", "interactions", "sequences"},
    "datasets": set(),
    "nn": {"sequences"},
    "losses": {"nn"},
    "memory": {"sequences"},
    "training": {"losses", "nn", "sequences"},
    "serving": {"sequences"},
    "accelerated": {"nn", "sequences", "serving"},
    "persistence": set(),
    "recommender": {
        "_sklearn",
        "ids",
        "interactions",
        "metrics",
        "model_selection",
        "persistence",
        "sequences",
        "serving",
    },
    "pipeline": {"_sklearn", "ids", "interactions", "model_selection", "sequences"},
}
WITH_TORCH = {"nn", "losses", "training", "accelerated"}


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


def test_every_module_has_its_place():
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("module", ALLOWED)
def test_imports_go_one_way(module):
    imports = set(top_level_imports(module))
    ours = {name.split(".")[1] for name in imports if name.startswith("posneg_rec.")}
    assert ours <= ALLOWED[module]
    heavy = {name.split(".")[0] for name in imports} & {"torch", "pandas", "polars", "pyarrow"}
    assert heavy <= ({"torch"} if module in WITH_TORCH else set())


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
