"""A failure in a file, and its replay: made again elsewhere, and nothing run that isn't trusted."""

import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import sigmoid_focal_loss as original

from parfocal import sigmoid_focal_loss
from parfocal.guard import (
    FocalGuard,
    FocalGuardError,
    FocalGuardWarning,
    diagnose,
    load_capture,
)
from parfocal.guard.source import LossSource
from parfocal.guard.trust import known_loss

mean_original = partial(original, gamma=0.5, reduction="mean")


def broken_batch(guard, count=256):
    """One of many samples at 20."""
    x = torch.randn(count, generator=torch.Generator().manual_seed(1))
    x[100] = 20.0
    guard(x.requires_grad_(), torch.ones(count)).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    return raised.value


def test_a_capture_is_replayed_in_another_process(tmp_path):
    """A few kilobytes; the same sample, cause and logit, without any of the training's code."""
    from parfocal.cli.replay import replay

    error = broken_batch(FocalGuard(mean_original, capture=tmp_path))
    assert error.capture.stat().st_size < 4096
    assert str(error.capture) in str(error)
    command = [sys.executable, "-m", "parfocal", "replay", str(error.capture)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "sample 100 of the batch, target 1" in done.stdout.split("Now:")[0]
    assert "(100), target 1, whose logit is 20" in done.stdout.split("Now:")[1]
    exact = CliRunner().invoke(
        replay, [str(error.capture), "--loss", "parfocal:sigmoid_focal_loss"]
    )
    assert exact.exit_code == 0
    assert "are finite" in exact.output


def crafted(path, place, options=None, is_class=False, autocast=None, paragraph=""):
    """A capture by hand, whose loss is anything."""
    loss = {"place": place, "options": options or {}, "is_class": is_class}
    diagnosis = {
        "cause": "loss",
        "paragraph": paragraph,
        "sample": 0,
        "position": [0],
        "logit": 1.0,
    }
    words = {
        "format": 1,
        "call": {"loss": loss, "arguments": [], "keywords": {}, "autocast": autocast},
        "step": 1,
        "rank": 0,
        "told": diagnosis | {"margin": 1.0, "broken": 1},
        "versions": {"torch": "2", "python": "3"},
    }
    tensors = {"logits": torch.ones(1), "targets": torch.ones(1)}
    save_file(tensors, path, {"parfocal": json.dumps(words)})
    return path


@pytest.mark.parametrize(
    "place",
    [
        "os:system",
        "stranger:loss",
        "{folder}/stranger.py:loss",
        "torch:load",
        "torch.hub:load",
        "torch.nn.functional:torch.load",
        "torchvision.ops.focal_loss:torch.load",
        "torchvision.stranger:sigmoid_focal_loss",
        "parfocal.places:load",
        "parfocal.losses.sigmoid:checks.torch.load",
        "parfocal:__builtins__",
        "parfocal.stranger:sigmoid_focal_loss",
        "stranger",
    ],
)
def test_a_capture_runs_nothing_that_it_names(place, tmp_path, monkeypatch):
    """A module of a stranger isn't imported, nor a function called that is no known loss."""
    mark = tmp_path / "mark"
    module = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef loss(**options): pass\n"
    (tmp_path / "stranger.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    place = place.format(folder=tmp_path)
    path = crafted(tmp_path / "capture", place, {"command": f"touch {mark}"}, is_class=True)
    with pytest.raises(ValueError, match=re.escape(f"not imported: {place} is no loss")):
        load_capture(path)
    assert not mark.exists()
    assert "stranger" not in sys.modules


def test_a_capture_of_a_strangers_loss_runs_when_it_is_trusted(tmp_path, monkeypatch):
    """And with a loss given in its place it needs no trust."""
    (tmp_path / "trusted.py").write_text("def loss(x, y):\n    return (x - y).sum() / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = crafted(tmp_path / "capture", "trusted:loss")
    assert load_capture(path, mean_original).call.loss is mean_original
    assert load_capture(path, trust=True).call.loss(torch.ones(1), torch.zeros(1)) == math.inf


@pytest.mark.parametrize(
    "damage",
    [
        lambda words: [],
        lambda words: "text",
        lambda words: {**words, "call": None},
        lambda words: {**words, "call": {**words["call"], "loss": {"place": 3}}},
        lambda words: {**words, "call": {**words["call"], "keywords": []}},
        lambda words: {**words, "told": {"cause": "loss"}},
        lambda words: {**words, "versions": {"torch": 2}},
        lambda words: {key: value for key, value in words.items() if key != "step"},
        lambda words: {**words, "call": {**words["call"], "keywords": {"gamma": -1}}},
        lambda words: {**words, "call": {**words["call"], "keywords": {"stranger": 1}}},
    ],
)
def test_a_damaged_capture_ends_in_one_line(damage, tmp_path):
    """With the status of a wrong use: 1 would mean that the failure was made again."""
    from click.testing import CliRunner

    from parfocal.cli.replay import replay

    path = crafted(tmp_path / "capture", "parfocal:sigmoid_focal_loss")
    with safe_open(path, framework="pt") as file:
        words = json.loads(file.metadata()["parfocal"])
    tensors = {"logits": torch.ones(1), "targets": torch.ones(1)}
    save_file(tensors, path, {"parfocal": json.dumps(damage(words))})
    done = CliRunner().invoke(replay, [str(path)])
    assert done.exit_code == 2, done.output
    assert done.output.splitlines()[-1].startswith("Error: ")


def test_a_capture_cannot_steer_the_terminal(tmp_path):
    """Its words are shown with escapes in the place of what a terminal would obey."""
    from click.testing import CliRunner

    from parfocal.cli.replay import replay

    path = crafted(tmp_path / "capture", "parfocal:sigmoid_focal_loss", paragraph="\x1b[2Jgone")
    done = CliRunner().invoke(replay, [str(path)])
    assert (done.exit_code, "\x1b" in done.output) == (0, False)
    assert r"\x1b[2Jgone" in done.output


@pytest.mark.parametrize("gamma", [np.float16(0.5), np.float32(0.5), np.float64(0.5)])
@pytest.mark.parametrize("bound", [False, True])
def test_a_capture_keeps_numbers_of_every_kind(gamma, bound, tmp_path):
    """Of the call and of a partial: the failure is made again."""
    keywords = {"gamma": gamma, "reduction": "sum"}
    guard = FocalGuard(partial(original, **keywords) if bound else original, capture=tmp_path)
    x = torch.tensor([20.0, 1.0], requires_grad=True)
    guard(x, torch.tensor([1.0, 0.0]), **({} if bound else keywords)).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert diagnose(load_capture(raised.value.capture).call).logit == 20.0


def test_an_autocast_that_is_no_dtype_is_refused(tmp_path):
    """Any name of torch could stand there."""
    path = crafted(tmp_path / "capture", "parfocal:sigmoid_focal_loss", autocast="load")
    with pytest.raises(ValueError, match="expected a dtype"):
        load_capture(path)


@pytest.mark.parametrize(
    "loss", [sigmoid_focal_loss, original, nn.CrossEntropyLoss, F.cross_entropy]
)
def test_losses_of_libraries_are_known_where_they_are_defined(loss):
    """As a guard writes their places down."""
    assert known_loss(LossSource.from_loss(loss).place) is loss


def test_a_capture_of_a_lambda_asks_for_a_loss(tmp_path):
    """It has no place to be imported from."""
    error = broken_batch(FocalGuard(lambda x, y: mean_original(x, y) * 1, capture=tmp_path))
    with pytest.raises(ValueError, match="--loss"):
        load_capture(error.capture)
    assert diagnose(load_capture(error.capture, mean_original).call).logit == 20.0


def test_a_capture_keeps_a_normaliser_and_a_mask(tmp_path):
    """Arguments that are tensors come back as they were."""
    guard = FocalGuard(sigmoid_focal_loss, capture=tmp_path)
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    mask = torch.tensor([True, False, True])
    zero = torch.zeros(())
    guard(x, torch.zeros(3), reduction="sum", mask=mask, normalizer=zero).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    call = load_capture(raised.value.capture).call
    assert diagnose(call).cause == raised.value.diagnosis.cause == "normaliser"
    assert set(call.keywords) == {"reduction", "mask", "normalizer"}
    assert call.keywords["mask"].sum() == 2


def test_what_is_no_capture_is_refused(tmp_path):
    """Text, another safetensors file, nothing."""
    text, other = tmp_path / "text", tmp_path / "other"
    text.write_text("nothing")
    save_file({"x": torch.zeros(1)}, other)
    for path in (text, other):
        with pytest.raises(ValueError, match="no capture"):
            load_capture(path)
    with pytest.raises(FileNotFoundError):
        load_capture(tmp_path / "none")


SCRIPT = """
import warnings; warnings.simplefilter("ignore")
import math, torch
import torch.nn.functional as F
from functools import partial
from torch import nn
from parfocal.guard import FocalGuard, FocalGuardError

def focal(x, y, gamma=2.0):
    p = x.sigmoid()
    p_t = p * y + (1 - p) * (1 - y)
    ce = F.binary_cross_entropy_with_logits(x, y, reduction="none")
    return ((1 - p_t) ** gamma * ce).mean()

class Focal(nn.Module):
    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma
    def forward(self, x, y):
        return focal(x, y, self.gamma)

open("began", "a").write("once ")
if __name__ == "__main__":
    x = torch.tensor([0.1, 20.0], requires_grad=True)
    guard = FocalGuard({loss}, capture="captures")
    guard(x, torch.ones(2){call}).backward()
    try:
        guard.check()
    except FocalGuardError:
        pass
"""


def run_script(folder, loss, call=""):
    """Train with a loss of the script itself; its capture."""
    (folder / "train.py").write_text(SCRIPT.replace("{loss}", loss).replace("{call}", call))
    subprocess.run([sys.executable, "train.py"], cwd=folder, check=True)
    assert (folder / "began").read_text() == "once "  # nothing was imported to try it
    (capture,) = (folder / "captures").iterdir()
    return capture.relative_to(folder)


def replayed(*arguments):
    """The status of a replay, and its last line."""
    from parfocal.cli.replay import replay

    done = CliRunner().invoke(replay, [str(argument) for argument in arguments])
    return done.exit_code, done.output.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("loss", "call", "others"),
    [
        ("partial(focal, gamma=0.5)", "", ["focal", "Focal"]),
        ("Focal(0.5)", "", ["focal", "Focal"]),
        ("focal", ", gamma=0.5", ["focal", "Focal"]),
    ],
)
def test_a_loss_of_the_script_itself_is_replayed_with_its_options(
    loss, call, others, tmp_path, monkeypatch
):
    """By the file and name that the capture holds, if it is trusted; or by another, with gamma."""
    capture = run_script(tmp_path, loss, call)
    monkeypatch.chdir(tmp_path)
    status, line = replayed(capture)
    assert status == 2
    assert "train.py:" in line or "--loss" in line
    assert replayed(capture, "--trust")[0] == 1
    for other in others:
        assert replayed(capture, "--loss", f"train.py:{other}")[0] == 1
    assert replayed(capture, "--loss", "parfocal:sigmoid_focal_loss")[0] == 0
    assert replayed(capture, "--loss", "parfocal:SigmoidFocalLoss")[0] == 0


def test_a_loss_of_a_notebook_travels_as_text(tmp_path, monkeypatch):
    """Which is shown, and isn't run unless it is told to be."""
    import linecache

    cell = "def focal(x, y):\n    return ((1 - x.sigmoid()) ** 0.5 * F.softplus(-x)).mean()\n"
    linecache.cache["<cell 3>"] = (len(cell), None, cell.splitlines(True), "<cell 3>")
    names = {"F": F, "__name__": "__main__"}
    exec(compile(cell, "<cell 3>", "exec"), names)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    error = broken_batch(FocalGuard(names["focal"], capture=tmp_path))
    with pytest.raises(ValueError, match=r"whose code was: def focal.*F\.softplus"):
        load_capture(error.capture)
    assert diagnose(load_capture(error.capture, trust=True).call).logit == 20.0
    assert error.capture.stat().st_size < 4096


def test_options_that_another_loss_does_not_take_are_said(tmp_path):
    """Not dropped in silence."""
    error = broken_batch(FocalGuard(partial(mean_original, alpha=0.5), capture=tmp_path))
    capture = load_capture(error.capture, nn.BCEWithLogitsLoss)
    assert capture.not_passed == ["gamma", "alpha"]


@pytest.mark.parametrize(
    ("loss", "x", "y", "keywords"),
    [
        (  # a sum that overflows takes the whole batch
            lambda x, y: F.cross_entropy(x.float(), y, reduction="none").half().sum(),
            torch.randn(8, 21, 128, 128).half(),
            torch.zeros(8, 128, 128, dtype=torch.int64),
            {},
        ),
        (
            lambda x, y, weight: (original(x, y, gamma=0.5) * weight).mean(),
            torch.full((2, 1, 128, 128), 40.0),
            torch.ones(2, 1, 128, 128),
            {"weight": torch.ones(1, 1, 128, 128)},
        ),
        (
            lambda x, y: ((1 - x.softmax(1).gather(1, y[:, None])) ** 0.5).mean(),
            torch.cat([torch.full((32, 1), 99.0), torch.zeros(32, 50_000)], 1),
            torch.zeros(32, dtype=torch.int64),
            {},
        ),
        (
            lambda x, y, bank: (original(x, y, gamma=0.5) + bank.sum() * 0).mean(),
            torch.full((64,), 40.0),
            torch.ones(64),
            {"bank": torch.ones(1 << 18)},
        ),
    ],
    ids=["sum", "weight map", "many classes", "memory bank"],
)
def test_a_capture_is_small_whatever_the_batch(loss, x, y, keywords, tmp_path):
    """And says whether it is enough for the failure."""
    guard = FocalGuard(loss, capture=tmp_path)
    guard(x.requires_grad_(), y, **keywords).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert raised.value.capture.stat().st_size < 20_000
    capture = load_capture(raised.value.capture, loss)
    again = diagnose(capture.call, capture.form)
    assert (again is not None) == capture.is_enough


def test_a_capture_without_data_holds_none(tmp_path):
    """Neither logits nor targets; its replay says so, and what was told."""
    from parfocal.cli.replay import replay

    error = broken_batch(FocalGuard(mean_original, capture=tmp_path, keep_data=False))
    with safe_open(error.capture, framework="pt") as file:
        assert list(file.keys()) == []
    done = CliRunner().invoke(replay, [str(error.capture)])
    assert done.exit_code == 2
    assert "was written without data" in done.output


def test_captures_of_a_recording_training_end(tmp_path):
    """Ten files, one notice, and failures that are counted on."""
    guard = FocalGuard(mean_original, action="record", capture=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FocalGuardWarning)
        for _ in range(30):
            x = torch.tensor([20.0], requires_grad=True)
            guard(x, torch.ones(1)).backward()
            guard.check()
    assert len(list(tmp_path.iterdir())) == 10
    assert len(guard.failures) == 30
    assert [notice.kind for notice in guard.warnings if notice.kind == "captures"] == ["captures"]


def test_a_second_guard_overwrites_no_capture(tmp_path):
    """Nor a second run with the same steps: each failure has a file of its own."""
    paths = [broken_batch(FocalGuard(mean_original, capture=tmp_path)).capture for _ in range(3)]
    contents = {path: path.read_bytes() for path in paths}
    assert len(contents) == 3
    broken_batch(FocalGuard(partial(mean_original, alpha=0.5), capture=tmp_path))
    assert {path: path.read_bytes() for path in paths} == contents
    assert len(list(tmp_path.iterdir())) == 4
    assert [path.name for path in paths] == [
        "failure-step1-rank0.safetensors",
        "failure-step1-rank0-2.safetensors",
        "failure-step1-rank0-3.safetensors",
    ]


def test_guards_that_write_at_once_overwrite_nothing(tmp_path):
    """Whoever makes the file first has its name."""
    with ThreadPoolExecutor(8) as pool:
        guards = [FocalGuard(mean_original, capture=tmp_path) for _ in range(8)]
        paths = {error.capture for error in pool.map(broken_batch, guards)}
    assert paths == set(tmp_path.iterdir())
    assert len(paths) == 8
    assert {load_capture(path).call.logits.max().item() for path in paths} == {20.0}


@pytest.fixture
def full_disk(tmp_path):
    """A folder of a disk of 8 kB with 4 kB on it."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("only root can make a disk")
    (tmp_path / "data").write_bytes(b"x" * 8192)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def recorded(folder):
    """The notices of a training that goes on."""
    guard = FocalGuard(mean_original, action="record", capture=folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FocalGuardWarning)
        for step in range(4):
            x = torch.tensor([20.0], requires_grad=True)
            guard(x, torch.ones(1)).backward()
            guard.check()
            if step == 1 and (folder / "data").exists():
                (folder / "data").unlink()
            elif step == 1:
                shutil.rmtree(folder)
    assert len(guard.failures) == 4
    return [notice.text for notice in guard.warnings if notice.kind == "own"]


def test_a_full_disk_leaves_no_part_of_a_file(full_disk):
    """The training goes on, and so do captures when there is room again."""
    (notice,) = recorded(full_disk)
    assert "couldn't write a capture" in notice
    names = sorted(path.name for path in full_disk.iterdir())
    assert names == ["failure-step3-rank0.safetensors", "failure-step4-rank0.safetensors"]
    assert all(load_capture(path).call.step for path in full_disk.iterdir())


def test_what_cannot_be_written_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    """As on a full disk, without one."""
    from safetensors import torch as safetensors

    def interrupted(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "save_file", interrupted)
    assert len(recorded(tmp_path / "captures")) == 1
    assert not (tmp_path / "captures").exists() or not list((tmp_path / "captures").iterdir())


def test_a_folder_that_is_deleted_is_made_again(tmp_path):
    """In the middle of a training."""
    folder = tmp_path / "captures"
    assert recorded(folder) == []
    assert len(list(folder.iterdir())) == 2


def test_tensors_that_share_memory_are_kept(tmp_path):
    """Two options that are one tensor, and a view of it."""

    def loss(x, y, first, second, third):
        return mean_original(x, y) * (first + second).sum() * third

    weight = torch.ones(3)
    bound = partial(loss, first=weight, second=weight, third=weight[0])
    capture = load_capture(broken_batch(FocalGuard(bound, capture=tmp_path)).capture, loss)
    assert diagnose(capture.call).logit == 20.0
    assert capture.lost == capture.not_passed == []


def test_the_random_streams_and_the_loss_are_as_they_were(tmp_path):
    """A class is constructed again to find its options."""
    made = tmp_path / "made"

    class Drawn(nn.Module):
        def __init__(self, gamma=2.0):
            super().__init__()
            made.write_text(f"{made.read_text() if made.exists() else ''}x")
            self.start, self.power = torch.rand(3), gamma

        def forward(self, x, y):
            return original(x, y, gamma=self.power, reduction="mean")

    guard = FocalGuard(Drawn(0.5), capture=tmp_path / "captures")
    broken_batch(guard)
    before = torch.get_rng_state()
    broken_batch(guard)
    assert len(made.read_text()) > 1
    assert torch.get_rng_state().equal(before)


def test_a_capture_of_the_first_format_is_still_read(tmp_path):
    """As written before logits and targets had places."""
    path = crafted(tmp_path / "capture", "torchvision.ops:sigmoid_focal_loss", {"gamma": 0.5})
    assert load_capture(path).call.at(torch.ones(1, requires_grad=True), torch.ones(1)).isfinite()
