"""The evaluation protocol of "Benefiting from Negative yet Informative Feedback" (RecSys 2025).

Ivanova, Frolov and Vasilev (arXiv 2508.14786) split MovieLens by time and by user. The paper ranks
one target per test user, the last event (``Part.last``); with a few hundred users that leaves
intervals too wide to tell models apart. ``Part.successive`` makes every held-out event a target,
predicted from all events before it: it is where a claim can be made.

Two more splits stand beside it. ``user_split`` holds out users, for data too small or too long for
a cut in time; ``last_out_split`` holds out each user's last event, as most figures for reviews of
Amazon are made.

The other examples import this module. Run by itself, it prints what the split of a file holds::

    python examples/paper_protocol.py ml-1m.parquet --threshold 4
"""

import argparse
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold, train_test_split

from posneg_rec import RareItemMasker
from posneg_rec.model_selection import LeaveLastOutSplit, TemporalSplit
from posneg_rec.sequences import preview

COLUMNS = ["user", "item", "time"]
N_FOLDS = 5  # of users
# Of a file of ratings: each column's name, and the other one that it may have.
FILE_COLUMNS = {"user": "user_id", "item": "item_id", "rating": "rating", "time": "timestamp"}


class Part(NamedTuple):
    """Rows of some users in order of user and time, and which of them are targets."""

    interactions: pd.DataFrame  # user, item, time; with the history before the cut
    feedback: np.ndarray
    last: np.ndarray  # bool, each user's last row
    successive: np.ndarray  # bool, each held-out row


class Split(NamedTuple):
    """Training rows, and rows of test users; of a cut in time two disjoint halves of the users."""

    train: tuple[pd.DataFrame, np.ndarray]
    validation: Part | None
    test: Part
    counts: dict[str, int]  # of all that is split, and of all users held out


def paper_split(
    interactions: pd.DataFrame,
    feedback: pd.Series | np.ndarray,
    *,
    positive_threshold: float = 4,
    swap_halves: bool = False,
) -> Split:
    """Split as the paper does.

    Parameters
    ----------
    interactions : DataFrame
        User, item and time in the first three columns, in this order. Rows of one user at one
        time must be in the order in which they happened.
    feedback : array-like of shape (n_rows,)
        Rating of each row.
    positive_threshold : float, default=4
        A rating from here on is liked.
    swap_halves : bool, default=False
        Exchange the users of validation and test: both results together cover all users.
    """
    table = _in_order(interactions, feedback)
    liked = table["rating"] >= positive_threshold

    masker = RareItemMasker(min_users_per_item=5, min_items_per_user=5)
    frequent = masker.fit_transform(table[COLUMNS])
    train, test = next(TemporalSplit(quantile=0.9).split(frequent))
    train, held_out = table.iloc[train], table.iloc[np.setdiff1d(test, train)]
    counts = {
        "rows": len(train) + len(held_out),
        "items": len(masker.items_),
        "train_users": train["user"].nunique(),
    }
    held_out = held_out[held_out["user"].isin(train["user"]) & held_out["item"].isin(train["item"])]
    counts["held_out_users"] = held_out["user"].nunique()
    halves = train_test_split(held_out["user"].unique(), test_size=0.5, random_state=42)
    if swap_halves:
        halves = halves[::-1]

    # A user dropped from training has no history to rank from: dropped from both halves, too.
    train = _with_two_likes(train, liked)
    validation, test = (
        _with_two_likes(held_out[held_out["user"].isin(half)], liked) for half in halves
    )
    last = validation.groupby("user").tail(1)
    validation = validation[validation["user"].isin(last["user"][liked[last.index]])]
    return Split(
        _rows(train),
        _with_history(train, validation),
        _with_history(train, test),
        counts,
    )


def user_split(interactions: pd.DataFrame, feedback: pd.Series | np.ndarray, *, fold: int) -> Split:
    """Hold out one of five folds of users.

    Nothing of a test user is trained on. The later half of the user's events (of an odd number the
    smaller half) are the targets, each predicted from all events before it; nothing is filtered,
    and an item that no other user met cannot be found by any model.

    Parameters
    ----------
    interactions, feedback
        As in :func:`paper_split`.
    fold : int
        From 0 to 4; each user is in exactly one.
    """
    table = _in_order(interactions, feedback)
    users = table["user"].unique()
    _, test = list(KFold(N_FOLDS, shuffle=True, random_state=42).split(users))[fold]
    is_test = table["user"].isin(users[test])
    train, test = table[~is_test], table[is_test]
    by_user = test.groupby("user")["item"]
    n_events = by_user.transform("size")
    later = by_user.cumcount(ascending=False) < n_events // 2
    test, later = test[n_events > 1], later[n_events > 1]
    return Split(_rows(train), None, _part(test, later.to_numpy()), _counts(table, train, test))


def last_out_split(
    interactions: pd.DataFrame, feedback: pd.Series | np.ndarray, *, validation: bool = False
) -> Split:
    """Hold out each user's last event, and train on all others; nothing is filtered.

    Training events of other users may lie after a target: comparable with what is published, not
    with what a recommender meets.

    Parameters
    ----------
    interactions, feedback
        As in :func:`paper_split`.
    validation : bool, default=False
        Leave the last events away altogether and hold out the second last ones, for choices that
        must not touch the others.
    """
    table = _in_order(interactions, feedback)
    if validation:
        table = table[table.duplicated("user", keep="last")].reset_index(drop=True)
    train, test = next(LeaveLastOutSplit().split(table[COLUMNS]))
    is_held = ~np.isin(test, train)
    train, test = table.iloc[train], table.iloc[test]
    return Split(_rows(train), None, _part(test, is_held), _counts(table, train, test))


def read_ratings(path: str) -> pd.DataFrame:
    """Read the columns user, item, rating and time of a .csv or .parquet file, and no others.

    A script that lacks one ends with a sentence that says so.
    """
    table = pd.read_parquet(path) if path.endswith(".parquet") else pd.read_csv(path)
    found = {name: name if name in table.columns else other for name, other in FILE_COLUMNS.items()}
    missing = [name for name, column in found.items() if column not in table.columns]
    if missing:
        raise SystemExit(
            f"{path} has the columns {preview(table.columns, 10)}: no {', '.join(missing)}. "
            f"Wanted are {', '.join(FILE_COLUMNS)}, or {', '.join(FILE_COLUMNS.values())}."
        )
    return table[list(found.values())].set_axis(list(found), axis=1)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Split a file of ratings as the paper does.")
    parser.add_argument("data", metavar="FILE", help="ratings, .csv or .parquet")
    parser.add_argument("--threshold", type=float, default=4, help="a rating from here is a like")
    args = parser.parse_args(arguments)
    table = read_ratings(args.data)
    split = paper_split(table[COLUMNS], table["rating"], positive_threshold=args.threshold)
    print(
        f"{split.counts['rows']:,} events of {split.counts['items']:,} items after the frequency "
        f"filter; {split.counts['train_users']:,} users before the cut, "
        f"{split.counts['held_out_users']:,} after it"
    )
    print(f"train: {len(split.train[0]):,} events")
    for name in ("validation", "test"):
        part = getattr(split, name)
        liked = part.feedback >= args.threshold
        last, successive = (
            f"{np.count_nonzero(liked & rows):,} liked and {np.count_nonzero(~liked & rows):,} "
            "disliked"
            for rows in (part.last, part.successive)
        )
        print(
            f"{name}: {part.interactions['user'].nunique():,} users; of their last events {last}, "
            f"of all held-out events {successive}"
        )


def _in_order(interactions: pd.DataFrame, feedback: pd.Series | np.ndarray) -> pd.DataFrame:
    table = interactions.iloc[:, :3].set_axis(COLUMNS, axis=1)
    table = table.assign(rating=np.asarray(feedback))
    return table.sort_values(["user", "time"], kind="stable", ignore_index=True)


def _rows(table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    return table[COLUMNS], table["rating"].to_numpy()


def _part(rows: pd.DataFrame, targets: np.ndarray) -> Part:
    return Part(*_rows(rows), ~rows.duplicated("user", keep="last").to_numpy(), targets)


def _counts(table: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame) -> dict[str, int]:
    return {
        "rows": len(table),
        "items": table["item"].nunique(),
        "train_users": train["user"].nunique(),
        "held_out_users": test["user"].nunique(),
    }


def _with_two_likes(table: pd.DataFrame, liked: pd.Series) -> pd.DataFrame:
    n_liked = liked[table.index].groupby(table["user"]).sum()
    return table[table["user"].isin(n_liked.index[n_liked >= 2])]


def _with_history(train: pd.DataFrame, held_out: pd.DataFrame) -> Part:
    held_out = held_out[held_out["user"].isin(train["user"])]
    history = train[train["user"].isin(held_out["user"])]
    rows = pd.concat([history, held_out]).sort_index()  # the index is in order of user and time
    return _part(rows, rows.index.isin(held_out.index))


if __name__ == "__main__":
    main()
