"""What an index, a citation and an installer read of the package."""

import re
import tomllib
from pathlib import Path

import pytest

import posneg_rec

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RELATIVE_LINK = re.compile(r"\]\((?!https?://|#)")


def test_readme_has_no_dead_link_on_an_index():
    readme = (ROOT / "README.md").read_text()
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    shown = readme
    for rule in hook["substitutions"]:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    assert RELATIVE_LINK.search(readme) and not RELATIVE_LINK.search(shown)
    # Where a link stood, the file is named; links to elsewhere stay.
    assert "`docs/benchmarks.md`" in shown and "](https://arxiv.org" in shown


def test_relative_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def slugs(page):
    """Name the headings of a page as links do."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_into_pages_lead_to_a_heading(page):
    for target, heading in re.findall(
        r"\]\((?!https?://)([^)#]*)#([^)]+)\)", (ROOT / page).read_text()
    ):
        assert heading in slugs(ROOT / (target or page)), f"{target}#{heading}"


def test_forms_ask_for_what_contributing_names():
    yaml = pytest.importorskip("yaml")
    folder = ROOT / ".github"
    if not folder.is_dir():
        pytest.skip("a source distribution has no forms")
    kinds = {"textarea", "input", "dropdown", "checkboxes", "markdown"}
    for path in folder.glob("ISSUE_TEMPLATE/[!c]*.yml"):
        form = yaml.safe_load(path.read_text())
        assert set(form) == {"name", "description", "body"}
        assert {field["type"] for field in form["body"]} <= kinds
        assert len({field["id"] for field in form["body"]}) == len(form["body"])
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    for name in re.findall(r"`(\.github/[^`]+)`", contributing):
        assert (ROOT / name).exists(), name
    assert contributing.count("`.github/") == 2


def test_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {posneg_rec.__version__}\n" in citation
    assert f"\nlicense: {PROJECT['project']['license']}\n" in citation
    assert f"\nabstract: {PROJECT['project']['description']}.\n" in citation


def test_documented_installation_names_what_serving_needs():
    needed = {re.split(r"[<>=!]", line)[0] for line in PROJECT["project"]["dependencies"]}
    (line,) = re.findall(r"pip install (numpy .*)", (ROOT / "README.md").read_text())
    assert set(line.split()) == needed - {"torch"}
    run = ROOT / ".ci" / "run"  # which a source distribution lacks
    assert not run.is_file() or line in run.read_text()
