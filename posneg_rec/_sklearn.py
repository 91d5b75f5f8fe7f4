"""Every private name of scikit-learn that this package needs, each held by a test.

Its decorators have no types: what they decorate would be Any to a type checker. Here they keep
the type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from sklearn.base import _fit_context
from sklearn.pipeline import _final_estimator_has as final_estimator_has
from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils import metaestimators
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = [
    "Interval",
    "StrOptions",
    "available_if",
    "check_feature_names_in",
    "check_sample_weight",
    "final_estimator_has",
    "fit_context",
    "name_estimators",
    "validate_params",
]

_Method = TypeVar("_Method", bound=Callable[..., Any])


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
