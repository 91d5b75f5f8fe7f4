"""What the parameters of a recommender can be, and their defaults, with plain Python.

The estimator makes scikit-learn's constraints of them; a model file is read by them where there is
no scikit-learn.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np

__all__ = ["DEFAULTS", "PARAMETERS", "Allowed", "Range", "check_parameters", "refuse_switch"]


@dataclass(frozen=True)
class Range:
    """Numbers between two bounds; those on the `closed` side are among them."""

    kind: type[Any]
    low: float
    high: float | None  # None is without end
    closed: str = "left"

    def __contains__(self, value: Any) -> bool:
        """Tell whether a value is such a number."""
        if not isinstance(value, self.kind):
            return False
        above = operator.ge if self.closed in ("left", "both") else operator.gt
        below = operator.le if self.closed in ("right", "both") else operator.lt
        return above(value, self.low) and (self.high is None or below(value, self.high))

    def __str__(self) -> str:
        """Describe it as scikit-learn does."""
        is_int = self.kind is Integral
        high = "inf" if self.high is None else self.high if is_int else float(self.high)
        left = "[" if self.closed in ("left", "both") else "("
        right = "]" if self.closed in ("right", "both") else ")"
        low = self.low if is_int else float(self.low)
        return f"{'an int' if is_int else 'a float'} in the range {left}{low}, {high}{right}"


#: One kind of value: a class, None, a range, one of some strings, or what scikit-learn calls
#: "boolean", "random_state" and "verbose".
Allowed: TypeAlias = type | Range | frozenset[str] | str | None

_POSITIVE_INTEGER = Range(Integral, 1, None)
# Open on the right, where infinity is.
_NON_NEGATIVE = Range(Real, 0, np.inf)
_POSITIVE = Range(Real, 0, np.inf, "neither")
_COLUMN: tuple[Allowed, ...] = (str, Integral, None)


def _among(*options: str) -> frozenset[str]:
    return frozenset(options)


#: Of each parameter its default and the kinds of values that it can have.
PARAMETERS: dict[str, tuple[Any, tuple[Allowed, ...]]] = {
    "objective": ("joint", (_among("joint", "pnfrec"),)),
    "positive_threshold": (None, (Real, tuple, list, None)),
    "dislike_aversion": (6.0, (_NON_NEGATIVE,)),
    "item_memory": (True, ("boolean",)),
    "exclude_seen": ("auto", ("boolean", _among("auto"))),
    "embedding_dim": (128, (_POSITIVE_INTEGER,)),
    "n_layers": (2, (Range(Integral, 0, 1000, "both"),)),
    "n_heads": (2, (_POSITIVE_INTEGER,)),
    "max_len": (100, (_POSITIVE_INTEGER,)),
    "dropout": (0.3, (Range(Real, 0, 1),)),
    "negative_weight": (0.25, (_NON_NEGATIVE,)),
    "contrastive_weight": (0.1, (_NON_NEGATIVE,)),
    "contrastive_similarity": ("dot", (_among("dot", "cosine"),)),
    "contrastive_negatives": ("window", (_among("window", "past"),)),
    "temperature": (1.0, (_POSITIVE,)),
    "windows": ("random", (_among("recent", "random"),)),
    "n_negatives": (None, (Range(Integral, 3, 2**24, "both"), None)),
    "learning_rate": (1e-3, (_POSITIVE,)),
    "batch_size": (64, (_POSITIVE_INTEGER,)),
    "ema_decay": (0.998, (Range(Real, 0, 1),)),
    "max_epochs": (50, (_POSITIVE_INTEGER,)),
    "early_stopping": (True, ("boolean",)),
    "validation_fraction": (0.1, (Range(Real, 0, 1, "neither"),)),
    "n_iter_no_change": ("auto", (_POSITIVE_INTEGER, _among("auto"))),
    "user_column": (None, _COLUMN),
    "item_column": (None, _COLUMN),
    "time_column": (None, _COLUMN),
    "precision": ("auto", (_among("auto", "bfloat16", "float32"),)),
    "device": ("auto", (str,)),
    "random_state": (None, ("random_state",)),
    "verbose": (0, ("verbose",)),
}

DEFAULTS: dict[str, Any] = {name: default for name, (default, _) in PARAMETERS.items()}

_MADE_OF: dict[str, tuple[Allowed, ...]] = {
    "boolean": (bool, np.bool_),
    "random_state": (Range(Integral, 0, 2**32 - 1, "both"), np.random.RandomState, None),
    "verbose": (Range(Integral, 0, None), bool, np.bool_),
}


#: Those that a number can be.
_NUMBERS = {
    name
    for name, (_, allowed) in PARAMETERS.items()
    if any(isinstance(kind, Range) or kind in (Real, Integral) for kind in allowed)
}


def refuse_switch(name: str, value: Any) -> None:
    """Refuse True where a number is meant: it is an int to Python, but neither size nor place."""
    if isinstance(value, bool | np.bool_) and name in _NUMBERS:
        raise ValueError(f"{name} must be a number, got {value!r}.")


def check_parameters(params: Mapping[str, Any]) -> None:
    """Refuse a value that a parameter cannot have, as scikit-learn does when it fits.

    Parameters
    ----------
    params : mapping of str to object
        Of names in :data:`PARAMETERS`.

    Raises
    ------
    ValueError
        If a value is of none of the kinds that are allowed.

    Examples
    --------
    >>> from posneg_rec.parameters import check_parameters
    >>> check_parameters({"dropout": 1.5})
    Traceback (most recent call last):
    ValueError: The 'dropout' parameter of ContrastiveSeqRecommender must be a float in the range
    [0.0, 1.0). Got 1.5 instead.
    """
    for name, value in params.items():
        refuse_switch(name, value)
        _, allowed = PARAMETERS[name]
        if not any(_is(kind, value) for kind in allowed):
            *first, last = map(_described, allowed)
            kinds = f"{', '.join(first)} or {last}" if first else last
            raise ValueError(
                f"The {name!r} parameter of ContrastiveSeqRecommender must be {kinds}. Got "
                f"{value!r} instead."
            )


def _is(kind: Allowed, value: Any) -> bool:
    if kind is None:
        return value is None
    if isinstance(kind, str):
        return any(_is(part, value) for part in _MADE_OF[kind])
    if isinstance(kind, type):
        return isinstance(value, kind)
    return (
        isinstance(value, str) and value in kind if isinstance(kind, frozenset) else value in kind
    )


def _described(kind: Allowed) -> str:
    if isinstance(kind, str):
        *first, last = map(_described, _MADE_OF[kind])
        return f"{', '.join(first)} or {last}"
    if isinstance(kind, frozenset):
        return f"a str among {{{', '.join(map(repr, set(kind)))}}}"
    if isinstance(kind, type):
        module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
        return f"an instance of {_NAMES.get(kind, module + kind.__qualname__)!r}"
    return str(kind)


_NAMES: dict[type, str] = {Real: "float", Integral: "int"}
