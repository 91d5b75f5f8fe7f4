"""Next-item recommendation that learns from what a user liked and disliked.

The names below load on first use, so that ``import posneg_rec`` stays fast and never imports
torch. Everything else is public through its submodule.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posneg_rec.pipeline import make_recommender_pipeline
    from posneg_rec.preprocessing import RareItemMasker, SequenceBuilder
    from posneg_rec.recommender import ContrastiveSeqRecommender

__version__ = "0.1.0.dev0"

__all__ = [
    "ContrastiveSeqRecommender",
    "RareItemMasker",
    "SequenceBuilder",
    "__version__",
    "make_recommender_pipeline",
]

_MODULE_OF = {
    "ContrastiveSeqRecommender": "recommender",
    "RareItemMasker": "preprocessing",
    "SequenceBuilder": "preprocessing",
    "make_recommender_pipeline": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
