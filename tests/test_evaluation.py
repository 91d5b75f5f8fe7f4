"""Reports with intervals, and paired comparisons."""

import math

import numpy as np
import pytest
from popularity import PopularityRecommender
from test_metrics import make_ranks, make_world, model_of

from posneg_rec.evaluation import _bootstrap_sums
from posneg_rec.metrics import (
    TargetRanks,
    compare,
    evaluate,
    summarize,
)


@pytest.fixture(scope="module")
def world():
    return make_world()


def test_evaluate_reports_the_means_and_counts(world):
    model = model_of(world)
    evaluation = evaluate(model, *world, k=2, targets="all", random_state=0)
    ranks = model.target_ranks(*world, targets="all")
    for metric in ("hit_rate", "ndcg", "mrr"):
        for feedback in ("liked", "disliked", "delta"):
            name = f"{metric}_{feedback}"
            assert evaluation[name] == pytest.approx(ranks.mean(metric, k=2, feedback=feedback))
            low, high = evaluation.intervals[name]
            assert low < evaluation[name] < high
    assert evaluation.n_liked + evaluation.n_disliked == len(ranks) == 300
    assert evaluation.n_liked == np.count_nonzero(ranks.signs == 1)
    assert evaluation.n_users == 60
    # Everybody has seen items 0 to 2; the least popular other item is in nobody's top two.
    assert evaluation["coverage"] == 5 / 9


def test_evaluate_passes_its_options_on(world):
    model = model_of(world)
    mask = np.zeros(len(world[1]), dtype=bool)
    mask[[7, 8, 100]] = True
    evaluation = evaluate(model, *world, targets=mask, exclude_seen=False, random_state=0)
    assert evaluation.n_liked + evaluation.n_disliked == 3
    ranks = model.target_ranks(*world, targets=mask, exclude_seen=False)
    assert evaluation["mrr_delta"] == pytest.approx(ranks.mean("mrr"))
    assert evaluation["coverage"] == 1  # nine items, ten recommended


def test_evaluate_leaves_exclude_seen_to_the_model(world):
    """A model without that argument can be evaluated, one with it has its own default."""

    class Plain:
        def __init__(self, model):
            self.model = model

        def target_ranks(self, X, y=None, *, targets="last"):
            return self.model.target_ranks(X, y, targets=targets, exclude_seen=False)

        def recommend(self, X, k=10, *, feedback=None):
            return self.model.recommend(X, k, feedback=feedback, exclude_seen=False)

    model = model_of(world)
    evaluation = evaluate(Plain(model), *world, k=3, random_state=0)
    assert evaluation == evaluate(model, *world, k=3, exclude_seen=False, random_state=0)
    assert evaluation != evaluate(model, *world, k=3, random_state=0)
    with pytest.raises(TypeError, match="exclude_seen"):
        evaluate(Plain(model), *world, exclude_seen=True)


def test_coverage_is_of_what_follows_the_feedback(world):
    class Repeater(PopularityRecommender):
        """Recommend what the user likes."""

        def recommend(self, X, k=10, *, feedback=None, exclude_seen=True):
            liked = X[:, 1] if feedback is None else X[np.asarray(feedback, dtype=bool), 1]
            return {"user": liked, "item": liked}

    X, liked = world
    few = liked & (X[:, 1] % 3 == 0)  # items 0, 3 and 6 of nine
    evaluation = evaluate(Repeater().fit(X, few), X, few, random_state=0)
    assert evaluation["coverage"] == 3 / 9


def test_evaluate_works_without_recommend(world):
    class RankOnly:
        target_ranks = model_of(world).target_ranks

    evaluation = evaluate(RankOnly(), *world, random_state=0)
    assert "coverage" not in evaluation.values
    assert "coverage" not in str(evaluation)


def test_the_users_are_resampled_not_the_targets():
    rng = np.random.RandomState(0)
    ranks, signs = rng.randint(1, 20, 50), rng.choice([-1, 1], 50)
    one_each = summarize(make_ranks(ranks, signs), random_state=0)
    ten_each = summarize(
        make_ranks(np.repeat(ranks, 10), np.repeat(signs, 10), np.repeat(np.arange(50), 10)),
        random_state=0,
    )
    for name, interval in one_each.intervals.items():
        assert ten_each.intervals[name] == pytest.approx(interval)


def test_interval_is_as_wide_as_theory_says():
    hits = np.random.RandomState(0).rand(2000) < 0.3
    ranks = make_ranks(np.where(hits, 1, 50), np.ones(2000))
    evaluation = summarize(ranks, n_bootstraps=4000, confidence_level=0.9, random_state=1)
    error = np.sqrt(hits.mean() * (1 - hits.mean()) / 2000)
    np.testing.assert_allclose(
        evaluation.intervals["hit_rate_liked"],
        [hits.mean() - 1.645 * error, hits.mean() + 1.645 * error],
        atol=0.1 * error,
    )


def test_every_resample_has_as_many_users_as_there_are():
    # More than one block of resamples.
    sums = _bootstrap_sums(np.column_stack([np.ones(3000), np.arange(3000)]), 2000, 0)
    assert (sums[:, 0] == 3000).all()
    assert len(np.unique(sums[:, 1])) > 1900
    assert sums[:, 1].mean() == pytest.approx(3000 * 2999 / 2, rel=1e-3)


@pytest.mark.parametrize("n_users", [1, 2, 5])
def test_every_user_is_drawn_alike(n_users):
    counts = _bootstrap_sums(np.eye(n_users), 4000, 0)
    # n draws with probability 1 / n each: mean 1, variance 1 - 1 / n.
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.06)
    np.testing.assert_allclose(counts.var(axis=0), 1 - 1 / n_users, atol=0.06)


def test_random_state_repeats_and_global_state_is_untouched():
    ranks = make_ranks(np.arange(1, 41), np.tile([1, -1], 20))
    before = np.random.get_state()[1].copy()
    one, two, other = (summarize(ranks, random_state=seed) for seed in (0, 0, 1))
    assert one == two
    assert one.intervals != other.intervals
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_without_dislikes_there_is_no_delta_to_report():
    evaluation = summarize(make_ranks([1, 2, 30], [1, 1, 0]), random_state=0)
    assert evaluation["hit_rate_liked"] == 1
    assert math.isnan(evaluation["hit_rate_delta"])
    assert all(map(math.isnan, evaluation.intervals["ndcg_disliked"]))
    assert evaluation.n_users == 2
    with pytest.raises(ValueError, match="None of the 1 targets is liked or disliked"):
        summarize(make_ranks([1], [0]))


@pytest.mark.parametrize("nothing", [[], (), iter(())])
def test_no_runs_are_no_result(nothing):
    one = make_ranks([1, 2], [1, -1])
    with pytest.raises(ValueError, match="at least one run, got an empty sequence"):
        summarize(nothing)
    for pair in [(one, []), ([], one)]:
        with pytest.raises(ValueError, match="at least one run, got an empty sequence"):
            compare(*pair)


@pytest.mark.parametrize("other", [[3, 4], ["ndcg"], [make_ranks([1], [1]), np.arange(3)], "abc"])
def test_what_are_no_ranks_is_said(other):
    with pytest.raises(TypeError, match="Expected what target_ranks of a model returns"):
        summarize(other)


def test_no_targets_are_no_result():
    empty = make_ranks([], np.empty(0, dtype=int))
    for call in (
        lambda: summarize(empty),
        lambda: summarize([empty]),
        lambda: compare(empty, empty),
    ):
        with pytest.raises(ValueError, match="There is no target"):
            call()


def test_report_forms():
    ranks = make_ranks([1, 30, 3, 40], [1, 1, -1, -1])
    evaluation = summarize(ranks, k=5, confidence_level=0.9, n_bootstraps=50, random_state=0)
    flat = evaluation.to_dict()
    assert flat["ndcg_disliked"] == pytest.approx(0.25)
    assert (flat["ndcg_liked_low"], flat["ndcg_liked_high"]) == evaluation.intervals["ndcg_liked"]
    assert (flat["n_liked"], flat["n_disliked"], flat["n_users"], flat["k"]) == (2, 2, 4, 5)
    assert all(isinstance(value, int | float) for value in flat.values())

    lines = str(evaluation).splitlines()
    assert lines[0].split() == ["liked", "disliked", "delta"]
    assert lines[1].split() == ["targets", "2", "2"]
    assert lines[3].startswith("ndcg@5 ")
    assert "0.5000 [" in lines[3] and "0.2500 [" in lines[3]
    assert lines[-1] == "90% intervals from 50 resamples of 4 users"
    html = evaluation._repr_html_()
    assert html.count("<tr>") == 5
    assert "<td>ndcg@5</td>" in html


def test_comparing_a_model_with_itself_shows_no_difference():
    ranks = make_ranks([1, 30, 3, 40], [1, 1, -1, -1])
    comparison = compare(ranks, ranks, random_state=0)
    assert set(comparison.values.values()) == {0.0}
    assert set(comparison.intervals.values()) == {(0.0, 0.0)}
    assert str(comparison).splitlines()[-1].startswith("Differences, 95% intervals")


def test_comparison_is_paired():
    rng = np.random.RandomState(0)
    ranks_b = rng.randint(2, 100, 200)
    signs = rng.choice([-1, 1], 200)
    a, b = make_ranks(ranks_b - 1, signs), make_ranks(ranks_b, signs)
    comparison = compare(a, b, k=100, random_state=0)
    apart = [summarize(ranks, k=100, random_state=0) for ranks in (a, b)]
    expected = apart[0]["ndcg_liked"] - apart[1]["ndcg_liked"]
    assert comparison["ndcg_liked"] == pytest.approx(expected)
    # One rank better everywhere: certain when paired, invisible between the two intervals.
    assert comparison.intervals["ndcg_liked"][0] > 0
    assert apart[0].intervals["ndcg_liked"][0] < apart[1].intervals["ndcg_liked"][1]


def test_targets_are_matched_by_row():
    a = make_ranks([1, 30, 3, 40], [1, 1, -1, -1])
    b = make_ranks([2, 20, 1, 90], [1, 1, -1, -1])
    order = np.array([2, 0, 3, 1])
    shuffled = TargetRanks(b.users[order], b.rows[order], b.signs[order], b.ranks[order], 100)
    assert compare(a, shuffled, random_state=0) == compare(a, b, random_state=0)


def test_runs_of_one_model_are_averaged():
    runs = [make_ranks([1, 5], [1, -1]), make_ranks([50, 5], [1, -1])]
    assert summarize(runs, random_state=0)["hit_rate_liked"] == 0.5
    comparison = compare(runs, make_ranks([3, 60], [1, -1]), random_state=0)
    assert comparison["ndcg_liked"] == pytest.approx(0)
    assert comparison["hit_rate_disliked"] == 1


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (make_ranks([1, 2], [1, 1]), "rows"),
        (make_ranks([1, 2, 3], [1, 1, 1]), "signs"),
        (make_ranks([1, 2, 3], [1, 1, -1], users=[0, 1, 1]), "users"),
    ],
)
def test_different_targets_cannot_be_compared(other, difference):
    ranks = make_ranks([1, 2, 3], [1, 1, -1])
    with pytest.raises(ValueError, match=f"their {difference} differ"):
        compare(ranks, other)
    with pytest.raises(ValueError, match=f"their {difference} differ"):
        summarize([ranks, other])
