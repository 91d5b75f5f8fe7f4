"""What can be asked of a recommender, as types: for annotations alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from narwhals.stable.v2.typing import IntoDataFrame

__all__ = ["Frame", "Histories", "History", "Ranking", "RecommendOptions"]

#: A frame of pandas, polars or pyarrow; what is given for one is of the same kind.
Frame = TypeVar("Frame", bound="IntoDataFrame")

#: One history: item ids, oldest first. (An array is any: its type says little of its shape.)
History: TypeAlias = Sequence[str] | Sequence[int] | Sequence[UUID] | Sequence[np.generic]

#: One history per user.
Histories: TypeAlias = Sequence[History]

#: Items and their scores, best first.
Ranking: TypeAlias = tuple[NDArray[Any], NDArray[np.float32]]


class RecommendOptions(TypedDict, total=False):
    """The options of :meth:`ContrastiveSeqRecommender.recommend`; a test holds the two equal."""

    feedback: Any
    times: Any
    exclude_seen: bool | int | None
    allowed_items: Any
    denied_items: Any
    pinned_items: Any
    boosts: Mapping[Any, float] | None
    groups: Mapping[Any, Any] | ArrayLike | None
    max_per_group: int | None
    diversity: float
    dislike_aversion: float | None
