"""Pictures: what stands on the axes is what the model says."""

import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
from popularity import PopularityRecommender
from test_metrics import make_ranks
from tiny import FEEDBACKS, HISTORIES, X, Y, tiny

from posneg_rec import RareItemMasker, make_recommender_pipeline
from posneg_rec.metrics import AversionCurve, aversion_curve, evaluate, summarize
from posneg_rec.plotting import (
    AversionCurveDisplay,
    ExplanationDisplay,
    ItemMapDisplay,
    LikeCalibrationDisplay,
    TradeoffDisplay,
    TrainingDisplay,
    _wilson,
)


@pytest.fixture(autouse=True)
def plt():
    before = mpl.get_backend()
    mpl.use("Agg", force=True)
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")
    mpl.use(before, force=True)


def labels_of(ax):
    return ax.get_legend_handles_labels()[1]


def data_of(line):
    return [values.tolist() for values in line.get_data()]


# -- Training ----------------------------------------------------------------------------------

HISTORY = {
    "epoch": [1, 2, 3],
    "loss": [5.0, 4.0, 3.5],
    "item_loss": [4.0, 3.2, 2.8],
    "feedback_loss": [1.0, 0.8, 0.7],
    "validation_score": [0.1, 0.3, 0.2],
    "seconds": [1.0, 1.0, 1.0],
}


def test_a_learning_curve_shows_each_loss_and_the_best_epoch():
    display = TrainingDisplay(history=HISTORY, name="mine").plot()
    losses, score = display.axes_
    assert set(display.lines_) == {"loss", "item_loss", "feedback_loss", "validation_score"}
    for column, line in display.lines_.items():
        assert data_of(line) == [[1, 2, 3], HISTORY[column]]
        assert line.axes is (score if column == "validation_score" else losses)
    assert labels_of(losses) == ["mine: loss", "mine: item loss", "mine: feedback loss"]
    assert display.best_line_.get_xdata()[0] == 2 and "best, epoch 2" in labels_of(score)[1]
    assert losses.get_ylim()[0] == score.get_ylim()[0] == 0
    assert score.get_xlabel() == "Epoch" and "NDCG@10" in score.get_ylabel()


def test_a_learning_curve_is_that_of_the_model_or_of_a_pipelines_last_step(tiny_model):
    pipeline = make_recommender_pipeline(RareItemMasker(), tiny_model)
    for estimator in (tiny_model, pipeline):
        lines = TrainingDisplay.from_estimator(estimator).lines_
        assert lines["loss"].get_ydata().tolist() == tiny_model.history_["loss"]


def test_without_a_validation_part_there_is_one_panel_and_epochs_without_a_score_are_gaps():
    alone = TrainingDisplay(history=HISTORY | {"validation_score": [None] * 3}).plot()
    assert len(alone.axes_) == 1 and alone.best_line_ is None
    later = TrainingDisplay(history=HISTORY | {"validation_score": [0.1, None, 0.05]}).plot()
    np.testing.assert_array_equal(later.lines_["validation_score"].get_ydata(), [0.1, np.nan, 0.05])
    assert later.best_line_.get_xdata()[0] == 1
    with pytest.raises(ValueError, match="holds no epoch"):
        TrainingDisplay(history={name: [] for name in HISTORY}).plot()


def test_a_loss_below_zero_is_not_cut_off():
    display = TrainingDisplay(history=HISTORY | {"contrastive_loss": [-0.5, -1.0, -2.0]}).plot()
    assert display.axes_[0].get_ylim()[0] < -2


def test_panels_go_where_the_caller_says(plt):
    first = TrainingDisplay(history=HISTORY, name="a").plot()
    again = TrainingDisplay(history=HISTORY, name="b").plot(first.axes_)
    assert again.figure_ is first.figure_
    assert "a: loss" in labels_of(first.axes_[0]) and "b: loss" in labels_of(first.axes_[0])
    figure, ax = plt.subplots()
    inside = TrainingDisplay(history=HISTORY).plot(ax)
    assert inside.figure_ is figure and not ax.axison
    top, bottom = (one.get_position() for one in inside.axes_)
    assert top.y0 > bottom.y1 and top.x0 == bottom.x0
    with pytest.raises(ValueError, match="ax must be one Axes or 2 of them, got 1"):
        TrainingDisplay(history=HISTORY).plot([ax])
    with pytest.raises(ValueError, match="ax must be one Axes or 2 of them"):
        TrainingDisplay(history=HISTORY).plot("left")


# -- Likes against dislikes --------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve(tiny_model):
    return aversion_curve(
        tiny_model, X, Y, [0, 1, 6, 20], targets="all", k=8, n_bootstraps=50, random_state=0
    )


@pytest.mark.parametrize("metric", ["hit_rate", "mrr"])
def test_a_tradeoff_is_likes_over_dislikes_with_intervals(curve, metric):
    display = TradeoffDisplay(curve=curve, metric=metric, name="tiny").plot()
    x, y = curve[f"{metric}_disliked"], curve[f"{metric}_liked"]
    assert data_of(display.line_) == [x.tolist(), y.tolist()]
    ax = display.ax_
    assert "disliked targets (lower" in ax.get_xlabel() and "@8" in ax.get_xlabel()
    assert "liked targets (higher" in ax.get_ylabel()
    across, upwards = (lines.get_segments() for lines in display.errorbar_.lines[2])
    for name, segments, axis in (("disliked", across, 0), ("liked", upwards, 1)):
        bounds = np.array(segments)[:, :, axis]
        np.testing.assert_allclose(bounds.T, curve.interval(f"{metric}_{name}"))
    # Both axes alike and from 0, so that the diagonal means what it says.
    assert ax.get_xlim() == ax.get_ylim() and ax.get_xlim()[0] == 0
    assert ax.get_xlim()[1] > curve.interval(f"{metric}_liked")[1].max()
    assert ax.get_aspect() == 1 and display.chance_line_.get_slope() == 1
    # The model's own aversion is the large point and always named.
    assert data_of(display.own_) == [[x[2]], [y[2]]]
    told = {text.get_text(): text.xy for text in display.texts_}
    assert told["6"] == (x[2], y[2])
    assert set(told) <= {"0", "1", "6", "20"}


def test_labels_that_would_lie_on_each_other_are_left_out():
    ranks = [make_ranks([1, 2, far], [1, 1, -1]) for far in (1, 1, 1, 50)]
    told = tuple(summarize(one, n_bootstraps=5, random_state=0) for one in ranks)
    crowd = AversionCurve(np.array([0.0, 1, 2, 3]), told, tuple(ranks), own_aversion=1.0)
    texts = TradeoffDisplay(curve=crowd).plot().texts_
    assert [text.get_text() for text in texts] == ["1", "3"]
    assert [text.get_fontweight() for text in texts] == ["bold", "normal"]


def test_several_models_share_the_axes(curve):
    first = TradeoffDisplay(curve=curve, name="a").plot(color="C3")
    assert first.line_.get_color() == "C3"
    end = first.ax_.get_xlim()[1]
    point = summarize(make_ranks([1, 1, 1, 90], [1, 1, -1, -1]), random_state=0)
    second = TradeoffDisplay(curve=point, name="b").plot(first.ax_)
    assert second.figure_ is first.figure_ and second.chance_line_ is None
    assert data_of(second.line_) == [[0.5], [1.0]] and second.own_ is None and not second.texts_
    assert labels_of(first.ax_) == ["a", "blind to feedback", "b"]
    low = TradeoffDisplay(curve=curve, name="c").plot(first.ax_, intervals=False)
    assert low.errorbar_ is None
    assert first.ax_.get_xlim() == first.ax_.get_ylim() and first.ax_.get_xlim()[1] >= max(1, end)


def test_a_model_without_an_aversion_is_a_point(tiny_model):
    popular = PopularityRecommender().fit(X, Y)
    display = TradeoffDisplay.from_estimator(popular, X, Y, targets="all", random_state=0)
    expected = evaluate(popular, X, Y, targets="all", random_state=0)
    assert data_of(display.line_) == [
        [expected["hit_rate_disliked"]],
        [expected["hit_rate_liked"]],
    ]
    assert display.line_.get_label() == "PopularityRecommender"
    with pytest.raises(TypeError, match="has no aversion to vary"):
        TradeoffDisplay.from_estimator(popular, X, Y, [1, 2])
    asked = TradeoffDisplay.from_estimator(
        tiny_model, X, Y, [2, 9], metric="ndcg", k=5, n_bootstraps=5, random_state=0, name="t"
    )
    assert asked.curve.aversions.tolist() == [2, 9] and asked.curve.k == 5
    assert asked.line_.get_xdata().tolist() == asked.curve["ndcg_disliked"].tolist()


def test_what_cannot_be_a_tradeoff_is_said():
    liked = summarize(make_ranks([1, 2], [1, 1]), random_state=0)
    with pytest.raises(ValueError, match="None of the targets is disliked"):
        TradeoffDisplay(curve=liked).plot()
    with pytest.raises(ValueError, match="metric must be one of"):
        TradeoffDisplay(curve=liked, metric="recall").plot()


def test_an_aversion_curve_has_both_sides_and_marks_one(curve):
    display = AversionCurveDisplay(curve=curve, metric="ndcg", chosen=2.5).plot()
    for feedback, line in display.lines_.items():
        name = f"ndcg_{feedback}"
        assert data_of(line) == [curve.aversions.tolist(), curve[name].tolist()]
        band = display.bands_[feedback].get_paths()[0].vertices
        low, high = curve.interval(name)
        assert {*low, *high} <= set(band[:, 1].tolist())
    assert set(display.lines_) == {"liked", "disliked"}
    assert display.chosen_line_.get_xdata()[0] == 2.5
    assert labels_of(display.ax_)[-1] == "chosen, 2.5"
    assert display.ax_.get_ylim()[0] == 0 and display.ax_.get_xlabel() == "dislike_aversion"
    own = AversionCurveDisplay(curve=curve).plot()
    assert own.chosen_line_.get_xdata()[0] == 6


# -- Calibration -------------------------------------------------------------------------------


def test_reliability_is_counted_by_hand():
    prob = [0.05, 0.15, 0.15, 0.72, 0.78, 0.79, 1.0]
    liked = [False, True, False, True, True, False, True]
    display = LikeCalibrationDisplay.from_predictions(liked, prob, n_bins=5, name="model")
    reliability, histogram = display.axes_
    expected = [np.mean(prob[:3]), np.mean(prob[3:6]), 1.0], [1 / 3, 2 / 3, 1.0]
    np.testing.assert_allclose(display.line_.get_data(), expected)
    assert [bar.get_height() for bar in display.bars_] == [3, 3, 1]
    np.testing.assert_allclose([bar.get_x() for bar in display.bars_], [0, 0.6, 0.8])
    np.testing.assert_allclose([bar.get_width() for bar in display.bars_], 0.2)
    assert reliability.get_xlim() == reliability.get_ylim() == histogram.get_xlim() == (0, 1)
    assert labels_of(reliability) == ["Perfectly calibrated", "model"]
    assert data_of(display.reference_line_) == [[0, 1], [0, 1]]
    (bars,) = display.errorbar_.lines[2]
    ends = np.array(bars.get_segments())[:, :, 1]
    np.testing.assert_allclose(ends.T, _wilson(display.prob_true, display.counts))
    again = LikeCalibrationDisplay.from_predictions(liked, prob, name="other", ax=display.axes_)
    assert again.reference_line_ is None and len(labels_of(reliability)) == 3


def test_bins_of_equal_numbers():
    prob = np.array([0.1, 0.2, 0.3, 0.4, 0.9, 0.95])
    display = LikeCalibrationDisplay.from_predictions(
        prob > 0.35, prob, n_bins=3, strategy="quantile"
    )
    assert display.counts.tolist() == [2, 2, 2]
    assert display.prob_true.tolist() == [0, 0.5, 1]
    assert display.bins[0, 0] == 0.1 and display.bins[-1, 1] == 0.95
    same = LikeCalibrationDisplay.from_predictions([0, 1], [0.5, 0.5], strategy="quantile")
    assert same.counts.tolist() == [2] and same.prob_true.tolist() == [0.5]


def test_wilson_intervals():
    """Of 1 in 10: the textbook's interval (0.0179, 0.4042)."""
    np.testing.assert_allclose(
        np.ravel(_wilson(np.array([0.1]), np.array([10]))), [0.0179, 0.4042], atol=1e-4
    )


def test_probabilities_are_of_the_targets(tiny_model):
    told, signs = tiny_model.liked_probabilities(X, Y, targets="all")
    ranks = tiny_model.target_ranks(X, Y, targets="all")
    np.testing.assert_array_equal(signs, ranks.signs)
    assert len(told) == len(ranks) and (told > 0).all() and (told < 1).all()
    # As scores say it: log p(liked) is what one unit of aversion adds, in a world of 45 % dislikes.
    shift = tiny_model.fitted_.liked_shift
    assert shift != 0
    for user in (0, 7):
        history, feedback = HISTORIES[user][:-1], FEEDBACKS[user][:-1]
        times = np.arange(len(history))
        with_aversion, without = (
            tiny_model.score_items(
                history, HISTORIES[user][-1:], feedback=feedback, times=times, dislike_aversion=a
            )[0]
            for a in (1.0, 0.0)
        )
        p = told[ranks.rows == np.flatnonzero(X[:, 0] == user)[-1]][0]
        shifted = 1 / (1 + (1 - p) / p * np.exp(-shift))
        assert np.log(shifted) == pytest.approx(with_aversion - without, abs=1e-4)


def test_reliability_of_a_model_or_a_pipeline(tiny_model):
    pipeline = make_recommender_pipeline(RareItemMasker(min_users_per_item=1), tiny(max_epochs=6))
    for estimator in (tiny_model, pipeline.fit(X, Y)):
        display = LikeCalibrationDisplay.from_estimator(estimator, X, Y, targets="all", n_bins=4)
        told, signs = tiny_model.liked_probabilities(X, Y, targets="all")
        assert display.counts.sum() == len(told)
        overall = (display.prob_true * display.counts).sum() / len(told)
        assert overall == pytest.approx((signs == 1).mean())
        mean = (display.prob_pred * display.counts).sum() / len(told)
        assert mean == pytest.approx(told.mean())
        assert display.line_.get_label() == "ContrastiveSeqRecommender"


def test_who_knows_no_probability_says_so(tiny_model):
    unknown = np.array([[1, X[0, 1], 0], [1, 999, 1], [1, X[1, 1], 2]])
    told, _ = tiny_model.liked_probabilities(unknown, [1, 1, 0], targets="all")
    assert np.isnan(told).tolist() == [True, False]
    display = LikeCalibrationDisplay.from_estimator(tiny_model, unknown, [1, 1, -1], targets="all")
    assert display.counts.tolist() == [1] and display.prob_true.tolist() == [0]
    with pytest.raises(ValueError, match=r"None of the 2 targets .* \(1 are neutral\)"):
        LikeCalibrationDisplay.from_estimator(tiny_model, unknown, [1, 1, 0], targets="all")
    first, _ = tiny_model.liked_probabilities(unknown, [1, 1, 0], targets=np.array([1, 0, 0], bool))
    likes, dislikes = (
        counts[tiny_model.items_ == X[0, 1]][0] + 1
        for counts in (tiny_model.item_likes_, tiny_model.item_dislikes_)
    )
    assert first[0] == pytest.approx(likes / (likes + dislikes))  # nothing else is known
    with pytest.raises(ValueError, match="'pnfrec' knows no probability of being liked"):
        tiny(objective="pnfrec").fit(X, Y).liked_probabilities(X, Y)
    with pytest.raises(TypeError, match="has no method liked_probabilities"):
        LikeCalibrationDisplay.from_estimator(PopularityRecommender(), X, Y)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 0], [0.5]), r"shapes \(2,\) and \(1,\)"),
        (([], []), "at least one target"),
        (([1, -1], [0.5, 0.5]), "0 or 1, got .*-1"),
        (([1, 0], [0.5, 1.5]), r"in \[0, 1\], got .*1.5"),
        (([1, 0], [0.5, np.nan]), r"in \[0, 1\], got .*nan"),
    ],
)
def test_predictions_that_are_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        LikeCalibrationDisplay.from_predictions(*arguments)
    with pytest.raises(ValueError, match="n_bins must be an int >= 1, got 0"):
        LikeCalibrationDisplay.from_predictions([1], [0.5], n_bins=0)
    with pytest.raises(ValueError, match="strategy must be one of"):
        LikeCalibrationDisplay.from_predictions([1], [0.5], strategy="kmeans")


# -- Items -------------------------------------------------------------------------------------


def test_a_map_of_items_has_the_two_directions_of_most_variance(tiny_model):
    display = ItemMapDisplay.from_estimator(tiny_model, labels={X[0, 1]: "first"})
    vectors = tiny_model.weights_["item_embedding"].astype(float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left, values, _ = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    order = np.array([tiny_model.items_.tolist().index(item) for item in display.items])
    np.testing.assert_allclose(
        np.abs(display.positions), np.abs(left[order, :2] * values[:2]), atol=1e-6
    )
    shares = values[:2] ** 2 / (values**2).sum()
    np.testing.assert_allclose(display.explained_variance_ratio, shares)
    assert display.ax_.get_xlabel() == f"{shares[0]:.0%} of the variance"
    np.testing.assert_array_equal(display.scatter_.get_offsets(), display.positions)
    likes, dislikes = tiny_model.item_likes_[order], tiny_model.item_dislikes_[order]
    np.testing.assert_allclose(display.scatter_.get_array(), likes / (likes + dislikes))
    assert display.scatter_.get_clim() == (0, 1)
    assert (np.diff(display.counts) <= 0).all()
    (text,) = display.texts_
    place = display.items.tolist().index(X[0, 1])
    assert text.get_text() == "first" and text.xy == pytest.approx(display.positions[place])


def model_of_items(likes, dislikes, vectors):
    return SimpleNamespace(
        items_=np.arange(len(likes)) * 10,
        item_likes_=np.array(likes),
        item_dislikes_=np.array(dislikes),
        weights_={"item_embedding": np.array(vectors, dtype=np.float32)},
    )


def test_a_map_keeps_the_items_of_most_feedback_and_tells_items_without():
    model = model_of_items([3, 0, 1, 0], [1, 9, 0, 0], np.eye(4)[:, :3] + 0.1)
    display = ItemMapDisplay.from_estimator(model, n_items=2)
    assert display.items.tolist() == [10, 0] and display.like_rate.tolist() == [0, 0.75]
    whole = ItemMapDisplay.from_estimator(model, n_items=None)
    assert np.isnan(whole.like_rate[-1]) and len(whole.scatter_.get_offsets()) == 3
    with pytest.raises(ValueError, match="not on the map, 30: take ids of items_"):
        ItemMapDisplay.from_estimator(model, n_items=2, labels={30: "x"})
    line = ItemMapDisplay.from_estimator(model_of_items([1, 1], [0, 0], [[1.0], [-1.0]]))
    assert line.explained_variance_ratio == pytest.approx([1, 0])
    with pytest.raises(ValueError, match="A map needs two items, and the fit has 1"):
        ItemMapDisplay.from_estimator(model_of_items([1], [0], [[1.0, 0.0]]))


# -- Explanations ------------------------------------------------------------------------------


class Additive:
    """Scores are sums of what each event adds, so that effects are known."""

    positive_threshold = None
    feedback_coding_ = "signed"

    def score_items(self, history, items=None, *, feedback=None, times=None, dislike_aversion=1):
        signs = np.ones(len(history)) if feedback is None else np.asarray(feedback)
        known = [100, 200, 300] if items is None else items
        total = (np.asarray(history, dtype=float) * np.where(signs < 0, -dislike_aversion, 1)).sum()
        return np.array([np.nan if item == 999 else total * item / 100 for item in known])

    def recommend(self, history, k=10, **options):
        return np.array([300, 200, 100])[:k], None


def test_the_effect_of_an_event_is_what_the_score_loses_without_it():
    display = ExplanationDisplay.from_estimator(
        Additive(),
        [1, 2, 3],
        feedback=[1, -1, 0],
        k=2,
        dislike_aversion=4,
        labels={2: "two", 3: "a name that is too long to stand beside a bar"},
    )
    assert display.items.tolist() == [300, 200] and len(display.axes_) == 2
    np.testing.assert_allclose(display.effects, [[3, 2], [-24, -16], [9, 6]])
    for bars, effects in zip(display.bars_, display.effects.T, strict=True):
        assert [bar.get_width() for bar in bars] == pytest.approx(effects)
        places = [bar.get_y() + bar.get_height() / 2 for bar in bars]
        assert places == pytest.approx([0, 1, 2])  # the most recent on top
        raised, held = bars[0], bars[1]
        assert raised.get_facecolor() != held.get_facecolor() and held.get_hatch()
    first, second = display.axes_
    assert [tick.get_text() for tick in first.get_yticklabels()] == [
        "liked 1",
        "disliked two",
        "neutral a name that is too long to st\N{HORIZONTAL ELLIPSIS}",
    ]
    assert [ax.get_title() for ax in display.axes_] == ["item 300", "item 200"]
    # One scale, as wide to both sides, so that bars compare.
    assert first.get_xlim() == second.get_xlim() and sum(first.get_xlim()) == 0
    assert first.get_xlim()[1] > 24


def test_long_histories_show_what_weighs_most():
    history = np.arange(1, 31) % 29
    display = ExplanationDisplay.from_estimator(Additive(), history, [100])
    assert len(display.shown) == 20 and (np.diff(display.shown) > 0).all()
    left_out = np.setdiff1d(np.arange(30), display.shown)
    assert history[left_out].max() < history[display.shown].min()


def test_an_explanation_of_the_model(tiny_model):
    history, feedback = HISTORIES[0], FEEDBACKS[0]
    display = ExplanationDisplay.from_estimator(tiny_model, history, feedback=feedback, k=2)
    items, scores = tiny_model.recommend(history, k=2, feedback=feedback)
    assert display.items.tolist() == items.tolist()
    without = tiny_model.score_items(history[1:], items, feedback=feedback[1:])
    np.testing.assert_allclose(display.effects[0], scores - without, atol=1e-4)
    assert display.signs.tolist() == list(feedback)


def test_explanations_of_one_history_are_drawn_as_they_are():
    def told(item, effects, items=("a", "b")):
        return SimpleNamespace(item=item, items=np.array(items), signs=[1, -1], effects=effects)

    display = ExplanationDisplay.from_explanations([told(7, [0.5, -2.0]), told("x", [1.0, 0.0])])
    widths = [[bar.get_width() for bar in bars] for bars in display.bars_]
    assert widths == [[0.5, -2.0], [1.0, 0.0]]
    assert [ax.get_title() for ax in display.axes_] == ["item 7", "item x"]
    ticks = [tick.get_text() for tick in display.axes_[0].get_yticklabels()]
    assert ticks == ["liked a", "disliked b"]
    with pytest.raises(ValueError, match="different histories"):
        ExplanationDisplay.from_explanations([told(7, [1, 1]), told(7, [1, 1], ("a", "c"))])
    for nothing in ([], [told(7, [], ())]):
        with pytest.raises(ValueError, match="at least one explanation"):
            ExplanationDisplay.from_explanations(nothing)


def test_what_cannot_be_explained_is_said():
    for history in ([1], [[1, 2]], 5):
        with pytest.raises(ValueError, match="a history of at least two"):
            ExplanationDisplay.from_estimator(Additive(), history)
    with pytest.raises(ValueError, match="feedback has 1 entries, the history 2 events"):
        ExplanationDisplay.from_estimator(Additive(), [1, 2], feedback=[1])
    with pytest.raises(ValueError, match="does not know 999"):
        ExplanationDisplay.from_estimator(Additive(), [1, 2], [100, 999])


# -- The house ---------------------------------------------------------------------------------


def test_dark_styles_are_kept(plt, curve):
    """No colour is fixed but for a grey that is seen on both grounds."""
    with plt.style.context("dark_background"):
        display = TradeoffDisplay(curve=curve, name="tiny").plot()
        explained = ExplanationDisplay.from_estimator(Additive(), [1, 2], k=2)
        for figure in (display.figure_, explained.figure_):
            figure.canvas.draw()
        assert mpl.colors.to_rgb(display.texts_[0].get_color()) == (1, 1, 1)
        (halo,) = display.texts_[0].get_path_effects()
        assert mpl.colors.to_rgb(halo._gc["foreground"]) == (0, 0, 0)
        assert mpl.colors.to_rgb(explained.axes_[0].lines[0].get_color()) == (1, 1, 1)


def test_matplotlib_is_imported_when_something_is_drawn_and_without_it_the_extra_is_named():
    code = """
import sys
from posneg_rec import plotting
assert "matplotlib" not in sys.modules
sys.modules["matplotlib"] = None
try:
    plotting.TrainingDisplay(history={"epoch": [1], "loss": [1.0]}).plot()
except ImportError as error:
    assert "pip install 'posneg-rec[plot]'" in str(error), error
    assert "TrainingDisplay" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)
