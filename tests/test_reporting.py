"""Reports: facts counted by hand, the numbers of evaluate, and text that nobody can break."""

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from popularity import PopularityRecommender
from tiny import FEEDBACKS, HISTORIES, X, Y, tiny

from posneg_rec import RareItemMasker, make_recommender_pipeline
from posneg_rec.metrics import TargetRanks, compare, evaluate
from posneg_rec.reporting import Report, Section, report

FEW = {"n_bootstraps": 20, "random_state": 0}


@pytest.fixture(scope="module")
def popular():
    return PopularityRecommender().fit(X, Y)


@pytest.fixture(scope="module")
def card(tiny_model, popular):
    return report(tiny_model, X, Y, baselines={"popular": popular}, targets="all", **FEW)


def section(card, title):
    (found,) = [part for part in card.sections if part.title == title]
    return found


def cells(card, title):
    return {row[0]: row[1:] for row in section(card, title).rows}


def test_numbers_are_those_of_evaluate_and_compare(card, tiny_model, popular):
    name = "ContrastiveSeqRecommender"
    assert list(card.evaluations) == [name, "popular"]
    for model, key in ((tiny_model, name), (popular, "popular")):
        expected = evaluate(model, X, Y, targets="all", n_bootstraps=1, random_state=0)
        assert card.evaluations[key]["ndcg_delta"] == expected["ndcg_delta"]
    told = section(card, "How well it ranks")
    assert told.header == ("", name, "popular")
    value = f"{card.evaluations['popular']['hit_rate_disliked']:.4f} ["
    assert cells(card, "How well it ranks")["hit_rate@10 disliked"][1].startswith(value)
    assert f"{(Y == 1).sum() - 0}" and "209 liked and 102 disliked targets" in told.note
    ranks = [model.target_ranks(X, Y, targets="all") for model in (tiny_model, popular)]
    difference = compare(*ranks, random_state=0, n_bootstraps=1)["ndcg_liked"]
    less = cells(card, f"{name} less the others")
    assert less["ndcg@10 liked"][0].startswith(f"{difference:.4f} [")


class Known:
    """A recommender of two items that ranks both first and last, for rows made by hand."""

    items_ = np.array(["a", "b"], dtype=object)
    positive_threshold = (2, 4)
    feedback_coding_ = "graded"

    def target_ranks(self, interactions, feedback=None, *, targets="last"):
        users = np.array([0, 1])
        return TargetRanks(users, users, np.array([1, -1]), np.array([1, 3]), n_items=2)


def test_facts_are_counted():
    rows = pd.DataFrame(
        [
            ("u", "a", "2024-01-01"),
            ("u", "b", "2024-01-01"),  # a tie
            ("u", "a", "2024-01-03"),  # a repeat
            ("v", "c", "2024-01-03"),  # unknown to the model; no tie with another user
            ("w", "a", "2024-02-01"),
            ("w", "b", "2024-02-01"),  # a tie
            (None, None, None),
        ],
        columns=["user", "item", "time"],
    ).assign(time=lambda frame: pd.to_datetime(frame["time"]))
    card = report(Known(), rows, [5, 3, 4, 1, 2, 2, np.nan], title="mine", **FEW)
    assert card.facts == {
        "rows": 7,
        "rows left out, all fields missing": 1,
        "users": 3,
        "items": 3,
        "items that the model does not know": 1,
        "events per user": "2 (from 1 to 3)",
        "users with one event": 1,
        "users without a like": 2,
        "users without a dislike": 2,
        "share of repeats": "16.7%",
        "time": "from 2024-01-01T00:00:00 to 2024-02-01T00:00:00",
        "share of ties in time": "66.7%",
        "targets": 2,
        "targets that cannot be recommended": 1,
    }
    read = section(card, "Feedback")
    assert read.rows == (
        ("liked", "4 to 5", "2", "33.3%"),
        ("neutral", "2 to 3", "3", "50.0%"),
        ("disliked", "1", "1", "16.7%"),
    )
    assert read.note == "Read as 'graded', by positive_threshold=(2, 4)."
    assert "1 of 2 targets cannot be recommended" in " ".join(card.warnings)
    assert "2 users have targets" in " ".join(card.warnings)
    assert [part.title for part in card.sections if "less" in part.title] == []
    assert not any(part.title == "Training" for part in card.sections)


def test_histories_have_no_time_and_no_rows(tiny_model):
    card = report(tiny_model, HISTORIES, FEEDBACKS, **FEW)
    assert card.facts["time"] == "none: the order of the rows"
    assert card.facts["users"] == 40 and card.facts["rows"] == len(X)
    assert cells(card, "Feedback")["disliked"] == ("", f"{(Y < 0).sum()}", "32.5%")
    assert section(report(tiny_model, X, **FEW), "Feedback").rows[0] == (
        *("liked", "", str(len(X))),
        "100.0%",
    )


def test_settings_are_those_that_differ_and_the_aversion(card):
    told = cells(card, "Model")
    assert told["embedding_dim"] == ("8",) and told["dislike_aversion"] == ("6.0",)
    assert "dropout" not in told and "objective" not in told
    assert told["items in the catalogue"] == ("24",) and told["epochs"] == ("6",)


def test_the_curve_holds_some_epochs_and_the_best():
    model = tiny(max_epochs=1).fit(X, Y)
    scores = [0.1] * 23
    scores[10] = 0.3
    history = {
        "epoch": list(range(1, 24)),
        "loss": [5.0] * 23,
        "validation_score": scores,
    }
    object.__setattr__(model.fitted_, "history", history)
    rows = section(report(model, X, Y, **FEW), "Training").rows
    assert len(rows) == 11 and rows[0][0] == "1" and rows[-1][0] == "23"
    assert [row for row in rows if "best" in row[0]] == [("11 (best)", "5", "0.3")]
    history["validation_score"][-1] = 0.4
    assert any("best in the last epoch" in line for line in report(model, X, Y, **FEW).warnings)


def test_a_baseline_that_is_as_good_is_said(tiny_model, popular):
    same = report(popular, X, Y, baselines={"again": popular}, targets="all", **FEW)
    assert any(line.startswith("again is not measurably worse") for line in same.warnings)

    class Worst(PopularityRecommender):
        def target_ranks(self, *args, **kwargs):
            ranks = super().target_ranks(*args, **kwargs)
            place = np.where(ranks.signs == 1, ranks.n_items, 1)
            return TargetRanks(ranks.users, ranks.rows, ranks.signs, place, ranks.n_items)

    worst = Worst().fit(X, Y)
    better = report(worst, X, Y, baselines={"popular": popular}, targets="all", **FEW)
    assert any(line.startswith("popular is better") for line in better.warnings)
    told = report(popular, X, Y, baselines={"worst": worst}, targets="all", **FEW).warnings
    assert not any(line.startswith("worst") for line in told)
    with pytest.raises(ValueError, match="A baseline has the name of the model"):
        report(popular, X, Y, baselines={"PopularityRecommender": worst})


def test_warnings_of_the_models_stand_in_the_report(tiny_model):
    frame = pd.DataFrame(X, columns=["user", "item", "time"])
    card = report(tiny_model, frame, Y, **FEW)
    assert any("was fitted without feature names" in line for line in card.warnings)
    assert any("feature names" in row[0] for row in section(card, "Warnings").rows)
    only_likes = report(tiny_model, X[Y == 1], Y[Y == 1], **FEW)
    assert any(line.startswith("No target is disliked") for line in only_likes.warnings)
    assert "nan" not in str(only_likes)


def test_a_pipeline_tells_what_its_transformers_leave_out():
    pipeline = make_recommender_pipeline(RareItemMasker(min_items_per_user=9), tiny(max_epochs=1))
    card = report(pipeline.fit(X, Y), X, Y, **FEW)
    counts = np.bincount(X[:, 0])
    assert card.facts["rows left out by the transformers"] == counts[counts < 9].sum() > 0
    assert cells(card, "Model")["pipeline"] == ("RareItemMasker > ContrastiveSeqRecommender",)
    assert card.title == "ContrastiveSeqRecommender"


class Text(HTMLParser):
    """The texts of cells and titles, the tags that occur and their attributes."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.tags, self.attributes = [], set(), []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.texts.append(data)


NASTY = "<script>alert('x')</script> & \"q\" | `b` *c* [d](e)\nf"


def test_nothing_in_a_report_is_markup(tmp_path, tiny_model, popular):
    card = report(tiny_model, X, Y, baselines={NASTY: popular}, title=f"T {NASTY}", **FEW)
    page = Text(card._repr_html_())
    assert page.tags == {"h2", "h3", "table", "tr", "td", "th", "p"} and not page.attributes
    assert NASTY in page.texts and f"T {NASTY}" in page.texts
    card.save(tmp_path / "card.html")
    written = (tmp_path / "card.html").read_text(encoding="utf-8")
    document = Text(written)
    assert "script" not in document.tags and "link" not in document.tags
    assert not re.search(r"https?:|src=|url\(", written)  # nothing from elsewhere
    card.save(tmp_path / "card.md")
    lines = (tmp_path / "card.md").read_text(encoding="utf-8").splitlines()
    assert "<script>" not in " ".join(lines)
    header = next(line for line in lines if "alert" in line and line.startswith("|  |"))
    assert len(re.findall(r"(?<!\\)\|", header)) == 4  # three columns
    assert r"\`b\` \*c\* \[d\](e) f" in header


def test_a_report_is_a_table_of_text(tmp_path):
    card = Report("T", (Section("One", ("a", "bb"), (("1", "2"), ("333", "")), "note"),), {}, {})
    assert str(card).splitlines() == [
        *("T", "=", "", "One", "---"),
        *("a    bb", "1    2", "333", "note"),
    ]
    assert card.to_markdown().splitlines() == [
        *("# T", "", "## One", "", "| a | bb |", "| --- | --- |"),
        *("| 1 | 2 |", "| 333 |  |", "", "note"),
    ]
    card.save(tmp_path / "card.TXT")
    assert (tmp_path / "card.TXT").read_text() == f"{card}\n"
    with pytest.raises(ValueError, match=r"path must end in one of \.html, \.md, \.txt"):
        card.save(tmp_path / "card.pdf")


def test_the_same_seed_gives_the_same_report(card, tiny_model, popular):
    again = report(tiny_model, X, Y, baselines={"popular": popular}, targets="all", **FEW)
    assert str(again) == str(card)
    state = np.random.get_state()[1].copy()
    report(tiny_model, X, Y, n_bootstraps=2, random_state=np.random.RandomState(0))
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert {"posneg-rec", "numpy", "torch"} <= set(cells(card, "Versions"))
