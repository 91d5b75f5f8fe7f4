"""Transformers and a recommender in one pipeline: raw ids in, raw ids out."""

import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.callback import ScoringMonitor
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from tiny import (
    FEEDBACKS,
    FRAMES,
    HISTORIES,
    TIMELESS,
    StopAfter,
    X,
    Y,
    as_pandas,
    same_weights,
    tiny,
)

from posneg_rec import (
    RareItemMasker,
    SequenceBuilder,
    make_recommender_pipeline,
)
from posneg_rec.ids import MISSING_ID
from posneg_rec.metrics import recommender_scorer
from posneg_rec.model_selection import (
    FutureLeakWarning,
    LeaveLastOutSplit,
    TemporalSplit,
    UserHoldoutSplit,
)

MASK_NOTHING = {"min_users_per_item": 1, "min_items_per_user": 1}


def pipeline_of(*transformers, **changes):
    return make_recommender_pipeline(*transformers, tiny(**changes))


def neutral_pipeline(**changes):
    """Two transformers that change nothing."""
    return pipeline_of(SequenceBuilder(), RareItemMasker(**MASK_NOTHING), **changes)


@pytest.fixture(scope="module")
def bare():
    return tiny().fit(X, Y)


@pytest.fixture(scope="module")
def fitted():
    return neutral_pipeline().fit(X, Y)


@pytest.mark.filterwarnings("ignore:No user has two events")  # each row another user
@parametrize_with_checks(
    [pipeline_of(SequenceBuilder(), positive_threshold=1)],
    expected_failed_checks=lambda pipeline: dict.fromkeys(
        ["check_estimators_overwrite_params", "check_dont_overwrite_parameters"],
        "scikit-learn's Pipeline fits its steps in place",
    ),
)
def test_scikit_learn_conformance(estimator, check):
    check(estimator)


# ------------------------------------------------------------------- what goes in, what comes out


def test_transformers_that_change_nothing_give_the_model_of_the_recommender_alone(bare, fitted):
    assert same_weights(fitted[-1], bare)
    assert fitted.score(X, Y) == bare.score(X, Y) != 0
    for options in ({}, {"targets": "all", "exclude_seen": False}):
        ranks, expected = (model.target_ranks(X, Y, **options) for model in (fitted, bare))
        for name in ("users", "rows", "signs", "ranks"):
            assert getattr(ranks, name).tolist() == getattr(expected, name).tolist()


def test_a_history_and_a_list_of_histories_go_to_the_recommender_as_they_are(bare, fitted):
    history, feedback = [1, 5, 2], [1, -1, 1]
    for answer, expected in zip(
        fitted.recommend(history, 4, feedback=feedback, denied_items=[3]),
        bare.recommend(history, 4, feedback=feedback, denied_items=[3]),
        strict=True,
    ):
        assert answer.tolist() == expected.tolist()
    answer = fitted.recommend(HISTORIES, k=2, feedback=FEEDBACKS)
    assert answer.dtype.names == ("user", "item", "score", "rank")
    assert answer.tolist() == bare.recommend(HISTORIES, k=2, feedback=FEEDBACKS).tolist()
    assert fitted.score(HISTORIES, FEEDBACKS) == bare.score(HISTORIES, FEEDBACKS) != 0
    assert fitted.score_items(history, [3, 999]).tolist()[0] == bare.score_items(history, [3])[0]
    assert fitted.similar_items(3, 2)[0].tolist() == bare.similar_items(3, 2)[0].tolist()


def test_transformers_refuse_a_list_of_histories():
    """To a transformer, lists of equal length would be rows."""
    with pytest.raises(TypeError, match="The transformers of a pipeline take tables"):
        neutral_pipeline().fit([[1, 2, 3], [2, 3, 1]], [[1, 1, 1], [1, 1, -1]])
    alone = make_recommender_pipeline("passthrough", tiny()).fit(HISTORIES, FEEDBACKS)
    assert same_weights(alone[-1], tiny().fit(*TIMELESS))


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("output", [None, "pandas", "polars"])
def test_a_frame_is_answered_by_a_frame_of_its_kind(bare, kind, output):
    frame = FRAMES[kind](X)
    pipeline = neutral_pipeline().set_output(transform=output).fit(frame, Y)
    assert same_weights(pipeline[-1], bare)
    assert pipeline.score(frame, Y) == bare.score(X, Y)
    assert list(pipeline.feature_names_in_) == ["user", "item", "time"]
    answer = pipeline.recommend(frame, k=3, feedback=Y)
    expected = bare.recommend(X, k=3, feedback=Y)
    assert type(answer) is type(frame)
    for name in expected.dtype.names:
        assert np.asarray(answer[name]).tolist() == expected[name].tolist()


@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_an_array_is_answered_by_an_array(bare, output):
    pipeline = neutral_pipeline().set_output(transform=output).fit(X, Y)
    answer = pipeline.recommend(X, k=2, feedback=Y)
    assert isinstance(answer, np.ndarray)
    assert answer.tolist() == bare.recommend(X, k=2, feedback=Y).tolist()


@pytest.mark.parametrize("output", [None, "pandas", "polars"])
@pytest.mark.parametrize("kind", [*FRAMES, "array"])
@pytest.mark.parametrize(
    "ids",
    [np.arange(40) + 2**60 + 1, np.array([f"id {i:02}" for i in range(40)], dtype=object)],
    ids=["int64", "str"],
)
def test_ids_pass_exactly(bare, ids, kind, output):
    rows = as_pandas(X).assign(user=ids[X[:, 0]], item=ids[X[:, 1]])
    rows = rows.to_numpy() if kind == "array" else FRAMES[kind](rows)
    pipeline = neutral_pipeline().set_output(transform=output).fit(rows, Y)
    assert same_weights(pipeline[-1], bare)
    answer, expected = (
        model.recommend(data, k=2, feedback=Y) for model, data in ((pipeline, rows), (bare, X))
    )
    for name in ("user", "item"):
        assert np.asarray(answer[name]).tolist() == ids[expected[name]].tolist()
    items, _ = pipeline.recommend([ids[3], ids[4]], k=2)
    assert items.tolist() == ids[bare.recommend([3, 4], k=2)[0]].tolist()


def test_steps_in_any_order_and_columns_by_name(bare):
    frame = as_pandas(X).rename(columns={"user": "who", "item": "what", "time": "when"})
    frame = frame[["when", "what", "who"]]
    named = {"user_column": "who", "item_column": "what", "time_column": "when"}
    for first, then in [
        (SequenceBuilder(**named), RareItemMasker(**MASK_NOTHING)),
        (
            RareItemMasker(**MASK_NOTHING, **named),
            SequenceBuilder(user_column=0, item_column=1, time_column=2),
        ),
    ]:
        pipeline = pipeline_of(first, then).fit(frame, Y)
        assert same_weights(pipeline[-1], bare)
        assert pipeline.score(frame, Y) == bare.score(X, Y)
        extra = pd.DataFrame({"when": [1, 2], "what": [3, 999], "who": [1, 1]})
        assert pipeline.unknown_items(extra).tolist() == [999]


def test_methods_are_there_if_the_recommender_has_them():
    methods = ("recommend", "score_items", "similar_items", "unknown_items", "target_ranks")
    assert all(hasattr(neutral_pipeline(), method) for method in methods)
    without = make_recommender_pipeline(SequenceBuilder(), RareItemMasker())
    for method in (*methods, "score"):
        assert not hasattr(without, method)
    with pytest.raises(AttributeError, match=r"RecommenderPipeline.* has no attribute"):
        without.recommend([1])
    assert not any(hasattr(neutral_pipeline()[:0], method) for method in methods)
    for data in (X, [1, 2]):
        with pytest.raises(NotFittedError, match="RecommenderPipeline"):
            neutral_pipeline().recommend(data)


# ------------------------------------------------------------------------------- masked rows


def test_masked_rows_are_as_if_they_were_not_there():
    builder = SequenceBuilder(max_length=8)
    masker = RareItemMasker(min_users_per_item=12, min_items_per_user=3)
    built = builder.fit_transform(X)[:, 0] != MISSING_ID
    kept = masker.fit_transform(builder.transform(X))[:, 0] != MISSING_ID
    assert kept.mean() < built.mean() - 0.1 < 0.9 and kept.mean() > 0.2
    pipeline = pipeline_of(builder, masker).fit(X, Y)
    expected = tiny().fit(X[kept], Y[kept])
    assert same_weights(pipeline[-1], expected)
    assert pipeline.recommend(X, 3, feedback=Y).tolist() == (
        expected.recommend(X[kept], 3, feedback=Y[kept]).tolist()
    )


def test_feedback_of_masked_rows_may_be_missing(bare):
    masked = np.vstack([X[:5], np.full((2, 3), MISSING_ID), X[5:]])
    feedback = np.insert(Y.astype(float), [5, 5], np.nan)
    pipeline = neutral_pipeline().fit(masked, feedback)
    assert same_weights(pipeline[-1], bare)
    assert pipeline.score(masked, feedback) == bare.score(X, Y)
    ranks = pipeline.target_ranks(masked, feedback, targets=np.ones(len(masked), dtype=bool))
    assert ranks.rows.tolist() == np.delete(np.arange(len(masked)), [5, 6]).tolist()


def test_feedback_is_read_as_in_the_fit(bare):
    graded = np.where(Y == 1, 5, 2)
    pipeline = neutral_pipeline(positive_threshold=4).fit(X, graded)
    assert same_weights(pipeline[-1], bare)
    assert pipeline.score(X, graded) == bare.score(X, Y)
    signed = np.where(np.arange(len(Y)) % 5, Y, 0)
    pipeline = neutral_pipeline().fit(X, signed)
    assert set(pipeline.target_ranks(X, np.maximum(signed, 0)).signs) == {0, 1}  # 0 is neutral


def test_a_masked_target_is_missed_not_replaced():
    """Item 9 is rare: the user's row before it, trained on, must not become the target."""
    users = np.repeat(np.arange(8), 4)
    rows = np.column_stack([users, np.tile([0, 1, 2, 3], 8), np.tile(np.arange(4), 8)])
    pipeline = pipeline_of(RareItemMasker(min_users_per_item=2, min_items_per_user=2)).fit(rows)
    rows[3, 1] = 9  # user 0, last
    rows = np.vstack([rows, [[8, 2, 0], [8, 9, 1]]])  # user 8 has one row left: masked
    ranks = pipeline.target_ranks(rows)
    assert ranks.rows.tolist() == [*range(3, 32, 4), 33]
    assert ranks.users.tolist() == [*range(8), 8]
    assert ranks.ranks.tolist()[::8] == [5, 5]
    assert (ranks.ranks[1:8] == 1).all()  # the only unseen item
    every = pipeline.target_ranks(rows, targets="all")
    assert every.rows.tolist() == [*(row for row in range(32) if row % 4), 33]
    chosen = np.zeros(34, dtype=bool)
    chosen[[3, 5, 32]] = True  # row 32: masked, its item known
    assert pipeline.target_ranks(rows, targets=chosen).rows.tolist() == [3, 5]
    with pytest.raises(ValueError, match="targets must be 'last', 'all' or a bool array"):
        pipeline.target_ranks(rows, targets=chosen[1:])
    with pytest.raises(ValueError, match="targets must be 'last', 'all' or a bool array"):
        pipeline.target_ranks(rows, targets="first")


def test_masking_what_is_hard_to_predict_does_not_raise_the_score():
    """All settings of a search are scored on the same targets."""
    last = np.flatnonzero(np.diff(X[:, 0], append=-1))
    for min_users in (1, 13, 17):
        masker = RareItemMasker(min_users_per_item=min_users, min_items_per_user=1)
        pipeline = pipeline_of(masker).fit(X, Y)
        ranks = pipeline.target_ranks(X, Y)
        unknown = ~np.isin(X[last, 1], pipeline[-1].items_)
        assert set(last[unknown]) <= set(ranks.rows) <= set(last)
        assert len(ranks) == len(last)
        assert (ranks.ranks[unknown] == len(pipeline[-1].items_) + 1).all()
        assert ranks.signs.tolist() == Y[last].tolist()
        assert pipeline.score(X, Y) == ranks.mean("ndcg", k=10)


def test_sessions_are_scored_on_each_users_last_row_alone(bare):
    """The end of an earlier session was trained on: no target."""
    rows = X.copy()
    rows[:, 2] *= np.where(X[:, 2] >= 4, 100, 1)  # from the fifth event on, all far apart
    rows[:, 2] += X[:, 2] % 2 * 99 * (X[:, 2] >= 4)  # but two and two together
    sessions = SequenceBuilder(session_gap=50)
    pipeline = pipeline_of(sessions).fit(rows, Y)
    names = sessions.fit_transform(rows)[:, 0]
    last = np.flatnonzero(np.diff(X[:, 0], append=-1))
    ranks = pipeline.target_ranks(rows, Y)
    assert ranks.rows.tolist() == last.tolist() and ranks.users.tolist() == list(range(40))
    for row, rank in zip(ranks.rows[:6], ranks.ranks, strict=False):
        before = np.flatnonzero(names[:row] == names[row])
        n_unseen = len(pipeline[-1].items_) - len(before)
        ranking, _ = pipeline.recommend(X[before, 1], n_unseen, feedback=Y[before])
        assert ranking.tolist().index(X[row, 1]) + 1 == rank
    users = pipeline.recommend(rows, k=1, feedback=Y)["user"]
    assert sorted(users) == sorted(set(names))


def test_scores_warn_when_the_future_leaks(fitted):
    """By the users of the table, whatever the transformers make of them."""
    with pytest.warns(FutureLeakWarning, match="targets lie before rows of the same user"):
        cross_val_score(
            neutral_pipeline(), X, Y, cv=KFold(3, shuffle=True, random_state=0), error_score="raise"
        )
    for splitter in (TemporalSplit(), LeaveLastOutSplit(), UserHoldoutSplit(2, random_state=0)):
        cross_val_score(neutral_pipeline(), X, Y, cv=splitter)  # warnings are errors here
    later = X[:, 2] >= 4
    neutral_pipeline().fit(X, Y).score(X[later], Y[later])
    for rows in (X, as_pandas(X)):
        with pytest.warns(FutureLeakWarning):
            neutral_pipeline().fit(rows, Y).score(rows[~later], Y[~later])
    dated = as_pandas(X).assign(time=X[:, 2].astype("M8[ns]"))
    dated = dated.assign(time=dated["time"] + pd.Timedelta("1h"))
    with pytest.warns(FutureLeakWarning, match="40 of 40 targets"):
        neutral_pipeline().fit(dated, Y).score(dated.assign(time=X[:, 2].astype("M8[s]")), Y)
    pickle.loads(pickle.dumps(fitted)).score(X[~later], Y[~later])  # knows nobody
    fitted.target_ranks(X, Y, targets=~later)  # asked for
    neutral_pipeline().fit(X[:, :2], Y).score(X[~later, :2], Y[~later])  # cannot tell


def test_unknown_items_are_named_though_they_are_masked(fitted):
    rows = np.array([[1, 999, 0], [1, 3, 1], [2, 777, 0], [2, 777, 1]])
    assert fitted.unknown_items(rows).tolist() == [777, 999]
    assert fitted.unknown_items(FRAMES["polars"](rows)).tolist() == [777, 999]
    assert fitted.unknown_items([[3, 999], [4]]).tolist() == [999]
    assert fitted.unknown_items([3, 999]).tolist() == [999]


# --------------------------------------------------------------------- weights, searches, files


def test_weights_reach_the_recommender():
    weight = np.where(X[:, 1] % 3, 1.0, 0.1)
    expected = tiny().fit(X, Y, sample_weight=weight)
    assert not same_weights(expected, tiny().fit(X, Y))
    step = {"contrastiveseqrecommender__sample_weight": weight}
    assert same_weights(neutral_pipeline().fit(X, Y, **step)[-1], expected)
    with sklearn.config_context(enable_metadata_routing=True):
        with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
            neutral_pipeline().fit(X, Y, sample_weight=weight)
        pipeline = neutral_pipeline()
        pipeline[-1].set_fit_request(sample_weight=True)
        assert same_weights(pipeline.fit(X, Y, sample_weight=weight)[-1], expected)
        pipeline[-1].set_fit_request(sample_weight="importance")
        assert same_weights(pipeline.fit(X, Y, importance=weight)[-1], expected)
        assert pipeline.score(X, Y) == expected.score(X, Y)


def test_weights_of_masked_rows_do_not_count():
    masker = RareItemMasker(min_users_per_item=15, min_items_per_user=3)
    kept = masker.fit_transform(X)[:, 0] != MISSING_ID
    weight = np.random.default_rng(0).uniform(0.1, 1, len(X))
    expected = tiny().fit(X[kept], Y[kept], sample_weight=weight[kept])
    pipeline = pipeline_of(masker).fit(X, Y, contrastiveseqrecommender__sample_weight=weight)
    assert same_weights(pipeline[-1], expected)


@pytest.mark.parametrize("kind", ["array", "pandas"])
def test_a_search_finds_a_pipeline_that_recommends(kind):
    rows = X if kind == "array" else as_pandas(X)
    grid = {
        "rareitemmasker__min_users_per_item": [1, 7],
        "contrastiveseqrecommender__learning_rate": [0.003, 0.03],
    }
    splitter = TemporalSplit(2, quantile=0.5)
    pipeline = pipeline_of(RareItemMasker(min_items_per_user=1))
    search = GridSearchCV(pipeline, grid, cv=splitter).fit(rows, Y)
    scores = {}
    for min_users in (1, 7):
        for rate in (0.003, 0.03):
            model = pipeline_of(
                RareItemMasker(min_users_per_item=min_users, min_items_per_user=1),
                learning_rate=rate,
            )
            scores[min_users, rate] = np.mean(
                [
                    model.fit(X[train], Y[train]).score(X[test], Y[test])
                    for train, test in splitter.split(X)
                ]
            )
    # GridSearchCV varies the parameter that sorts last the fastest.
    by_rate = [scores[m, rate] for rate in (0.003, 0.03) for m in (1, 7)]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], by_rate)
    assert len(set(by_rate)) == 4 and search.best_score_ == max(by_rate)
    best = tuple(search.best_params_[name] for name in grid)
    assert scores[best] == max(by_rate)
    expected = pipeline_of(
        RareItemMasker(min_users_per_item=best[0], min_items_per_user=1), learning_rate=best[1]
    ).fit(X, Y)
    assert same_weights(search.best_estimator_[-1], expected[-1])
    answer = search.best_estimator_.recommend(rows, k=2, feedback=Y)
    assert type(answer) is type(rows)
    assert np.asarray(answer["item"]).tolist() == (
        expected.recommend(X, k=2, feedback=Y)["item"].tolist()
    )


def test_steps_can_be_searched_swapped_and_skipped(bare):
    grid = {"sequencebuilder": [SequenceBuilder(max_length=2), "passthrough"]}
    pipeline = pipeline_of(SequenceBuilder())
    search = GridSearchCV(pipeline, grid, cv=TemporalSplit(), refit=False).fit(X, Y)
    train, test = next(TemporalSplit().split(X))
    expected = [
        pipeline_of(*step).fit(X[train], Y[train]).score(X[test], Y[test])
        for step in ([SequenceBuilder(max_length=2)], [])
    ]
    assert search.cv_results_["mean_test_score"].tolist() == expected and len(set(expected)) == 2
    skipped = pipeline.set_params(sequencebuilder="passthrough").fit(X, Y)
    assert same_weights(skipped[-1], bare) and skipped.score(X, Y) == bare.score(X, Y)
    own = pipeline_of(FunctionTransformer(lambda rows: rows[:, [2, 1, 0]]), SequenceBuilder())
    assert same_weights(own.fit(X[:, [2, 1, 0]], Y)[-1], bare)


def test_parameters_of_steps_are_named():
    pipeline = neutral_pipeline().set_params(sequencebuilder__max_length=7)
    assert pipeline.get_params()["sequencebuilder__max_length"] == 7
    with pytest.raises(ValueError, match=r"Invalid parameter 'max_lenght' for .*SequenceBuilder"):
        pipeline.set_params(sequencebuilder__max_lenght=7)


def test_memory_caches_the_transformers(bare, tmp_path):
    pipeline = make_recommender_pipeline(SequenceBuilder(), tiny(), memory=str(tmp_path))
    for _ in range(2):
        assert same_weights(pipeline.fit(X, Y)[-1], bare)
        assert pipeline.score(X, Y) == bare.score(X, Y)
    (cached,) = tmp_path.rglob("output.pkl")  # once, for two fits
    assert cached.is_file()


def test_loaded_pipeline_answers_the_same_in_a_new_process(tmp_path):
    ids = np.arange(40) + 2**60 + 1
    rows = as_pandas(X).assign(item=ids[X[:, 1]])
    pipeline = make_recommender_pipeline(
        SequenceBuilder(max_length=8), RareItemMasker(), tiny()
    ).fit(rows, Y)
    path, data = tmp_path / "pipeline.joblib", tmp_path / "rows.joblib"
    joblib.dump(pipeline, path)
    joblib.dump((rows, Y), data)
    code = """
import sys, joblib
pipeline = joblib.load(sys.argv[1])
items, scores = pipeline.recommend([2**60 + 2, 2**60 + 3], k=3)
assert "torch" not in sys.modules
rows, feedback = joblib.load(sys.argv[2])
table = pipeline.recommend(rows, k=2, feedback=feedback)
print(items.tolist(), scores.tobytes().hex(), table["item"].tolist())
print(pipeline.score(rows, feedback))
"""
    out = subprocess.run(
        [sys.executable, "-c", code, path, data], capture_output=True, text=True, check=True
    ).stdout
    items, scores = pipeline.recommend([2**60 + 2, 2**60 + 3], k=3)
    table = pipeline.recommend(rows, k=2, feedback=Y)
    assert out == (
        f"{items.tolist()} {scores.tobytes().hex()} {table['item'].tolist()}\n"
        f"{pipeline.score(rows, Y)}\n"
    )


def test_callbacks_watch_the_fit_and_are_not_persisted(tmp_path):
    monitor = ScoringMonitor(scoring={"ndcg": recommender_scorer()})
    pipeline = neutral_pipeline(max_epochs=5, early_stopping=False)
    pipeline[-1].set_callbacks(StopAfter(3), monitor)
    pipeline.set_callbacks(StopAfter(0))
    pipeline.fit(X, Y)
    assert pipeline[-1].n_iter_ == 3
    expected = [tiny(max_epochs=n, early_stopping=False).fit(X, Y).score(X, Y) for n in (1, 2, 3)]
    epochs = [row for row in monitor.get_logs().data if row["task_name"] == "epoch"]
    np.testing.assert_allclose([row["ndcg"] for row in epochs], expected)
    joblib.dump(pipeline, tmp_path / "pipeline.joblib")
    loaded = joblib.load(tmp_path / "pipeline.joblib")
    for estimator in (pipeline, pipeline[-1]):
        assert hasattr(estimator, "_skl_callbacks")
    for estimator in (loaded, loaded[-1]):
        assert not hasattr(estimator, "_skl_callbacks")
    assert loaded.score(X, Y) == pipeline.score(X, Y)
    # A search sends what it is about to fit to other processes, with its callbacks.
    sent = pickle.loads(pickle.dumps(neutral_pipeline().set_callbacks(StopAfter(1))))
    assert hasattr(sent, "_skl_callbacks")
