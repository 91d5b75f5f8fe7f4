"""Every private name of scikit-learn that this package needs, each held by a test."""

from typing import Any

import numpy as np
from sklearn.base import _fit_context as fit_context
from sklearn.pipeline import _final_estimator_has as final_estimator_has
from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _check_sample_weight

__all__ = [
    "Interval",
    "StrOptions",
    "check_feature_names_in",
    "check_sample_weight",
    "final_estimator_has",
    "fit_context",
    "name_estimators",
    "validate_params",
]


def check_sample_weight(sample_weight: Any, X: Any, **options: Any) -> Any:
    """Check weights as scikit-learn does, a single one too, and name them in every error."""
    if isinstance(sample_weight, complex | np.complexfloating):  # of which NumPy takes a half
        raise TypeError(f"sample_weight must be real, got {sample_weight!r:.50}.")
    try:
        weights = _check_sample_weight(sample_weight, X, **options)
    except (TypeError, ValueError, OverflowError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"sample_weight must be one number or one per row: {error}") from error
    if not np.isfinite(weights).all():  # which is not looked for in one number
        raise ValueError(f"sample_weight must be finite, got {sample_weight!r:.50}.")
    return weights
