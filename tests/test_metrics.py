import math
import pickle
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from popularity import PopularityRecommender
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.metrics import ndcg_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    validation_curve,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from tiny import tiny

from posneg_rec import make_recommender_pipeline
from posneg_rec.frames import MISSING_ID
from posneg_rec.metrics import (
    TargetRanks,
    calibration_error,
    coverage_at_k,
    evaluate,
    gain,
    hit_rate_at_k,
    intra_list_distance_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
    recommender_scorer,
    recommender_scores,
)
from posneg_rec.model_selection import TemporalSplit
from posneg_rec.plotting import LikeCalibrationDisplay

METRICS = [hit_rate_at_k, mrr_at_k, ndcg_at_k, recall_at_k]


def make_ranks(ranks, signs, users=None, n_items=100):
    rows = np.arange(len(ranks))
    users = rows if users is None else np.asarray(users)
    return TargetRanks(users, rows, np.asarray(signs), np.asarray(ranks), n_items)


# -- gain ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("hit_rate", [1, 1, 1, 0]),
        ("ndcg", [1, 1 / math.log2(3), 0.5, 0]),
        ("mrr", [1, 1 / 2, 1 / 3, 0]),
    ],
)
def test_gain_by_rank(metric, expected):
    np.testing.assert_allclose(gain([1, 2, 3, 4], metric, k=3), expected)


def test_gain_names_the_allowed_metrics():
    with pytest.raises(ValueError, match=r"metric must be one of .*'ndcg'.*, got 'map'"):
        gain([1], "map", k=3)


@pytest.mark.parametrize("rank", [0, -3, 0.5, float("nan")])
@pytest.mark.parametrize("metric", ["hit_rate", "ndcg", "mrr", np.reciprocal])
def test_ranks_count_from_one(rank, metric):
    with pytest.raises(ValueError, match=f"ranks count from 1.*got {rank}"):
        gain([1, rank, 2], metric, k=10)


def half_life(ranks):
    return 0.5 ** (ranks - 1)


def test_a_metric_can_be_a_function_of_ranks(world):
    np.testing.assert_allclose(gain([[1, 2], [3, 4]], half_life, k=3), [[1, 0.5], [0.25, 0]])
    np.testing.assert_allclose(gain([1, 2, 9], lambda ranks: 1 / ranks, k=5), [1, 0.5, 0])
    # What lies beyond k does not matter.
    assert gain([1, 9], lambda ranks: np.where(ranks > 5, np.nan, 1), k=5).tolist() == [1, 0]
    ranks = make_ranks([1, 3, 2, 50], [1, 1, -1, -1])
    assert ranks.mean(half_life, k=10) == pytest.approx((1 + 0.25) / 2 - 0.5 / 2)
    scorer = recommender_scorer(half_life, k=3)
    model = model_of(world)
    assert scorer(model, *world) == model.target_ranks(*world).mean(half_life, k=3) != 0
    assert pickle.loads(pickle.dumps(scorer)) == scorer
    assert repr(scorer).startswith("recommender_scorer(half_life, k=3, feedback='delta'")


@pytest.mark.parametrize(
    "metric", [lambda ranks: 1.0, lambda ranks: ranks[:1], lambda ranks: ranks * np.nan]
)
def test_a_function_must_return_a_gain_per_rank(metric):
    with pytest.raises(ValueError, match=r"one finite gain per rank, shape \(2,\).*<lambda>"):
        gain([1, 2], metric, k=3)


@pytest.mark.parametrize("metric", ["map", None, 3, ["ndcg"]])
def test_other_metrics_are_refused(metric):
    for call in (lambda: gain([1], metric, k=3), lambda: recommender_scorer(metric)):
        with pytest.raises(ValueError, match=r"metric must be one of .* or a function"):
            call()


# -- metrics on ids --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (hit_rate_at_k, 2 / 3),  # rows 0 and 1
        (mrr_at_k, (1 + 1 / 3) / 3),
        (ndcg_at_k, (1 + 0.5) / 3),
        (recall_at_k, 2 / 3),
    ],
)
@pytest.mark.parametrize("kind", [list, np.array, pd.Series, pl.Series])
def test_one_relevant_item_per_row(metric, expected, kind):
    y_pred = np.array([[7, 8, 9, 1], [8, 9, 7, 1], [8, 9, 1, 7]])
    assert metric(kind([7, 7, 7]), y_pred, k=3) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (hit_rate_at_k, (1 + 0) / 2),
        (mrr_at_k, (1 / 2 + 0) / 2),
        # Row 0 finds 2 of 3 relevant items, at ranks 2 and 3; three would fit.
        (ndcg_at_k, (1 / math.log2(3) + 0.5) / (1 + 1 / math.log2(3) + 0.5) / 2),
        (recall_at_k, (2 / 3 + 0) / 2),
    ],
)
@pytest.mark.parametrize("kind", [list, tuple, set, np.array])
def test_several_relevant_items_per_row(metric, expected, kind):
    y_true = [kind(["a", "b", "c"]), kind(["a", "b"])]
    y_pred = [["x", "b", "a", "c"], ["x", "y", "z", "a"]]
    assert metric(y_true, y_pred, k=3) == pytest.approx(expected)


def test_ideal_list_is_cut_at_k():
    assert ndcg_at_k([{1, 2, 3, 4}], [[4, 2]], k=2) == pytest.approx(1)
    assert recall_at_k([{1, 2, 3, 4}], [[4, 2]], k=2) == pytest.approx(0.5)


def test_an_item_named_twice_is_one_relevant_item():
    assert recall_at_k([[1, 1, 2]], [[1, 5]], k=2) == pytest.approx(0.5)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_rows=st.integers(1, 5), n_items=st.integers(2, 8))
def test_metrics_agree_with_plain_definitions(data, n_rows, n_items):
    k = data.draw(st.integers(1, n_items))
    y_pred = [data.draw(st.permutations(range(n_items))) for _ in range(n_rows)]
    y_true = [
        data.draw(st.sets(st.integers(0, n_items + 1), min_size=1)) | {0} for _ in range(n_rows)
    ]
    weight = data.draw(st.lists(st.integers(1, 5), min_size=n_rows, max_size=n_rows))

    hits = [[item in true for item in row[:k]] for true, row in zip(y_true, y_pred, strict=True)]
    expected = {
        hit_rate_at_k: [any(row) for row in hits],
        mrr_at_k: [1 / (row.index(True) + 1) if any(row) else 0 for row in hits],
        recall_at_k: [sum(row) / len(true) for row, true in zip(hits, y_true, strict=True)],
    }
    for metric, values in expected.items():
        value = metric(y_true, y_pred, k=k, sample_weight=weight)
        assert value == pytest.approx(np.average(values, weights=weight))

    # scikit-learn's NDCG takes relevance and scores of all items, one column per item.
    relevance = np.array([[item in true for item in range(n_items)] for true in y_true])
    scores = -np.argsort(y_pred, axis=1)
    within = [true & set(range(n_items)) for true in y_true]
    assert ndcg_at_k(within, y_pred, k=k, sample_weight=weight) == pytest.approx(
        ndcg_score(relevance, scores, k=k, sample_weight=weight)
    )


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_padding_never_matches(missing):
    y_pred = np.array([["a", missing], ["a", missing]], dtype=object)
    assert hit_rate_at_k(["a", "b"], y_pred, k=2) == 0.5
    assert coverage_at_k(y_pred, n_items=4, k=2) == 0.25


def test_integer_padding_does_not_cover():
    y_pred = np.array([[1, MISSING_ID]])
    assert coverage_at_k(y_pred, n_items=2, k=2) == 0.5
    assert coverage_at_k(y_pred.astype(np.float64) * [[1, np.nan]], n_items=2, k=2) == 0.5


def test_integer_ids_are_compared_exactly():
    large = 2**60
    floats = np.array([[float(large)]])  # what padding with NaN makes of an integer column
    assert hit_rate_at_k(np.array([large]), floats, k=1) == 1
    assert hit_rate_at_k(np.array([large + 1]), floats, k=1) == 0
    assert hit_rate_at_k([large + 1], [[large, large + 1, None]], k=3) == 1
    assert hit_rate_at_k([large + 1], [[large, None, None]], k=3) == 0


def test_ids_of_another_kind_differ():
    assert hit_rate_at_k(["1"], [[1]], k=1) == 0
    assert hit_rate_at_k(np.array(["1"]), np.array([[1]]), k=1) == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([1], [[1, 2]], r"2 recommendations per row but k=3"),
        ([1], [1, 2, 3], r"shape \(n_samples, n_recommended\)"),
        ([1, 2], [[1, 2, 3], [1]], r"Pad short lists with None|ragged"),
        ([1, 2], [[1, 2, 3]], r"inconsistent numbers of samples"),
        ([], np.empty((0, 3)), r"0 sample\(s\)"),
        ([[1], []], [[1, 2, 3]] * 2, r"Row 1 of y_true has no relevant item"),
        ([[1], 2], [[1, 2, 3]] * 2, r"row 1 differs"),
        ([1, None], [[1, 2, 3]] * 2, r"Row 1 of y_true holds a missing"),
        ([[1], [1, np.nan]], [[1, 2, 3]] * 2, r"Row 1 of y_true holds a missing"),
    ],
)
def test_bad_input_is_named(metric, y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        metric(y_true, y_pred, k=3)


def test_labels_are_not_ids():
    with pytest.raises(TypeError, match="item ids, got booleans"):
        hit_rate_at_k(np.array([True, False]), [[1], [2]], k=1)


def test_weights_must_fit():
    with pytest.raises(ValueError, match="zero"):
        hit_rate_at_k([1], [[1]], k=1, sample_weight=[0])
    with pytest.raises(ValueError, match=r"sample_weight.shape"):
        hit_rate_at_k([1], [[1]], k=1, sample_weight=[1, 1])


def test_coverage():
    assert coverage_at_k([[1, 2, 5], [2, 3, 6]], n_items=6, k=2) == 0.5
    assert coverage_at_k([["a", "b"], ["b", None]], n_items=8, k=2) == 0.25
    with pytest.raises(ValueError, match="3 different items but n_items=2"):
        coverage_at_k([[1, 2, 5]], n_items=2, k=3)


def test_the_caller_s_arrays_are_left_alone():
    y_pred = np.array([["a", np.nan]], dtype=object)
    hit_rate_at_k(["a"], y_pred, k=2)
    assert y_pred[0, 1] is not None


# -- TargetRanks -----------------------------------------------------------------------------


def test_means_by_sign():
    ranks = make_ranks([1, 3, 2, 50, 1], [1, 1, -1, -1, 0])
    assert ranks.mean("ndcg", k=10, feedback="liked") == pytest.approx(0.75)
    assert ranks.mean("mrr", k=10, feedback="disliked") == pytest.approx(0.25)
    assert ranks.mean("hit_rate", k=10) == pytest.approx(1 - 0.5)


def test_mean_over_no_target_is_zero():
    assert make_ranks([1], [1]).mean("hit_rate", feedback="disliked") == 0
    assert make_ranks([1], [1]).mean("hit_rate", feedback="delta") == 1


def test_a_target_outside_the_catalogue_is_no_hit_for_any_k():
    assert make_ranks([6, 5], [1, 1], n_items=5).mean("hit_rate", k=10, feedback="liked") == 0.5


@pytest.mark.parametrize("rank", [0, 102])
def test_impossible_ranks_are_refused(rank):
    with pytest.raises(ValueError, match=f"got {rank} at target 1"):
        make_ranks([1, rank], [1, 1], n_items=100)


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="inconsistent"):
        make_ranks([1, 2], [1])


# -- scorers ---------------------------------------------------------------------------------


def make_world():
    """Items 0 to 2 are met by everyone, liked most often and disliked even more often."""
    rng = np.random.RandomState(0)
    users = np.repeat(np.arange(60), 6)
    items = np.concatenate(
        [[0, 1, 2, *rng.choice(np.arange(3, 9), size=3, replace=False)] for _ in range(60)]
    )
    times = rng.permutation(len(users))
    liked = rng.rand(len(users)) < np.where(items <= 2, 0.4, 0.65)
    return np.column_stack([users, items, times]), liked


@pytest.fixture(scope="module")
def world():
    return make_world()


def model_of(world):
    return PopularityRecommender().fit(*world)


def test_scorer_is_the_mean_of_the_ranks(world):
    model = model_of(world)
    ranks = model.target_ranks(*world, targets="all")
    for feedback, sign in [("liked", 1), ("disliked", -1), ("delta", 1)]:
        scorer = recommender_scorer("mrr", k=3, feedback=feedback, targets="all")
        assert scorer(model, *world) == sign * ranks.mean("mrr", k=3, feedback=feedback) != 0


def test_scorer_takes_all_rows_as_liked_without_feedback(world):
    model = model_of(world)
    scorer = recommender_scorer("mrr", feedback="liked")
    assert scorer(model, world[0]) == model.target_ranks(world[0]).mean("mrr", feedback="liked")


def test_all_scores_come_from_one_ranking(world, monkeypatch):
    calls = []
    original = PopularityRecommender.target_ranks

    def counted(self, *args, **kwargs):
        calls.append(kwargs)
        return original(self, *args, **kwargs)

    model = model_of(world)
    monkeypatch.setattr(PopularityRecommender, "target_ranks", counted)
    scores = recommender_scores(model, *world, k=3, targets="all")
    assert calls == [{"targets": "all"}]
    for metric in ("hit_rate", "ndcg", "mrr"):
        for feedback, name in [
            ("liked", f"{metric}_liked"),
            ("disliked", f"neg_{metric}_disliked"),
            ("delta", f"{metric}_delta"),
        ]:
            scorer = recommender_scorer(metric, k=3, feedback=feedback, targets="all")
            assert scores.pop(name) == scorer(model, *world)
    assert scores == {}


def test_scorer_survives_pickle_and_shows_its_options():
    scorer = recommender_scorer("mrr", k=3, feedback="liked", targets="all")
    assert pickle.loads(pickle.dumps(scorer)) == scorer
    assert repr(scorer) == "recommender_scorer('mrr', k=3, feedback='liked', targets='all')"
    scorer = recommender_scorer(positive_threshold=(2, 4))
    assert pickle.loads(pickle.dumps(scorer)) == scorer != recommender_scorer()
    assert repr(scorer).endswith("targets='last', positive_threshold=(2, 4))")


@pytest.mark.parametrize(
    "options", [{"metric": "map"}, {"feedback": "neutral"}, {"targets": "first"}, {"k": 0}]
)
def test_scorer_options_are_checked_when_it_is_made(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        recommender_scorer(**options)


@pytest.fixture(scope="module")
def rated():
    """Ratings from 1 to 5; item 0 is met by all and always rated 3."""
    rng = np.random.RandomState(1)
    users = np.repeat(np.arange(40), 5)
    items = np.concatenate([rng.permutation(9)[:5] for _ in range(40)])
    items[2::5] = 0
    return np.column_stack([users, items, np.arange(200)]), rng.randint(1, 6, 200)


@pytest.mark.parametrize("threshold", [3, 5, 2.5, (3, 4)])
def test_a_threshold_of_the_scorer_signs_the_targets(rated, threshold):
    """Whatever threshold the model has been given, targets are read by that of the scorer."""
    X, y = rated
    low, high = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    for own in (2, 4):
        model = PopularityRecommender(positive_threshold=own).fit(X, y)
        ranks = model.target_ranks(X, y, targets="all")
        gains, stars = 1 / ranks.ranks * (ranks.ranks <= 4), y[ranks.rows]
        liked, disliked = gains[stars >= high].mean(), gains[stars < low].mean()
        options = {"k": 4, "targets": "all", "positive_threshold": threshold}
        for feedback, expected in [
            ("liked", liked), ("disliked", -disliked), ("delta", liked - disliked)
        ]:  # fmt: skip
            scorer = recommender_scorer("mrr", feedback=feedback, **options)
            assert scorer(model, X, y) == pytest.approx(expected)
        scores = recommender_scores(model, X, y, **options)
        assert scores["mrr_liked"] == pytest.approx(liked)
        assert scores["neg_mrr_disliked"] == pytest.approx(-disliked)
        assert scores["mrr_delta"] == pytest.approx(liked - disliked)


def test_feedback_of_every_kind_is_read_by_the_scorer_s_threshold(rated):
    X, y = rated
    scorer = recommender_scorer("mrr", positive_threshold=4)
    model = PopularityRecommender(positive_threshold=3).fit(X, y)
    expected = scorer(model, X, y)
    frame = pd.DataFrame(X, columns=["user", "item", "time"])
    for kind in (list, pd.Series, pl.Series, lambda values: pd.Series(values, index=values * 0)):
        assert scorer(model, frame, kind(y)) == expected
    # Masked rows may come without feedback.
    masked = np.insert(X, 3, np.iinfo(np.int64).min, axis=0)
    assert scorer(model, masked, np.insert(y.astype(float), 3, np.nan)) == expected
    histories, ratings = (np.split(column, 40) for column in (X[:, 1], y))
    assert scorer(model, list(histories), list(ratings)) == expected
    ragged = [histories[0][:2].tolist(), [], *histories[2:]]
    several = scorer(model, ragged, [ratings[0][:2].tolist(), [], *ratings[2:]])
    kept = ~np.isin(np.arange(200), range(2, 10))
    assert several == scorer(model, X[kept], y[kept])
    # Booleans say it all, whatever the threshold.
    liked = [[True, False, True], [], [False, True, True]]
    scorer = recommender_scorer("mrr", targets="all", positive_threshold=4)
    items = [[1, 2, 3], [], [4, 5, 6]]
    assert scorer(model, items, liked) == recommender_scorer("mrr", targets="all")(
        model, items, liked
    )


def test_a_search_over_thresholds_compares_on_the_same_targets(rated):
    """By itself each candidate has targets of its own; at 1 nothing is disliked."""
    X, y = rated
    grid = {"positive_threshold": [1, 2, 3, 4, 5]}
    splitter = TemporalSplit(quantile=0.5)
    train, test = next(splitter.split(X))
    search = GridSearchCV(
        PopularityRecommender(),
        grid,
        cv=splitter,
        scoring=partial(recommender_scores, positive_threshold=4),
        refit="ndcg_delta",
    ).fit(X, y)
    signs = np.where(y >= 4, 1, -1)
    for place, threshold in enumerate(grid["positive_threshold"]):
        model = PopularityRecommender(positive_threshold=threshold).fit(X[train], y[train])
        ranks = model.target_ranks(X[test], y[test])
        same = TargetRanks(
            ranks.users, ranks.rows, signs[test][ranks.rows], ranks.ranks, ranks.n_items
        )
        for side, name in [("liked", "ndcg_liked"), ("delta", "ndcg_delta")]:
            found = search.cv_results_[f"mean_test_{name}"][place]
            assert found == pytest.approx(same.mean("ndcg", feedback=side))


def test_a_threshold_that_leaves_one_side_empty_is_warned_of(rated):
    X, y = rated
    lenient = PopularityRecommender(positive_threshold=1).fit(X, y)
    strict = PopularityRecommender(positive_threshold=6).fit(X, y)
    everything = r"positive_threshold=1 leaves none of 40 targets disliked.*pass positive_threshold"
    for scorer in (
        recommender_scorer(), recommender_scorer(feedback="disliked"), recommender_scores
    ):  # fmt: skip
        with pytest.warns(UserWarning, match=everything):
            scorer(lenient, X, y)
    with pytest.warns(UserWarning, match="threshold=6 leaves none of 40 targets liked"):
        recommender_scorer()(strict, X, y)
    step = make_recommender_pipeline(
        "passthrough", FunctionTransformer(), PopularityRecommender(positive_threshold=1)
    ).fit(X, y)
    with pytest.warns(UserWarning, match="recommender__positive_threshold=1 leaves none"):
        step.score(X, y)
    # Warnings are errors here: a side that nobody asked for, a threshold that both share.
    recommender_scorer(feedback="liked")(lenient, X, y)
    recommender_scorer(positive_threshold=4)(lenient, X, y)
    recommender_scorer()(PopularityRecommender(positive_threshold=4).fit(X, y), X, y)
    recommender_scorer()(PopularityRecommender().fit(X), X, np.ones(200))
    recommender_scorer()(lenient, X)


def test_nothing_to_score_is_warned_of(rated):
    X, y = rated
    model = PopularityRecommender(positive_threshold=3).fit(X, y)
    for scorer in (recommender_scorer(), recommender_scorer(positive_threshold=3)):
        with pytest.warns(UserWarning, match="No user has two events"):
            assert scorer(model, X[::5], y[::5]) == 0
    with pytest.raises(ValueError, match="There is no target: a target needs an earlier row"):
        evaluate(model, X[::5], y[::5])


@pytest.mark.parametrize(
    ("threshold", "message"),
    [((4, 3), "low < high"), ("4", "finite number or a pair"), (float("nan"), "finite")],
)
def test_a_threshold_is_checked_when_the_scorer_is_made(rated, threshold, message):
    with pytest.raises(ValueError, match=message):
        recommender_scorer(positive_threshold=threshold)


def test_a_threshold_needs_feedback(rated):
    model = PopularityRecommender().fit(rated[0])
    for scorer in (
        recommender_scorer(positive_threshold=4), partial(recommender_scores, positive_threshold=4)
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"positive_threshold=4 reads .* but y is None"):
            scorer(model, rated[0])


def test_scorer_says_what_it_needs(world):
    pipeline = make_pipeline(PopularityRecommender()).fit(*world)
    with pytest.raises(TypeError, match=r"Pipeline has no method target_ranks.*make_recommender"):
        recommender_scorer()(pipeline, *world)


@pytest.fixture(params=[False, True], ids=["", "metadata_routing"])
def routing(request):
    with sklearn.config_context(enable_metadata_routing=request.param):
        yield


GRID = {"dislike_weight": [-1.0, 0.0, 1.0]}
NDCG = recommender_scorer("ndcg", k=3)


@pytest.mark.parametrize(
    "search",
    [
        partial(GridSearchCV, scoring=NDCG, n_jobs=2),
        partial(GridSearchCV, scoring={"a": NDCG, "b": recommender_scorer("mrr")}, refit="a"),
        partial(GridSearchCV, scoring=partial(recommender_scores, k=3), refit="ndcg_delta"),
        partial(HalvingGridSearchCV, scoring=NDCG, min_resources=150, random_state=0),
        partial(RandomizedSearchCV, scoring=NDCG, n_iter=3, random_state=0),
    ],
    ids=["grid", "dict", "callable", "halving", "randomized"],
)
def test_searches_find_the_model_that_heeds_dislikes(world, search, routing):
    fitted = search(PopularityRecommender(), GRID, cv=TemporalSplit(n_splits=2, quantile=0.6)).fit(
        *world
    )
    assert fitted.best_params_ == {"dislike_weight": 1.0}


def test_cross_validate_returns_what_the_folds_give(world, routing):
    X, liked = world
    splitter = TemporalSplit(n_splits=2, quantile=0.6)
    expected = [
        NDCG(PopularityRecommender().fit(X[train], liked[train]), X[test], liked[test])
        for train, test in splitter.split(X)
    ]
    model = PopularityRecommender()
    single = cross_val_score(model, X, liked, cv=splitter, scoring=NDCG, n_jobs=2)
    several = cross_validate(model, X, liked, cv=splitter, scoring={"one": NDCG, "two": NDCG})
    _, curve = validation_curve(
        model, X, liked, cv=splitter, scoring=NDCG, param_name="dislike_weight", param_range=[0.0]
    )
    assert 0 not in expected
    np.testing.assert_allclose(single, expected)
    np.testing.assert_allclose(several["test_two"], expected)
    np.testing.assert_allclose(curve, [expected])


def test_lists_of_histories_are_split_by_user():
    histories = [[1, 2, 3], [2, 3, 1], [1, 3, 2], [3, 1, 2]]
    feedback = [[1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 1, 0]]
    scores = cross_val_score(
        PopularityRecommender(), histories, feedback, cv=KFold(2), scoring=recommender_scorer()
    )
    expected = [
        NDCG(PopularityRecommender().fit(histories[a], feedback[a]), histories[b], feedback[b])
        for a, b in [(slice(2, 4), slice(0, 2)), (slice(0, 2), slice(2, 4))]
    ]
    np.testing.assert_allclose(scores, expected)


# -- reports ---------------------------------------------------------------------------------


# -- What is no number ---------------------------------------------------------------------


NUMBERS = {
    "counts": lambda text: novelty_at_k([["a"]], items=["a", "b"], counts=text, k=1),
    "vectors": lambda text: intra_list_distance_at_k(
        [["a", "b"]], items=["a", "b"], vectors=np.array(text)[:, None].tolist(), k=2
    ),
    "y_true": lambda text: calibration_error(text, [0.5, 0.5]),
    "y_prob": lambda text: calibration_error([1, 0], text),
    "y_true of a picture": lambda text: LikeCalibrationDisplay.from_predictions(text, [0.5, 0.5]),
    "y_prob of a picture": lambda text: LikeCalibrationDisplay.from_predictions([1, 0], text),
    "ranks": lambda text: gain(text, "ndcg", 2),
    "ranks of targets": lambda text: make_ranks(text, [1, 1]),
    "signs": lambda text: make_ranks([1, 1], text),
    "sample_weight": lambda text: hit_rate_at_k(
        ["a", "b"], [["a"], ["b"]], k=1, sample_weight=text
    ),
    "sample_weight of a fit": lambda text: tiny().fit(
        [["a", "b"]], [[1, 1]], sample_weight=np.array(text)
    ),
}


@pytest.mark.parametrize("text", [["1", "0"], [1, "0"], [b"1", b"1"]], ids=repr)
@pytest.mark.parametrize("name", NUMBERS)
def test_text_is_no_number_to_a_metric(name, text):
    with pytest.raises(TypeError, match=f"{name.split()[0]} must hold numbers, got .*'[01]'"):
        NUMBERS[name](text)


@pytest.mark.parametrize(
    "what",
    [
        np.array(["2020-01-01"] * 2, "M8[D]"),
        [1 + 1j, 0],
        [None, {}],
        pd.Series(["1", "0"], dtype="category"),
        pd.Series(["1", "0"], dtype="string"),
    ],
    ids=["dates", "complex", "a dict", "categories", "strings"],
)
def test_nor_is_anything_else(what):
    with pytest.raises(TypeError, match="counts must hold numbers"):
        NUMBERS["counts"](what)
    with pytest.raises(ValueError, match="counts must hold numbers, as many in each row"):
        NUMBERS["counts"]([[1], [1, 2]])


def test_numbers_in_any_container_are():
    for counts in ([1, 0], (True, False), pd.Series([1, 0], dtype="Int64"), np.array([1, 0], "O")):
        assert NUMBERS["counts"](counts) == 0
