"""Reports with intervals, and paired comparisons."""

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
from popularity import PopularityRecommender
from test_metrics import make_ranks, make_world, model_of
from tiny import X, Y, tiny

from posneg_rec import RareItemMasker, SequenceBuilder, make_recommender_pipeline
from posneg_rec.evaluation import _bootstrap_sums, _mean_and_error
from posneg_rec.metrics import (
    AversionCurve,
    Evaluation,
    TargetRanks,
    aversion_curve,
    choose_aversion,
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


# -- The aversion curve ------------------------------------------------------------------------


def test_a_curve_is_what_the_model_says_under_each_aversion(tiny_model):
    model = copy.deepcopy(tiny_model)
    curve = aversion_curve(model, X, Y, [3, 0, 3, 0.5], targets="all", k=8, random_state=0)
    assert curve.aversions.tolist() == [0, 0.5, 3]
    assert curve.own_aversion == 6 == model.dislike_aversion
    for aversion, evaluation, ranks in zip(
        curve.aversions, curve.evaluations, curve.ranks, strict=True
    ):
        model.set_params(dislike_aversion=aversion)
        expected = model.target_ranks(X, Y, targets="all")
        np.testing.assert_array_equal(ranks.ranks, expected.ranks)
        np.testing.assert_array_equal(ranks.rows, expected.rows)
        assert evaluation["hit_rate_liked"] == pytest.approx(
            expected.mean("hit_rate", k=8, feedback="liked")
        )
    values = curve["hit_rate_disliked"]
    assert len(set(values)) > 1
    assert values.tolist() == [one["hit_rate_disliked"] for one in curve.evaluations]
    low, high = curve.interval("hit_rate_disliked")
    assert (low < values).all() and (values < high).all()
    frame = pd.DataFrame(curve.to_dict())
    assert frame["aversion"].tolist() == [0, 0.5, 3]
    assert frame["hit_rate_disliked_high"].tolist() == high.tolist()
    lines = str(curve).splitlines()
    assert lines[0].split() == [
        *("aversion", "hit_rate@8", "liked", "hit_rate@8", "disliked"),
        *("ndcg@8", "liked", "ndcg@8", "disliked"),
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["0", "0.5", "3"]
    assert f"{values[1]:.4f}" in lines[2]
    assert curve._repr_html_().count("<tr>") == 4


def test_one_pass_serves_all_aversions(tiny_model, monkeypatch):
    """The encoder reads each history once, not once per aversion."""
    encoded = []
    model = tiny_model.fitted_.model
    encode = type(model).encode
    monkeypatch.setattr(
        type(model),
        "encode",
        lambda self, x, watch: encoded.append(len(x)) or encode(self, x, watch),
    )
    aversion_curve(tiny_model, X, Y, np.arange(9), random_state=0)
    assert encoded == [40]


def test_all_aversions_meet_the_same_users(tiny_model):
    """Two aversions that rank alike have one interval; a generator stays the caller's."""
    curve = aversion_curve(
        tiny_model, X, Y, [1, 1 + 1e-9, 9], random_state=np.random.RandomState(3)
    )
    assert curve.evaluations[0] == curve.evaluations[1]


def test_the_usual_aversions_hold_the_models_own(tiny_model):
    model = copy.deepcopy(tiny_model).set_params(dislike_aversion=6.5)
    for asked in (model, make_recommender_pipeline(SequenceBuilder(), tiny(dislike_aversion=6.5))):
        if asked is not model:
            asked.fit(X, Y)
        curve = aversion_curve(asked, X, Y, random_state=0)
        assert curve.own_aversion == 6.5
        assert curve.aversions.tolist() == [0, 0.5, 1, 2, 3, 5, 6.5, 8, 12]


def test_a_pipeline_has_the_curve_of_its_recommender(tiny_model):
    pipeline = make_recommender_pipeline(
        SequenceBuilder(), RareItemMasker(min_users_per_item=1), tiny(max_epochs=6)
    ).fit(X, Y)
    curve, expected = (
        aversion_curve(model, X, Y, [0, 4], targets="all", random_state=0)
        for model in (pipeline, tiny_model)
    )
    assert curve.evaluations == expected.evaluations
    assert curve["ndcg_disliked"][0] != curve["ndcg_disliked"][1]
    alone = pipeline.target_ranks(X, Y, targets="all", dislike_aversion=4)
    np.testing.assert_array_equal(alone.ranks, curve.ranks[1].ranks)


def test_who_has_no_aversion_is_named(world, tiny_model):
    with pytest.raises(TypeError, match="PopularityRecommender has no aversion to vary"):
        aversion_curve(model_of(world), *world)
    with pytest.raises(TypeError, match="has no method target_ranks"):
        aversion_curve(object(), *world)
    for wrong in ([-1], [np.nan], [1, np.inf], ["a", 1], ["2"], [True], [[1, 2], [3]], {2}, [None]):
        with pytest.raises(ValueError, match="aversions must be finite numbers >= 0, got "):
            aversion_curve(tiny_model, X, Y, wrong)
    for wrong in (["a", 1], "3", np.nan, True):  # a model that fit has not looked at yet
        with pytest.raises(ValueError, match="the model's own is one, must be finite numbers >= 0"):
            aversion_curve(tiny(dislike_aversion=wrong), X, Y)
    with pytest.raises(ValueError, match="aversions must hold at least one"):
        aversion_curve(tiny_model, X, Y, [])
    with pytest.raises(ValueError, match="got an empty sequence"):
        tiny_model.target_ranks(X, Y, dislike_aversion=[])


@pytest.mark.parametrize("model", [tiny(objective="pnfrec"), tiny()])
def test_an_aversion_without_effect_is_said(model):
    feedback = Y if model.objective == "pnfrec" else None
    with pytest.warns(UserWarning, match="changes none of 40 ranks"):
        aversion_curve(model.fit(X, feedback), X, Y, [0, 9], random_state=0)


def curve_of(*ranks, signs=(1, 1, 1, -1), users=None):
    each = tuple(make_ranks(one, signs, users) for one in ranks)
    evaluations = tuple(summarize(one, random_state=0) for one in each)
    return AversionCurve(np.arange(len(each)) * 2.0, evaluations, each)


def test_the_largest_aversion_within_a_standard_error_of_the_best():
    # Hit rates 1, 2/3, 1/3 of three users: the best has no error, the second sqrt(1/9) = 1/3.
    falling = curve_of([1, 1, 1, 1], [1, 1, 20, 1], [1, 20, 20, 1])
    assert choose_aversion(falling, metric="hit_rate") == 0
    lower = curve_of([1, 1, 20, 1], [1, 20, 20, 1], [20, 20, 20, 1])
    assert choose_aversion(lower, metric="hit_rate", n_standard_errors=0) == 0
    assert choose_aversion(lower, metric="hit_rate", n_standard_errors=0.99) == 0
    assert choose_aversion(lower, metric="hit_rate", n_standard_errors=1.01) == 2
    assert choose_aversion(lower, metric="hit_rate", n_standard_errors=2.01) == 4
    # Of equals the largest: it shows the fewest dislikes.
    assert choose_aversion(curve_of([1, 1, 9, 1], [1, 1, 9, 1]), n_standard_errors=0) == 2


def test_a_rule_may_weigh_dislikes_as_well_and_by_any_metric():
    curve = curve_of([1, 1, 1, 1], [2, 2, 2, 5], [4, 4, 4, 90])
    assert choose_aversion(curve, n_standard_errors=0) == 0
    assert choose_aversion(curve, feedback="delta", n_standard_errors=0) == 4
    assert choose_aversion(curve, metric=lambda ranks: ranks, n_standard_errors=0) == 4


def test_the_standard_error_is_of_users():
    """As of the usual mean with a target each; whoever has ten equal targets counts once."""
    rng = np.random.default_rng(0)
    ranks, signs = rng.integers(1, 20, 30), np.ones(30)
    gains = (ranks <= 10).astype(float)
    mean, error = _mean_and_error(make_ranks(ranks, signs), "hit_rate", 10, "liked")
    assert mean == pytest.approx(gains.mean())
    assert error == pytest.approx(gains.std(ddof=1) / np.sqrt(30))
    ten_each = make_ranks(np.repeat(ranks, 10), np.ones(300), np.repeat(np.arange(30), 10))
    assert _mean_and_error(ten_each, "hit_rate", 10, "liked") == pytest.approx((mean, error))
    # Dislikes of other users: two independent means.
    others = rng.integers(1, 20, 50)
    both = make_ranks(np.r_[ranks, others], np.r_[signs, -np.ones(50)])
    delta, error = _mean_and_error(both, "hit_rate", 10, "delta")
    assert delta == pytest.approx(gains.mean() - (others <= 10).mean())
    variance = gains.var() / 30 + (others <= 10).var() / 50
    assert error == pytest.approx(np.sqrt(80 / 79 * variance))


def test_what_no_aversion_can_be_chosen_by():
    disliked = curve_of([1, 2], [3, 4], signs=[-1, -1])
    with pytest.raises(ValueError, match="of 2 targets 0 are liked and 2 disliked"):
        choose_aversion(disliked)
    liked = curve_of([1, 2], [3, 4], signs=[1, 0])
    with pytest.raises(ValueError, match="'ndcg' has no mean over delta"):
        choose_aversion(liked, feedback="delta")
    with pytest.raises(ValueError, match="One user has no standard error"):
        choose_aversion(liked)
    assert choose_aversion(liked, n_standard_errors=0) == 0
    with pytest.raises(ValueError, match="feedback must be one of"):
        choose_aversion(liked, feedback="disliked")
    with pytest.raises(ValueError, match="n_standard_errors == -1"):
        choose_aversion(liked, n_standard_errors=-1)
    with pytest.raises(ValueError, match="evaluations without ranks"):
        choose_aversion(AversionCurve(liked.aversions, liked.evaluations))


def test_an_evaluation_comes_back_from_a_dictionary(world):
    evaluation = evaluate(model_of(world), *world, targets="all", random_state=0)
    assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict()))) == evaluation
    ranks = make_ranks([1, 30, 3, 40], [1, 1, -1, -1])
    difference = compare(ranks, ranks, random_state=0)
    assert Evaluation.from_dict(difference.to_dict(), is_difference=True) == difference
    with pytest.raises(ValueError, match="lacks 'hit_rate_liked'"):
        Evaluation.from_dict({"ndcg_liked": 0.5})
