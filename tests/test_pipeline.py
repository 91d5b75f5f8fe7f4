"""Transformers and a recommender in one pipeline: raw ids in, raw ids out."""

import pickle
import subprocess
import sys

import joblib
import narwhals.stable.v2 as nw
import numpy as np
import pandas as pd
import pytest
import sklearn
from popularity import PopularityRecommender
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.compose import ColumnTransformer
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
from posneg_rec.frames import MISSING_ID
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


def with_pauses(rows, unit=None):
    """The same events in the same order, with pauses between them that differ."""
    pauses = np.random.default_rng(0).integers(0, 2, len(rows)) * 10_000 + 1
    rows = as_pandas(rows).assign(time=np.cumsum(pauses))
    return rows if unit is None else rows.assign(time=rows["time"].astype(f"M8[{unit}]"))


@pytest.mark.parametrize("output", [None, "pandas", "polars"])
@pytest.mark.parametrize("unit", [None, "s", "ns"])
def test_pauses_reach_the_recommender(bare, unit, output):
    rows = with_pauses(X, unit)
    expected = tiny().fit(rows, Y)
    assert not same_weights(expected, bare)  # pauses matter
    for transformers in (
        [SequenceBuilder()],
        [SequenceBuilder(), RareItemMasker(**MASK_NOTHING)],
        [RareItemMasker(**MASK_NOTHING), SequenceBuilder()],
    ):
        pipeline = pipeline_of(*transformers).set_output(transform=output).fit(rows, Y)
        assert same_weights(pipeline[-1], expected)
        assert pipeline[-1].gap_edges_.tolist() == expected.gap_edges_.tolist()
        assert pipeline.score(rows, Y) == expected.score(rows, Y) != 0
        answer, direct = (model.recommend(rows, 2, feedback=Y) for model in (pipeline, expected))
        assert answer.equals(direct)


def test_rows_of_one_time_stay_in_their_order(bare):
    rows = X.copy()
    rows[:, 2] = 0
    assert same_weights(neutral_pipeline().fit(rows, Y)[-1], tiny().fit(rows, Y))
    short = pipeline_of(SequenceBuilder(max_length=4)).fit(rows, Y)
    last_four = np.concatenate([np.flatnonzero(X[:, 0] == user)[-4:] for user in range(40)])
    assert same_weights(short[-1], tiny().fit(rows[last_four], Y[last_four]))


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
    why, expected = (m.explain(history, 3, feedback=feedback) for m in (fitted, bare))
    assert repr(why) == repr(expected)
    answers = (m.rerank(history, [3, 4, 6, 7], 2, feedback=feedback) for m in (fitted, bare))
    assert np.array_equal(*(answer.scores for answer in answers))
    for data, signs in ((history, feedback), (HISTORIES, FEEDBACKS), (X, Y)):
        vectors = fitted.encode(data, feedback=signs, dislike_aversion=2)
        expected = bare.encode(data, feedback=signs, dislike_aversion=2)
        np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


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


def swap(rows):
    """Bring rows of (time, item, user) to (user, item, time)."""
    return rows[:, [2, 1, 0]] if isinstance(rows, np.ndarray) else rows.iloc[:, [2, 1, 0]]


FOREIGN = {
    "function": [FunctionTransformer(swap)],
    "columns": [ColumnTransformer([("by place", "passthrough", [2, 1, 0])])],
    "passthrough": ["passthrough", FunctionTransformer(swap), "passthrough"],
    "two": [FunctionTransformer(), FunctionTransformer(swap)],
}


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize("then", ["the model", "a builder", "a masker"])
def test_targets_are_read_behind_steps_that_know_no_columns(bare, foreign, then):
    """Not from the columns in which those steps find their rows."""
    own = {"the model": [], "a builder": [SequenceBuilder()],
           "a masker": [RareItemMasker(**MASK_NOTHING)]}[then]  # fmt: skip
    steps = [clone(step) if step != "passthrough" else step for step in FOREIGN[foreign]]
    pipeline = pipeline_of(*steps, *own).fit(swap(X), Y)
    assert same_weights(pipeline[-1], bare)
    for targets in ("last", "all", np.arange(len(X)) % 3 == 1):
        ranks, expected = (
            model.target_ranks(rows, Y, targets=targets)
            for model, rows in ((pipeline, swap(X)), (bare, X))
        )
        for name in ("users", "rows", "signs", "ranks"):
            assert getattr(ranks, name).tolist() == getattr(expected, name).tolist()
    assert pipeline.score(swap(X), Y) == bare.score(X, Y)
    assert pipeline.unknown_items(swap(np.array([[1, 999, 0], [1, 3, 1]]))).tolist() == [999]
    # Leaks are those of the users, too; the model's columns are none of the rows as passed.
    early = X[:, 2] < 4
    with pytest.warns(FutureLeakWarning, match=r"40 of 40 .*TemporalSplit\(\) "):
        pipeline.score(swap(X)[early], Y[early])


def test_columns_that_the_recommender_knows_are_its_own(bare):
    """The first steps know none: the recommender's hold."""
    frame = as_pandas(X)[["time", "item", "user"]].set_axis(["when", "what", "who"], axis=1)
    named = {"user_column": "who", "item_column": "what", "time_column": "when"}
    pipeline = pipeline_of(FunctionTransformer(), "passthrough", **named).fit(frame, Y)
    assert same_weights(pipeline[-1], bare)
    assert pipeline.score(frame, Y) == bare.score(X, Y)
    assert set(pipeline.target_ranks(frame, Y).users) == set(X[:, 0])


def test_steps_that_drop_rows_are_refused():
    pipeline = pipeline_of(FunctionTransformer(lambda rows: rows[1:]))
    with pytest.raises(ValueError, match="FunctionTransformer made 3 rows of 4, but"):
        pipeline.fit(np.array([[1, 1, 0], [1, 2, 1], [1, 3, 2], [1, 1, 3]]))


def test_the_advice_against_leaks_names_the_columns():
    frame = as_pandas(X).set_axis(["who", "what", "when"], axis=1)
    named = SequenceBuilder(user_column="who", item_column="what", time_column=2)
    pipeline = pipeline_of(named).fit(frame, Y)
    with pytest.warns(
        FutureLeakWarning,
        match=r"TemporalSplit\(user_column='who', item_column='what', time_column=2\) ",
    ):
        pipeline.score(frame[X[:, 2] < 4], Y[X[:, 2] < 4])
    # Behind another step they are no columns of the rows that a splitter gets.
    behind = pipeline_of(FunctionTransformer(swap), SequenceBuilder(user_column=0))
    behind.fit(swap(X), Y)
    with pytest.warns(FutureLeakWarning, match=r"TemporalSplit\(\) "):
        behind.score(swap(X)[X[:, 2] < 4], Y[X[:, 2] < 4])


def test_a_foreign_recommender_in_a_pipeline_ranks_as_it_does_alone():
    class Plain(PopularityRecommender):
        """Knows neither exclude_seen nor columns nor codings of feedback."""

        def target_ranks(self, X, y=None, *, targets="last"):
            return super().target_ranks(X, y, targets=targets, exclude_seen=False)

    pipeline = make_recommender_pipeline(SequenceBuilder(), Plain()).fit(X, Y)
    expected = Plain().fit(X, Y).target_ranks(X, Y, targets="all")
    ranks = pipeline.target_ranks(X, Y, targets="all")
    order = np.argsort(expected.rows)
    assert ranks.ranks.tolist() == expected.ranks[order].tolist()
    with pytest.raises(TypeError, match="exclude_seen"):
        pipeline.target_ranks(X, Y, exclude_seen=True)


def test_methods_are_there_if_the_recommender_has_them():
    methods = ("recommend", "score_items", "similar_items", "unknown_items", "target_ranks")
    methods += ("explain", "encode", "rerank")
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


def test_a_first_row_is_no_target_unless_a_mask_names_it(fitted, bare):
    rows = np.array([[90, 3, 0], [90, 4, 1], [91, 5, 0], [92, 6, 5], [92, 7, 4]])
    for model in (fitted, bare):
        assert model.target_ranks(rows, targets="last").rows.tolist() == [1, 3]
        assert model.target_ranks(rows, targets="all").rows.tolist() == [1, 3]
        every = model.target_ranks(rows, targets=np.ones(5, dtype=bool))
        assert every.rows.tolist() == [0, 1, 2, 3, 4]


MASK_ALL = [
    (RareItemMasker(min_items_per_user=9), "few items"),
    (SequenceBuilder(min_events=9), "few events"),
]


@pytest.mark.parametrize("kind", [*FRAMES, "array"])
@pytest.mark.parametrize(("transformer", "why"), MASK_ALL, ids=[why for _, why in MASK_ALL])
def test_where_all_is_masked_there_is_no_answer(transformer, why, kind):
    make = FRAMES.get(kind, np.asarray)
    pipeline = pipeline_of(clone(transformer)).fit(make(X), Y)
    # Of one user and of two; items known and unknown.
    few = np.array([[91, 3, 0], [91, 4, 1], [92, 5, 1]])
    for rows in (few[:2], few):
        with pytest.warns(UserWarning, match=f"The transformers mask all {len(rows)} rows"):
            answer = pipeline.recommend(make(rows), k=3, feedback=np.ones(len(rows)))
        usual = pipeline.recommend(make(X), k=3, feedback=Y)
        assert type(answer) is type(usual) and len(answer) == 0
        if kind == "array":
            assert answer.dtype == usual.dtype
        else:
            assert nw.from_native(answer).schema == nw.from_native(usual).schema
        with pytest.warns(UserWarning, match=f"mask all {len(rows)} rows"):
            ranks = pipeline.target_ranks(make(rows), np.ones(len(rows)))
        assert len(ranks) == 0 and ranks.n_items == len(pipeline[-1].items_)
        with pytest.warns(UserWarning, match=f"mask all {len(rows)} rows"):
            several = pipeline.target_ranks(make(rows), dislike_aversion=[0.0, 3.0])
        assert [len(ranks) for ranks in several] == [0, 0]
    unknown = np.array([[91, 3, 0], [91, 999, 1], [92, 5, 1], [93, 888, 5], [93, 4, 3]])
    with pytest.warns(UserWarning, match="mask all 5 rows"):
        ranks = pipeline.target_ranks(make(unknown), np.array([1, -1, 1, 1, 1]))
    assert ranks.rows.tolist() == [1, 3] and ranks.signs.tolist() == [-1, 1]
    assert set(ranks.ranks) == {len(pipeline[-1].items_) + 1}
    with pytest.warns(UserWarning) as found:
        assert pipeline.score(make(few), np.ones(3)) == 0
    assert any("No user has two events" in str(warning.message) for warning in found)


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
    past = neutral_pipeline().fit(X[~later], Y[~later])
    with pytest.warns(FutureLeakWarning, match=r"targets=held_out_mask\(train, test\)"):
        past.target_ranks(X, Y, targets="all")
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


def test_a_validation_set_goes_through_the_transformers(monkeypatch):
    held = X[:, 0] >= X[:, 0].max() - 9
    passed = {"X_val": X[held], "y_val": Y[held]}
    masker = RareItemMasker(min_users_per_item=12, min_items_per_user=3)
    masked = clone(masker).fit(X[~held])
    kept = masked.transform(X[held])[:, 0] != MISSING_ID
    assert np.count_nonzero(~kept) > 0
    trained = masked.transform(X[~held])[:, 0] != MISSING_ID
    expected = tiny().fit(
        X[~held][trained], Y[~held][trained], X_val=X[held][kept], y_val=Y[held][kept]
    )
    scores = expected.history_["validation_score"]

    def same(pipeline, **passed):
        pipeline.fit(X[~held], Y[~held], **passed)
        return (
            same_weights(pipeline[-1], expected)
            and scores == (pipeline[-1].history_["validation_score"])
        )

    def pipeline(**options):
        made = pipeline_of(clone(masker)).set_params(**options)
        with sklearn.config_context(enable_metadata_routing=True):
            made[-1].set_fit_request(X_val=True, y_val=True)
        return made

    step = "contrastiveseqrecommender"
    assert same(pipeline(), **passed)
    assert same(pipeline(), **{f"{step}__{name}": value for name, value in passed.items()})
    table = {"X_val": as_pandas(X[held]), "y_val": Y[held]}
    assert pipeline().fit(as_pandas(X[~held]), Y[~held], **table)[-1].history_[
        "validation_score"
    ] == pytest.approx(scores)
    with sklearn.config_context(enable_metadata_routing=True):
        for transform_input in (None, ["X_val"]):
            assert same(pipeline(transform_input=transform_input), **passed)
        with pytest.raises(UnsetMetadataPassedError, match="X_val"):
            pipeline_of(masker).fit(X[~held], Y[~held], **passed)
    with pytest.raises(TypeError, match="X_val is a list"):
        pipeline().fit(X[~held], Y[~held], X_val=HISTORIES, y_val=FEEDBACKS)
    # Nothing to go through: histories will do.
    alone = pipeline_of().fit(
        HISTORIES[:30], FEEDBACKS[:30], X_val=HISTORIES[30:], y_val=FEEDBACKS[30:]
    )
    assert None not in alone[-1].history_["validation_score"]


def test_a_search_over_a_pipeline_takes_a_validation_set():
    held = X[:, 0] >= X[:, 0].max() - 9
    search = GridSearchCV(
        neutral_pipeline(max_epochs=1),
        {"contrastiveseqrecommender__embedding_dim": [4, 8]},
        cv=LeaveLastOutSplit(),
    )
    search.fit(X[~held], Y[~held], X_val=X[held], y_val=Y[held])
    expected = clone(search.best_estimator_).fit(X[~held], Y[~held], X_val=X[held], y_val=Y[held])
    assert same_weights(search.best_estimator_[-1], expected[-1])


def test_weights_of_masked_rows_do_not_count():
    masker = RareItemMasker(min_users_per_item=15, min_items_per_user=3)
    kept = masker.fit_transform(X)[:, 0] != MISSING_ID
    weight = np.random.default_rng(0).uniform(0.1, 1, len(X))
    expected = tiny().fit(X[kept], Y[kept], sample_weight=weight[kept])
    pipeline = pipeline_of(masker).fit(X, Y, contrastiveseqrecommender__sample_weight=weight)
    assert same_weights(pipeline[-1], expected)


_SEARCH_SPLITTER = TemporalSplit(2, quantile=0.5)


@pytest.fixture(scope="module")
def searched_by_hand():
    """The mean score of each setting, with nothing but slicing, fit and score."""
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
                    for train, test in _SEARCH_SPLITTER.split(X)
                ]
            )
    return scores


@pytest.mark.parametrize("kind", ["array", "pandas"])
def test_a_search_finds_a_pipeline_that_recommends(searched_by_hand, kind):
    rows = X if kind == "array" else as_pandas(X)
    grid = {
        "rareitemmasker__min_users_per_item": [1, 7],
        "contrastiveseqrecommender__learning_rate": [0.003, 0.03],
    }
    pipeline = pipeline_of(RareItemMasker(min_items_per_user=1))
    search = GridSearchCV(pipeline, grid, cv=_SEARCH_SPLITTER).fit(rows, Y)
    scores = searched_by_hand
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
