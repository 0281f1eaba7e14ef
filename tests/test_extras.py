"""Each extra brings what it is for: with all else out of reach, its commands and modules work.

Two processes, one with NumPy and one without, import torch; from them each case is forked, with the
packages of its extra within reach and no others, which also holds for the processes it starts.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from parfocal.extras import COMMANDS, MODULES, install

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


# The distributions that each module is of.
OWNERS = {
    module: set(map(_normalized, names))
    for module, names in metadata.packages_distributions().items()
}


def _name(requirement):
    return _normalized(requirement.name)


def _required(texts, extra=""):
    """What these requirements name, where their markers hold."""
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]


def _direct(extra):
    """The distributions that an extra names, also through other extras of this package."""
    named = set()
    for requirement in _required(EXTRAS[extra]):
        if _name(requirement) == "parfocal":
            named |= set().union(*map(_direct, requirement.extras))
        else:
            named.add(_name(requirement))
    return named


def _closure(names):
    """Those, what they need, and so on, of what is installed."""
    found, todo = set(), [(name, "") for name in names]
    while todo:
        name, extra = todo.pop()
        found.add(name)
        try:
            texts = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in _required(texts, extra):
            todo += [(_name(requirement), e) for e in ("", *requirement.extras)
                     if _name(requirement) not in found]  # fmt: skip
    return found


def _modules(names):
    """The modules of distributions, as they are imported."""
    return {module for module, owners in OWNERS.items() if owners & names}


@pytest.mark.parametrize("extra", MODULES)
def test_table_of_modules_is_that_of_the_requirements(extra):
    """An extra that is given another requirement says so where a module is missing."""
    assert MODULES[extra] == _modules(_direct(extra)) & MODULES[extra]
    for name in _direct(extra):
        assert _modules({name}) & MODULES[extra], name


def test_commands_need_extras_that_there_are():
    """And each extra of the table is one of the project's."""
    assert {command.extra for command in COMMANDS.values()} <= set(MODULES) <= set(EXTRAS)
    assert set(EXTRAS) - set(MODULES) == {"all", "dev", "docs", "peers", "tests"}


def test_pages_have_commands_and_extras():
    """Each command with its extra, and each extra with the command that installs it."""
    docs = Path(__file__).parents[1] / "docs"
    table = (docs / "reference" / "commands.md").read_text()
    rows = re.findall(r"^\| `parfocal (\w+)[^|]*` \| (\w+) \|", table, re.MULTILINE)
    assert dict(rows) == {name: command.extra for name, command in COMMANDS.items()}
    page = (docs / "install.md").read_text()
    for extra in MODULES:
        assert install(extra).partition(" in a clone")[0] in page


# What each has to do. `run` is the command line, which gives status, output and errors.
CASES = {
    "bare": """
status, output, _ = run("--version")
assert (status, output) == (0, f"parfocal, version {parfocal.__version__}\\n")
for arguments in ([], ["--help"], ["-h"]):
    status, output, _ = run(*arguments)
    assert status == 0
    for name, (extra, summary, _) in COMMANDS.items():
        assert any(line.split()[:2] == [name, f"[{extra}]"] and line.endswith(summary)
                   for line in output.splitlines()), name
    assert "pip install '.[audit]' in a clone" in output
for name, (extra, *_) in COMMANDS.items():
    for arguments in ([name], [name, "--help"]):
        status, output, errors = run(*arguments)
        said = f"Error: parfocal {name} needs the module click: {install(extra)}\\n"
        assert (status, output, errors) == (2, "", said)
for word in ("tarin", "--verion"):
    status, output, errors = run(word)
    assert (status, output) == (2, "")
    assert errors.endswith(f"'{word}'.\\n")
os.environ["_PARFOCAL_COMPLETE"] = "bash_complete"
assert run() == (1, "", "")
for name, module, extra in (("audit", "flint", "audit"), ("testing", "flint", "audit")):
    try:
        importlib.import_module(f"parfocal.{name}")
    except ModuleNotFoundError as error:
        assert f"needs the module {module}: {install(extra)}" in str(error), error
    else:
        raise AssertionError(name)
for name, extra in (("jax", "jax"), ("boosting", "boosting")):
    try:
        importlib.import_module(f"parfocal.{name}")
    except ImportError as error:
        assert f"[{extra}]'" in str(error), error
    else:
        raise AssertionError(name)
x = torch.tensor([20.0], requires_grad=True)
parfocal.sigmoid_focal_loss(x, torch.ones(1), gamma=0.5).sum().backward()
assert x.grad.isfinite().all()
""",
    "guard": """
from parfocal.guard import FocalGuard, FocalGuardError
Path("loss.py").write_text(LOSS)
sys.path.insert(0, os.getcwd())
import loss
guard = FocalGuard(loss.focal, capture="captures")
try:
    x = torch.tensor([18.0, 1.0], requires_grad=True)
    guard(x, torch.ones(2)).backward()
    guard.check()
except FocalGuardError:
    pass
(capture,) = Path("captures").iterdir()
again = f"{os.path.abspath('loss.py')}:focal"
status, output, errors = run("replay", str(capture), "--loss", again)
assert status == 1, errors
assert "isn't finite" in output
status, output, errors = run("train")
assert status == 2
assert "parfocal train needs the module" in errors
assert errors.endswith(f"{install('experiments')}\\n")
assert "[needs experiments]" in run("--help")[1]
""",
    "audit": """
Path("loss.py").write_text(LOSS)
options = ("--quick", "--option", "gamma=0.5", "--fixed-gamma", "0.5", "--html", "page.html")
status, output, errors = run("audit", "loss.py:focal", *options)
assert status == 1, output + errors
assert "not finite, gradient" in output
assert "<html" in Path("page.html").read_text()
from parfocal.testing import assert_accurate
assert assert_accurate(parfocal.sigmoid_focal_loss, gammas=[0.5], dtypes=[torch.bfloat16]).cells
""",
    "experiments": """
assert run("gradients", "--out", "gradients")[0] == 0
options = ("--set", "loss=exact", "--set", "images=64", "--set", "epochs=1", "--out", "runs/x")
status, output, errors = run("train", "mnist-quick", *options)
assert status == 0, output + errors
for command in (["status", "runs"], ["report", "runs"], ["specs"], ["sweep", "--help"]):
    status, output, errors = run(*command)
    assert status == 0, output + errors
assert "[needs" not in run("--help")[1]
status, output, errors = run("report", "runs", "--tensorboard", "events", "--out", "none")
assert status == 2
needed = f"parfocal report --tensorboard needs the module tensorboard: {install('tensorboard')}\\n"
assert errors.endswith(needed)
assert not Path("none").exists()
import timm
spec = ("--set", "images=4", "--set", "batch_size=2", "--set", "epochs=1", "--set", "loss=exact")
status, output, errors = run("sweep", "mnist-quick", *spec, "--ray", "local", "--out", "sweep")
assert status == 2
assert errors.endswith(f"parfocal sweep --ray needs the module ray: {install('cluster')}\\n")
""",
    "cluster": """
import ray
import parfocal.experiments.run.engines
assert ray.remote
""",
    "slurm": """
spec = ("--set", "images=4", "--set", "batch_size=2", "--set", "epochs=1", "--set", "loss=exact")
status, output, errors = run("sweep", "mnist-quick", *spec, "--slurm", "local", "--out", "sweep")
assert status == 0, output + errors
assert "1 runs: 1 finished" in output
""",
    "tensorboard": """
options = ("--set", "loss=exact", "--set", "images=64", "--set", "epochs=1", "--out", "runs/x")
status, output, errors = run("train", "mnist-quick", *options)
assert status == 0, output + errors
status, output, errors = run("report", "runs", "--tensorboard", "events")
assert status == 0, output + errors
assert len(list(Path("events").glob("*/*/*tfevents*"))) == 1
""",
    "boosting": """
import numpy as np
from parfocal.boosting import FocalObjective
gradient, hessian = FocalObjective(gamma=0.5)(np.array([0.0, 1.0]), np.array([2.0, -3.0]))
assert np.isfinite(gradient).all() and np.isfinite(hessian).all()
""",
    "jax": """
import jax
from parfocal.jax import sigmoid_focal_loss
slope = jax.grad(lambda x: sigmoid_focal_loss(x, 1.0, gamma=0.5).sum())(20.0)
assert slope < 0
""",
}

LOSS = """
import torch
def focal(logits, targets, gamma=0.5):
    p = torch.sigmoid(logits)
    ce = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    return (1 - p_t).pow(gamma).mul(ce).sum()
"""

# Finds no module that a variable of the environment names, here and in what is started here; but
# what a package has brought within itself.
HIDE = """
import os
import sys

class Hidden:
    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        spec = self._finder.find_spec(name, path, target)
        if spec is None or name not in os.environ["HIDDEN"].split():
            return spec
        places = [spec.origin or "", *(spec.submodule_search_locations or [])]
        return spec if any("thirdparty_files" in place for place in places) else None

sys.meta_path[:] = map(Hidden, sys.meta_path)
"""

# Imports torch, and forks a process for each case.
SERVER = """
import contextlib, importlib, io, json, os, sys, traceback
from pathlib import Path
import torch

cases, hidden, folder, LOSS = json.loads(sys.stdin.read())
results = {}
for case, code in cases.items():
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ["HIDDEN"] = " ".join(hidden[case])
            os.makedirs(f"{folder}/{case}")
            os.chdir(f"{folder}/{case}")
            import parfocal
            from parfocal.extras import COMMANDS, install
            from parfocal.__main__ import main

            def run(*arguments):
                sys.argv = ["parfocal", *arguments]
                output, errors = io.StringIO(), io.StringIO()
                status = 0
                with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
                    try:
                        main()
                    except SystemExit as end:
                        status = end.code or 0
                return status, output.getvalue(), errors.getvalue()

            exec(compile(code, case, "exec"))
            status = 0
        except BaseException:
            Path(f"{folder}/{case}.error").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    results[case] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """How each case ended: its exit status, and what went wrong."""
    folder = tmp_path_factory.mktemp("extras")
    (folder / "sitecustomize.py").write_text(HIDE)
    everything = set(OWNERS) - {"parfocal"}
    reach = {"bare": _closure(["torch"])}
    reach |= {extra: _closure(["torch", *_direct(extra)]) for extra in MODULES}
    hidden = {case: sorted(everything - _modules(names)) for case, names in reach.items()}
    found = {}
    for has_numpy in (False, True):
        chosen = {c: code for c, code in CASES.items() if ("numpy" in reach[c]) == has_numpy}
        always = set.intersection(*(set(hidden[case]) for case in chosen))
        source = str(Path(__file__).parents[1] / "src")
        done = subprocess.run(
            [sys.executable, "-c", SERVER],
            input=json.dumps([chosen, hidden, str(folder), LOSS]),
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{source}",
                 "HIDDEN": " ".join(always), "PARFOCAL_CACHE": str(folder / "cache")},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found |= json.loads(done.stdout.splitlines()[-1])
    errors = {path.stem: path.read_text() for path in folder.glob("*.error")}
    return {case: (status, errors.get(case)) for case, status in found.items()}


@pytest.mark.parametrize("case", CASES)
def test_extra_brings_what_it_is_for(case, ends):
    """Its commands and modules work; what needs another one says which."""
    status, error = ends[case]
    assert status == 0, error


def test_each_extra_is_tried():
    """And the package without any."""
    assert set(CASES) == {"bare", *MODULES}
