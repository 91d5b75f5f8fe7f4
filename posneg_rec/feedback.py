"""How feedback reads: booleans, signs and grades become liked, neutral and disliked."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Set
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posneg_rec.frames import as_array, is_vector, unmasked
from posneg_rec.ids import (
    Where,
    all_finite,
    kind_of,
    missing_objects,
    values_of,
)
from posneg_rec.sequences import shorten

__all__ = ["read_signs"]


def read_signs(
    feedback: Any,
    kept: NDArray[np.int64] | None,
    n_rows: int,
    positive_threshold: float | tuple[float, float] | None,
    feedback_coding: str | None,
    where: Where,
) -> tuple[NDArray[np.int8], str]:
    """Return the sign of each kept row and the coding in which the feedback was read."""
    threshold = _check_threshold(positive_threshold)
    # A coding that was found before outlives feedback that shows none, and what a type says
    # outlives values that happen not to occur.
    remembered = None if feedback_coding == "liked" else feedback_coding
    remembered = remembered or _declared_coding(feedback)
    if feedback is None:
        n_kept = n_rows if kept is None else len(kept)
        return np.ones(n_kept, dtype=np.int8), remembered or "liked"
    values = _feedback_column(feedback)
    if len(values) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {n_rows} "
            f"interactions, {len(values)} feedback values."
        )
    if kept is not None:
        values = values[kept]

    def place(position: int) -> str:
        return where(position if kept is None else int(kept[position]))

    values = _feedback_numbers(values, place)
    if values.dtype.kind == "b":
        return np.where(values, 1, -1).astype(np.int8), remembered or "binary"
    if threshold is not None:
        low, high = threshold
        if (
            feedback_coding == "graded"
            and low > 1
            and len(values)
            and values.max() <= 1  # which tells most grades
            and np.isin(values, (-1, 0, 1)).all()
        ):
            held = "-1, 0 and 1" if (values < 0).any() else "0 and 1"
            warnings.warn(
                f"feedback holds only {held}, and the model reads everything below {low:g} as "
                "disliked. Pass grades as in the fit, or booleans for liked and disliked.",
                UserWarning,
                stacklevel=5,
            )
        return (values >= high).astype(np.int8) - (values < low).astype(np.int8), "graded"

    liked, disliked, zero = values == 1, values == -1, values == 0
    other = ~(liked | disliked | zero)
    allowed = "booleans, {0, 1} or {-1, 0, 1}"
    if remembered == "binary":
        other |= disliked
        allowed = "{0, 1}, the feedback seen in fit"
    if other.any():
        first = int(np.argmax(other))
        raise ValueError(
            f"feedback, {place(first)}: {shorten(values[first].item())} is not among {allowed}. "
            "For graded feedback pass positive_threshold, the value from which an item is liked."
        )
    if disliked.any() or remembered == "signed":
        return liked.astype(np.int8) - disliked.astype(np.int8), "signed"
    if zero.any():
        return liked.astype(np.int8) - zero.astype(np.int8), "binary"
    return liked.astype(np.int8), remembered or "liked"


def _feedback_column(feedback: Any) -> NDArray[Any]:
    if isinstance(feedback, str | Set | Mapping | Iterator) or (
        is_vector(feedback) and not isinstance(feedback, list | tuple)
    ):
        return values_of(feedback, "feedback")
    if isinstance(feedback, np.ma.MaskedArray):
        feedback = unmasked(feedback.astype(object))
    values = as_array(feedback, "feedback")
    if values.ndim == 2 and values.shape[1] == 1:
        # In scikit-learn's words and, where it is there, by its name.
        known = sys.modules.get("sklearn.exceptions")
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected. Please change the shape of "
            "y to (n_samples, ), for example using ravel().",
            UserWarning if known is None else known.DataConversionWarning,
            stacklevel=5,
        )
        return values.ravel()
    if values.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {values.shape} instead.")
    return values


def _declared_coding(feedback: Any) -> str | None:
    """Tell what 0 means by the categories of pandas, of which some may not occur."""
    categories = getattr(getattr(feedback, "dtype", None), "categories", None)
    declared = set() if categories is None else set(categories)
    if declared in ({-1, 0, 1}, {-1, 0}, {-1, 1}):
        return "signed"
    return "binary" if declared == {0, 1} else None


def _check_threshold(
    threshold: float | tuple[float, float] | None,
) -> tuple[float, float] | None:
    if threshold is None:
        return None
    pair = threshold if isinstance(threshold, tuple | list) else (threshold, threshold)
    if len(pair) != 2 or not all(map(_is_finite, pair)):
        raise ValueError(
            "positive_threshold must be a finite number or a pair (low, high) of such, got "
            f"{shorten(threshold)}."
        )
    if pair is threshold and not pair[0] < pair[1]:
        raise ValueError(
            f"positive_threshold=(low, high) needs low < high, got {shorten(threshold)}."
        )
    return pair[0], pair[1]


def _is_finite(bound: Any) -> bool:
    try:
        return isinstance(bound, Real) and not isinstance(bound, bool) and isfinite(bound)
    except OverflowError:  # an integer beyond all floats
        return False


def _feedback_numbers(values: NDArray[Any], where: Where) -> NDArray[Any]:
    """Check feedback to be booleans or finite numbers."""
    if values.dtype.kind == "O":
        missing = missing_objects(values)
        if missing is not None and missing.any():
            raise ValueError(
                f"feedback, {where(int(np.argmax(missing)))}: the value is missing (NaN or None)."
            )
        kinds = set(map(kind_of, set(map(type, values))))
        if kinds == {"bool"}:
            return values.astype(bool)
        if kinds <= {"int", "float", "Decimal", "Fraction"}:
            try:
                values = values.astype(np.float64)
            except (OverflowError, ValueError) as error:
                raise ValueError(f"feedback holds a number that is too large: {error}.") from error
        else:
            raise TypeError(
                f"feedback holds {' and '.join(sorted(kinds))}; it must be booleans or numbers."
            )
    if values.dtype.kind not in "biuf":
        raise TypeError(f"feedback has dtype {values.dtype}; it must be booleans or numbers.")
    if values.dtype.kind == "f" and not all_finite(values):
        first = int(np.argmin(np.isfinite(values)))
        raise ValueError(
            f"feedback, {where(first)}: {shorten(values[first].item())} (NaN or infinity) is no "
            "feedback. Drop the row, or mask it."
        )
    return values
