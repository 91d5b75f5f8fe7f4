"""A store of interactions on disk: whatever is asked of it, a frame of the rows would answer."""

import json
import pickle
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import X, Y, as_pandas, same_weights, tiny

from posneg_rec import RareItemMasker, make_recommender_pipeline, sequences, store
from posneg_rec.baselines import PopularityRecommender
from posneg_rec.ids import ItemVocabulary
from posneg_rec.interactions import build_histories, read_interactions
from posneg_rec.model_selection import LeaveLastOutSplit, leaking_rows
from posneg_rec.objectives import JointObjective, PNFRecObjective
from posneg_rec.reporting import report
from posneg_rec.store import InteractionStore

pytest.importorskip("duckdb")
pa = pytest.importorskip("pyarrow")
pc = pytest.importorskip("pyarrow.compute")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("few_steps")


@pytest.fixture(scope="module", autouse=True)
def small_pieces():
    """Let a few rows be many batches, and a few events many parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "_BATCH", 7)
        patch.setattr(sequences, "_PART", 16)
        yield


ROWS = as_pandas(X).assign(liked=Y == 1).sample(frac=1, random_state=0)


def as_arrow(frame):
    return pa.Table.from_pandas(frame, preserve_index=False)


@pytest.fixture(scope="module")
def liked(tmp_path_factory):
    """The tiny world as a store, its rows in any order."""
    path = tmp_path_factory.mktemp("store") / "liked"
    return InteractionStore.build(path, as_arrow(ROWS), feedback="liked")


# -- The same as a frame -------------------------------------------------------------------------


def assert_same(read, other):
    """Compare what two sources hold."""
    assert read.n_rows == other.n_rows and read.time_unit == other.time_unit
    assert read.feedback_coding == other.feedback_coding
    assert read.item_ids.tolist() == other.item_ids.tolist()
    one, two = (build_histories(each, ItemVocabulary(other.item_ids)) for each in (read, other))
    for name in ("users", "items", "signs", "times", "rows", "offsets"):
        mine, theirs = getattr(one, name), getattr(two, name)
        assert (mine is None) == (theirs is None), name
        assert mine is None or mine.tolist() == theirs.tolist(), name
    assert read.users.tolist() == two.users.repeat(two.lengths).tolist()


KINDS = {
    "int": st.integers(-3, 5).map(lambda n: n * 10**12),
    "text": st.sampled_from(["a", "b", "B", "é", "\U0001f600", "\uffff", ""]),
    "float": st.sampled_from([-1.5, 0.0, 2.0, 1e300]),
}
TIMES = {
    "none": None,
    "int": st.integers(-2, 3),
    "float": st.sampled_from([-0.0, 0.0, -1.5, 2.25]),
    "datetime": st.integers(0, 3).map(lambda day: pd.Timestamp(2024, 1, 1 + day, 12)),
    "zoned": st.integers(0, 3).map(lambda hour: pd.Timestamp(2024, 1, 1, hour, tz="Asia/Tokyo")),
}
FEEDBACK = {
    "none": (None, None),
    "bool": (st.booleans(), None),
    "ones": (st.just(1), None),
    "binary": (st.sampled_from([0, 1]), None),
    "signed": (st.sampled_from([-1, 0, 1]), None),
    "grades": (st.integers(1, 5), 4),
    "half stars": (st.sampled_from([0.5, 3.0, 3.5, 5.0]), (3.0, 4.0)),
}


@settings(max_examples=25)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(TIMES)),
    st.sampled_from(sorted(FEEDBACK)),
    st.data(),
)
def test_a_store_holds_what_a_frame_of_the_rows_does(
    tmp_path_factory, user, item, time, feedback, data
):
    values, threshold = FEEDBACK[feedback]
    n = data.draw(st.integers(1, 30))

    def column(of):
        return data.draw(st.lists(of, min_size=n, max_size=n))

    columns = {"item": column(KINDS[item]), "user": column(KINDS[user])}
    if TIMES[time] is not None:
        columns["time"] = column(TIMES[time])
    table = pd.DataFrame(columns)
    masked = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    rows = as_arrow(table)
    if not all(masked):
        at = pa.array(masked)
        rows = pa.table(
            {
                name: pc.if_else(at, pa.scalar(None, of.type), of)
                for name, of in zip(rows.column_names, rows.columns, strict=True)
            }
        )
    y = None
    if values is not None:
        y = column(values)
        rows = rows.append_column("stars", pa.array(y))
    path = tmp_path_factory.mktemp("law") / "store"
    told = None if y is None else "stars"
    built = InteractionStore.build(path, rows, told, positive_threshold=threshold)
    assert_same(
        read_interactions(built, positive_threshold=threshold),
        read_interactions(rows, y, positive_threshold=threshold),
    )


def test_what_0_means_is_read_off_all_batches(tmp_path):
    rows = pa.table({"user": [1] * 20, "item": range(20), "liked": [0, 1] * 9 + [0, -1]})
    built = InteractionStore.build(tmp_path / "a", rows, "liked")
    assert built.feedback_coding == "signed"
    assert read_interactions(built).signs.tolist() == [0, 1] * 9 + [0, -1]
    built = InteractionStore.build(tmp_path / "b", rows.slice(0, 18), "liked")
    assert built.feedback_coding == "binary"
    assert read_interactions(built).signs.tolist() == [-1, 1] * 9
    built = InteractionStore.build(
        tmp_path / "c", rows.slice(0, 18), "liked", feedback_coding="signed"
    )
    assert read_interactions(built).signs.tolist() == [0, 1] * 9


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_negatives": 10},
        {"objective": "pnfrec"},
        {"objective": "pnfrec", "n_negatives": 10, "contrastive_weight": 0.2, "windows": "random"},
        {"early_stopping": False, "max_len": 4},
    ],
)
def test_a_fit_of_a_store_is_that_of_a_frame_to_the_last_bit(liked, changes):
    weights = np.random.default_rng(0).random(len(ROWS)).round()
    of_frame, of_store = tiny(**changes), tiny(**changes)
    of_frame.fit(ROWS, ROWS["liked"], sample_weight=weights).partial_fit(ROWS, ROWS["liked"])
    of_store.fit(liked, sample_weight=weights).partial_fit(liked)
    assert same_weights(of_frame, of_store)
    for name in ("item_likes_", "item_dislikes_", "gap_edges_", "feature_names_in_"):
        assert getattr(of_frame, name).tolist() == getattr(of_store, name).tolist()
    assert of_frame.history_["validation_score"] == of_store.history_["validation_score"]
    assert of_frame.n_features_in_ == of_store.n_features_in_ == 4


def test_parts_of_any_size_make_the_same_model(liked, monkeypatch):
    of_parts = tiny().fit(liked)
    monkeypatch.setattr(sequences, "_PART", 2**20)
    assert same_weights(of_parts, tiny().fit(liked))


def test_items_that_join_are_learned_from_a_store_as_from_a_frame(tmp_path, liked):
    later = ROWS.assign(item=ROWS["item"] * 2 - 7, time=ROWS["time"] + 10_000)
    both = pd.concat([ROWS, later])
    of_both = InteractionStore.build(tmp_path / "both", as_arrow(both), "liked")
    of_frame = tiny().fit(ROWS, ROWS["liked"]).partial_fit(both, both["liked"])
    of_store = tiny().fit(liked).partial_fit(of_both)
    assert len(of_store.items_) > liked.n_items
    assert of_store.items_.tolist() == of_frame.items_.tolist()
    assert same_weights(of_frame, of_store)
    assert of_store.item_likes_.tolist() == of_frame.item_likes_.tolist()


def test_a_store_is_asked_as_a_frame_is(tiny_model, liked):
    y = ROWS["liked"]
    for targets in ("last", "all", (ROWS["time"] % 3 == 0).to_numpy()):
        expected = tiny_model.target_ranks(X[ROWS.index], y, targets=targets, exclude_seen=2)
        found = tiny_model.target_ranks(liked, targets=targets, exclude_seen=2)
        for name in ("users", "rows", "signs", "ranks"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist()
    assert tiny_model.score(liked) == tiny_model.score(X[ROWS.index], y)
    expected = tiny_model.recommend(ROWS, k=3, feedback=y, denied_items=[3])
    found = tiny_model.recommend(liked, k=3, denied_items=[3])
    assert found["item"].tolist() == expected["item"].tolist()
    assert found["user"].tolist() == expected["user"].tolist()
    np.testing.assert_array_equal(tiny_model.encode(liked), tiny_model.encode(ROWS, feedback=y))
    assert tiny_model.unknown_items(liked).tolist() == []


def test_a_store_validates_a_fit_and_is_validated_by_a_frame(tmp_path, liked):
    later = ROWS[ROWS["user"] >= 30].assign(user=lambda rows: rows["user"] + 1000)
    others = InteractionStore.build(tmp_path / "others", as_arrow(later), "liked")
    expected = tiny().fit(ROWS, ROWS["liked"], X_val=later, y_val=later["liked"])
    for options in ({"X_val": others}, {"X_val": later, "y_val": later["liked"]}):
        found = tiny().fit(liked, **options)
        assert found.history_["validation_score"] == expected.history_["validation_score"]
        assert same_weights(found, expected)
    with pytest.raises(ValueError, match="y_val was not provided"):
        tiny().fit(liked, X_val=later)


def test_a_killed_fit_of_a_frame_goes_on_with_a_store_of_its_rows(tmp_path, liked):
    class Killed(Exception):
        pass

    class Kill:
        def setup(self, estimator, context): ...
        def teardown(self, estimator, context): ...
        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            if context.task_name == "epoch" and context.task_id:
                raise Killed

    params = {"precision": "float32", "max_epochs": 3}
    with pytest.raises(Killed):
        tiny(**params).set_callbacks(Kill()).fit(
            ROWS, ROWS["liked"], checkpoint=tmp_path / "checkpoint"
        )
    found = tiny(**params).fit(liked, checkpoint=tmp_path / "checkpoint")
    assert same_weights(found, tiny(**params).fit(liked))


# -- Sources -------------------------------------------------------------------------------------


def test_rows_come_from_files_folders_readers_and_relations(tmp_path, liked):
    duckdb = pytest.importorskip("duckdb")
    rows = as_arrow(ROWS)
    (tmp_path / "parts").mkdir()
    ROWS.to_parquet(tmp_path / "one.parquet", index=False)
    ROWS[:50].to_parquet(tmp_path / "parts" / "1.parquet", index=False)
    ROWS[50:].to_parquet(tmp_path / "parts" / "2.parquet", index=False)
    sources = {
        "file": tmp_path / "one.parquet",
        "folder": str(tmp_path / "parts"),
        "reader": pa.RecordBatchReader.from_batches(rows.schema, rows.to_batches(max_chunksize=3)),
        "batch": rows.combine_chunks().to_batches()[0],
        "relation": duckdb.sql("SELECT * FROM rows"),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "parts"]
    for name, source in sources.items():
        built = InteractionStore.build(tmp_path / "stores" / name, source, "liked")
        assert_same(read_interactions(built), read_interactions(liked))
    assert sorted(path.name for path in (tmp_path / "stores").iterdir()) == sorted(sources)
    other = as_arrow(ROWS.rename(columns={"time": "when"}))
    pq.write_table(other, tmp_path / "parts" / "3.parquet")
    with pytest.raises(ValueError, match=r"3\.parquet has other columns than .*1\.parquet"):
        InteractionStore.build(tmp_path / "store", tmp_path / "parts", "liked")


def test_batches_may_each_have_categories_of_their_own(tmp_path):
    words = np.array(["b", "a", "c"])
    rows = pa.table({"user": [1] * 9, "item": words[[0, 0, 1, 2, 2, 2, 1, 0, 2]]})
    batches = [
        batch.set_column(1, "item", batch.column("item").dictionary_encode())
        for batch in rows.to_batches(max_chunksize=2)
    ]
    reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    built = InteractionStore.build(tmp_path / "store", reader)
    assert_same(read_interactions(built), read_interactions(rows))


def test_a_store_is_opened_again_and_sent_by_its_path(liked):
    for again in (InteractionStore(liked.path), pickle.loads(pickle.dumps(liked))):
        assert repr(again) == repr(liked)
        assert_same(read_interactions(again), read_interactions(liked))
    assert isinstance(read_interactions(again).signs.base, np.memmap)


def feedback_of(source):
    return "liked" if "liked" in getattr(source, "column_names", ()) else None


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ([[1, 2]], TypeError, "got builtins list"),
        (X, TypeError, "got numpy ndarray"),
        ("nowhere.parquet", ValueError, "There is no file"),
        (Path(__file__), ValueError, "is no parquet file"),
        (Path(__file__).parent, ValueError, r"holds no file \*.parquet"),
        (pa.table({"user": [1]}), ValueError, "minimum of 2 is required"),
        (pa.table({"user": [1], "what": [2]}), ValueError, "no column is known for the item"),
        (as_arrow(ROWS).slice(0, 0), ValueError, "Found 0 sample"),
        (pa.table({"user": pa.nulls(2, pa.int64()), "item": pa.nulls(2, pa.int64())}), ValueError,
         "all 2 rows are masked"),
        (pa.table({"user": pa.nulls(2, pa.string()), "item": pa.nulls(2, pa.string())}), ValueError,
         "all 2 rows are masked"),
        (pa.table({"user": [b"1"], "item": [2]}), TypeError, "users of type bytes have no place"),
    ],
)  # fmt: skip
def test_what_is_no_table_leaves_no_folder(tmp_path, source, error, text):
    with pytest.raises(error, match=text):
        InteractionStore.build(tmp_path / "store", source, feedback_of(source))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("user", None),
        ("item", None),
        ("time", None),
        ("time", np.inf),
        ("liked", None),
        ("liked", 3.0),
        ("liked", np.inf),
    ],
)
def test_errors_are_those_of_a_frame_and_name_its_row(tmp_path, column, value):
    rows = {name: ROWS[name].tolist() for name in ROWS}
    rows |= {name: [float(value) for value in rows[name]] for name in ("time", "liked")}
    rows[column][30] = value
    rows = pa.table(rows)
    with pytest.raises(ValueError, match="row 30") as of_frame:
        read_interactions(rows, rows["liked"])
    with pytest.raises(ValueError, match="row 30") as of_store:
        InteractionStore.build(tmp_path / "store", rows, "liked")
    assert str(of_store.value) == str(of_frame.value)


def test_a_feedback_column_must_be_there_and_is_missed_aloud(tmp_path):
    rows = as_arrow(ROWS)
    with pytest.raises(ValueError, match="feedback='stars' is not one of the columns"):
        InteractionStore.build(tmp_path / "store", rows, "stars")
    with pytest.warns(UserWarning, match="the column 'liked' is not read"):
        built = InteractionStore.build(tmp_path / "store", rows)
    assert built.feedback_coding == "liked" and not built.has_feedback
    with pytest.raises(ValueError, match="is there already"):
        InteractionStore.build(tmp_path / "store", rows)
    with pytest.raises(ValueError, match="feedback_coding must be one of"):
        InteractionStore.build(tmp_path / "other", rows, feedback_coding="stars")


@pytest.mark.parametrize("name", ["duckdb", "pyarrow"])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=f"takes {name}, .* pip install"):
        InteractionStore.build(tmp_path / "store", as_arrow(ROWS))


# -- Refusals ------------------------------------------------------------------------------------


def test_a_model_that_reads_feedback_otherwise_is_refused(tmp_path, liked):
    rows = as_arrow(ROWS.assign(stars=np.where(ROWS["liked"], 5, 1)).drop(columns="liked"))
    graded = InteractionStore.build(tmp_path / "graded", rows, "stars", positive_threshold=4)
    tiny(positive_threshold=4, max_epochs=1).fit(graded)
    with pytest.raises(ValueError, match="positive_threshold=4, the model has None"):
        tiny().fit(graded)
    with pytest.raises(ValueError, match="holds the feedback that it was built with"):
        tiny().fit(liked, ROWS["liked"])
    signed = InteractionStore.build(
        tmp_path / "signed", as_arrow(ROWS), "liked", feedback_coding="signed"
    )
    with pytest.raises(ValueError, match="In the store 0 is neutral, in the model it is disliked"):
        tiny(max_epochs=1).fit(liked).partial_fit(signed)
    tiny(max_epochs=1).fit(signed).partial_fit(liked)  # booleans are what they are
    numbers = as_arrow(ROWS.astype({"liked": int}))
    zeros = InteractionStore.build(tmp_path / "zeros", numbers, "liked")
    with pytest.raises(ValueError, match="In the store 0 is disliked, in the model it is neutral"):
        tiny(max_epochs=1).fit(signed).partial_fit(zeros)
    with pytest.raises(ValueError, match=r"user_column='who', but .* column 'user'"):
        tiny(user_column="who").fit(liked)
    for column in ("user", 0):
        tiny(user_column=column, max_epochs=1).fit(liked)


@pytest.mark.parametrize(
    "ask",
    [
        lambda rows, model: next(LeaveLastOutSplit().split(rows)),
        lambda rows, model: leaking_rows(rows, [0], [1]),
        lambda rows, model: PopularityRecommender().fit(rows),
        lambda rows, model: report(model, rows),
        lambda rows, model: make_recommender_pipeline(RareItemMasker(), tiny()).fit(rows),
    ],
)
def test_where_a_table_is_needed_a_store_is_refused(liked, tiny_model, ask):
    with pytest.raises(TypeError, match=r"InteractionStore\(.*pass a table"):
        ask(liked, tiny_model)


def rewrite(path, **changes):
    head = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps(head | changes))


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda path: (path / "store.json").unlink(), "is no store"),
        (lambda path: (path / "store.json").write_text("[1]"), "is no store"),
        (lambda path: (path / "store.json").write_text("{"), "is no store"),
        (lambda path: (path / "item.bin").unlink(), "item.bin cannot be read"),
        (lambda path: (path / "item.bin").write_bytes(b""), "item.bin is not what was written"),
        (lambda path: rewrite(path, posneg_rec_store=2), "has format 2"),
        (lambda path: rewrite(path, arrays={}), "lacks the column users"),
        (lambda path: rewrite(path, names=None), "lacks names"),
        (lambda path: rewrite(path, feedback_coding="stars"), "how feedback was read"),
        (lambda path: rewrite(path, n_events=3), "columns of different lengths"),
    ],
)
def test_a_damaged_or_foreign_folder_is_a_clear_error(tmp_path, harm, text):
    built = InteractionStore.build(tmp_path / "store", as_arrow(ROWS), "liked")
    harm(Path(built.path))
    with pytest.raises(ValueError, match=rf"store .*{text}.*Build the store anew"):
        InteractionStore(built.path)


@pytest.mark.parametrize("name", ["user", "item", "time", "row", "sign", "offsets", "users"])
def test_a_changed_byte_is_found(tmp_path, name):
    built = InteractionStore.build(tmp_path / "store", as_arrow(ROWS), "liked")
    file = Path(built.path) / f"{name}.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=f"{name}.bin is not what was written"):
        InteractionStore(built.path)


# -- Memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [JointObjective, PNFRecObjective])
@pytest.mark.parametrize("n_negatives", [None, 8])
def test_an_objective_keeps_nothing_of_each_event(kind, n_negatives, monkeypatch):
    from test_objectives import with_settings

    n_users, n_events = 1_000, 400
    n = n_users * n_events
    histories = sequences.Histories(
        users=np.arange(n_users),
        items=(np.arange(n) % 97).astype(np.int32),
        signs=np.where(np.arange(n) % 3 == 0, -1, 1).astype(np.int8),
        times=np.arange(n),
        rows=np.arange(n),
        offsets=np.arange(n_users + 1) * n_events,
    )
    monkeypatch.setattr(sequences, "_PART", 2**13)
    edges = np.geomspace(1, 100, 9)
    tracemalloc.start()
    try:
        made = kind(
            histories,
            with_settings(n_negatives=n_negatives),
            gap_edges=edges,
            stops=histories.offsets[1:] - 2,
        )
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(made.trainable_users()) == n_users
    assert kept < 0.3 * n and most < 4 * n  # bytes; a copy of the items alone would be 8 n
