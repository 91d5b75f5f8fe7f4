import functools
import hashlib
import io
import threading
import zipfile
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from posneg_rec import datasets, progress
from posneg_rec.datasets import OpposingPatterns, fetch_movielens, make_opposing_patterns

# The synthetic world ------------------------------------------------------------------------


def histories(world):
    """Each user's items and signs."""
    starts = np.flatnonzero(np.diff(world.interactions[:, 0])) + 1
    items = np.split(world.interactions[:, 1], starts)
    return list(zip(items, np.split(world.feedback, starts), strict=True))


def test_world_has_the_shape_it_promises():
    world = make_opposing_patterns(
        50, n_pairs=3, group_size=6, min_events=4, max_events=9, random_state=0
    )
    users, items, times = world.interactions.T
    assert world.interactions.dtype == world.feedback.dtype == np.int64
    assert set(world.feedback) == {-1, 1}
    assert_array_equal(np.unique(users), np.arange(50))
    n_events = np.bincount(users)
    assert (n_events.min(), n_events.max()) == (4, 9)
    assert_array_equal(times, np.concatenate([np.arange(n) for n in n_events]))
    assert items.min() >= 0 and items.max() < len(world.truth.item_group) == 7 * 6
    assert len(np.unique(world.interactions[:, :2], axis=0)) == len(users), "an item came twice"
    assert_array_equal(np.bincount(world.truth.item_group), np.full(7, 6))
    assert_array_equal(np.bincount(world.truth.item_step), np.full(6, 7))


def test_item_ids_tell_nothing_of_the_group():
    group = make_opposing_patterns(1, random_state=0).truth.item_group
    assert not np.array_equal(group, np.sort(group))


def test_world_follows_random_state_alone():
    before = np.random.get_state()[1].copy()
    one, same, other = (make_opposing_patterns(20, random_state=seed) for seed in (1, 1, 2))
    assert_array_equal(one.interactions, same.interactions)
    assert_array_equal(one.feedback, same.feedback)
    assert (
        one.interactions.shape != other.interactions.shape
        or (one.interactions != other.interactions).any()
    )
    assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("informative", [True, False])
def test_feedback_follows_taste(informative):
    world = make_opposing_patterns(400, informative_dislikes=informative, random_state=0)
    users, items, _ = world.interactions.T
    group, liked = world.truth.item_group[items], world.feedback > 0
    pair = (group - 1) // 2
    own_side = (group > 0) & ((group - 1) % 2 == world.taste[users, pair])
    assert_array_equal(liked, liked & ((group == 0) | own_side))
    # A random item is on the user's own side in two of five groups, less what was liked before.
    share_on_own_side = own_side[~liked].mean()
    assert share_on_own_side == 0 if informative else 0.3 < share_on_own_side < 0.4
    assert 0.65 < (world.taste == 0).mean() < 0.75, "majority"
    assert 0.36 < (group[liked] == 0).sum() / len(group) < 0.44, "neutral_share"


def test_next_like_continues_the_cycle():
    world = make_opposing_patterns(400, focus=0.95, max_events=15, random_state=0)
    follows = []
    for items, signs in histories(world):
        steps = world.truth.item_step[items[signs > 0]]
        follows.extend((np.diff(steps) % 16) == 1)
    assert 0.93 < np.mean(follows) < 0.97


@pytest.mark.parametrize("informative", [True, False])
@pytest.mark.parametrize("sign", [1, -1])
def test_truth_is_what_happens(informative, sign):
    # A world so small that every short history occurs often, long enough to use up groups.
    world = make_opposing_patterns(
        40_000,
        n_pairs=1,
        group_size=2,
        min_events=4,
        max_events=4,
        focus=0.7,
        informative_dislikes=informative,
        random_state=0,
    )
    counts = defaultdict(Counter)
    for items, signs in histories(world):
        for n_before in range(4):
            if signs[n_before] == sign:
                before = (tuple(items[:n_before]), tuple(signs[:n_before]))
                counts[before][items[n_before]] += 1
    n_compared = 0
    for (items, signs), counter in counts.items():
        n_times = counter.total()
        if n_times < 200:
            continue
        truth = world.truth.next_item_probabilities(items, signs, sign=sign)
        seen = np.array([counter[item] for item in range(6)]) / n_times
        tolerance = 5 * np.sqrt(truth * (1 - truth) / n_times)
        assert (np.abs(seen - truth) <= tolerance + 1e-12).all(), (items, signs, truth, seen)
        n_compared += 1
    assert n_compared > 25


def test_truth_by_hand():
    # Items 0, 1 are neutral, 2, 3 the first side and 4, 5 the second, steps 0 and 1 of each.
    truth = OpposingPatterns(
        item_group=np.array([0, 0, 1, 1, 2, 2]),
        item_step=np.array([0, 1, 0, 1, 0, 1]),
        neutral_share=0.4,
        focus=0.9,
        majority=0.8,
        informative_dislikes=True,
    )
    # Nothing known: a like is neutral with .4 / (.4 + .3), any step.
    assert_allclose(
        truth.next_item_probabilities([]) * 0.7, [0.2, 0.2, 0.12, 0.12, 0.03, 0.03], atol=1e-12
    )
    # Item 0 was liked, so step 1 comes next: of items 0 and 1 only 1 is left.
    assert_allclose(
        truth.next_item_probabilities([0]) * 0.7,
        [0, 0.4, 0.024, 0.216, 0.006, 0.054],
        atol=1e-12,
    )
    assert_allclose(
        truth.next_item_probabilities([0], sign=-1), [0, 0, 0.02, 0.18, 0.08, 0.72], atol=1e-12
    )
    # Item 3 is disliked, so the second side is the user's, and the first is to be avoided.
    assert_allclose(
        truth.next_item_probabilities([0, 3], [1, -1]) * 0.7,
        [0, 0.4, 0, 0, 0.03, 0.27],
        atol=1e-12,
    )
    assert_allclose(
        truth.next_item_probabilities([0, 3], [1, -1], sign=-1), [0, 0, 1, 0, 0, 0], atol=1e-12
    )
    assert_array_equal(truth.best_ranking([0, 3], [1, -1]), [1, 5, 4, 2])


def test_uninformative_dislikes_leave_the_taste_unknown():
    world = make_opposing_patterns(1, informative_dislikes=False, random_state=0)
    first_side, second_side = (np.flatnonzero(world.truth.item_group == g) for g in (1, 2))
    history = [first_side[0], second_side[0]]
    probabilities = world.truth.next_item_probabilities(history, [-1, -1])
    # The prior: 70 % like the first side.
    assert_allclose(
        probabilities[first_side].sum() / probabilities[[*first_side, *second_side]].sum(), 0.7
    )


@given(
    seed=st.integers(0, 1000),
    informative=st.booleans(),
    n_pairs=st.integers(1, 3),
    group_size=st.integers(2, 5),
    data=st.data(),
)
def test_truth_is_a_distribution_over_unseen_items(seed, informative, n_pairs, group_size, data):
    n_events = (n_pairs + 1) * group_size
    world = make_opposing_patterns(
        1,
        n_pairs=n_pairs,
        group_size=group_size,
        min_events=n_events,
        max_events=n_events,
        informative_dislikes=informative,
        random_state=seed,
    )
    # After the very last event nothing need be left to see.
    n_before = data.draw(st.integers(0, n_events - 1))
    items, signs = world.interactions[:n_before, 1], world.feedback[:n_before]
    probabilities = world.truth.next_item_probabilities(
        items, signs, sign=int(world.feedback[n_before])
    )
    assert_allclose(probabilities.sum(), 1)
    assert (probabilities >= 0).all()
    assert (probabilities[items] == 0).all()
    assert probabilities[world.interactions[n_before, 1]] > 0, "what happened was impossible"


def mean_reciprocal_rank_difference(world, see):
    """How the true ranking does, when it sees only the events that `see` lets through."""
    reciprocal_ranks = {1: [], -1: []}
    for items, signs in histories(world):
        shown = see(signs[:-1])
        ranking = world.truth.best_ranking(items[:-1][shown], signs[:-1][shown])
        ranking = ranking[~np.isin(ranking, items[:-1])]
        rank = 1 + int(np.flatnonzero(ranking == items[-1])[0])
        reciprocal_ranks[signs[-1]].append(1 / rank)
    return np.mean(reciprocal_ranks[1]) - np.mean(reciprocal_ranks[-1])


@pytest.mark.parametrize("informative", [True, False])
def test_dislikes_help_exactly_when_they_are_informative(informative):
    world = make_opposing_patterns(
        1500,
        neutral_share=0.6,
        min_events=6,
        max_events=14,
        informative_dislikes=informative,
        random_state=0,
    )
    both = mean_reciprocal_rank_difference(world, lambda signs: signs != 0)
    likes = mean_reciprocal_rank_difference(world, lambda signs: signs > 0)
    assert both - likes > 0.02 if informative else abs(both - likes) < 0.01


def test_impossible_history_is_named():
    truth = make_opposing_patterns(1, random_state=0).truth
    both_sides = [np.flatnonzero(truth.item_group == group)[0] for group in (1, 2)]
    with pytest.raises(ValueError, match="cannot happen"):
        truth.next_item_probabilities(both_sides)


def test_world_as_frame():
    pytest.importorskip("pandas")
    arrays = make_opposing_patterns(5, random_state=0)
    frames = make_opposing_patterns(5, as_frame=True, random_state=0)
    assert list(frames.interactions.columns) == arrays.feature_names == ["user", "item", "time"]
    assert_array_equal(frames.interactions, arrays.interactions)
    assert_array_equal(frames.feedback, arrays.feedback)
    assert list(frames.frame.columns) == ["user", "item", "time", "feedback"]
    assert arrays.frame is None


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"max_events": 10}, "max_events=10 .* min_events=15"),
        ({"max_events": 49}, r"max_events=49 .* \(n_pairs \+ 1\) \* group_size = 48"),
        ({"neutral_share": 1.0}, "neutral_share"),
        ({"n_pairs": 0}, "n_pairs"),
    ],
)
def test_world_rejects(parameters, message):
    with pytest.raises(ValueError, match=message):
        make_opposing_patterns(**parameters)


# MovieLens ----------------------------------------------------------------------------------

ROWS = [(196, 242, 3, 881250949), (186, 302, 3, 891717742), (22, 377, 1, 878887116)]
RATINGS = {
    "100k": ("ml-100k/u.data", "".join("{}\t{}\t{}\t{}\n".format(*row) for row in ROWS)),
    "1m": ("ml-1m/ratings.dat", "".join("{}::{}::{}::{}\n".format(*row) for row in ROWS)),
    "20m": (
        "ml-20m/ratings.csv",
        "userId,movieId,rating,timestamp\n"
        + "".join("{},{},{}.5,{}\n".format(*row) for row in ROWS),
    ),
}


@functools.cache  # an archive holds the time it was made
def zip_of(variant):
    member, text = RATINGS[variant]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(member, text)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Sends a small archive of each form; `faults` says what goes wrong, request by request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults = []
        self.requested = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requested.append(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if fault == "error":
            self.send_error(503)
            return
        body = zip_of(self.path.removeprefix("/ml-").removesuffix(".zip"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "breaks off" else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.delenv("POSNEG_REC_DATA", raising=False)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(datasets, "_BASE_URL", f"http://127.0.0.1:{server.server_port}/")
        for variant, archive in datasets._ARCHIVES.items():
            sha256 = hashlib.sha256(zip_of(variant)).hexdigest()
            monkeypatch.setitem(datasets._ARCHIVES, variant, archive._replace(sha256=sha256))
        yield server
        server.shutdown()
        thread.join()


def files_under(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("variant", ["100k", "1m", "20m"])
def test_fetch_reads_each_form_and_keeps_it(variant, server, tmp_path, capsys):
    for _ in range(2):
        ratings = fetch_movielens(variant, data_home=tmp_path)
        assert ratings.interactions.dtype == np.int64
        assert ratings.feedback.dtype == np.float64
        assert_array_equal(ratings.interactions, [(u, i, t) for u, i, _, t in ROWS])
        assert_array_equal(ratings.feedback, np.array([3, 3, 1]) + 0.5 * (variant == "20m"))
        assert "doi:10.1145/2827872" in ratings.DESCR
    assert server.requested == [f"/ml-{variant}.zip"]
    assert files_under(tmp_path) == [f"ml-{variant}.npz"]
    assert capsys.readouterr().err == ""  # it took no time


@pytest.mark.parametrize(
    ("verbose", "written"),
    [({}, "ml-100k.zip [####################] 100 %"), ({"verbose": 0}, "")],
)
def test_a_download_that_takes_long_is_told(
    verbose, written, server, tmp_path, monkeypatch, capsys
):
    for name in ("_DELAY", "_OFTEN", "_SELDOM", "_EACH"):
        monkeypatch.setattr(progress, name, 0.0)
    fetch_movielens(data_home=tmp_path, **verbose)
    err = capsys.readouterr().err
    assert err.startswith("Downloading http://" if written else "") and written in err
    assert bool(err) == bool(written)


def test_fetch_as_frame(server, tmp_path):
    pytest.importorskip("pandas")
    ratings = fetch_movielens(data_home=tmp_path, as_frame=True)
    assert list(ratings.frame.columns) == ["user_id", "item_id", "timestamp", "rating"]
    assert_array_equal(ratings.interactions["timestamp"], [row[3] for row in ROWS])
    assert_array_equal(ratings.feedback, [3, 3, 1])


@pytest.mark.parametrize("fault", ["breaks off", "error"])
def test_fetch_tries_again(fault, server, tmp_path):
    server.faults = [fault, fault]
    with pytest.warns(UserWarning, match="trying again"):
        ratings = fetch_movielens(data_home=tmp_path, n_retries=2, delay=0)
    assert len(ratings.feedback) == 3
    assert len(server.requested) == 3


@pytest.mark.parametrize("fault", ["breaks off", "error"])
def test_fetch_gives_up_and_leaves_nothing(fault, server, tmp_path):
    server.faults = [fault] * 2
    with (
        pytest.warns(UserWarning, match="trying again"),
        pytest.raises(OSError, match="data_home"),
    ):
        fetch_movielens(data_home=tmp_path, n_retries=1, delay=0)
    assert len(server.requested) == 2
    assert files_under(tmp_path) == []


def test_fetch_rejects_another_checksum(server, tmp_path, monkeypatch):
    archive = datasets._ARCHIVES["100k"]._replace(sha256="0" * 64)
    monkeypatch.setitem(datasets._ARCHIVES, "100k", archive)
    with pytest.raises(OSError, match="SHA-256"):
        fetch_movielens(data_home=tmp_path, delay=0)
    assert files_under(tmp_path) == []


def test_fetch_offline(server, tmp_path):
    with pytest.raises(OSError, match="download_if_missing is False"):
        fetch_movielens(data_home=tmp_path, download_if_missing=False)
    assert server.requested == []
    fetch_movielens(data_home=tmp_path)
    fetch_movielens(data_home=tmp_path, download_if_missing=False)
    assert len(server.requested) == 1


def test_fetch_without_a_server(tmp_path, monkeypatch):
    monkeypatch.delenv("POSNEG_REC_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as gone:
        monkeypatch.setattr(datasets, "_BASE_URL", f"http://127.0.0.1:{gone.server_port}/")
    with pytest.raises(OSError, match="Connection refused"):
        fetch_movielens(data_home=tmp_path, n_retries=0)
    assert files_under(tmp_path) == []


@pytest.mark.parametrize("missing", [(), ("pyarrow",), ("pyarrow", "polars")])
def test_fetch_prefers_the_local_file(missing, server, tmp_path, monkeypatch):
    pd = pytest.importorskip("pandas")
    users, items, stars, times = zip(*ROWS, strict=True)
    frame = pd.DataFrame({"rating": stars, "user_id": users, "timestamp": times, "item_id": items})
    frame.assign(more="x").to_parquet(tmp_path / "ml-1m.parquet")
    monkeypatch.setenv("POSNEG_REC_DATA", str(tmp_path))
    monkeypatch.setattr(datasets, "find_spec", lambda name: None if name in missing else name)
    if len(missing) == 2:
        with pytest.raises(ImportError, match="pyarrow or polars"):
            fetch_movielens("1m", data_home=tmp_path)
        return
    ratings = fetch_movielens("1m", data_home=tmp_path)
    assert_array_equal(ratings.interactions, [(u, i, t) for u, i, _, t in ROWS])
    assert_array_equal(ratings.feedback, stars)
    assert server.requested == []
    # A set that is not in the folder still comes from the server.
    assert len(fetch_movielens("100k", data_home=tmp_path).feedback) == 3
    assert server.requested == ["/ml-100k.zip"]


def test_fetch_rejects_unknown_variant():
    with pytest.raises(ValueError, match=r"'variant' .* Got '10m'"):
        fetch_movielens("10m")


def test_fetch_real_data(ml_1m):
    ratings = fetch_movielens("1m", download_if_missing=False)
    assert ratings.interactions.shape == (1_000_113, 3)
    assert_array_equal(ratings.interactions, ml_1m[ratings.feature_names])
    assert_array_equal(ratings.feedback, ml_1m["rating"])


def test_where_every_pair_is_closed_nothing_more_can_follow():
    world = make_opposing_patterns(
        n_users=1, n_pairs=1, group_size=2, min_events=2, max_events=2, random_state=0
    )
    truth = world.truth
    (side,) = (np.flatnonzero(truth.item_group == group) for group in (1,))
    for sign, expected in ((1, 1.0), (-1, 0.0)):  # neutral items are liked, never disliked
        probabilities = truth.next_item_probabilities(side, sign=sign)
        assert probabilities.sum() == pytest.approx(expected)
        assert not probabilities[truth.item_group > 0].any()
    everything = np.append(side, np.flatnonzero(truth.item_group == 0))
    assert not truth.next_item_probabilities(everything).any()
