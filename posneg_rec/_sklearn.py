"""Every private name of scikit-learn that this package needs, each held by a test.

Its decorators have no types: what they decorate would be Any to a type checker. Here they keep
the type. Its checks of numbers take True for 1, and fractions, of which NumPy makes objects; here
neither is a number.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Number
from typing import Any, TypeVar

import numpy as np
from sklearn.base import _fit_context
from sklearn.pipeline import _final_estimator_has as final_estimator_has
from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils import check_scalar as _check_scalar
from sklearn.utils import metaestimators
from sklearn.utils._param_validation import Interval as _Interval
from sklearn.utils._param_validation import StrOptions, validate_params
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _check_sample_weight

from posneg_rec.frames import as_numbers

__all__ = [
    "Interval",
    "StrOptions",
    "available_if",
    "check_feature_names_in",
    "check_sample_weight",
    "check_scalar",
    "final_estimator_has",
    "fit_context",
    "name_estimators",
    "validate_params",
]

_Method = TypeVar("_Method", bound=Callable[..., Any])


class Interval(_Interval):
    """Numbers between two bounds that NumPy calculates with."""

    def is_satisfied_by(self, val: Any) -> bool:
        """Tell whether a value is such a number."""
        return _is_number(val) and bool(super().is_satisfied_by(val))


def check_scalar(x: Any, name: str, target_type: type[Any], **bounds: Any) -> None:
    """Check a number that NumPy calculates with, as scikit-learn does."""
    if isinstance(x, Number) and not _is_number(x):
        raise TypeError(f"{name} must be an int or a float, got {x!r:.50}.")
    _check_scalar(x, name, target_type, **bounds)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[_Method], _Method]:
    """Validate the parameters before a fit."""
    decorate: Callable[[_Method], _Method] = _fit_context(
        prefer_skip_nested_validation=prefer_skip_nested_validation
    )
    return decorate


def available_if(check: Callable[[Any], bool]) -> Callable[[_Method], _Method]:
    """Let a method exist only where `check` of the object is true."""
    decorate: Callable[[_Method], _Method] = metaestimators.available_if(check)
    return decorate


def check_sample_weight(sample_weight: Any, X: Any, **options: Any) -> Any:
    """Check weights as scikit-learn does, a single one too, and name them in every error."""
    if isinstance(sample_weight, complex | np.complexfloating):  # of which NumPy takes a half
        raise TypeError(f"sample_weight must be real, got {sample_weight!r:.50}.")
    if sample_weight is not None and not isinstance(sample_weight, Number):
        as_numbers(sample_weight, "sample_weight")
    try:
        weights = _check_sample_weight(sample_weight, X, **options)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"sample_weight must be one number or one per row: {error}") from error
    if not np.isfinite(weights).all():  # which is not looked for in one number
        raise ValueError(f"sample_weight must be finite, got {sample_weight!r:.50}.")
    return weights
