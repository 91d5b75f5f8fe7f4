"""What training goes on from beside the weights: averages of gradients and of weights, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Momentum"]

Weights = dict[str, NDArray[np.float32]]

# The parameters with a row for each item, and the number that each step counts by row.
_BY_ITEM = ("item_embedding", "item_taste")


@dataclass(frozen=True, eq=False)
class Momentum:
    """The state of the optimisers and of the average of the weights, after some steps.

    Parameters
    ----------
    model : dict of str to float32 ndarray
        The weights of the latest step, by parameter; a model keeps their average.
    average : dict of str to float32 ndarray
        The average itself; empty where there is none.
    touched : dict of str to float32 ndarray
        Of parameters with sparse gradients, how often each row was averaged.
    moments : dict of str to dict of str to float32 ndarray
        ``exp_avg`` and ``exp_avg_sq`` of the parameters that have met a gradient.
    steps : dict of str to float
        How many steps these have taken.
    average_steps : int
        How many steps were averaged.
    """

    model: Weights
    average: Weights
    touched: Weights
    moments: Mapping[str, Weights]
    steps: Mapping[str, float]
    average_steps: int

    def grown(self, weights: Weights) -> Momentum:
        """Let items join with the vectors that they have in `weights`, and no moments."""

        def started(arrays: Weights) -> Weights:
            return {
                name: np.concatenate([value, weights[name][len(value) :]])
                if name in _BY_ITEM
                else value
                for name, value in arrays.items()
            }

        def blank(value: NDArray[np.float32], name: str) -> NDArray[np.float32]:
            n_joined = len(weights[name]) - len(value)
            return np.pad(value, [(0, n_joined)] + [(0, 0)] * (value.ndim - 1))

        return self._changed(started, blank)

    def without(self, kept: NDArray[np.bool_]) -> Momentum:
        """Leave out the items that are not `kept`, a bool array of shape (n_items,)."""

        def taken(arrays: Weights) -> Weights:
            return {
                name: value[kept] if name in _BY_ITEM else value for name, value in arrays.items()
            }

        return self._changed(taken, lambda value, name: value[kept])

    def _changed(
        self,
        weights: Callable[[Weights], Weights],
        rows: Callable[[NDArray[np.float32], str], NDArray[np.float32]],
    ) -> Momentum:
        def by_item(arrays: Weights, name: str) -> Weights:
            if name not in _BY_ITEM:
                return arrays
            return {key: rows(value, name) for key, value in arrays.items()}

        return Momentum(
            weights(self.model),
            weights(self.average),
            {name: rows(value, name) for name, value in self.touched.items()},
            {name: by_item(arrays, name) for name, arrays in self.moments.items()},
            self.steps,
            self.average_steps,
        )
