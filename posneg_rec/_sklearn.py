"""Every private name of scikit-learn that this package needs, each held by a test."""

from sklearn.base import _fit_context as fit_context
from sklearn.pipeline import _final_estimator_has as final_estimator_has
from sklearn.pipeline import _name_estimators as name_estimators
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import _check_feature_names_in as check_feature_names_in
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

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
