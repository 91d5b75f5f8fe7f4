"""scikit-learn's own tools run against the recommender, and each result is checked by hand."""

import pickle
import re
from functools import partial

import joblib
import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import FitFailedWarning, NotFittedError, UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    validation_curve,
)
from sklearn.utils import estimator_html_repr
from sklearn.utils.validation import check_is_fitted
from tiny import FEEDBACKS, FRAMES, HISTORIES, TIMELESS, StopAfter, X, Y, same_weights, tiny

import posneg_rec
from posneg_rec import interactions, make_recommender_pipeline, pipeline, recommender
from posneg_rec.metrics import recommender_scorer, recommender_scores
from posneg_rec.model_selection import TemporalSplit, leaking_rows
from posneg_rec.preprocessing import SequenceBuilder

CV = TemporalSplit(2, quantile=0.5)
GRID = {"learning_rate": [0.003, 0.01, 0.03]}
SETTINGS = [{"learning_rate": rate} for rate in GRID["learning_rate"]]


def rows_of(data, rows):
    return data[rows] if isinstance(data, np.ndarray) else [data[row] for row in rows]


def by_hand(cv=CV, data=X, feedback=Y, score=None, weight=None, **params):
    """What a score of each fold must be."""
    scores = []
    for train, test in cv.split(data, feedback):
        weights = {} if weight is None else {"sample_weight": weight[train]}
        model = tiny(**params).fit(rows_of(data, train), rows_of(feedback, train), **weights)
        scorer = score or (lambda model, X, y: model.score(X, y))
        scores.append(scorer(model, rows_of(data, test), rows_of(feedback, test)))
    return scores


@pytest.fixture(scope="module")
def expected():
    """Score of each setting in each fold, shape (3, 2)."""
    scores = np.array([by_hand(**setting) for setting in SETTINGS])
    assert len(np.unique(scores.mean(1))) == 3  # else a search could not be told from a guess
    return scores


@pytest.fixture(scope="module")
def fitted():
    return tiny().fit(X, Y)


# -------------------------------------------------------------------------------- conventions


def test_every_public_estimator_has_its_conformance_tests():
    """A new estimator needs parametrize_with_checks in its own test module first."""
    public = {
        name
        for module in (posneg_rec, interactions, pipeline, recommender)
        for name in module.__all__
        if isinstance(getattr(module, name), type)
        and issubclass(getattr(module, name), BaseEstimator)
    }
    assert public == {
        "ContrastiveSeqRecommender",
        "RareItemMasker",
        "RecommenderPipeline",
        "SequenceBuilder",
    }


def test_clone_keeps_parameters_requests_and_callbacks(fitted):
    callback = StopAfter(1)
    model = tiny(positive_threshold=(2.0, 4.0)).set_callbacks(callback)
    with sklearn.config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight="importance")
        copied = clone(model)
        asked = {name: None for name in ("X_val", "y_val", "checkpoint")}
        asked["sample_weight"] = "importance"
        assert copied.get_metadata_routing().fit.requests == asked
    assert copied is not model and copied.get_params() == model.get_params()
    assert copied._skl_callbacks == [callback]
    assert not [name for name in vars(clone(fitted)) if name.endswith("_")]


def test_misspelled_parameters_are_refused_with_the_right_ones():
    message = r"Invalid parameter 'embeding_dim' for estimator .*Valid parameters are: .*'embed"
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        tiny().set_params(embeding_dim=8)
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        GridSearchCV(tiny(), {"embeding_dim": [8]}, cv=CV).fit(X, Y)
    with pytest.raises(TypeError, match="embeding_dim"):
        tiny(embeding_dim=8)


def test_is_fitted_after_a_fit_that_worked():
    model = tiny()
    with pytest.raises(NotFittedError):
        check_is_fitted(model)
    with pytest.raises(ValueError):
        model.fit(X, Y[1:])
    assert not model.__sklearn_is_fitted__()
    check_is_fitted(model.fit(X, Y))


def test_html_shows_parameters_and_every_fitted_attribute(fitted):
    assert "Fitted attributes" not in estimator_html_repr(tiny())
    html = estimator_html_repr(fitted)
    assert "dislike_aversion" in html and "<td>&#x27;signed&#x27;</td>" in html
    documented = type(fitted).__doc__.split("Attributes\n")[1].split("See Also")[0]
    for name in vars(fitted):
        if name.endswith("_"):
            assert f">{name}</a>" in html
            assert re.search(rf"^    [\w, ]*\b{name}\b[\w, ]* : ", documented, re.MULTILINE), name
    html = estimator_html_repr(make_recommender_pipeline(SequenceBuilder(), fitted))
    assert "SequenceBuilder" in html and "weights_" in html


@pytest.mark.parametrize("kind", FRAMES)
def test_names_and_number_of_columns_are_held_to(kind):
    frame = FRAMES[kind](X)
    model = tiny().fit(frame, Y)
    assert model.n_features_in_ == 3
    assert model.feature_names_in_.tolist() == ["user", "item", "time"]
    renamed = FRAMES["polars"](X).rename({"time": "when"})
    with pytest.raises(ValueError, match=r"feature names should match(.|\n)*when"):
        model.score(renamed, Y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        assert model.score(X, Y) == model.score(frame, Y)
    with pytest.raises(ValueError, match=r"X has 2 features, but .* is expecting 3 features"):
        tiny().fit(X, Y).score(X[:, :2], Y)


def test_histories_have_no_columns():
    model = tiny().fit(HISTORIES, FEEDBACKS)
    assert not hasattr(model, "n_features_in_") and not hasattr(model, "feature_names_in_")


# ---------------------------------------------------------------------------------- searches


@pytest.mark.parametrize("kind", ["array", *FRAMES])
@pytest.mark.parametrize(
    "search",
    [
        GridSearchCV,
        # Three draws from a list of three are the list.
        partial(RandomizedSearchCV, n_iter=3, random_state=0),
    ],
    ids=["grid", "randomized"],
)
def test_searches_score_every_setting_and_refit_the_best(expected, search, kind):
    rows = X if kind == "array" else FRAMES[kind](X)
    found = search(tiny(), GRID, cv=CV).fit(rows, Y)
    order = [GRID["learning_rate"].index(p["learning_rate"]) for p in found.cv_results_["params"]]
    assert sorted(order) == [0, 1, 2]
    for fold in (0, 1):
        scores = found.cv_results_[f"split{fold}_test_score"]
        np.testing.assert_allclose(scores, expected[order, fold])
    best = SETTINGS[expected.mean(1).argmax()]
    assert found.best_params_ == best
    assert same_weights(found.best_estimator_, tiny(**best).fit(X, Y))
    assert found.score(rows, Y) == found.best_estimator_.score(rows, Y)
    assert (kind == "array") != hasattr(found, "feature_names_in_")


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_two_jobs_find_what_one_finds(expected, backend):
    with joblib.parallel_config(backend, n_jobs=2):
        found = GridSearchCV(tiny(), GRID, cv=CV).fit(X, Y)
        scores = cross_val_score(tiny(), X, Y, cv=CV)
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], expected.mean(1))
    np.testing.assert_allclose(scores, by_hand())


def test_halving_spends_epochs_on_the_better_half():
    grid = {"learning_rate": [0.001, 0.003, 0.01, 0.03]}
    options = {"resource": "max_epochs", "min_resources": 1, "max_resources": 4, "factor": 2}
    found = HalvingGridSearchCV(tiny(), grid, cv=CV, random_state=0, **options).fit(X, Y)
    assert found.n_resources_ == [1, 2, 4]
    assert found.n_candidates_ == [4, 2, 1]
    results = found.cv_results_
    for params, score in zip(results["params"], results["mean_test_score"], strict=True):
        assert score == pytest.approx(np.mean(by_hand(**params)))
    for rung, n_left in ((0, 2), (1, 1)):
        mine = np.flatnonzero(results["iter"] == rung)
        best = mine[np.argsort(results["mean_test_score"][mine])[-n_left:]]
        kept = results["param_learning_rate"][results["iter"] == rung + 1]
        assert set(kept) == set(results["param_learning_rate"][best])
    assert found.best_params_["max_epochs"] == 4 == found.best_estimator_.n_iter_


def scored_rows(scored):
    """A scorer that also notes which rows each fold was scored on."""

    def scorer(model, rows, feedback):
        ranks = model.target_ranks(rows, feedback)
        scored.append(rows[ranks.rows])
        return ranks.mean()

    return scorer


def test_halving_by_samples_moves_the_targets_of_rows():
    """The subsample of a test fold lacks held-out rows: rows of the past take their place."""
    (cut,) = TemporalSplit(quantile=0.5).cut_times(X)
    halving = partial(
        HalvingGridSearchCV,
        param_grid=GRID,
        cv=TemporalSplit(quantile=0.5),
        refit=False,
        return_train_score=False,
    )
    scored = []
    options = {"resource": "max_epochs", "max_resources": 3, "min_resources": 1}
    halving(tiny(), scoring=scored_rows(scored), **options).fit(X, Y)
    assert all((rows[:, 2] >= cut).all() for rows in scored)
    scored.clear()
    halving(tiny(), scoring=scored_rows(scored), min_resources=150, random_state=0).fit(X, Y)
    assert any((rows[:, 2] < cut).any() for rows in scored)


def test_halving_by_samples_draws_whole_histories():
    sizes = []

    def scorer(model, histories, feedback):
        assert all(history in HISTORIES for history in histories)
        sizes.append(len(histories))
        return model.score(histories, feedback)

    halving = HalvingGridSearchCV(
        tiny(),
        GRID,
        cv=KFold(2),
        min_resources=12,
        scoring=scorer,
        random_state=0,
        return_train_score=False,
    )
    found = halving.fit(HISTORIES, FEEDBACKS)
    assert found.n_resources_ == [12, 36] and found.n_candidates_ == [3, 1]
    assert sizes == [6] * 6 + [18] * 2
    best = SETTINGS[GRID["learning_rate"].index(found.best_params_["learning_rate"])]
    assert same_weights(found.best_estimator_, tiny(**best).fit(*TIMELESS))


@pytest.mark.parametrize(
    "scoring",
    [
        recommender_scores,
        {
            "ndcg_liked": recommender_scorer("ndcg", feedback="liked"),
            "neg_ndcg_disliked": recommender_scorer("ndcg", feedback="disliked"),
        },
    ],
    ids=["callable", "dict"],
)
def test_each_of_several_metrics_picks_its_own_best(scoring):
    # Most events are of items that some like and some do not, a few of ones that all like.
    rng, rows, liked = np.random.default_rng(0), [], []
    for user in range(80):
        items = np.concatenate([rng.permutation(12)[:7], 12 + rng.permutation(12)[:1]])
        rows += [(user, item, time) for time, item in enumerate(rng.permutation(items))]
        liked += [item >= 12 or rng.random() < 0.6 for _, item, _ in rows[-8:]]
    rows, liked = np.array(rows), np.array(liked)
    aversions = [0.0, 4.0, 1000.0]  # the last keeps away from what most people like, too
    settings = {"max_epochs": 4, "learning_rate": 0.03}
    picked = {}
    for refit in ("ndcg_liked", "neg_ndcg_disliked"):
        grid = {"dislike_aversion": aversions}
        search = GridSearchCV(tiny(**settings), grid, cv=CV, scoring=scoring, refit=refit)
        found = search.fit(rows, liked)
        score = recommender_scorer("ndcg", feedback=refit.split("_")[-1])
        means = [
            np.mean(by_hand(CV, rows, liked, score, dislike_aversion=value, **settings))
            for value in aversions
        ]
        np.testing.assert_allclose(found.cv_results_[f"mean_test_{refit}"], means)
        assert found.best_params_ == {"dislike_aversion": aversions[np.argmax(means)]}
        picked[refit] = found.best_index_
    assert picked == {"ndcg_liked": 0, "neg_ndcg_disliked": 2}


def test_a_setting_that_cannot_be_fitted_does_not_end_a_search():
    grid = {"n_heads": [1, 3]}  # 3 does not divide embedding_dim
    with (
        pytest.warns(FitFailedWarning, match="embedding_dim must divide by n_heads"),
        pytest.warns(UserWarning, match="test scores are non-finite"),
    ):
        found = GridSearchCV(tiny(), grid, cv=CV).fit(X, Y)
    scores = found.cv_results_["mean_test_score"]
    assert np.isnan(scores).tolist() == [False, True] and found.best_params_ == {"n_heads": 1}


def test_histories_in_a_search_are_new_users():
    """One sample is one user: a plain KFold holds out whole users."""
    splitter = KFold(3, shuffle=True, random_state=0)
    found = GridSearchCV(tiny(), GRID, cv=splitter).fit(HISTORIES, FEEDBACKS)
    means = [np.mean(by_hand(splitter, HISTORIES, FEEDBACKS, **setting)) for setting in SETTINGS]
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], means)
    assert found.best_params_ == SETTINGS[np.argmax(means)]
    # The same users held out of the table, by the rows of each.
    folds = [
        [np.flatnonzero(np.isin(X[:, 0], users)) for users in fold]
        for fold in splitter.split(HISTORIES)
    ]
    np.testing.assert_allclose(
        cross_val_score(tiny(), *TIMELESS, cv=folds), by_hand(splitter, HISTORIES, FEEDBACKS)
    )
    assert all(len(leaking_rows(X, *fold)) == 0 for fold in folds)


# ------------------------------------------------------------------------------- validation


def test_cross_validate_returns_scores_estimators_and_rows():
    found = cross_validate(
        tiny(),
        X,
        Y,
        cv=CV,
        scoring=recommender_scores,
        return_train_score=True,
        return_estimator=True,
        return_indices=True,
    )
    for fold, (train, test) in enumerate(CV.split(X)):
        assert found["indices"]["train"][fold].tolist() == train.tolist()
        model = found["estimator"][fold]
        assert same_weights(model, tiny().fit(X[train], Y[train]))
        for part, rows in (("train", train), ("test", test)):
            scores = recommender_scores(model, X[rows], Y[rows])
            for name, score in scores.items():
                assert found[f"{part}_{name}"][fold] == pytest.approx(score)
            assert scores["ndcg_delta"] == pytest.approx(model.score(X[rows], Y[rows])) != 0


def test_validation_curve(expected):
    train_scores, test_scores = validation_curve(
        tiny(), X, Y, cv=CV, param_name="learning_rate", param_range=GRID["learning_rate"]
    )
    np.testing.assert_allclose(test_scores, expected)
    train, _ = next(CV.split(X))
    model = tiny(learning_rate=0.03).fit(X[train], Y[train])
    assert train_scores[2, 0] == pytest.approx(model.score(X[train], Y[train]))


def test_learning_curve_over_users():
    splitter = KFold(2)
    sizes, _, scores = learning_curve(
        tiny(), HISTORIES, FEEDBACKS, cv=splitter, train_sizes=[10, 20]
    )
    assert sizes.tolist() == [10, 20] and scores.shape == (2, 2)
    for fold, (train, test) in enumerate(splitter.split(HISTORIES)):
        for size, score in zip((10, 20), scores[:, fold], strict=True):
            model = tiny().fit(rows_of(HISTORIES, train[:size]), rows_of(FEEDBACKS, train[:size]))
            assert score == model.score(rows_of(HISTORIES, test), rows_of(FEEDBACKS, test))


def test_learning_curve_goes_on_with_partial_fit():
    _, _, scores = learning_curve(
        tiny(),
        HISTORIES,
        FEEDBACKS,
        cv=KFold(2),
        train_sizes=[10, 20],
        exploit_incremental_learning=True,
    )
    train, test = next(KFold(2).split(HISTORIES))
    model = tiny()
    for part, score in zip((train[:10], train[10:]), scores[:, 0], strict=True):
        model.partial_fit(rows_of(HISTORIES, part), rows_of(FEEDBACKS, part))
        assert score == model.score(rows_of(HISTORIES, test), rows_of(FEEDBACKS, test))


# ---------------------------------------------------------------------------------- metadata


def test_sample_weight_is_routed_to_the_fits():
    weight = np.where(X[:, 1] % 3, 1.0, 0.05)
    weighted = np.array([by_hand(weight=weight, **setting) for setting in SETTINGS])
    assert not np.allclose(weighted[0], by_hand(**SETTINGS[0]))
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            GridSearchCV(tiny(), GRID, cv=CV).fit(X, Y, sample_weight=weight)
        model = tiny().set_fit_request(sample_weight=True)
        found = GridSearchCV(model, GRID, cv=CV).fit(X, Y, sample_weight=weight)
        scores = cross_val_score(model, X, Y, cv=CV, params={"sample_weight": weight})
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], weighted.mean(1))
    np.testing.assert_allclose(scores, by_hand(weight=weight))
    best = tiny(**found.best_params_).fit(X, Y, sample_weight=weight)
    assert same_weights(found.best_estimator_, best)


def test_sample_weight_reaches_the_fits_without_routing_and_scores_do_not_know_it():
    weight = np.where(X[:, 1] % 3, 1.0, 0.05)
    with pytest.warns(UserWarning, match="score does not support sample_weight"):
        found = GridSearchCV(tiny(), GRID, cv=CV).fit(X, Y, sample_weight=weight)
    means = [np.mean(by_hand(weight=weight, **setting)) for setting in SETTINGS]
    np.testing.assert_allclose(found.cv_results_["mean_test_score"], means)


# --------------------------------------------------------------------------------- callbacks


def epochs_of(monitor):
    return [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]


@pytest.mark.parametrize("in_pipeline", [False, True])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_scoring_monitor_sees_every_epoch_of_a_search(n_jobs, in_pipeline):
    monitor = ScoringMonitor(scoring={"ndcg": recommender_scorer()})
    model = tiny(early_stopping=False).set_callbacks(monitor)
    grid = GRID
    if in_pipeline:
        model = make_recommender_pipeline(SequenceBuilder(), model)
        grid = {"contrastiveseqrecommender__learning_rate": GRID["learning_rate"]}
    found = GridSearchCV(model, grid, cv=CV, n_jobs=n_jobs).fit(X, Y)
    epochs = epochs_of(monitor)
    assert len(epochs) == 2 * (3 * 2 + 1)  # two epochs of each setting, fold, and of the refit
    (last,) = (
        row["ndcg"] for row in epochs if row["task_id_path"][:2] == (0, 1) and row["task_id"]
    )
    assert last == pytest.approx(found.best_estimator_.score(X, Y))


@pytest.mark.parametrize("in_pipeline", [False, True])
def test_a_callback_stops_the_fits_of_a_search(in_pipeline):
    model = tiny(max_epochs=9, early_stopping=False).set_callbacks(StopAfter(3))
    name = "contrastiveseqrecommender__" if in_pipeline else ""
    if in_pipeline:
        model = make_recommender_pipeline(SequenceBuilder(), model)
    found = GridSearchCV(model, {f"{name}learning_rate": GRID["learning_rate"]}, cv=CV)
    scores = found.fit(X, Y).cv_results_["mean_test_score"]
    expected = [
        np.mean(by_hand(max_epochs=3, early_stopping=False, **setting)) for setting in SETTINGS
    ]
    np.testing.assert_allclose(scores, expected)
    best = found.best_estimator_[-1] if in_pipeline else found.best_estimator_
    assert best.n_iter_ == 3


# Of scikit-learn's own transformers few support callbacks yet.
@pytest.mark.filterwarnings("ignore:The estimator SequenceBuilder does not support callbacks")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_bar_of_a_search_counts_its_fits(capsys, monkeypatch, n_jobs):
    monkeypatch.setenv("COLUMNS", "200")
    bar = ProgressBar(max_propagation_depth=2)
    model = make_recommender_pipeline(SequenceBuilder(), tiny())
    search = GridSearchCV(
        model, {"sequencebuilder__max_length": [3, 5]}, cv=CV, n_jobs=n_jobs
    ).set_callbacks(bar)
    search.fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    for name, count in [
        ("GridSearchCV - fit", 1),
        ("| RecommenderPipeline - fit", 5),
        ("| ContrastiveSeqRecommender - fit", 5),
    ]:
        mine = [line for line in lines if name in line]
        assert len(mine) == count and all("100%" in line for line in mine)


def test_callbacks_stay_out_of_what_a_search_persists():
    model = tiny().set_callbacks(ScoringMonitor(scoring=recommender_scores))
    best = GridSearchCV(model, GRID, cv=CV).fit(X, Y).best_estimator_
    loaded = pickle.loads(pickle.dumps(best))
    assert hasattr(best, "_skl_callbacks") and not hasattr(loaded, "_skl_callbacks")
    assert loaded.score(X, Y) == best.score(X, Y)
