"""Requests with filters against a plain loop, user by user; what is wrong with one is named."""

import doctest
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from tiny import FEEDBACKS, FRAMES, HISTORIES, X, Y, tiny

from posneg_rec import RareItemMasker, make_recommender_pipeline
from posneg_rec.selection import Filters, Pool, select

USERS, ITEMS = np.unique(X[:, 0]), np.unique(X[:, 1])
FEW = X[:, 0] < 5  # the users that a property test asks for
UNKNOWN = 999


@pytest.fixture(scope="module")
def model():
    return tiny().fit(X, Y)


@pytest.fixture(scope="module")
def rankings(model):
    """The whole catalogue, ranked for each user: (item, score)."""
    answer = model.recommend(X[FEW], k=len(ITEMS), feedback=Y[FEW], exclude_seen=False)
    return [
        list(zip(part["item"].tolist(), part["score"].tolist(), strict=True))
        for part in (answer[answer["user"] == user] for user in range(5))
    ]


def plain_answer(
    ranking, history, k, *, excluded, allowed, denied, pinned, boosts, groups, max_per_group
):
    """One user's items, one after the other."""
    code = {item: position for position, item in enumerate(ITEMS.tolist())}
    met = history if excluded is True else history[-excluded:] if excluded else []
    candidates = [
        (item, np.float32(score) + np.float32(boosts.get(item, 0)))
        for item, score in ranking
        if item not in met and item not in denied and (allowed is None or item in allowed)
    ]
    order = [item for item, _ in sorted(candidates, key=lambda c: (-c[1], code[c[0]]))]
    first = [item for item in dict.fromkeys(pinned) if item in order]
    shown, in_group = [], Counter()
    for item in [*first, *(item for item in order if item not in first)]:
        group = groups.get(item)
        if group is not None and in_group[group] == max_per_group:
            continue
        in_group[group] += 1
        shown.append(item)
    return shown[:k]


def in_form(form, lists, users):
    """Lists of items of each user, in one of the forms that say the same."""
    matrix = np.array([[item in row for item in ITEMS] for row in lists])
    return {
        "lists": lists,
        "sets": tuple(map(set, lists)),
        "arrays": [np.array(row, dtype=np.int64) for row in lists],
        "dict": {user: lists[user] for user in [*reversed(users)]} | {77: [1]},
        "bool": matrix,
        "csr": sparse.csr_array(matrix),
        "csc": sparse.csc_matrix(matrix),
    }[form]


ITEM = st.sampled_from([*ITEMS.tolist(), UNKNOWN])
LISTS = st.lists(st.lists(ITEM, max_size=30), min_size=5, max_size=5)
FORM = st.sampled_from(["lists", "sets", "arrays", "dict", "bool", "csr", "csc"])


@pytest.mark.filterwarnings("ignore:.*(fewer than k=|does not know)")
@given(data=st.data(), k=st.integers(1, len(ITEMS) + 3))
def test_any_filters_give_what_a_loop_over_users_gives(model, rankings, data, k):
    histories = [X[X[:, 0] == user, 1].tolist() for user in range(5)]
    excluded = data.draw(st.none() | st.booleans() | st.integers(1, 12))
    told, filters = [{} for _ in range(5)], {}
    for name, forms in (
        ("allowed", FORM),
        ("denied", FORM),
        ("pinned", st.sampled_from(["lists", "arrays", "dict"])),
    ):
        lists = [None if name == "allowed" else []] * 5
        match data.draw(st.sampled_from(["nobody", "all", "each"])):
            case "all":
                lists = [data.draw(st.lists(ITEM, max_size=30))] * 5
                filters[f"{name}_items"] = lists[0]
            case "each":
                lists = data.draw(LISTS)
                filters[f"{name}_items"] = in_form(data.draw(forms), lists, range(5))
        for user, items in zip(told, lists, strict=True):
            user[name] = items
    boosts = data.draw(st.dictionaries(ITEM, st.sampled_from([-3.0, 0.25, 90.0]), max_size=9))
    groups = data.draw(st.dictionaries(ITEM, st.sampled_from(["a", "b", "c", None]), max_size=40))
    groups |= {int(ITEMS[0]): "a"}  # one that is known
    max_per_group = data.draw(st.none() | st.integers(1, 4))
    if max_per_group is None:
        groups = {}
    else:
        filters |= {"groups": groups, "max_per_group": max_per_group}
        if data.draw(st.booleans()):
            filters["groups"] = [groups.get(item) for item in ITEMS.tolist()]
    found = model.recommend(
        X[FEW], k, feedback=Y[FEW], exclude_seen=excluded, boosts=boosts, **filters
    )
    for user, ranking in enumerate(rankings):
        expected = plain_answer(
            ranking,
            histories[user],
            k,
            excluded=model.excludes_seen_ if excluded is None else excluded,
            boosts=boosts,
            groups=groups,
            max_per_group=max_per_group,
            **told[user],
        )
        own = found[found["user"] == user]
        assert own["item"].tolist() == expected
        assert own["rank"].tolist() == [*range(1, len(expected) + 1)]
        plain = dict(ranking)
        scores = [plain[item] + boosts.get(item, 0) for item in expected]
        np.testing.assert_allclose(own["score"], scores, rtol=1e-4, atol=1e-4)


def test_one_history_takes_the_same_filters(model):
    order = model.recommend([1, 2], k=22)[0].tolist()
    first, second, *_, last = order
    for denied in ([first], {first}, [[first]], ITEMS[None] == first):
        assert model.recommend([1, 2], k=1, denied_items=denied)[0].tolist() == [second]
    items, _ = model.recommend([1, 2], k=2, pinned_items=[last, 1, last])
    assert items.tolist() == [last, first]  # 1 was seen
    items, scores = model.recommend([1, 2], k=2, boosts={last: 1000.5})
    assert items.tolist() == [last, first] and scores[0] > 900
    answer = model.recommend([[1, 2], [1]], k=1, denied_items={1: [first]}, exclude_seen=False)
    assert answer["user"].tolist() == [0, 1] and answer["item"][1] != first


def test_the_last_events_count_whether_their_items_are_known_or_not(model):
    history = [3, 4, UNKNOWN, 5]
    with pytest.warns(UserWarning, match="fewer than k=24"):
        assert not {3, 4, 5} & set(model.recommend(history, k=24, exclude_seen=True)[0])
    for n, left_out in ((1, {5}), (2, {5}), (3, {4, 5}), (4, {3, 4, 5}), (10**30, {3, 4, 5})):
        items, _ = model.recommend(history, k=24 - len(left_out), exclude_seen=n)
        assert set(ITEMS) - set(items) == left_out
    rows = np.array([[77, 3, 0], [77, 4, 1], [77, 3, 2]])
    ranks = [model.target_ranks(rows, exclude_seen=n).ranks[0] for n in (1, np.int64(2))]
    assert ranks[0] <= 24 and ranks[1] == 25  # seen two events ago


def test_what_is_pinned_keeps_to_the_groups(model):
    first, second, third, *_ = model.recommend([1], k=5)[0].tolist()
    groups = dict.fromkeys((first, second), "same")
    one = {"groups": groups, "max_per_group": 1}
    assert model.recommend([1], k=2, **one)[0].tolist() == [first, third]
    assert model.recommend([1], k=2, pinned_items=[second, first], **one)[0].tolist() == [
        second,
        third,
    ]
    aligned = np.where(np.isin(ITEMS, [first, second]), 1.0, np.nan)
    answer = model.recommend([1], k=2, groups=aligned, max_per_group=1)
    assert answer[0].tolist() == [first, third]
    with pytest.warns(UserWarning, match=r"fewer than k=9 .*the fewest: 2.* raise max_per_group"):
        model.recommend([1], k=9, groups=["x"] * 24, max_per_group=2)


def test_no_filter_changes_nothing(model):
    plain = model.recommend(X, k=5, feedback=Y)
    for nothing in (
        {"denied_items": []},
        {"denied_items": {}},
        {"allowed_items": [None] * len(USERS)},
        {"allowed_items": {user: None for user in USERS.tolist()}},
        {"pinned_items": []},
        {"boosts": {}},
        {"groups": {1: "a"}, "max_per_group": 1},
        {"diversity": 0},
    ):
        np.testing.assert_array_equal(model.recommend(X, k=5, feedback=Y, **nothing), plain)


@pytest.mark.parametrize("kind", FRAMES)
def test_frames_are_filtered_by_user_id(model, kind):
    frame = FRAMES[kind](X)
    named = tiny().fit(frame, Y)
    allowed = {user: [3, 4] if user % 2 else None for user in USERS.tolist()}
    found = named.recommend(frame, k=1, feedback=Y, allowed_items=allowed, exclude_seen=False)
    answer = pd.DataFrame({name: np.asarray(found[name]) for name in ("user", "item")})
    assert answer["user"].tolist() == USERS.tolist()
    assert set(answer["item"][answer["user"] % 2 == 1]) <= {3, 4}
    assert not set(answer["item"][answer["user"] % 2 == 0]) <= {3, 4}


def test_filters_leave_what_was_passed_as_it_was(model):
    matrix = sparse.csr_array(np.ones((40, 24), dtype=bool))
    matrix.data[::2] = False  # stored, and False
    before = matrix.copy()
    answer = model.recommend(X, k=1, feedback=Y, denied_items=matrix, exclude_seen=False)
    assert (before != matrix).nnz == 0 and matrix.nnz == 960
    denied = matrix.toarray()
    assert not any(denied[row["user"], ITEMS.tolist().index(row["item"])] for row in answer)


WRONG = [
    ({"denied_items": [[1], [2]]}, ValueError, "denied_items has 2 lists.* but 40 users are"),
    ({"allowed_items": [[1]] * 41}, ValueError, "allowed_items has 41 lists.* but 40 users are"),
    ({"pinned_items": [[1]]}, ValueError, "pinned_items has 1 lists.* but 40 users are"),
    ({"denied_items": np.ones((3, 24), bool)}, ValueError, r"shape \(3, 24\), but 40 users .* 24"),
    ({"denied_items": sparse.eye_array(40, dtype=bool)}, ValueError, r"shape \(40, 40\).* 24 it"),
    ({"denied_items": sparse.csr_array((40, 24))}, TypeError, r"matrix of float64.*astype\(bool\)"),
    ({"pinned_items": np.ones((40, 24), bool)}, TypeError, "pinned_items has an order"),
    ({"allowed_items": {1: [2], 2: [3]}}, ValueError, "lacks 38 of the 40 users .*such as 0"),
    ({"denied_items": {"1": [2]}}, ValueError, "the answered users have integer ids, got strings"),
    ({"denied_items": {1: ["2"]}}, ValueError, "denied_items can hold none .* got strings"),
    ({"denied_items": [["2"]] * 40}, ValueError, "denied_items can hold none .* got strings"),
    ({"denied_items": {1: 2}}, TypeError, "denied_items: each user has a list .* entry 1 is 2"),
    ({"denied_items": [[1]] * 39 + [7]}, TypeError, "each user has a list .* entry 39 is 7"),
    ({"pinned_items": [{1}] * 40}, TypeError, "pinned_items: entry 0 is a set, which has no order"),
    ({"pinned_items": {3, 4}}, TypeError, "a set has no order"),
    ({"pinned_items": ["3"]}, ValueError, "pinned_items can hold none .* got strings"),
    ({"denied_items": pd.DataFrame({"user": [1], "item": [2]})}, TypeError, "a pandas .* a dict"),
    ({"boosts": [1, 2]}, TypeError, r"boosts must be a dict \{item"),
    ({"boosts": {1: np.inf}}, ValueError, "boosts must be finite numbers, got inf for 1"),
    ({"boosts": {1: "2"}}, ValueError, "boosts must be finite numbers, got '2' for 1"),
    ({"boosts": {1: True}}, ValueError, "boosts must be finite numbers, got True"),
    ({"boosts": {"1": 2.0}}, ValueError, "boosts can hold none .* got strings"),
    ({"groups": {1: "a"}}, ValueError, "groups was passed without max_per_group"),
    ({"max_per_group": 2}, ValueError, "max_per_group was passed without groups"),
    ({"groups": {1: 1}, "max_per_group": 0}, ValueError, "max_per_group must be an int >= 1"),
    ({"groups": {1: 1}, "max_per_group": True}, ValueError, "max_per_group must be an int >= 1"),
    ({"groups": {1: 1}, "max_per_group": 1.5}, ValueError, "max_per_group must be an int >= 1"),
    ({"groups": ["a"] * 9, "max_per_group": 1}, ValueError, "groups has 9 entries, .* 24 items"),
    ({"groups": {77: "a"}, "max_per_group": 1}, ValueError, "none of the model's 24 items"),
    ({"groups": {1: ["a"]}, "max_per_group": 1}, TypeError, "groups must be hashable"),
    ({"groups": pd.Series(["a"] * 24), "max_per_group": 1}, TypeError, "a pandas Series"),
    ({"diversity": 1.1}, ValueError, r"diversity must be a number in \[0, 1\], got 1.1"),
    ({"diversity": np.nan}, ValueError, "diversity must be a number"),
    ({"diversity": True}, ValueError, "diversity must be a number"),
    ({"exclude_seen": -1}, TypeError, "exclude_seen must be True, False or None"),
    ({"exclude_seen": 2.0}, TypeError, "int >= 1 .* got 2.0"),
]


@pytest.mark.parametrize(("filters", "kind", "message"), WRONG)
def test_what_is_wrong_with_a_filter_is_named(model, filters, kind, message):
    with pytest.raises(kind, match=message):
        model.recommend(X, k=2, feedback=Y, **filters)


def test_one_history_has_no_user_id(model):
    with pytest.raises(TypeError, match="one history has no user id"):
        model.recommend([1, 2], denied_items={0: [3]})
    with pytest.raises(ValueError, match=r"has 2 lists.* but 1 user is answered"):
        model.recommend([1, 2], denied_items=[[3], [4]])


def test_unknown_items_are_told_where_they_were_to_be_shown(model):
    expected = model.recommend([1, 2], k=3)[0].tolist()
    for filters, n in (
        ({"pinned_items": [UNKNOWN, 888]}, 2),
        ({"pinned_items": [[UNKNOWN]]}, 1),
        ({"boosts": {UNKNOWN: 5.0}}, 1),
    ):
        (name,) = filters
        with pytest.warns(UserWarning, match=f"{name} names {n} item.* such as 999") as told:
            assert model.recommend([1, 2], k=3, **filters)[0].tolist() == expected
        assert told[0].filename == __file__
    assert model.recommend([1, 2], k=3, denied_items=[UNKNOWN])[0].tolist() == expected


def test_pipelines_hand_filters_on():
    pipeline = make_recommender_pipeline(RareItemMasker(min_users_per_item=2), tiny()).fit(X, Y)
    denied = {user: ITEMS[:20].tolist() for user in USERS.tolist()}
    answer = pipeline.recommend(X, k=2, feedback=Y, denied_items=denied, exclude_seen=False)
    assert set(answer["item"]) <= set(ITEMS[20:])
    unknown = np.array([[1, UNKNOWN, 0]])
    filters = {"denied_items": [[1], [2]], "pinned_items": {1: [2]}}
    with pytest.warns(UserWarning, match="mask all 1 rows"):
        assert len(pipeline.recommend(unknown, k=2, **filters)) == 0
    answer = pipeline.recommend(HISTORIES, k=1, feedback=FEEDBACKS, diversity=0.5)
    assert len(answer) == len(HISTORIES)


# -- Variety ---------------------------------------------------------------------------------


@st.composite
def pools(draw):
    """Pools of a few queries by N items, with ties and twins among them."""
    n_items, n_queries = draw(st.integers(1, 9)), draw(st.integers(1, 3))
    vector = st.sampled_from([(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (-1.0, 3.0), (0.6, 0.8)])
    vectors = np.array(draw(st.lists(vector, min_size=n_items, max_size=n_items)), np.float32)
    score = st.sampled_from([-np.inf, -2.0, 0.0, 0.5, 3.0])
    scores = np.array(
        [[draw(score) for _ in range(n_items)] for _ in range(n_queries)], dtype=np.float32
    )
    pinned = np.full((n_queries, 2), -1)
    for row in pinned:
        for place, code in enumerate(draw(st.sets(st.integers(0, n_items - 1), max_size=2))):
            row[place] = code
    groups = draw(st.none() | st.lists(st.integers(-1, 1), min_size=n_items, max_size=n_items))
    filters = Filters(
        pinned=draw(st.sampled_from([None, pinned])),
        groups=None if groups is None else np.array(groups),
        max_per_group=draw(st.integers(1, 2)),
        diversity=draw(st.sampled_from([0.1, 0.5, 0.9, 1.0])),
    )
    return scores, vectors, filters


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return a @ b / norms if norms else 0.0


@given(pools(), st.integers(1, 11))
def test_variety_chooses_as_a_loop_in_double_precision_does(pool, k):
    scores, vectors, filters = pool
    n_queries, n_items = scores.shape
    pinned = filters.pinned if filters.pinned is not None else np.empty((n_queries, 0), np.int64)
    rest = scores.copy()
    pinned_scores = np.full(pinned.shape, -np.inf, np.float32)
    for row, place in zip(*np.nonzero(pinned >= 0), strict=True):
        pinned_scores[row, place] = scores[row, pinned[row, place]]
        rest[row, pinned[row, place]] = -np.inf
    order = np.argsort(-rest, axis=1, kind="stable")
    best = np.take_along_axis(rest, order, 1)
    codes, found, _ = select(
        Pool(np.where(best > -np.inf, order, -1), best, pinned_scores), k, filters, vectors
    )
    assert codes.shape == found.shape == (n_queries, k)
    for query in range(n_queries):
        exact = rest[query].astype(np.float64)
        is_candidate = exact > -np.inf
        relevance = np.zeros(n_items)
        if is_candidate.any():
            low, high = exact[is_candidate].min(), exact[is_candidate].max()
            relevance[is_candidate] = (exact[is_candidate] - low) / (high - low or 1)
        chosen = []

        def fits(code, chosen=chosen):
            group = -1 if filters.groups is None else filters.groups[code]
            same = [c for c in chosen if group >= 0 and filters.groups[c] == group]
            return code not in chosen and len(same) < filters.max_per_group

        forced = [c for c in pinned[query] if c >= 0 and scores[query, c] > -np.inf]
        answer = codes[query].tolist()
        for place in range(k):
            first = next((c for c in forced if fits(c)), None)
            forced = forced[1 + forced.index(first) :] if first is not None else []
            open_items = [c for c in order[query] if is_candidate[c] and fits(c)]
            if first is not None:
                assert answer[place] == first
            elif not open_items:
                assert answer[place:] == [-1] * (k - place)
                assert np.isneginf(found[query, place:]).all()
                break
            else:
                values = [
                    (1 - filters.diversity) * relevance[c]
                    - filters.diversity
                    * max((cosine(vectors[c], vectors[o]) for o in chosen), default=0.0)
                    for c in open_items
                ]
                assert answer[place] in open_items
                own = values[open_items.index(answer[place])]
                assert own >= max(values) - 1e-9
            chosen.append(answer[place])
            assert found[query, place] == scores[query, answer[place]]


def test_variety_by_hand():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [-1, 0]], dtype=np.float32)
    scores = np.array([[4.0, 3.0, 2.0, 0.0]], dtype=np.float32)
    pool = Pool(np.arange(4)[None], scores, np.empty((1, 0), np.float32))

    def chosen(k=4, **options):
        return select(pool, k, Filters(**options), vectors)[0].tolist()

    # r = 1, .75, .5, 0; after item 0: .375 - .5, .25 - 0, 0 + .5; after item 3 as well: the
    # maximum is over all chosen, of 1 and -1 it is 1.
    assert chosen(diversity=0.5) == [[0, 3, 2, 1]]
    # .675 - .1, .45, 0 + .1
    assert chosen(diversity=0.1) == [[0, 1, 2, 3]]
    assert chosen(diversity=1.0) == [[0, 3, 2, 1]]  # the best comes first all the same
    in_groups = {"groups": np.array([0, 1, 1, 0]), "max_per_group": 1}
    assert chosen(k=3, diversity=0.5, **in_groups) == [[0, 2, -1]]


def test_variety_is_made_of_so_many_candidates_and_of_more_where_groups_take_them(monkeypatch):
    varied = Filters(diversity=0.5)
    assert [varied.pool_size(k) for k in (1, 10, 11)] == [100, 100, 110]
    model = tiny().fit(X, Y)
    monkeypatch.setattr("posneg_rec.selection._SMALLEST_POOL", 3)
    monkeypatch.setattr("posneg_rec.selection._POOL_OF_VARIETY", 1)
    order = model.recommend([1], k=23)[0].tolist()
    assert set(model.recommend([1], k=2, diversity=1.0)[0]) <= set(order[:3])
    groups = dict.fromkeys(order[:13], "a")
    items, _ = model.recommend([1], k=3, diversity=1.0, groups=groups, max_per_group=1)
    assert items[0] == order[0] and not set(items[1:]) & set(order[:13])


def test_more_variety_is_less_alike(model):
    def distance(diversity):
        items, _ = model.recommend([1, 2], k=8, diversity=diversity)
        vectors = model.weights_["item_embedding"][np.searchsorted(model.items_, items)]
        return np.mean([1 - cosine(a, b) for a in vectors for b in vectors])

    assert distance(0) < distance(0.5) < distance(1.0)


def test_the_page_shows_what_happens():
    text = (Path(__file__).parents[1] / "docs" / "recommend.md").read_text(encoding="utf-8")
    examples = "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, "recommend.md", None, None)
    assert len(test.examples) > 25
    assert doctest.DocTestRunner().run(test).failed == 0
