"""The tutorial, followed word for word in an empty folder: its Python, then its commands."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\w)")


class Numbers(doctest.OutputChecker):
    """Holds the words to what the page has, and its numbers to a tenth.

    From one processor to another a sum is rounded otherwise, which after some hundred steps has
    moved a training by a few of them.
    """

    def check_output(self, want, got, optionflags):
        """Whether they agree; three dots stand for anything."""
        pattern = ".*".join(map(re.escape, NUMBER.sub("#", want.strip()).split("...")))
        if not re.fullmatch(pattern, NUMBER.sub("#", got.strip()), re.DOTALL):
            return False
        if "..." in want:
            return True
        pairs = zip(NUMBER.findall(want), NUMBER.findall(got), strict=True)
        return all(float(g) == pytest.approx(float(w), rel=0.1) for w, g in pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def failures(folder):
    """What the page's Python didn't do as it says, after which the folder holds what it wrote."""
    text = PAGE.read_text(encoding="utf-8")
    example = doctest.DocTestParser().get_doctest(text, {}, PAGE.name, str(PAGE), 0)
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        runner = doctest.DocTestRunner(checker=Numbers(), optionflags=doctest.NORMALIZE_WHITESPACE)
        runner.run(example, out=said.append)
    return said


@pytest.mark.filterwarnings("ignore::parfocal.guard.FocalGuardWarning")
def test_python_does_what_the_page_shows(failures):
    assert failures == []


def commands():
    """Each command of the page, with the lines that it is said to print."""
    blocks = re.findall(r"(?:^    .+\n)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = []
    for block in blocks:
        for line in (line.strip() for line in block.splitlines()):
            if line.startswith("parfocal "):
                found.append((line, []))
            elif found:
                found[-1][1].append(line)
    return found


@pytest.mark.filterwarnings("ignore::parfocal.guard.FocalGuardWarning")
@pytest.mark.parametrize(("command", "printed"), commands())
def test_commands_print_what_the_page_shows(command, printed, failures, folder):
    assert not failures
    (capture,) = (folder / "failures").iterdir()
    words = [str(capture) if word.endswith(".safetensors") else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == (0 if "parfocal:sigmoid_focal_loss" in command else 1), done.stderr
    for line in printed:
        assert line in done.stdout
