"""Explanations are what leaving an event out changes, and show it safely."""

import dataclasses
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_answering import served
from test_vectors import models  # noqa: F401, a fixture
from tiny import X, tiny

from posneg_rec import fitted
from posneg_rec.explanation import Explanation
from posneg_rec.memory import ItemMemory

ITEMS = np.unique(X[:, 1]).tolist()
histories = st.lists(
    st.tuples(st.sampled_from([*ITEMS, -7]), st.booleans(), st.integers(0, 3)), max_size=7
)


def without(values, place):
    return values[:place] + values[place + 1 :]


@pytest.mark.filterwarnings("ignore:None of the .* items passed")
@pytest.mark.parametrize("name", ["pnfrec", "joint", "memory", "likes"])
@given(
    history=histories,
    item=st.sampled_from(ITEMS),
    aversion=st.sampled_from([0.0, 1.0, 5.0]),
    timed=st.booleans(),
)
def test_effects_are_what_leaving_each_event_out_changes(
    name,
    history,
    item,
    aversion,
    timed,
    models,  # noqa: F811
):
    model = models[name]
    items, signs, gaps = ([event[part] for event in history] for part in range(3))
    times = np.cumsum(gaps).tolist() if timed else None
    why = model.explain(items, item, feedback=signs, times=times, dislike_aversion=aversion)

    def score(model, items, signs, times, aversion=aversion):
        options = {"feedback": signs, "times": times, "dislike_aversion": aversion}
        return float(model.score_items(items, [item], **options)[0])

    close = {"rtol": 1e-4, "atol": 2e-4}
    whole = score(model, items, signs, times)
    following = score(model, items, signs, times, 0.0)
    np.testing.assert_allclose(why.score, whole, **close)
    if np.isin(items, model.items_).any() and name != "pnfrec":
        np.testing.assert_allclose(why.next_score, following, **close)
        np.testing.assert_allclose(why.liked_score, whole - following, **close)
    for place in range(len(items)):
        left = [without(items, place), without(signs, place)]
        left.append(None if times is None else without(times, place))
        np.testing.assert_allclose(why.effects[place], whole - score(model, *left), **close)
        if np.isin(left[0], model.items_).any() and name != "pnfrec":
            difference = following - score(model, *left, 0.0)
            np.testing.assert_allclose(why.next_effects[place], difference, **close)
    np.testing.assert_allclose(why.next_effects + why.liked_effects, why.effects, **close)
    assert why.items.tolist() == items and why.seen == (item in items) and why.item == item
    assert why.signs.tolist() == [1 if sign else -1 for sign in signs]
    assert why.known.tolist() == [event != -7 for event in items]
    assert (why.memory_effects == 0).all() or name == "memory"


def test_what_the_memory_alone_forgets_is_its_share(models):  # noqa: F811
    """A transformer without weights in its head leaves the memory all there is to tell."""
    model = models["memory"]
    items, signs = [int(item) for item in X[:6, 1]], [1, 0, 1, 1, 0, 1]
    silent = tiny()
    silent.fitted_ = dataclasses.replace(
        model.fitted_, weights={name: 0 * value for name, value in model.weights_.items()}
    )
    why = silent.explain(items, ITEMS[3], feedback=signs)
    assert np.abs(why.effects).max() > 0.01
    np.testing.assert_allclose(why.memory_effects, why.effects, atol=1e-5)
    both = model.explain(items, ITEMS[3], feedback=signs)
    assert np.abs(both.effects - both.memory_effects).max() > 0.01  # the transformer's share


def test_a_memory_reads_each_history_once(models, monkeypatch):  # noqa: F811
    """As it is, without each event, and with the memory alone without it."""
    recalls, recall = [], ItemMemory.recall
    monkeypatch.setattr(
        ItemMemory, "recall", lambda *args: recalls.append(len(args[1])) or recall(*args)
    )
    models["memory"].explain([1, 2, 3], 5, feedback=[1, 0, 1])
    assert recalls == [1, 3, 3]


def test_long_histories_are_taken_in_parts(monkeypatch, models):  # noqa: F811
    model = models["memory"]
    rng = np.random.default_rng(0)
    items, signs = rng.choice(ITEMS, 40).tolist(), rng.integers(0, 2, 40).tolist()
    expected = model.explain(items, 3, feedback=signs)
    monkeypatch.setattr(fitted, "_MAX_SEEN", 300)
    found = model.explain(items, 3, feedback=signs)
    for name in ("effects", "next_effects", "liked_effects", "memory_effects"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-5
        )


def test_dislikes_are_nothing_to_a_method_that_reads_likes(models):  # noqa: F811
    why = models["pnfrec"].explain([1, 2, 3], 5, feedback=[1, 0, 1])
    assert why.effects[1] == 0 and np.abs(why.effects[[0, 2]]).min() > 0
    assert (why.liked_effects == 0).all()


def test_an_item_that_is_unknown_is_an_error_and_an_empty_history_is_none(models):  # noqa: F811
    model = models["joint"]
    with pytest.raises(ValueError, match="Item -7 is not among the 24 items of the fit"):
        model.explain([1], -7)
    with pytest.raises(ValueError, match=r"item can hold none .* got strings such as 'a'"):
        model.explain([1], "a")
    with pytest.raises(ValueError, match="Expected one history"):
        model.explain(X, 1)
    with pytest.raises(ValueError, match="inconsistent"):
        model.explain([1, 2], 1, feedback=[1])
    why = model.explain([], 3)
    assert why.effects.shape == (0,) and why.score == pytest.approx(model.score_items([], [3])[0])
    assert "no event to explain it by" in repr(why) and "<table" not in why._repr_html_()


def test_both_doors_explain_alike(models):  # noqa: F811
    one, other = (
        m.explain([1, 2], 3, feedback=[1, 0]) for m in (models["joint"], served(models["joint"]))
    )
    assert repr(one) == repr(other)
    np.testing.assert_array_equal(one.effects, other.effects)


# -- What is shown -----------------------------------------------------------------------------


def made(items, signs, effects, item="Alien", memory=False, known=None, seen=False):
    effects = np.array(effects, np.float32)
    return Explanation(
        item=item,
        score=-3.25,
        next_score=-3.0,
        liked_score=-0.25,
        seen=seen,
        items=np.array(items, dtype=object),
        signs=np.array(signs, np.int8),
        known=np.ones(len(items), bool) if known is None else np.array(known),
        effects=effects,
        next_effects=effects / 2,
        liked_effects=effects / 2,
        memory_effects=effects / 4 if memory else 0 * effects,
    )


def test_a_table_says_what_did_most_first():
    why = made(["Heat", "Up", "Jaws"], [1, -1, 1], [0.5, -2, 0.25], known=[1, 1, 0], seen=True)
    assert repr(why).splitlines() == [
        "Alien: score -3.25 (next -3.00, liked -0.25), in the history already",
        "because you liked Heat, Jaws; held down because you disliked Up",
        "event  item            effect    next   liked",
        "    1  Up    disliked  -2.000  -1.000  -1.000",
        "    0  Heat  liked     +0.500  +0.250  +0.250",
        "    2  Jaws  unknown   +0.250  +0.125  +0.125",
    ]
    with_memory = made(["Heat"], [1], [0.5], memory=True)
    assert "memory" in repr(with_memory) and "+0.125" in repr(with_memory)


def test_reasons_are_few_distinct_and_more_than_rounding():
    effects = [3, 2, 1, 0.5, 3, 1e-4, -1, -1]
    why = made([*list("ABCDA"), "E", "F", "G"], [1, 1, 1, 1, 1, 1, 1, 0], effects)
    assert why.reasons() == [
        ("because you liked", ["A", "B", "C"]),
        ("held down because you liked", ["F"]),
        ("held down because you met", ["G"]),
    ]
    assert why.top(2).tolist() == [4, 0]
    assert made(["A"], [1], [0.0]).reasons() == []
    assert "no event changes it" in repr(made(["A"], [1], [0.0]))


def test_of_many_events_ten_are_shown():
    why = made([f"film {i}" for i in range(25)], [1] * 25, np.arange(25))
    assert len(repr(why).splitlines()) == 3 + 10 + 1
    assert repr(why).endswith("and 15 more events of smaller effects")
    assert why._repr_html_().count("<tr>") == 11


class Text(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        assert not attrs
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a&b", "\x1b[31mred\nline", " "]


@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=80), min_size=1, max_size=4))
def test_ids_are_text_never_markup_and_take_one_line(ids):
    why = made(ids, [1, -1, 0, 1][: len(ids)], [1, -1, 1, 1][: len(ids)], item=ids[0])
    page = Text(why._repr_html_())
    assert page.tags <= set(["div", "p", "b", "br", "table", "thead", "tbody", "tr", "th", "td"])
    lines = repr(why).splitlines()
    assert len(lines) == 3 + len(ids)
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert any(text.startswith(repr(why).splitlines()[0][:20].strip()) for text in page.texts)
