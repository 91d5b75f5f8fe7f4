"""Next-item recommendation that learns from what a user liked and disliked.

The names below load on first use, so that ``import posneg_rec`` stays fast and never imports
torch. Everything else is public through its submodule, which loads on first use, too.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from posneg_rec import (
        baselines,
        datasets,
        metrics,
        model_selection,
        onnx,
        persistence,
        pipeline,
        plotting,
        preprocessing,
        recommender,
        reporting,
        serving,
        store,
    )
    from posneg_rec.pipeline import make_recommender_pipeline
    from posneg_rec.preprocessing import RareItemMasker, SequenceBuilder
    from posneg_rec.recommender import ContrastiveSeqRecommender

__version__ = "0.1.0.dev0"

__all__ = [
    "ContrastiveSeqRecommender",
    "RareItemMasker",
    "SequenceBuilder",
    "__version__",
    "baselines",
    "datasets",
    "make_recommender_pipeline",
    "metrics",
    "model_selection",
    "onnx",
    "persistence",
    "pipeline",
    "plotting",
    "preprocessing",
    "recommender",
    "reporting",
    "serving",
    "store",
]

_MODULE_OF = {
    "ContrastiveSeqRecommender": "recommender",
    "RareItemMasker": "preprocessing",
    "SequenceBuilder": "preprocessing",
    "make_recommender_pipeline": "pipeline",
}


if not TYPE_CHECKING:  # or every misspelt name would be one of Any

    def __getattr__(name):
        if name in _MODULE_OF:
            return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
