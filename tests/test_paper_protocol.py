"""The check figures of the paper's split of MovieLens-1M."""

import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import paper_protocol
from paper_protocol import COLUMNS, last_out_split, paper_split, read_ratings, user_split

DATA = os.environ.get("POSNEG_REC_DATA")
needs_data = pytest.mark.skipif(
    DATA is None, reason="POSNEG_REC_DATA does not name the folder with ml-1m.parquet"
)


@pytest.fixture(scope="module")
def movielens():
    columns = ["user_id", "item_id", "timestamp", "rating"]
    table = pd.read_parquet(Path(DATA) / "ml-1m.parquet", columns=columns)
    return table.drop(columns="rating"), table["rating"]


@pytest.fixture(scope="module")
def split(movielens):
    return paper_split(*movielens)


def n_targets(part, targets):
    liked = part.feedback >= 4
    return np.count_nonzero(liked & targets), np.count_nonzero(~liked & targets)


@needs_data
def test_check_figures(split):
    assert split.counts == {
        "rows": 999_611,
        "items": 3_416,
        "train_users": 6_011,
        "held_out_users": 1_179,
    }
    assert n_targets(split.test, split.test.last) == (310, 244)
    assert n_targets(split.test, split.test.successive) == (27_344, 22_980)
    assert n_targets(split.validation, split.validation.last) == (312, 0)


@needs_data
def test_every_target_is_after_the_training_rows_and_has_a_history(split):
    interactions, feedback = split.train
    cut = interactions["time"].max()
    assert len(interactions) == len(feedback)
    for part in (split.validation, split.test):
        assert (part.interactions["time"][part.successive] > cut).all()
        assert (part.interactions["time"][~part.successive] <= cut).all()
        assert part.successive[part.last].all()
        # History: exactly what these users did in the training rows.
        mine = interactions[interactions["user"].isin(part.interactions["user"])]
        pd.testing.assert_frame_equal(part.interactions[~part.successive], mine)
        assert set(mine["user"]) == set(part.interactions["user"])
        assert part.last.sum() == part.interactions["user"].nunique()
    users = [set(part.interactions["user"]) for part in (split.validation, split.test)]
    assert not users[0] & users[1]


@needs_data
def test_swapped_halves_test_the_other_users(movielens, split):
    swapped = paper_split(*movielens, swap_halves=True)
    assert n_targets(swapped.test, swapped.test.last) == (312, 225)
    assert set(split.validation.interactions["user"]) <= set(swapped.test.interactions["user"])
    assert not set(split.test.interactions["user"]) & set(swapped.test.interactions["user"])


@pytest.fixture
def world():
    """Interactions and ratings of 40 users; ten have rows after everybody else's."""
    users, items = np.repeat(np.arange(100, 140), 10), np.tile(np.arange(10), 40)
    ratings = np.where(items % 2 == 0, 5, 2)
    # Ten users have four rows after everybody else's: two likes and two dislikes, ending with
    # dislike 9 for even users and with like 6 for odd ones.
    late = (users < 110) & (items >= 6)
    times = np.where(late, 1000 + np.where(users % 2 == 0, items, -items), 0)
    times[~late] = np.arange(360)
    rare = [[100, 50, 5]]  # an item that one user met
    table = pd.DataFrame(
        np.concatenate([np.column_stack([users, items, times]), rare]),
        columns=["user_id", "item_id", "timestamp"],
    )
    return table, np.append(ratings, 5)


def test_small_world_by_hand(world):
    table, ratings = world
    # The cut, position rint(.9 * 399) = 359 of the times, holds out one row of user 139, too.
    split = paper_split(table, ratings)
    assert split.counts == {"rows": 400, "items": 10, "train_users": 40, "held_out_users": 11}
    assert split.train[0]["time"].max() == 358
    swapped = paper_split(table, ratings, swap_halves=True)
    tests = [split.test, swapped.test]
    assert sorted(user for part in tests for user in part.interactions["user"].unique()) == list(
        range(100, 110)
    )
    for part in tests:
        odd = part.interactions["user"].unique() % 2
        assert n_targets(part, part.last) == (odd.sum(), (1 - odd).sum())
        assert n_targets(part, part.successive) == (2 * len(odd), 2 * len(odd))
        assert len(part.interactions) == 10 * len(odd)
    for part in (split.validation, swapped.validation):
        assert (part.interactions["user"] % 2 == 1).all()
        assert part.last.sum() > 0


# -- New users, and last events out ----------------------------------------------------------


@pytest.fixture
def uneven():
    """Twelve users; user u has u + 1 events, at times in a mixed order, some at one time."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(12), np.arange(1, 13))
    table = pd.DataFrame(
        {"user_id": users, "item_id": np.arange(len(users)), "timestamp": users % 3}
    )
    table["timestamp"] += rng.integers(0, 4, len(users))
    order = rng.permutation(len(users))
    return table.iloc[order], np.where(rng.random(len(users)) < 0.5, 5, 2)


def by_hand(uneven):
    """Each user's items in order, with their ratings."""
    table, ratings = uneven
    table = table.assign(rating=ratings).sort_values("timestamp", kind="stable")
    return {user: list(rows["item_id"]) for user, rows in table.groupby("user_id")}, dict(
        zip(table["item_id"], table["rating"], strict=True)
    )


def test_new_users_are_in_one_fold_each_with_the_later_half_as_targets(uneven):
    items_of, rating_of = by_hand(uneven)
    tested = []
    for fold in range(5):
        split = user_split(*uneven, fold=fold)
        X, y = split.train
        test = split.test
        held = set(range(12)) - set(X["user"])
        # All that the others did is trained on, in order; a single event leaves nothing to test.
        for user in set(range(12)) - held:
            assert list(X["item"][X["user"] == user]) == items_of[user]
        assert list(y) == [rating_of[item] for item in X["item"]]
        assert set(test.interactions["user"]) == held - {0}
        for user in held - {0}:
            mine = (test.interactions["user"] == user).to_numpy()
            n = user + 1
            assert list(test.interactions["item"][mine]) == items_of[user]
            assert test.successive[mine].tolist() == [place >= n - n // 2 for place in range(n)]
            assert test.last[mine].tolist() == [False] * (n - 1) + [True]
        assert list(test.feedback) == [rating_of[item] for item in test.interactions["item"]]
        assert split.validation is None
        assert split.counts["train_users"] + split.counts["held_out_users"] + (0 in held) == 12
        tested += held
    assert sorted(tested) == list(range(12))


@pytest.mark.parametrize("validation", [False, True])
def test_last_events_are_out(uneven, validation):
    items_of, _ = by_hand(uneven)
    if validation:
        items_of = {user: items[:-1] for user, items in items_of.items()}
    split = last_out_split(*uneven, validation=validation)
    X, test = split.train[0], split.test
    users = {user for user, items in items_of.items() if len(items) > 1}
    assert set(test.interactions["user"]) == users
    for user, items in items_of.items():
        kept = items[:-1] if user in users else items
        assert list(X["item"][X["user"] == user]) == kept
        if user in users:
            mine = (test.interactions["user"] == user).to_numpy()
            assert list(test.interactions["item"][mine]) == items
            assert test.successive[mine].tolist() == [False] * (len(items) - 1) + [True]
    np.testing.assert_array_equal(test.successive, test.last)
    assert split.counts["rows"] == sum(map(len, items_of.values()))


def test_run_by_itself_it_prints_the_counts(world, tmp_path, capsys):
    table, ratings = world
    table.assign(rating=ratings).to_csv(tmp_path / "world.csv", index=False)
    paper_protocol.main([str(tmp_path / "world.csv")])
    first, train, validation, test = capsys.readouterr().out.splitlines()
    assert first == (
        "400 events of 10 items after the frequency filter; 40 users before the cut, 11 after it"
    )
    split = paper_split(table, ratings)
    assert train == f"train: {len(split.train[0])} events"
    for line, part in ((validation, split.validation), (test, split.test)):
        users = part.interactions["user"].nunique()
        liked = n_targets(part, part.last)[0]
        assert f": {users} users; of their last events {liked} liked and {users - liked} " in line
        assert line.endswith(f"of all held-out events {2 * users} liked and {2 * users} disliked")


# -- Files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["user", "item", "rating", "time"], [0, 1, 2, 3]),
        (["timestamp", "rating", "item_id", "user_id"], [3, 2, 1, 0]),
        (["user_id", "user", "item", "rating", "timestamp"], [1, 2, 3, 4]),
    ],
)
def test_a_file_is_read_by_either_name(tmp_path, suffix, names, taken):
    table = pd.DataFrame(np.arange(2 * len(names)).reshape(2, -1), columns=names)
    path = str(tmp_path / f"ratings.{suffix}")
    if suffix == "csv":
        table.to_csv(path, index=False)
    else:
        pytest.importorskip("pyarrow")
        table.to_parquet(path)
    found = read_ratings(path)
    assert list(found) == ["user", "item", "rating", "time"]
    np.testing.assert_array_equal(found, table.to_numpy()[:, taken])
    assert set(COLUMNS) < set(found)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["userId", "movieId", "rating", "timestamp"], "user, item"),
        (["user", "item", "stars", "time"], "rating"),
        (["0", "1", "2"], "user, item, rating, time"),
    ],
)
def test_a_file_without_the_columns_ends_a_script_with_a_sentence(tmp_path, names, missing):
    import quickstart
    import reproduce_paper

    path = str(tmp_path / "ratings.csv")
    pd.DataFrame(np.ones((2, len(names))), columns=names).to_csv(path, index=False)
    sentence = (
        f"{path} has the columns [{', '.join(names)}]: no {missing}. Wanted are user, item, "
        "rating, time, or user_id, item_id, rating, timestamp."
    )
    for script in (
        lambda: read_ratings(path),
        lambda: paper_protocol.main([path]),
        lambda: quickstart.on_ratings(path, 4.0),
        lambda: reproduce_paper.main(["--data", path, "--out", str(tmp_path)]),
    ):
        with pytest.raises(SystemExit) as stopped:
            script()
        assert str(stopped.value) == sentence
