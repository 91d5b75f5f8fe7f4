"""What the readme and the pages show runs as it stands: each page is a program, top to bottom.

A page reads a frame ``interactions`` and a series ``ratings``. What else it needs first stands in a
comment of its own, ``<!-- before: ... -->``; what cannot run, after ``<!-- not run: why -->``.
"""

import doctest
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import posneg_rec

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_PART = re.compile(
    r"<!-- before:\n(?P<before>.*?)-->"
    r"|(?P<not_run><!-- not run: [^>]*-->\n+)?"
    r"(?P<indent>[ ]*)```(?P<kind>python|pycon)\n(?P<code>.*?)\n(?P=indent)```",
    flags=re.DOTALL,
)


def parts(text):
    """Yield the line and the code of each part of a page that runs."""
    for found in _PART.finditer(text):
        if found["not_run"]:
            continue
        where = "before" if found["before"] is not None else "code"
        indent = found["indent"] or ""
        lines = [line.removeprefix(indent) for line in found[where].splitlines()]
        yield text.count("\n", 0, found.start(where)) + 1, "\n".join(lines) + "\n"


def run(page, text, names):
    """Run a page's code in `names`, with the page's own lines in a traceback."""
    runner = doctest.DocTestRunner(
        optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST
    )
    n_parts = 0
    for line, code in parts(text):
        n_parts += 1
        if code.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(code, names, page, page, line - 1)
            report = []
            runner.run(example, out=report.append, clear_globs=False)
            assert not report, "".join(report)
            names.update(example.globs)
        else:
            # Padded, so that a line has the number that it has on the page.
            exec(compile("\n" * (line - 1) + code, page, "exec"), names)
    return n_parts


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What a page may read, in a folder of its own, where a fit takes one epoch."""
    monkeypatch.chdir(tmp_path)
    defaults = posneg_rec.ContrastiveSeqRecommender.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "max_epochs", 1)
    monkeypatch.setitem(defaults, "embedding_dim", 16)
    rng = np.random.default_rng(0)
    titles = np.array(["alien", "heat", *(f"film {i}" for i in range(28))])
    table = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(40), 15),
            "movieId": np.concatenate([rng.permutation(titles)[:15] for _ in range(40)]),
            "timestamp": 10**9 + rng.integers(0, 10**7, size=600),
        }
    )
    ratings = pd.Series(rng.integers(1, 6, size=600))
    return {"__name__": "page", "interactions": table, "ratings": ratings}


def readme_does_what_it_says(text, names):
    assert len(names["items"]) == 10
    assert set(names["table"]["user"]) == set(range(40))
    assert Path("model.posneg").is_file()


def getting_started_is_short_and_ends_with_a_model_that_answers(text, names):
    shown = "".join(code for _, code in list(parts(text))[1:])
    assert len(shown.splitlines()) < 60
    assert len(names["products"]) == 5 and "P-3" not in names["products"]
    assert len(names["table"]) == 5 * names["shop"]["customer"].nunique()
    assert Path("shop.posneg").is_file()


AFTERWARDS = {
    "README": readme_does_what_it_says,
    "getting_started": getting_started_is_short_and_ends_with_a_model_that_answers,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_runs_from_top_to_bottom(page, names, capsys):
    text = page.read_text()
    found = run(str(page), text, names)
    fences = len(re.findall(r"^[ ]*```(?:python|pycon)\n", text, flags=re.MULTILINE))
    excused = len(re.findall(r"<!-- not run: ", text))
    assert found - text.count("<!-- before:\n") == fences - excused
    if page.stem in AFTERWARDS:
        assert "ndcg@10" in capsys.readouterr().out
        AFTERWARDS[page.stem](text, names)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\nundefined\n```", NameError),
        ("text\n\n- item\n\n  ```python\n  undefined\n  ```", NameError),
        ("```python\n>>> 1 + 1\n3\n```", AssertionError),
        ("<!-- before:\nvalue = 1\n-->\n```python\nassert value == 2\n```", AssertionError),
    ],
)
def test_a_page_that_is_wrong_fails(text, error):
    with pytest.raises(error):
        run("page", text, {})


def test_a_page_that_is_excused_does_not_run():
    assert run("page", "<!-- not run: no network -->\n```python\nundefined\n```", {}) == 0


_EXCUSE = re.compile(r"<!-- not run: (.*?) -->")
# What a page shows beside this library, and where it is to be had.
LIBRARIES = {"implicit": "implicit", "RecTools": "rectools.models", "Surprise": "surprise"}


def test_what_is_excused_is_run_by_a_test_that_is_named():
    for page in PAGES:
        for excuse in _EXCUSE.findall(page.read_text()):
            by_a_test = re.fullmatch(r"by (tests/test_\w+\.py), .*", excuse)
            if by_a_test is None:
                assert excuse.removeprefix("needs ") in LIBRARIES, excuse
            else:
                assert f'"{page.name}"' in (ROOT / by_a_test[1]).read_text(), excuse


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_needs_another_library_runs_where_it_is(library, names):
    pytest.importorskip(LIBRARIES[library])
    page = ROOT / "docs" / "coming_from.md"
    text = page.read_text()
    found = text.replace(f"<!-- not run: needs {library} -->\n", "")
    assert run(str(page), found, names) == run(str(page), text, names) + 1


def test_every_public_name_is_in_the_reference():
    reference = (ROOT / "docs" / "api.md").read_text()
    package = Path(posneg_rec.__file__).parent
    modules = {path.stem for path in package.glob("*.py")}
    offered = set(posneg_rec.__all__) - modules - {"__version__"}
    assert "ContrastiveSeqRecommender" in offered
    for name in offered:
        assert re.search(rf"^   {name}$", reference, flags=re.MULTILINE), name
    # All that these offer; of other rooms some names are public, the rest is machinery.
    whole = ["baselines", "datasets", "explanation", "metrics", "onnx", "plotting", "reporting"]
    for module in whole:
        for name in import_module(f"posneg_rec.{module}").__all__:
            assert f"   {module}.{name}\n" in reference, name


def test_every_room_is_in_the_reference_or_among_the_internals():
    reference = (ROOT / "docs" / "api.md").read_text()
    internals = (ROOT / "docs" / "internals.md").read_text()
    by_short_names = {"preprocessing", "recommender"}
    for path in Path(posneg_rec.__file__).parent.glob("[!_]*.py"):
        public = path.stem in by_short_names or f"   {path.stem}." in reference
        assert public or f"   {path.stem}\n" in internals, path.stem


def test_every_page_is_reached_once():
    trees = re.compile(r"```{toctree}\n(.*?)```", flags=re.DOTALL)
    pages = sorted((ROOT / "docs").glob("*.md"))
    reached = [
        line
        for page in pages
        for tree in trees.findall(page.read_text())
        for line in tree.splitlines()
        if not line.startswith(":")
    ]
    for page in pages:
        assert reached.count(page.stem) == (page.stem != "index"), page.stem
