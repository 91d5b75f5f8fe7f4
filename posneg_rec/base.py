"""What all estimators that recommend share: how they check, read targets, rank and score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted, validate_data

from posneg_rec.answering import AnsweringMixin
from posneg_rec.columns import columns_of
from posneg_rec.fitted import FittedModel
from posneg_rec.frames import as_frame, is_store, is_table
from posneg_rec.interactions import build_histories, check_table, one_of
from posneg_rec.metrics import recommender_scorer
from posneg_rec.model_selection import find_targets, warn_if_future_leaks
from posneg_rec.ranks import TargetRanks
from posneg_rec.sequences import Histories

__all__ = ["NOT_ROUTED", "BaseRecommender", "Targets", "check_columns_in", "columns_in"]

#: X and y by their names here, no metadata to route.
NOT_ROUTED: dict[str, Any] = {"interactions": UNUSED, "feedback": UNUSED}


class Targets(NamedTuple):
    """Events to be foretold, each from its user's events before."""

    fitted: FittedModel
    histories: Histories
    users: NDArray[np.int64]  # (n_targets,), positions
    stops: NDArray[np.int64]  # (n_targets,), positions of the targets among all events

    def ranks(self, aversions: Sequence[float], **options: Any) -> list[TargetRanks]:
        """Rank them by each of some aversions; `options` as `ranks_by_aversion` takes them."""
        histories, stops = self.histories, self.stops
        ranks = self.fitted.ranks_by_aversion(histories, self.users, stops, aversions, **options)
        return [
            TargetRanks(
                users=histories.users[self.users],
                rows=histories.rows[stops].astype(np.int64),
                signs=histories.signs[stops],
                ranks=of_one,
                n_items=len(self.fitted.items),
            )
            for of_one in ranks
        ]


class BaseRecommender(AnsweringMixin, BaseEstimator):
    """An estimator that holds a fitted model, and answers by it."""

    __metadata_request__fit: ClassVar = NOT_ROUTED
    __metadata_request__score: ClassVar = NOT_ROUTED

    def score(self, interactions: Any, y: Any = None, *, feedback: Any = None) -> float:
        """Return NDCG@10 on liked minus NDCG@10 on disliked last events; greater is better.

        Each user's last row is the target, the rows before it are the history. A model that
        ranks high what users go on to like and low what they go on to dislike scores high; 0 is
        indifference. Over nothing (no user's last event was disliked, say) a mean is 0.

        Parameters
        ----------
        interactions, y, feedback
            As in :meth:`fit`.

        Returns
        -------
        float in [-1, 1]

        Warns
        -----
        FutureLeakWarning
            If targets lie before rows of the same user that this object was trained on.
        """
        return recommender_scorer()(self, interactions, one_of(y, feedback))

    def _targets(self, interactions: Any, feedback: Any, targets: Any) -> Targets:
        """Read rows and find the targets among them; called by methods of users alone."""
        fitted, interactions = self._checked(), as_frame(interactions)
        self._check_columns(interactions)
        events = fitted.read(interactions, feedback, columns_of(self))
        histories = build_histories(events, fitted.vocabulary)
        fitted.check_rows(events.item_ids, histories)
        stops = find_targets(histories, targets, events.n_rows)
        users = np.searchsorted(histories.offsets, stops, side="right") - 1
        # What was trained on is gone from a loaded model.
        warn_if_future_leaks(
            fitted.last_seen,
            histories,
            stops,
            columns_of(self),
            of_each_last=isinstance(targets, str) and targets == "last",
        )
        return Targets(fitted, histories, users, stops)

    def _checked(self) -> FittedModel:
        """Take the fitted model: once a call, so that another fit cannot change it in between."""
        if not self.__sklearn_is_fitted__():  # the check itself is slow where all is well
            check_is_fitted(self)
        return self.fitted_

    def _check_columns(self, interactions: Any) -> None:
        """Check that the columns are those of the fit, in number and name."""
        check_columns_in(type(self).__name__, interactions, self.fitted_.columns_in)

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there are weights to recommend with."""
        return "fitted_" in vars(self)

    def __sklearn_tags__(self) -> Tags:
        """Say that ids may be strings."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.categorical = True
        return tags


def columns_in(interactions: Any) -> dict[str, Any]:
    """Find the number and the names of columns as scikit-learn does; none of what is no table."""
    if not is_table(interactions):
        return {}
    if is_store(interactions):
        names = np.array(interactions.names, dtype=object)
        return {"n_features_in": len(names), "feature_names_in": names}
    check_table(interactions)
    probe = BaseEstimator()
    validate_data(probe, interactions, skip_check_array=True)
    return {name.removesuffix("_"): value for name, value in vars(probe).items()}


def check_columns_in(name: str, interactions: Any, expected: Mapping[str, Any]) -> None:
    """Check that a table's columns are the expected ones, in scikit-learn's words of `name`."""
    if not is_table(interactions) or is_store(interactions):
        return  # the columns of a store were found when it was built
    check_table(interactions)  # to which scikit-learn's errors would be another's
    probe = type(name, (BaseEstimator,), {})()
    for field, value in expected.items():
        if value is not None:
            setattr(probe, f"{field}_", value)
    validate_data(probe, interactions, reset=False, skip_check_array=True)
