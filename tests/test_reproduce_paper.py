"""The study of the paper, on a world so small that every number can be had another way."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from popularity import PopularityRecommender
from tiny import losses_of

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import baselines
import reproduce_paper
from paper_protocol import last_out_split, paper_split, user_split
from reproduce_paper import (
    jobs_of,
    main,
    protocol_ranks,
    read,
    replace_tables,
    strict_ranks,
)

from posneg_rec import ContrastiveSeqRecommender, objectives
from posneg_rec.metrics import summarize
from posneg_rec.recommender import PNFREC
from posneg_rec.sequences import PackedSequences

TINY = {
    "embedding_dim": 8,
    "n_layers": 1,
    "max_len": 10,
    "batch_size": 16,
    "max_epochs": 2,
    "n_iter_no_change": 2,
}
# What `settings_of` adds and a fit gets apart.
DEFAULTS = {
    name: value
    for name, value in ContrastiveSeqRecommender(**TINY).get_params().items()
    if name not in reproduce_paper.GIVEN_BY_FIT
}
METHODS = ["default", "likes-only", "session-contrast", "no-signs", "item-item", "popular"]
PROTOCOLS = ["P0", "P1", "P2", "P1-strict", "P1-validation"]


@pytest.fixture(scope="module")
def table():
    """Ratings with many events of one user at one time."""
    rng = np.random.default_rng(0)
    parts = []
    for user in range(60):
        items = rng.choice(60, size=16, replace=False)  # more than ten stay to recommend
        ratings = np.where(items < 36, 5, 2)
        ratings[rng.random(16) < 0.2] = 3
        parts.append(
            pd.DataFrame(
                {
                    "user": 100 + user,
                    "item": 1000 + items,
                    "time": np.sort(rng.integers(0, 40, size=16)),
                    "rating": ratings,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def split(table):
    return paper_split(table, table["rating"])


@pytest.fixture(scope="module")
def study(table, tmp_path_factory):
    """The folder of a whole run, and the arguments of the run."""
    folder = tmp_path_factory.mktemp("study")
    table.to_csv(folder / "world.csv", index=False)
    out = folder / "out"
    arguments = ["--data", str(folder / "world.csv"), "--out", str(out), "--quick"]
    arguments += ["--seeds", "0", "1", "--methods", *METHODS, "--protocols", *PROTOCOLS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce_paper, "QUICK", TINY)
        patch.setattr(reproduce_paper, "N_BOOTSTRAPS", 50)
        main(arguments)
    return out, arguments


@pytest.fixture(scope="module")
def report(study):
    return json.loads((study[0] / "report.json").read_text())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(reproduce_paper, "QUICK", TINY)
    monkeypatch.setattr(reproduce_paper, "N_BOOTSTRAPS", 50)


def fitted(method, split, threshold=4.0, **changes):
    settings = dict(reproduce_paper.METHODS[method].settings)
    if reproduce_paper.METHODS[method].is_random:
        settings = DEFAULTS | settings | TINY
    others = {"validation": changes.pop("validation")} if "validation" in changes else {}
    return reproduce_paper.METHODS[method].fit(
        *split.train, threshold, 0, settings | changes, **others
    )


# -- The run and its files -------------------------------------------------------------------


def test_a_fit_leaves_one_file_and_is_not_made_again(study, capsys):
    out, arguments = study
    made = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    # One seed is enough where nothing is random; with the default comes the same without memory.
    assert len(made) == 4 * 2 + 2 + 2
    (out / "item-item-0.npz").unlink()
    main(arguments)
    assert "9 of 10 fits" in capsys.readouterr().out
    again = {path.name: path.stat().st_mtime_ns for path in out.glob("*.npz")}
    assert {name for name in made if made[name] != again[name]} == {"item-item-0.npz"}


def test_other_settings_are_not_mixed_in(study, monkeypatch):
    monkeypatch.setattr(reproduce_paper, "QUICK", TINY | {"dropout": 0.7})
    with pytest.raises(SystemExit, match="other settings"):
        main(study[1])


def test_files_that_lack_a_protocol_are_made_again(study):
    def is_made(protocol, seed=7):
        (job,) = jobs_of("", 4.0, study[0], ["popular"], [protocol], [seed], quick=True)
        return reproduce_paper.is_made(job)

    assert is_made("P2", seed=0)
    meta, arrays = read(study[0] / "popular-0.npz")
    del arrays["other_ranks"]
    np.savez(study[0] / "popular-7.npz", meta=json.dumps(meta), **arrays)
    try:
        assert is_made("P0")
        assert not is_made("P2")
        assert not is_made("LOO")
    finally:
        (study[0] / "popular-7.npz").unlink()


def test_a_failed_fit_does_not_end_the_others(study, monkeypatch, tmp_path, capsys):
    def diverge(*args):
        raise FloatingPointError("too fast")

    broken = baselines.Method("broken", diverge, {}, "", is_random=False)
    monkeypatch.setitem(reproduce_paper.METHODS, "popular-liked", broken)
    arguments = [*study[1][:2], "--out", str(tmp_path), "--methods", "popular-liked", "popular"]
    with pytest.raises(SystemExit, match="1 fits failed"):
        main(arguments)
    assert "too fast" in capsys.readouterr().out
    assert [path.name for path in tmp_path.glob("*.npz")] == ["popular-0.npz"]
    assert list(json.loads((tmp_path / "report.json").read_text())["methods"]) == ["popular"]


def test_jobs_make_the_same_files(study, tmp_path):
    arguments = [*study[1][:2], "--out", str(tmp_path), "--methods", "item-item", "popular"]
    main([*arguments, "--jobs", "2"])
    for method in ("item-item", "popular"):
        ranks = [read(folder / f"{method}-0.npz")[1] for folder in (study[0], tmp_path)]
        np.testing.assert_array_equal(ranks[0]["test_ranks"], ranks[1]["test_ranks"])


# -- The protocols ---------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["P0", "P1", "P1-strict"])
def test_values_are_those_of_the_library(report, split, protocol):
    model = fitted("item-item", split)
    targets = split.test.last if protocol == "P0" else split.test.successive
    ranks = model.target_ranks(split.test.interactions, split.test.feedback, targets=targets)
    if protocol == "P1-strict":
        ranks = replace(ranks, ranks=strict_ranks(model, split.test, ranks.ranks))
    expected = summarize(ranks, n_bootstraps=50, random_state=0)
    values = report["protocols"][protocol]["values"]["item-item"]
    assert values == pytest.approx(expected.to_dict())


def test_both_halves_are_in_p2(study, report, table, split):
    swapped = paper_split(table, table["rating"], swap_halves=True)
    model = fitted("popular", split)
    ranks = [
        model.target_ranks(part.interactions, part.feedback, targets=part.last)
        for part in (split.test, swapped.test)
    ]
    values = report["protocols"]["P2"]["values"]["popular"]
    assert values["n_users"] == len(ranks[0]) + len(ranks[1])
    both = protocol_ranks("P2", *read(study[0] / "popular-0.npz"))
    assert len(np.unique(both.rows)) == len(both)
    for sign, name in ((1, "liked"), (-1, "disliked")):
        hits = np.concatenate([(part.ranks <= 10)[part.signs == sign] for part in ranks])
        assert values[f"hit_rate_{name}"] == pytest.approx(hits.mean())


def test_validation_targets_are_of_validation_users(study, split):
    ranks = protocol_ranks("P1-validation", *read(study[0] / "default-0.npz"))
    assert set(ranks.users) == set(split.validation.interactions["user"])
    assert not set(ranks.users) & set(split.test.interactions["user"])
    np.testing.assert_array_equal(ranks.rows, np.flatnonzero(split.validation.successive))


@pytest.mark.parametrize("method", ["item-item", "default"])
def test_strict_histories_end_before_the_targets_time(split, method):
    model = fitted(method, split)
    part = split.test
    usual = model.target_ranks(part.interactions, part.feedback, targets=part.successive).ranks
    rows = np.flatnonzero(part.successive)
    expected = []
    for row in rows:
        user, time = part.interactions[["user", "time"]].iloc[row]
        before = (part.interactions["user"] == user) & (part.interactions["time"] < time)
        kept = np.append(np.flatnonzero(before), row)
        target = np.arange(len(kept)) == len(kept) - 1
        alone = part.interactions.iloc[kept]
        expected.append(model.target_ranks(alone, part.feedback[kept], targets=target).ranks[0])
    assert (np.array(expected) != usual).any()  # there are ties, and they matter
    for max_rows in (10**6, 30):
        found = strict_ranks(model, part, usual, max_rows=max_rows)
        np.testing.assert_array_equal(found, expected)


def test_seen_items_are_no_candidates_where_events_repeat(table, tmp_path):
    """Though the library itself would keep them as candidates, all methods rank the same items."""
    again = table.groupby("user").head(6)
    table = pd.concat([table, again.assign(time=again["time"] + 20)], ignore_index=True)
    table.to_csv(tmp_path / "world.csv", index=False)
    methods = ["default", "session-contrast", "item-item"]
    arguments = ["--data", str(tmp_path / "world.csv"), "--out", str(tmp_path), "--quick"]
    main([*arguments, "--methods", *methods, "--protocols", "P1"])
    part = paper_split(table, table["rating"]).test
    assert fitted("default", paper_split(table, table["rating"])).excludes_seen_ is False
    seen = part.interactions.duplicated(["user", "item"]).to_numpy()[part.successive]
    assert seen.any()
    for method in methods:
        meta, arrays = read(tmp_path / f"{method}-0.npz")
        assert (arrays["test_ranks"][seen] == meta["n_items"] + 1).all()
        assert (arrays["test_ranks"][~seen] <= meta["n_items"]).all()


# -- The report ------------------------------------------------------------------------------


def test_seeds_are_averaged_and_differences_are_differences(study, report):
    values = report["protocols"]["P1"]["values"]
    runs = [protocol_ranks("P1", *read(study[0] / f"default-{seed}.npz")) for seed in (0, 1)]
    assert (runs[0].ranks != runs[1].ranks).any()
    means = [run.mean("ndcg", k=10, feedback="liked") for run in runs]
    assert values["default"]["ndcg_liked"] == pytest.approx(np.mean(means))
    assert summarize(runs, n_bootstraps=50, random_state=0)["ndcg_liked"] == pytest.approx(
        values["default"]["ndcg_liked"]
    )
    difference = report["protocols"]["P1"]["differences"]["likes-only"]["default"]
    for name in reproduce_paper.METRICS.values():
        assert difference[name] == pytest.approx(
            values["default"][name] - values["likes-only"][name]
        )


def test_aversion_is_the_default_ones_own_in_the_tables(report):
    own = float(ContrastiveSeqRecommender().dislike_aversion)
    by_aversion = report["aversions"]["P1"]["default"]
    assert list(map(float, by_aversion)) == sorted({*reproduce_paper.AVERSIONS, own})
    assert by_aversion[str(own)] == report["protocols"]["P1"]["values"]["default"]
    assert by_aversion["0.0"] != by_aversion["6.0"]


def test_report_alone_needs_no_data(study, report):
    out, arguments = study
    main(["--data", "world.csv", *arguments[2:], "--report-only"])
    assert json.loads((out / "report.json").read_text()) == report
    page = (out / "report.md").read_text()
    for protocol in PROTOCOLS:
        assert f"## {protocol}: " in page
    cell = f"{report['protocols']['P1']['values']['default']['hit_rate_liked']:.4f} ["
    assert f"| ours | {cell}" in page
    assert "| SASRec_c | as PNFRec; weight" in page
    assert "published" not in page  # the paper's figures are for other data


def test_published_figures_stand_beside_ours_on_their_data(report):
    movielens = report | {"published": reproduce_paper.PUBLISHED}
    published = reproduce_paper.make_tables(movielens)["out/published"]
    ours = report["protocols"]["P0"]["values"]["likes-only"]["hit_rate_liked"]
    assert f"| SASRec_p | 0.1587 ± 0.0112 | {ours:.4f} [" in published


def test_tables_go_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    other = "<!-- results:other/P1 -->\nkept\n<!-- /results:other/P1 -->\n"
    page.write_text(
        f"Before\n<!-- results:world/P1 -->\nold\n<!-- /results:world/P1 -->\nAfter\n{other}"
    )
    tables = {"world/P0": "no\n", "world/P1": "new \\1\n"}
    for _ in range(2):  # again changes nothing
        replace_tables(page, tables)
        assert page.read_text() == (
            "Before\n<!-- results:world/P1 -->\n\nnew \\1\n\n<!-- /results:world/P1 -->\nAfter\n"
            + other
        )
    page.write_text(page.read_text().replace("world/P1", "world/P9"))
    with pytest.raises(SystemExit, match="asks for world/P9"):
        replace_tables(page, tables)
    page.write_text(other)
    with pytest.raises(SystemExit, match="no markers of world"):
        replace_tables(page, tables)


def test_figure_shows_every_method(report, tmp_path):
    pytest.importorskip("matplotlib")
    import tradeoff

    drawn = {method for methods in tradeoff.GROUPS.values() for method in methods} | {"default"}
    assert drawn == set(baselines.METHODS)
    figure = tradeoff.draw(report)
    (legend,) = figure.legends
    labels = {text.get_text() for text in legend.get_texts()}
    points = {baselines.METHODS[method].label for method in METHODS if method != "default"}
    assert labels == points | {"ours, by its aversion", "blind to feedback"}
    (curve,) = [line for line in figure.axes[0].lines if "aversion" in line.get_label()]
    aversions = report["aversions"]["P1"]["default"].values()
    expected = [(value["hit_rate_disliked"], value["hit_rate_liked"]) for value in aversions]
    np.testing.assert_allclose(curve.get_xydata(), expected)
    (tmp_path / "report.json").write_text(json.dumps(report))
    tradeoff.main([str(tmp_path / "report.json")])
    assert (tmp_path / "tradeoff.png").stat().st_size > 10_000


# -- The methods -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["popular-liked", "popular"])
def test_popularity_is_the_plain_one(split, method):
    X, y = split.train
    plain = PopularityRecommender(positive_threshold=4).fit(
        X, y if method == "popular-liked" else np.full(len(y), 5)
    )
    test = split.test
    arguments = test.interactions, test.feedback
    expected = plain.target_ranks(*arguments, targets=test.successive)
    found = fitted(method, split).target_ranks(*arguments, targets=test.successive)
    for name in ("users", "rows", "signs", "ranks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.n_items == expected.n_items


def test_item_item_is_a_ridge_regression_of_each_item_on_the_others(split):
    model = fitted("item-item", split, penalty=3.0)
    X, y = split.train
    liked = pd.crosstab(X["user"], X["item"].where(y >= 4)).reindex(columns=model.items)
    likes = liked.fillna(0).to_numpy().clip(max=1)
    for item in range(len(model.items)):
        others = np.delete(np.arange(len(model.items)), item)
        rest = likes[:, others]
        coefficients = np.linalg.solve(
            rest.T @ rest + 3.0 * np.eye(len(others)), rest.T @ likes[:, item]
        )
        np.testing.assert_allclose(model.weights[others, item], coefficients, atol=1e-6)
        assert model.weights[item, item] == 0

    part, row = split.test, np.flatnonzero(split.test.successive)[-1]
    codes = np.searchsorted(model.items, part.interactions["item"])
    mine = (part.interactions["user"] == part.interactions["user"].iloc[row]).to_numpy()
    before = mine & (np.arange(len(mine)) < row)
    scores = model.weights[codes[before & (part.feedback >= 4)]].sum(axis=0)
    scores[codes[before]] = -np.inf
    target = np.arange(len(mine)) == row
    (rank,) = model.target_ranks(part.interactions, part.feedback, targets=target).ranks
    assert rank == 1 + (scores > scores[codes[row]]).sum()


def test_an_item_that_is_unknown_or_seen_ranks_after_all(split):
    model = fitted("popular", split)
    first = model.items_[0]
    rows = pd.DataFrame({"user": 1, "item": [first, -5, first], "time": [0, 1, 2]})
    ranks = model.target_ranks(rows, np.array([5, 5, 5]), targets=np.array([False, True, True]))
    assert ranks.ranks.tolist() == [len(model.items_) + 1] * 2


def test_signed_item_item_takes_dislikes_for_likes_below_nothing(split):
    settings = {"penalty": 3.0, "dislike_weight": 0.5}
    model = fitted("item-item-signed", split, **settings)
    X, y = split.train
    signs = pd.crosstab(X["user"], X["item"], np.where(y >= 4, 1.0, -0.5), aggfunc="last")
    signs = signs.reindex(columns=model.items).fillna(0).to_numpy()
    for item in range(0, len(model.items), 7):
        others = np.delete(np.arange(len(model.items)), item)
        rest = signs[:, others]
        coefficients = np.linalg.solve(
            rest.T @ rest + 3.0 * np.eye(len(others)), rest.T @ signs[:, item]
        )
        np.testing.assert_allclose(model.weights[others, item], coefficients, atol=1e-6)
    a, b, c, target = model.items[[3, 1, 4, 5]]
    rows = pd.DataFrame({"user": 1, "item": [a, b, c, target], "time": range(4)})
    scores = model.weights[3] - 0.5 * model.weights[1] + model.weights[4]
    scores[[3, 1, 4]] = -np.inf
    found = model.target_ranks(rows, np.array([5, 2, 4, 2]), targets=np.arange(4) == 3)
    assert found.ranks.tolist() == [1 + (scores > scores[5]).sum()]
    assert found.signs.tolist() == [-1]


DAY = 86_400


@pytest.mark.parametrize(
    ("now", "days", "expected"),
    [
        # Told the time of the request, day 10: the likes of the days 8 and 9 are of item 1.
        (True, 2, [1, 0, 2, 3]),
        # Of days 6 to 9 two likes of item 2 are more.
        (True, 4, [2, 1, 0, 3]),
        # The history ends on day 6: of days 4 and 5 only item 0 was liked.
        (False, 2, [0, 2, 1, 3]),
    ],
)
def test_popularity_of_the_last_days_by_hand(now, days, expected):
    likes = [(0, 0), (0, 0), (0, 5), (2, 6), (2, 6), (2, 1), (1, 8), (1, 9)]
    X = pd.DataFrame(
        [(user, item, day * DAY) for user, (item, day) in enumerate(likes)]
        + [(50 + user, 3, 9 * DAY) for user in range(9)],  # often met, never liked
        columns=["user", "item", "time"],
    )
    y = np.where(X["item"] == 3, 1, 5)
    model = baselines.RecentPopularity(X, y, 4, days, now)
    for item in range(4):
        rows = pd.DataFrame({"user": 99, "item": [-1, item], "time": [6 * DAY, 10 * DAY]})
        found = model.target_ranks(rows, np.array([5, 5]), targets=np.array([False, True]))
        # In the order of the likes of these days, then of all likes, then of the codes.
        assert found.ranks.tolist() == [1 + expected.index(item)]


def test_long_after_the_fit_the_last_days_are_those_before_its_end():
    X = pd.DataFrame({"user": [1, 2, 3], "item": [0, 1, 1], "time": [9 * DAY, 0, 0]})
    model = baselines.RecentPopularity(X, np.array([5, 5, 5]), 4, 1, True)
    rows = pd.DataFrame({"user": 9, "item": [7, 0], "time": [400 * DAY, 500 * DAY]})
    found = model.target_ranks(rows, np.array([5, 5]), targets=np.array([False, True]))
    assert found.ranks.tolist() == [1]


def test_choices_are_made_on_events_that_the_candidates_have_not_seen(split):
    X, y = split.train
    held, chosen = baselines.hold_out(X, np.random.default_rng(5))
    assert held.sum() and not (held & ~chosen).any()
    assert X["user"][chosen].nunique() == -(-X["user"].nunique() // 10)
    fits = []

    class Model:
        def __init__(self, value):
            self.value = value

        def target_ranks(self, rows, ratings, *, targets):
            pd.testing.assert_frame_equal(rows, X[chosen])
            np.testing.assert_array_equal(targets, (held & (y >= 4))[chosen])
            n = targets.sum()
            ranks = np.full(n, {"a": 5, "b": 1, "c": 3}[self.value])
            return reproduce_paper.TargetRanks(
                np.zeros(n), np.arange(n), np.ones(n, np.int8), ranks, 60
            )

    def fit(rows, ratings, value):
        assert len(rows) == len(ratings)
        fits.append((value, len(rows)))
        return Model(value)

    model = baselines.chosen_on_validation(fit, X, y, 4.0, 5, ["a", "b", "c"])
    n_kept = len(X) - held.sum()
    assert fits == [("a", n_kept), ("b", n_kept), ("c", n_kept), ("b", len(X))]
    assert model.value == model.chosen_["value"] == "b"
    assert model.chosen_["ndcg_liked"][1] == 1


def test_tuned_item_item_is_item_item_with_the_penalty_it_found(split):
    tuned = fitted("item-item-tuned", split, penalties=(1.0, 1000.0))
    plain = fitted("item-item", split, penalty=tuned.chosen_["value"])
    np.testing.assert_array_equal(tuned.weights, plain.weights)
    assert tuned.chosen_["values"] == [1.0, 1000.0]


def test_sum_of_scores(split):
    settings = {"weights": (2.0,), "penalties": (30.0,)}
    model = fitted("item-item-sequence", split, **settings)
    assert model.chosen_["value"] == 2.0
    part, ratings = split.test.interactions, split.test.feedback
    row = np.flatnonzero(split.test.successive)[-1]
    start = np.flatnonzero(part["user"] == part["user"].iloc[row])[0]
    history, liked = part["item"].to_numpy()[start:row], ratings[start:row] >= 4
    plain = fitted("likes-only-random-tuned", split)
    scores = plain.score_items(history, feedback=ratings[start:row]).astype(float)
    codes = np.searchsorted(plain.items_, history)
    scores += 2 * fitted("item-item", split, penalty=30.0).weights[codes[liked]].sum(axis=0)
    scores[codes] = -np.inf
    target = np.arange(len(part)) == row
    (rank,) = model.target_ranks(part, ratings, targets=target).ranks
    assert (
        rank == 1 + (scores > scores[np.searchsorted(plain.items_, part["item"].iloc[row])]).sum()
    )


def test_taste_ranks_by_what_would_be_liked(split):
    model = fitted("taste", split)
    part = split.test
    ranks = model.target_ranks(part.interactions, part.feedback, targets=part.successive)
    codes = np.searchsorted(model.items, part.interactions["item"].to_numpy())
    signs = np.where(part.feedback >= 4, 1, -1)
    for user, row, rank in zip(ranks.users, ranks.rows, ranks.ranks, strict=True):
        start = np.flatnonzero(part.interactions["user"] == user)[0]
        history = PackedSequences.from_lists([codes[start:row].tolist()])
        scores = model.memory.recall(history, signs[start:row]).taste_scores()[0]
        scores[codes[start:row]] = -np.inf
        assert rank == 1 + (scores > scores[codes[row]]).sum()


# -- New users, and last events out ----------------------------------------------------------


@pytest.fixture(scope="module")
def other_study(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    table.to_csv(folder / "world.csv", index=False)
    arguments = ["--data", str(folder / "world.csv"), "--out", str(folder / "out"), "--quick"]
    arguments += ["--methods", "default", "item-item", "--protocols", "P3", "LOO"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce_paper, "QUICK", TINY)
        patch.setattr(reproduce_paper, "N_BOOTSTRAPS", 50)
        patch.setattr(reproduce_paper, "AVERSIONS", (0.0,))
        main([*arguments, "--seeds", "0"])
    return folder / "out", arguments


def test_folds_together_are_all_users(table, other_study):
    report = json.loads((other_study[0] / "report.json").read_text())
    hits = {1: [], -1: []}
    for fold in range(5):
        part = user_split(table, table["rating"], fold=fold)
        model = fitted("item-item", part)
        test = part.test
        ranks = model.target_ranks(test.interactions, test.feedback, targets=test.successive)
        for sign, found in hits.items():
            found.extend(ranks.ranks[ranks.signs == sign] <= 10)
    values = report["protocols"]["P3"]["values"]["item-item"]
    assert values["n_liked"] == len(hits[1]) and values["n_disliked"] == len(hits[-1])
    assert values["n_users"] == 60
    assert values["hit_rate_liked"] == pytest.approx(np.mean(hits[1]))
    assert values["hit_rate_disliked"] == pytest.approx(np.mean(hits[-1]))
    assert "after the frequency filter" not in (other_study[0] / "report.md").read_text()


def test_last_events_of_any_sign(table, other_study):
    report = json.loads((other_study[0] / "report.json").read_text())
    part = last_out_split(table, table["rating"])
    model, test = fitted("item-item", part), part.test
    ranks = model.target_ranks(test.interactions, test.feedback, targets=test.last).ranks
    found = report["any_sign"]["LOO"]
    assert len(ranks) == found["item-item"]["n_liked"] == 60
    assert found["item-item"]["hit_rate_liked"] == pytest.approx(np.mean(ranks <= 10))
    assert list(found) == ["default", "item-item", "default-without-aversion"]
    page = (other_study[0] / "report.md").read_text()
    assert "| ours, aversion 0 | " in page
    assert "published" not in page  # these figures are for other data
    beauty = report | {"published_last": reproduce_paper.PUBLISHED_LAST}
    tables = reproduce_paper.make_tables(beauty)
    assert "| HSTU, published | 0.0788 | 0.0439 |" in tables["out/LOO-any-sign"]


def test_a_seed_without_all_folds_is_no_seed(other_study, monkeypatch):
    out, arguments = other_study
    (out / "P3-3" / "default-0.npz").rename(out / "P3-3" / "default-0.away")
    try:
        main([*arguments, "--report-only"])
        report = json.loads((out / "report.json").read_text())
        assert list(report["protocols"]["P3"]["values"]) == ["item-item"]
        assert list(report["protocols"]["LOO"]["values"]) == ["default", "item-item"]
    finally:
        (out / "P3-3" / "default-0.away").rename(out / "P3-3" / "default-0.npz")
        main([*arguments, "--report-only"])


def test_what_cannot_be_found_in_one_fold_cannot_be_found_in_all():
    def ranks(ranks, n_items):
        n = len(ranks)
        signs = np.ones(n, np.int8)
        return reproduce_paper.TargetRanks(
            np.arange(n), 3 * np.arange(n), signs, np.array(ranks), n_items
        )

    both = reproduce_paper.together([ranks([1, 6], 5), ranks([9, 6, 7], 8)])
    assert both.n_items == 8
    assert both.ranks.tolist() == [1, 9, 9, 6, 7]
    assert both.rows.tolist() == [0, 3, 4, 7, 10]


@pytest.mark.parametrize("method", ["no-signs", "session-contrast"])
def test_histories_without_signs(split, method):
    model = fitted(method, split)
    part = split.test
    given, flipped = (
        model.target_ranks(part.interactions, ratings, targets=part.successive)
        for ratings in (part.feedback, 6 - part.feedback)
    )
    np.testing.assert_array_equal(given.ranks, flipped.ranks)
    liked = part.feedback[part.successive] >= 4
    np.testing.assert_array_equal(given.signs, np.where(liked, 1, -1))
    assert not np.array_equal(given.signs, flipped.signs)


def test_without_times_only_the_order_counts(split):
    part = split.test
    ranks = []
    for stretch in (1, 1000):
        (X, y), rng = split.train, np.random.default_rng(0)
        gaps = stretch * rng.integers(1, 1000, size=len(X))
        other = split._replace(train=(X.assign(time=np.cumsum(gaps)), y))
        model = fitted("no-times", other)
        table = part.interactions.assign(time=part.interactions["time"] * stretch)
        ranks.append(model.target_ranks(table, part.feedback, targets=part.successive).ranks)
    np.testing.assert_array_equal(*ranks)


def test_without_gates_the_blocks_are_plain(split):
    shapes = {
        method: fitted(method, split).weights_["encoder.blocks.0.attention_in.weight"].shape
        for method in ("default", "no-gates")
    }
    assert shapes == {"default": (4 * 8, 8), "no-gates": (3 * 8, 8)}


def test_what_is_taken_away_or_shown_is_all_that_differs(split, monkeypatch):
    monkeypatch.setattr(objectives, "_FEW_USERS", 0)
    whole, rest, more = (
        fitted(name, split).weights_.keys() for name in ("default", "no-biases", "shown-latest")
    )
    taken_away = {name for name in whole if "_bias" in name}
    assert taken_away and whole - rest == taken_away
    shown = {name for name in more if "latest." in name}
    assert shown and more - whole == shown


def test_memory_stands_beside_the_default_alone(split):
    """The other methods that read sequences are transformers, and nothing else."""
    models = {
        method: fitted(method, split)
        for method in ("default", "without-memory", "liked-targets", "likes-only")
    }
    # Whether it stays there is up to the events that early stopping keeps.
    default = models.pop("default")
    assert getattr(default, "model_", default).item_memory
    assert all(model.fitted_.memory is None for model in models.values())
    models["default"] = default
    # It is made after the transformer, which is the same without it.
    for name, value in models["default"].weights_.items():
        np.testing.assert_array_equal(models["without-memory"].weights_[name], value)


def test_liked_targets_learns_no_dislike_as_next_item():
    """A disliked item always follows, a liked one sometimes: only the latter is expected."""
    rows, ratings = [], []
    for user in range(60):
        for step in range(12):
            rows.append((user, step % 3, step))
            ratings.append(2 if step % 3 == 1 else 5)
    X = pd.DataFrame(rows, columns=["user", "item", "time"])
    settings = DEFAULTS | baselines.METHODS["liked-targets"].settings
    settings |= {"max_epochs": 15, "learning_rate": 0.02}
    model = baselines.fit_liked_targets(X, np.array(ratings), 4.0, 0, settings)
    scores = model.score_items([0, 1, 2, 0], feedback=[5, 2, 5, 5])
    assert scores[1] < scores[0] and scores[1] < scores[2]


def contrast_of(objective, model, users):
    import torch

    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        parts = losses_of(objective, model, np.array(users), np.random.default_rng(0), generator)
        ((_, _, contrast),) = parts
    return float(contrast)


@pytest.fixture(scope="module")
def session_contrast(split):
    """The objective, and a model that has no dropout, as float64."""
    import torch

    from posneg_rec.ids import ItemVocabulary
    from posneg_rec.interactions import build_histories, read_interactions
    from posneg_rec.training import Settings

    events = read_interactions(*split.train, positive_threshold=4.0)
    histories = build_histories(events, ItemVocabulary.from_ids(events.item_ids))
    params = DEFAULTS | {"dropout": 0.0, "temperature": 0.1, "contrastive_weight": 1.0}
    settings = Settings(**{name: params[name] for name in Settings.__dataclass_fields__})
    objective = baselines.SessionContrast(histories, settings)
    model = objective.model(60, torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        model.item_embedding *= 50  # far from alike
    return objective, model, histories


def test_session_contrast_by_its_formula(session_contrast):
    import torch

    objective, model, histories = session_contrast
    costs = []
    for user in range(3):
        events = slice(*histories.offsets[user : user + 2])
        items = torch.from_numpy(histories.items[events][-11:])
        signs = histories.signs[events][-11:]
        table = model.item_embedding.detach()
        with torch.no_grad():
            inputs = table[items[:-1]] * np.sqrt(table.shape[1])
            states = model.encode(inputs, torch.tensor([0, len(items) - 1]))
        for place in range(len(items) - 1):
            later = [other for other in range(place + 1, len(items)) if signs[other] == 1]
            if signs[place] != 1 or not later:
                continue
            items_of = [items[later[0]], *items[signs == -1]]
            cosines = [torch.cosine_similarity(states[place], table[i], dim=0) for i in items_of]
            logits = torch.stack(cosines) / 0.1
            costs.append(float(logits.logsumexp(0) - logits[0]))
    assert contrast_of(objective, model, range(3)) == pytest.approx(np.mean(costs), rel=1e-6)


def test_session_contrast_takes_nobody_elses_dislikes(session_contrast):
    objective, model, _ = session_contrast
    numbers = []
    for user in (0, 1):
        anchors, _, _ = baselines.next_liked(
            objective.signs[user], np.array([0, len(objective.signs[user])])
        )
        numbers.append(len(anchors))
    alone = [contrast_of(objective, model, [user]) for user in (0, 1)]
    together = contrast_of(objective, model, [0, 1])
    assert together == pytest.approx(np.average(alone, weights=numbers), rel=1e-6)


def test_next_liked_skips_dislikes_and_stays_within_a_user():
    signs = np.array([1, -1, 1, 0, 1, -1, 1, -1, -1, 1])
    anchors, positives, offsets = baselines.next_liked(signs, np.array([0, 5, 5, 7, 10]))
    assert anchors.tolist() == [0, 2]
    assert positives.tolist() == [2, 4]
    assert offsets.tolist() == [0, 2, 2, 2, 2]


def test_session_contrast_stops_early_and_keeps_the_best(split):
    model = fitted("session-contrast", split, max_epochs=30, n_iter_no_change=2)
    scores = model.history_["validation_score"]
    assert len(scores) < 30
    assert len(scores) - 1 - int(np.argmax(scores)) == 2


def test_paper_stopping_keeps_the_epoch_that_finds_most_last_likes(split):
    validation, scores = split.validation, []
    rows = pd.DataFrame({"user": validation.interactions["user"]}).assign(
        row=range(len(validation.feedback))
    )
    last = rows[np.asarray(validation.feedback) >= 4].groupby("user")["row"].max()
    for n_epochs in range(1, 8):
        model = fitted("full-41-epochs", split, max_epochs=n_epochs)
        ranks = model.target_ranks(
            validation.interactions, validation.feedback, targets=rows["row"].isin(last)
        )
        scores.append(np.mean([1 / np.log2(rank + 1) if rank <= 10 else 0 for rank in ranks.ranks]))
    model = fitted("full-paper-stopping", split, max_epochs=7, validation=validation)
    assert model.chosen_ == {"epoch": 1 + int(np.argmax(scores)), "epochs": 7}
    assert model.n_iter_ == model.chosen_["epoch"]
    falls = next(at for at in range(1, 7) if scores[at] <= max(scores[:at]))
    stopping = baselines.PaperStopping(validation, 4.0, patience=1)
    model = model.set_callbacks(stopping).fit(*split.train)
    assert (stopping.best.n_iter, model.n_iter_) == (falls, falls + 1)


# -- Real ratings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "liked_at_least", "disliked_at_most"),
    [
        # Three seeds gave 0.108 to 0.131 and 0.028 to 0.045. Signs turned round in the loss gave
        # 0.010 liked, no loss on signs 0.095 disliked, targets of other positions 0.040 liked.
        ({}, 0.09, 0.06),
        # Two seeds gave 0.117 to 0.122 and 0.070 to 0.076; targets of other positions 0.036 liked.
        (PNFREC | {"batch_size": 64}, 0.10, 0.09),
    ],
    ids=["default", "full"],
)
def test_hits_on_movielens_100k(ml_100k, settings, liked_at_least, disliked_at_most):
    """Wide enough for other seeds and machines, too tight for a loss that is wrong."""
    split = paper_split(ml_100k[["user_id", "item_id", "timestamp"]], ml_100k["rating"])
    settings = settings | {"max_epochs": 12, "early_stopping": False, "embedding_dim": 64}
    model = baselines.fit_estimator(*split.train, 4.0, 0, settings)
    part = split.test
    values = summarize(
        model.target_ranks(part.interactions, part.feedback, targets=part.successive),
        n_bootstraps=1,
    ).to_dict()
    assert values["hit_rate_liked"] > liked_at_least
    assert values["hit_rate_disliked"] < disliked_at_most
