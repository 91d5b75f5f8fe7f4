"""Data to try the recommender on: a synthetic world with a known answer, and MovieLens."""

import hashlib
import http.client
import os
import time
import warnings
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from io import TextIOWrapper
from numbers import Integral, Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, NamedTuple
from urllib.error import ContentTooShortError, URLError
from urllib.request import urlopen

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.datasets import get_data_home
from sklearn.utils import Bunch, check_random_state

from posneg_rec._sklearn import Interval, StrOptions, validate_params
from posneg_rec.progress import ShareProgress

__all__ = ["OpposingPatterns", "fetch_movielens", "make_opposing_patterns"]


def _bunch(
    interactions: NDArray[np.int64],
    feedback: NDArray[Any],
    columns: list[str],
    feedback_name: str,
    as_frame: bool,
    **rest: Any,
) -> Bunch:
    """Put a data set in the shape both makers return."""
    frame = None
    if as_frame:
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                "as_frame=True returns pandas objects and pandas is not installed: install it, "
                "or pass as_frame=False."
            ) from error
        frame = pd.DataFrame(interactions, columns=columns).assign(**{feedback_name: feedback})
        return Bunch(
            interactions=frame[columns],
            feedback=frame[feedback_name],
            frame=frame,
            feature_names=columns,
            **rest,
        )
    return Bunch(
        interactions=interactions, feedback=feedback, frame=None, feature_names=columns, **rest
    )


# A synthetic world --------------------------------------------------------------------------

_OPPOSING_PATTERNS_DESCR = """\
Users walk through groups of items, each a cycle of steps, and like or dislike what they are
offered. Of each pair of opposing groups a user likes one side and dislikes the other; everybody
likes the neutral group. See posneg_rec.datasets.make_opposing_patterns for the rules, and
`truth` for the exact probabilities they give."""


@dataclass(frozen=True, eq=False)
class OpposingPatterns:
    """The rules of a world made by :func:`make_opposing_patterns`, and so its right answers.

    Parameters
    ----------
    item_group : ndarray of shape (n_items,), dtype int64
        Each item's group: 0 is neutral, ``2 * p + 1`` and ``2 * p + 2`` are the two sides of
        pair ``p``.
    item_step : ndarray of shape (n_items,), dtype int64
        Each item's place in the cycle of its group.
    neutral_share, focus, majority : float
        As in :func:`make_opposing_patterns`.
    informative_dislikes : bool
        As in :func:`make_opposing_patterns`.
    """

    item_group: NDArray[np.int64]
    item_step: NDArray[np.int64]
    neutral_share: float
    focus: float
    majority: float
    informative_dislikes: bool

    def next_item_probabilities(
        self, history: ArrayLike, feedback: ArrayLike | None = None, *, sign: Literal[-1, 1] = 1
    ) -> NDArray[np.float64]:
        """Give the exact distribution of a user's next event, were it a like (or a dislike).

        Parameters
        ----------
        history : array-like of shape (n_events,)
            The user's items, oldest first; may be empty.
        feedback : array-like of shape (n_events,), default=None
            1 for a liked and -1 for a disliked item. None: all liked, which is also how to ask
            what could be known from the liked items alone.
        sign : {1, -1}, default=1
            1: the item, if the next event is a like; -1: if it is a dislike.

        Returns
        -------
        probabilities : ndarray of shape (n_items,), dtype float64
            They sum to one; items of the history have probability zero. All are zero where no
            such event can follow: each pair has a side of which all items were met.

        Raises
        ------
        ValueError
            If the history cannot happen in this world, as when both sides of a pair are liked.

        Examples
        --------
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=10, random_state=0)
        >>> probabilities = world.truth.next_item_probabilities([3])
        >>> probabilities.shape
        (80,)
        >>> likely = probabilities.argmax()
        >>> bool(world.truth.item_step[likely] == world.truth.item_step[3] + 1)
        True
        """
        items = np.asarray(history, dtype=np.int64)
        signs = np.ones(len(items)) if feedback is None else np.asarray(feedback)
        n_groups = int(self.item_group.max()) + 1
        seen = np.zeros((n_groups, len(self.item_group) // n_groups), dtype=bool)
        seen[self.item_group[items], self.item_step[items]] = True
        if sign < 0 and not self.informative_dislikes:
            joint = 1.0 - seen
        else:
            slots = _slot_probabilities(seen[None], self.neutral_share)[0]
            taste = self._taste_posterior(self.item_group[items], signs)
            sides = taste if sign > 0 else taste[:, ::-1]
            by_group = np.append(slots[0] * (sign > 0), slots[1:, None] / 2 * sides)
            liked = items[signs > 0]
            last_step = self.item_step[liked[-1]] if len(liked) else -1
            by_step = _step_probabilities(np.full(n_groups, last_step), seen, self.focus)
            joint = by_group[:, None] * by_step
        return (joint / (joint.sum() or 1.0))[self.item_group, self.item_step]

    def best_ranking(
        self, history: ArrayLike, feedback: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Rank the unseen items as well as any recommender could.

        Items are sorted by their probability under a next like less that under a next dislike,
        which makes the expected difference between a metric on likes and the same metric on
        dislikes as large as it can be, for every metric that falls with the rank.

        Parameters
        ----------
        history : array-like of shape (n_events,)
            The user's items, oldest first; may be empty.
        feedback : array-like of shape (n_events,), default=None
            1 for a liked and -1 for a disliked item. None: all liked.

        Returns
        -------
        items : ndarray of shape (n_unseen_items,), dtype int64
            Best first, ties by item id.

        Examples
        --------
        >>> from posneg_rec.datasets import make_opposing_patterns
        >>> world = make_opposing_patterns(n_users=10, random_state=0)
        >>> ranking = world.truth.best_ranking([3])
        >>> len(ranking), 3 in ranking
        (79, False)
        """
        gain = self.next_item_probabilities(history, feedback) - self.next_item_probabilities(
            history, feedback, sign=-1
        )
        ranking = np.argsort(-gain, kind="stable")
        return ranking[~np.isin(ranking, np.asarray(history, dtype=np.int64))]

    def _taste_posterior(
        self, groups: NDArray[np.int64], signs: NDArray[Any]
    ) -> NDArray[np.float64]:
        """Probabilities (n_pairs, 2) of each side of each pair to be the one the user likes."""
        telling: NDArray[np.bool_] = (groups > 0) & (self.informative_dislikes | (signs > 0))
        pair, side = np.divmod(groups[telling] - 1, 2)
        ruled_out = np.zeros((int(self.item_group.max()) // 2, 2), dtype=bool)
        ruled_out[pair, np.where(signs[telling] > 0, 1 - side, side)] = True
        if ruled_out.all(axis=1).any():
            raise ValueError(
                "This history cannot happen here: of one pair of opposing groups a user likes "
                "only items of one side, and dislikes only items of the other."
            )
        weights = np.where(ruled_out, 0.0, [self.majority, 1 - self.majority])
        return weights / weights.sum(axis=1, keepdims=True)


def _slot_probabilities(seen: NDArray[np.bool_], neutral_share: float) -> NDArray[np.float64]:
    """Probabilities (n, 1 + n_pairs) that the next event is neutral, or of each pair.

    A pair closes with its first used-up side: if only that side closed, what is offered would
    depend on the user's taste, and the truth could no longer be read off the history.
    """
    used_up: NDArray[np.bool_] = np.all(seen, axis=2)
    closed = np.column_stack([used_up[:, 0], used_up[:, 1::2] | used_up[:, 2::2]])
    n_pairs = closed.shape[1] - 1
    weights = np.append(neutral_share, np.full(n_pairs, (1 - neutral_share) / n_pairs))
    open_weights = np.where(closed, 0.0, weights)
    totals = open_weights.sum(axis=1, keepdims=True)
    return np.divide(open_weights, totals, out=np.zeros_like(open_weights), where=totals > 0)


def _step_probabilities(
    last_step: NDArray[np.int64], seen: NDArray[np.bool_], focus: float
) -> NDArray[np.float64]:
    """Probabilities (n, group_size) of the next step, given the last liked one (-1: none yet)."""
    group_size = seen.shape[1]
    weights = np.full(seen.shape, (1 - focus) / (group_size - 1))
    weights[np.arange(len(seen)), (last_step + 1) % group_size] = focus
    weights[last_step < 0] = 1.0
    weights[seen] = 0.0
    totals = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)


def _draw(weights: NDArray[Any], rng: np.random.RandomState) -> NDArray[np.int64]:
    """Draw one column index from each row of weights."""
    edges = np.cumsum(weights, axis=1)
    return (rng.uniform(size=(len(edges), 1)) * edges[:, -1:] >= edges).sum(axis=1)


@validate_params(
    {
        "n_users": [Interval(Integral, 1, None, closed="left")],
        "n_pairs": [Interval(Integral, 1, None, closed="left")],
        "group_size": [Interval(Integral, 2, None, closed="left")],
        "min_events": [Interval(Integral, 1, None, closed="left")],
        "max_events": [Interval(Integral, 1, None, closed="left")],
        "neutral_share": [Interval(Real, 0, 1, closed="neither")],
        "focus": [Interval(Real, 0, 1, closed="neither")],
        "majority": [Interval(Real, 0, 1, closed="neither")],
        "informative_dislikes": ["boolean"],
        "as_frame": ["boolean"],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_opposing_patterns(
    n_users: int = 300,
    *,
    n_pairs: int = 2,
    group_size: int = 16,
    min_events: int = 15,
    max_events: int = 30,
    neutral_share: float = 0.4,
    focus: float = 0.9,
    majority: float = 0.7,
    informative_dislikes: bool = True,
    as_frame: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make a world where dislikes tell what to recommend, and the best ranking is known.

    The items form one neutral group and `n_pairs` pairs of opposing groups, each a cycle of
    `group_size` steps. A user has one hidden taste per pair: one side is liked, the other
    disliked. Every event is made like this:

    1. The event is neutral with probability `neutral_share`, else each pair is as likely.
    2. A neutral event is a like. An event of a pair is, with equal chance, a like of the user's
       own side or a dislike of the opposing side: as if both sides were offered alike.
    3. The step is the one after the user's last liked item with probability `focus` (the first
       of all is random), else one of the other steps. It is the same for likes and dislikes.
    4. No item comes twice to a user: seen items have probability zero. A pair with a used-up
       side, like a used-up neutral group, comes no more.

    So the last liked item tells where a user stands in the cycle. Likes tell the taste too, but
    with the dislikes it shows twice as fast, and only dislikes tell a side to keep away from
    from one that nobody was offered. Whoever ignores the signs recommends what gets disliked.

    Parameters
    ----------
    n_users : int, default=300
        Number of users. The default lets a small model learn the world in seconds.
    n_pairs : int, default=2
        Number of pairs of opposing groups. There are ``(2 * n_pairs + 1) * group_size`` items.
    group_size : int, default=16
        Number of items in each group.
    min_events, max_events : int, default=15, 30
        The number of events of each user is uniform between the two, both included.
    neutral_share : float, default=0.4
        Share of neutral events. The larger it is, the less the likes alone tell.
    focus : float, default=0.9
        Probability of the step after the last liked item.
    majority : float, default=0.7
        Share of users who like the first side of a pair. At 0.5 no group is more popular than
        its opponent.
    informative_dislikes : bool, default=True
        If False, a disliked item is drawn at random from all unseen items and tells nothing of
        the user's taste: the control, in which no use of dislikes can help.
    as_frame : bool, default=False
        Return pandas objects instead of arrays.
    random_state : int, RandomState instance or None, default=None
        Determines all random choices. Pass an int for the same world on every call.

    Returns
    -------
    world : :class:`~sklearn.utils.Bunch`
        With the attributes

        interactions : ndarray of shape (n_events, 3), dtype int64, or DataFrame
            Columns user, item and time (0, 1, ... within a user), sorted by user and time. Item
            ids are shuffled: they tell neither group nor step.
        feedback : ndarray of shape (n_events,), dtype int64, or Series
            1 for a like, -1 for a dislike.
        taste : ndarray of shape (n_users, n_pairs), dtype int64
            The side (0 or 1) each user likes.
        truth : OpposingPatterns
            Gives the true probabilities and the best ranking after any history.
        frame : DataFrame or None
            Interactions and feedback side by side, if ``as_frame=True``.
        feature_names : list of str
            The names of the columns of `interactions`.
        DESCR : str
            A description.

    Raises
    ------
    ValueError
        If `max_events` is smaller than `min_events`, or so large that a user may have nothing
        left to see.

    Examples
    --------
    >>> from posneg_rec.datasets import make_opposing_patterns
    >>> world = make_opposing_patterns(n_users=100, random_state=0)
    >>> world.interactions[:4]
    array([[ 0,  2,  0],
           [ 0, 72,  1],
           [ 0, 52,  2],
           [ 0, 44,  3]])
    >>> world.feedback[:4]
    array([ 1,  1,  1, -1])

    What should this user be recommended next, and from which groups is it?

    >>> best = world.truth.best_ranking([2, 72, 52, 44], [1, 1, 1, -1])[:2]
    >>> best, world.truth.item_group[best]
    (array([34, 13]), array([0, 3]))

    The neutral item of the next step, then that of group 3: item 44, the dislike, is of its
    opponent, group 4.
    """
    if not min_events <= max_events <= (n_pairs + 1) * group_size:
        raise ValueError(
            f"max_events={max_events} must be at least min_events={min_events} and at most "
            f"(n_pairs + 1) * group_size = {(n_pairs + 1) * group_size}: after more events a "
            "user may have nothing left to see."
        )
    # None draws from the system: the global state is nobody's to change.
    rng = check_random_state(np.random.RandomState() if random_state is None else random_state)
    n_groups = 2 * n_pairs + 1
    # Shuffled, so that ties broken by item id favour no group.
    item_at = rng.permutation(n_groups * group_size).reshape(n_groups, group_size)
    item_group, item_step = np.divmod(np.argsort(item_at, axis=None), group_size)
    taste = (rng.uniform(size=(n_users, n_pairs)) >= majority).astype(np.int64)
    n_events = rng.randint(min_events, max_events + 1, size=n_users)

    user = np.arange(n_users)
    seen = np.zeros((n_users, n_groups, group_size), dtype=bool)
    last_step = np.full(n_users, -1)
    items = np.empty((n_users, max_events), dtype=np.int64)
    signs = np.empty((n_users, max_events), dtype=np.int64)
    for event in range(max_events):
        slot = _draw(_slot_probabilities(seen, neutral_share), rng)
        liked = (slot == 0) | (rng.uniform(size=n_users) < 0.5)
        own_side = taste[user, slot - 1]
        group = np.where(slot == 0, 0, 2 * slot - 1 + np.where(liked, own_side, 1 - own_side))
        step = _draw(_step_probabilities(last_step, seen[user, group], focus), rng)
        if not informative_dislikes:
            anything = np.divmod(_draw(~seen.reshape(n_users, -1), rng), group_size)
            group, step = np.where(liked, (group, step), anything)
        items[:, event] = item_at[group, step]
        signs[:, event] = np.where(liked, 1, -1)
        seen[user, group, step] = True
        last_step = np.where(liked, step, last_step)

    users, times = np.nonzero(np.arange(max_events) < n_events[:, None])
    return _bunch(
        np.column_stack([users, items[users, times], times]),
        signs[users, times],
        ["user", "item", "time"],
        "feedback",
        as_frame,
        taste=taste,
        truth=OpposingPatterns(
            item_group, item_step, neutral_share, focus, majority, informative_dislikes
        ),
        DESCR=_OPPOSING_PATTERNS_DESCR,
    )


# MovieLens ----------------------------------------------------------------------------------


class _Archive(NamedTuple):
    sha256: str
    member: str
    delimiter: str
    n_header_lines: int


_BASE_URL = "https://files.grouplens.org/datasets/movielens/"
_ARCHIVES = {
    "100k": _Archive(
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        "ml-100k/u.data",
        "\t",
        0,
    ),
    "1m": _Archive(
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        "ml-1m/ratings.dat",
        "::",
        0,
    ),
    "20m": _Archive(
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
        "ml-20m/ratings.csv",
        ",",
        1,
    ),
}
_MOVIELENS_COLUMNS = ["user_id", "item_id", "timestamp"]
_MOVIELENS_DESCR = """\
MovieLens {variant}: ratings of films by volunteers, {n_rows:,} of them, collected by GroupLens at
the University of Minnesota. Ratings are stars, times are seconds since 1970. GroupLens allows
research use, with citation and without redistribution:

F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM
Transactions on Interactive Intelligent Systems 5, 4, Article 19. doi:10.1145/2827872

Read from {source}."""


@validate_params(
    {
        "variant": [StrOptions(set(_ARCHIVES))],
        "data_home": [str, os.PathLike, None],
        "download_if_missing": ["boolean"],
        "as_frame": ["boolean"],
        "n_retries": [Interval(Integral, 0, None, closed="left")],
        "delay": [Interval(Real, 0.0, None, closed="left")],
        "verbose": ["verbose"],
    },
    prefer_skip_nested_validation=True,
)
def fetch_movielens(
    variant: Literal["100k", "1m", "20m"] = "100k",
    *,
    data_home: str | os.PathLike[str] | None = None,
    download_if_missing: bool = True,
    as_frame: bool = False,
    n_retries: int = 3,
    delay: float = 1.0,
    verbose: int = 1,
) -> Bunch:
    """Load a MovieLens data set, downloading it if need be.

    The first of these that exists is read: the file ``ml-{variant}.parquet`` (columns user_id,
    item_id, rating, timestamp) in the folder that the environment variable ``POSNEG_REC_DATA``
    names; the copy that an earlier call kept in `data_home`; the archive at GroupLens, whose
    SHA-256 is checked. Rows come in the order of the file.

    ===========  ==========  =======  ======  ================
    variant      ratings     users    items   stars
    ===========  ==========  =======  ======  ================
    100k         100,000     943      1,682   1, 2, ... 5
    1m           1,000,209   6,040    3,706   1, 2, ... 5
    20m          20,000,263  138,493  26,744  0.5, 1, ... 5
    ===========  ==========  =======  ======  ================

    Parameters
    ----------
    variant : {"100k", "1m", "20m"}, default="100k"
        Which of the sets to load.
    data_home : str or path-like, default=None
        Folder for downloads, in which a folder ``posneg_rec`` is made. None is scikit-learn's
        own, ``~/scikit_learn_data`` unless ``SCIKIT_LEARN_DATA`` names another.
    download_if_missing : bool, default=True
        If False, raise an OSError rather than use the network.
    as_frame : bool, default=False
        Return pandas objects instead of arrays.
    n_retries : int, default=3
        How often a failed download is tried again.
    delay : float, default=1.0
        Seconds between tries.
    verbose : int, default=1
        1 shows how far a download is that takes longer than a second: one line that is updated in
        a terminal and a notebook, a line every ten seconds on stderr in a log. 2 writes lines
        everywhere. 0 is silent, but that a long one says once, by the logger "posneg_rec", that
        it runs.

    Returns
    -------
    ratings : :class:`~sklearn.utils.Bunch`
        With the attributes

        interactions : ndarray of shape (n_ratings, 3), dtype int64, or DataFrame
            Columns user_id, item_id and timestamp.
        feedback : ndarray of shape (n_ratings,), dtype float64, or Series
            The rating in stars. Pass the recommender ``positive_threshold=4`` with it.
        frame : DataFrame or None
            Interactions and feedback side by side, if ``as_frame=True``.
        feature_names : list of str
            The names of the columns of `interactions`.
        DESCR : str
            A description with source, licence and citation.

    Raises
    ------
    OSError
        If the data is missing and `download_if_missing` is False, the download fails for good,
        or what arrives has another checksum. No partial file is left behind.

    Notes
    -----
    Only the copy that is kept is opened on later calls; it holds plain arrays and no pickle.

    References
    ----------
    F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context.
    ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19.
    https://doi.org/10.1145/2827872

    Examples
    --------
    >>> from posneg_rec.datasets import fetch_movielens
    >>> ratings = fetch_movielens("100k")  # doctest: +SKIP
    >>> ratings.interactions.shape, ratings.feedback[:3]  # doctest: +SKIP
    ((100000, 3), array([3., 3., 1.]))
    """
    source = _local_parquet(variant)
    if source:
        interactions, feedback = _read_parquet(source)
    else:
        source = Path(get_data_home(data_home), "posneg_rec", f"ml-{variant}.npz")
        if not source.exists():
            if not download_if_missing:
                raise OSError(f"{source} does not exist and download_if_missing is False.")
            _download_and_keep(variant, source, n_retries=n_retries, delay=delay, verbose=verbose)
        with np.load(source) as arrays:
            interactions, feedback = arrays["interactions"], arrays["feedback"]
    descr = _MOVIELENS_DESCR.format(variant=variant, n_rows=len(feedback), source=source)
    return _bunch(interactions, feedback, _MOVIELENS_COLUMNS, "rating", as_frame, DESCR=descr)


def _local_parquet(variant: str) -> Path | None:
    folder = os.environ.get("POSNEG_REC_DATA")
    path = Path(folder or "", f"ml-{variant}.parquet")
    return path if folder and path.exists() else None


def _read_parquet(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    backend: Literal["pyarrow", "polars"]
    if find_spec("pyarrow"):
        backend = "pyarrow"
    elif find_spec("polars"):
        backend = "polars"
    else:
        raise ImportError(
            f"Reading {path} takes pyarrow or polars: install one of them, or unset "
            "POSNEG_REC_DATA to download the data instead."
        )
    frame = nw.read_parquet(path, backend=backend, columns=[*_MOVIELENS_COLUMNS, "rating"])
    interactions = [frame[name].to_numpy().astype(np.int64) for name in _MOVIELENS_COLUMNS]
    return np.column_stack(interactions), frame["rating"].to_numpy().astype(np.float64)


def _download_and_keep(
    variant: str, kept: Path, *, n_retries: int, delay: float, verbose: int
) -> None:
    """Download and parse an archive; `kept` appears whole or not at all."""
    archive = _ARCHIVES[variant]
    url = f"{_BASE_URL}ml-{variant}.zip"
    kept.parent.mkdir(parents=True, exist_ok=True)
    # Beside the kept file: a rename is atomic only within one file system.
    with TemporaryDirectory(dir=kept.parent, prefix=f"{kept.name}.part_") as scratch:
        archive_path = Path(scratch, "archive.zip")
        sha256 = _download(url, archive_path, n_retries=n_retries, delay=delay, verbose=verbose)
        if sha256 != archive.sha256:
            raise OSError(
                f"What {url} sends has the SHA-256 {sha256} where {archive.sha256} is expected: "
                "the file has changed, or something on the way changes it. Nothing was kept."
            )
        interactions, feedback = _parse_archive(archive_path, archive)
        parsed_path = Path(scratch, kept.name)
        np.savez_compressed(parsed_path, interactions=interactions, feedback=feedback)
        os.replace(parsed_path, kept)


def _parse_archive(path: Path, archive: _Archive) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    columns = [("user", np.int64), ("item", np.int64), ("rating", float), ("time", np.int64)]
    with zipfile.ZipFile(path) as file, file.open(archive.member) as member:
        # loadtxt takes one-character delimiters only, and one set writes "::".
        lines = (line.replace(archive.delimiter, " ") for line in TextIOWrapper(member, "ascii"))
        table = np.loadtxt(lines, dtype=columns, skiprows=archive.n_header_lines, ndmin=1)
    return np.column_stack([table["user"], table["item"], table["time"]]), table["rating"]


def _download(url: str, path: Path, *, n_retries: int, delay: float, verbose: int) -> str:
    """Download to path, trying again on failure, and return the SHA-256 of what came."""
    while True:
        try:
            return _download_once(url, path, verbose)
        except (URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            if n_retries == 0:
                raise OSError(
                    f"Downloading {url} failed ({error}). Without a network, copy the data home "
                    "of a machine where this call worked, and pass it as data_home."
                ) from error
            warnings.warn(f"Downloading {url} failed ({error}), trying again.", stacklevel=2)
            n_retries -= 1
            time.sleep(delay)


def _download_once(url: str, path: Path, verbose: int) -> str:
    digest = hashlib.sha256()
    n_done = 0
    progress = ShareProgress(f"Downloading {url}", verbose)
    with progress, urlopen(url, timeout=30) as response, path.open("wb") as file:
        n_total = int(response.headers.get("Content-Length", 0))
        while chunk := response.read(1 << 18):
            file.write(chunk)
            digest.update(chunk)
            n_done += len(chunk)
            progress.show(min(n_done / n_total, 1) if n_total else None, f"{n_done / 1e6:.1f} MB")
    # A connection that breaks off looks like the end of the file.
    if n_done < n_total:
        raise ContentTooShortError(f"{n_done:,} of {n_total:,} bytes came", b"")  # type: ignore[arg-type]
    return digest.hexdigest()
