"""The command that makes a failure again: never healthy by mistake, one line where it can't."""

import copy
import json
import re
import warnings
from functools import partial

import kornia.losses
import monai.losses
import pytest
import segmentation_models_pytorch.losses as smp
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import sigmoid_focal_loss as original

from parfocal.cli.replay import replay
from parfocal.guard import FocalGuard, FocalGuardError, load_capture

ORIGINAL = "torchvision.ops:sigmoid_focal_loss"
OWNED = "\x1b[2J\x1b]0;owned\x07\nNow: fine"


def failure(loss, folder, x=None, y=None, *arguments, **keywords):
    """The file of one."""
    x = torch.tensor([[0.1, 40.0, 1.0, 2.0]]) if x is None else x
    guard = FocalGuard(loss, capture=folder)
    result = guard(
        x.clone().requires_grad_(), torch.ones_like(x) if y is None else y, *arguments, **keywords
    )
    result.sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FocalGuardError) as raised:
            guard.check()
    return raised.value.capture


def replayed(*arguments):
    """The status and the lines of a replay."""
    done = CliRunner().invoke(replay, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output.strip().split("\n")


def words_of(path):
    """The words and tensors of a file."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["parfocal"]), tensors


def rewritten(path, change):
    """Another file, with its words changed."""
    words, tensors = words_of(path)
    new = path.with_name("changed")
    save_file(tensors, new, {"parfocal": json.dumps(change(words) or words)})
    return new


# Options


def focal(x, y, gamma=2.0, w=None):
    """A function with an option beside gamma, of any kind."""
    value = original(x, y, gamma=gamma)
    return (value if w is None else value * torch.as_tensor(w)).mean()


def gamma_first(gamma, x, y):
    """One that a partial binds without a keyword."""
    return focal(x, y, gamma)


def of_closure(gamma):
    """One that reads gamma from around it."""

    def loss(x, y):
        return focal(x, y, gamma)

    return loss


class Focal(nn.Module):
    """One that keeps its gamma in one place or another."""

    def __init__(self, gamma=2.0, weight=None, *, name="gamma"):
        super().__init__()
        self.name = name
        setattr(self, name, gamma)
        self.register_buffer("weight", weight)

    def forward(self, x, y, scale=1.0):
        """Its mean."""
        return focal(x, y, getattr(self, self.name), self.weight) * scale


class Callable:
    """One that is no module."""

    def __init__(self, gamma=2.0):
        self.inner = partial(focal, gamma=gamma)

    def __call__(self, x, y):
        """Its mean."""
        return self.inner(x, y)


@pytest.mark.parametrize(
    "loss",
    [
        partial(focal, gamma=0.5, w=torch.ones(4)),
        partial(focal, gamma=0.5, w=[1.0, 1.0, 1.0, 1.0]),
        partial(focal, gamma=0.5, w=(1.0,)),
        partial(focal, gamma=0.5, w=torch.ones(1 << 14, 1)),
        partial(gamma_first, 0.5),
        partial(gamma_first, torch.tensor(0.5)),
        of_closure(0.5),
        Focal(0.5, torch.ones(4)),
        Focal(0.5, torch.ones(1 << 14, 1)),
        Focal(0.5, name="_g"),
        Focal(0.5, torch.ones(4), name="half"),
        partial(Focal(0.5), scale=2.0),
        Callable(0.5),
    ],
)
def test_another_loss_gets_every_option_by_itself(loss, tmp_path):
    """One that can't be kept takes none of the others with it."""
    path = failure(loss, tmp_path)
    assert path.stat().st_size < 4096
    assert replayed(path, "--loss", ORIGINAL)[0] == 1
    assert replayed(path, "--loss", "parfocal:sigmoid_focal_loss")[0] == 0
    if "1 << 14" not in repr(loss):
        assert replayed(path, "--loss", f"{__file__}:focal")[0] == 1


class Quadrupled(nn.Module):
    """A class that keeps another number than it is given, under any name."""

    def __init__(self, gamma=2.0, *, name="_g"):
        super().__init__()
        self.name = name
        setattr(self, name, 4 * gamma)

    def forward(self, x, y):
        """Its mean."""
        return focal(x, y, getattr(self, self.name) / 4)


class Method:
    """A loss that is a method of something larger."""

    gamma = 0.5

    def loss(self, x, y):
        """Its mean."""
        return focal(x, y, self.gamma)


class Number:
    """A gamma that is no number."""

    def __init__(self, value):
        self.value = value

    def __rpow__(self, base):
        """As numbers do."""
        return base**self.value


@pytest.mark.parametrize(
    ("loss", "lost"),
    [
        (Quadrupled(0.5), "gamma"),
        (Quadrupled(0.5, name="gamma"), "gamma"),
        (Quadrupled(0.5, name="half"), "gamma"),
        (partial(focal, gamma=Number(0.5)), "gamma (a Number)"),
        (Method().loss, "self (a Method)"),
        (lambda x, y: focal(x, y, 0.5), "the captured one can't be imported"),
    ],
)
def test_a_replay_that_may_be_of_another_loss_says_so(loss, lost, tmp_path):
    """It isn't called healthy without a word."""
    path = failure(loss, tmp_path)
    status, lines = replayed(path, "--loss", ORIGINAL)
    assert (status, lost in lines[-1]) == (0, True)
    status, lines = replayed(path, "--trust")
    assert status != 0


@pytest.mark.parametrize(
    ("arguments", "keywords"),
    [((), {"w": [1.0] * 4}), ((0.5, [1.0] * 4), {}), ((0.5,), {"w": torch.ones(1, 1, 4)})],
)
def test_arguments_of_a_call_are_kept(arguments, keywords, tmp_path):
    """Lists as lists, and by their names where another loss has them elsewhere."""
    loss = focal if arguments else partial(focal, gamma=0.5)
    path = failure(loss, tmp_path, None, None, *arguments, **keywords)
    assert replayed(path, "--trust")[0] == 1
    status, lines = replayed(path, "--loss", ORIGINAL)
    assert status == 1
    assert "options that it doesn't take: w" in lines
    status, lines = replayed(path, "--loss", "torch.nn:BCEWithLogitsLoss")
    assert (status, "gamma" in lines[-1], "w" in lines[-1]) == (0, True, True)


def test_logits_by_keyword_reach_a_loss_that_calls_them_otherwise(tmp_path):
    """By their order then."""
    guard = FocalGuard(focal, capture=tmp_path)
    x = torch.tensor([40.0], requires_grad=True)
    guard(y=torch.ones(1), x=x, gamma=0.5).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    assert replayed(raised.value.capture, "--loss", ORIGINAL)[0] == 1


INFINITE = torch.tensor([1.0, torch.inf, 1.0, 1.0])


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (nn.CrossEntropyLoss(INFINITE), torch.tensor([1])),
        (nn.BCEWithLogitsLoss(pos_weight=INFINITE), None),
        (nn.BCEWithLogitsLoss(weight=torch.tensor([torch.nan])), None),
        (kornia.losses.FocalLoss(0.5, weight=INFINITE, reduction="mean"), torch.tensor([1])),
        (kornia.losses.BinaryFocalLossWithLogits(0.5, 0.5, pos_weight=INFINITE), None),
        (monai.losses.FocalLoss(gamma=0.5, weight=INFINITE, reduction="sum"), None),
        (monai.losses.DiceFocalLoss(sigmoid=True, weight=INFINITE), None),
        (smp.FocalLoss("binary", gamma=0.5), None),
        (smp.FocalLoss("multiclass", gamma=0.5, class_weights=[1.0, 1, 1, 1]), torch.tensor([1])),
    ],
)
def test_known_losses_are_replayed_with_their_tensors(loss, y, tmp_path):
    """Without trust, and without a word of their own code."""
    path = failure(loss, tmp_path, y=y)
    status, lines = replayed(path)
    assert status == 1, lines
    assert len(lines) == 6
    assert "doesn't hold" not in "".join(lines)
    again = load_capture(path).call.loss
    kept = {**dict(loss.named_buffers()), **dict(loss.named_parameters())}
    for name, tensor in {**dict(again.named_buffers()), **dict(again.named_parameters())}.items():
        assert tensor.nan_to_num().equal(kept[name].nan_to_num())
    assert replayed(path, "--trust")[0] == 1


# Strangers


def leaves(value, path=()):
    """The places of all values in words, containers too."""
    if path:
        yield path
    for key in (
        value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    ):
        yield from leaves(value[key], (*path, key))


def put(words, path, new):
    """Words with another value in a place."""
    words = copy.deepcopy(words)
    at = words
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return words


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with everything in it that there may be."""
    guard = FocalGuard(
        partial(original, gamma=0.5, reduction="mean"), capture=tmp_path_factory.mktemp("whole")
    )
    x = torch.full((3, 2), 40.0, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        guard(inputs=x, targets=torch.ones(3, 2), alpha=torch.tensor(0.5)).backward()
    with pytest.raises(FocalGuardError) as raised:
        guard.check()
    return raised.value.capture


JUNK = (OWNED, None, True, -1, 99, 1e300, [], {}, [[]], {"tensor": "logits"}, {"x": OWNED})


@pytest.mark.covering
@pytest.mark.parametrize("junk", JUNK, ids=[repr(junk)[:12] for junk in JUNK])
@pytest.mark.parametrize("arguments", [(), ("--loss", ORIGINAL), ("--trust",)])
def test_no_word_of_a_file_steers_the_terminal_or_the_status(whole, junk, arguments, tmp_path):
    """Each of them put in the place of each, refused or shown as text."""
    words, tensors = words_of(whole)
    path = tmp_path / "changed"
    for place in leaves(words):
        save_file(tensors, path, {"parfocal": json.dumps(put(words, place, junk))})
        done = CliRunner().invoke(replay, [str(path), *arguments])
        assert done.exception is None or isinstance(done.exception, SystemExit), (place, junk)
        assert done.output.replace("\n", "").isprintable(), (place, done.output)
        assert "\nNow: fine" not in done.output, place
        if done.exit_code == 2:
            assert len(done.stderr.splitlines()) == 1, (place, done.output)
            assert len(done.output) < 2000, place
            assert arguments == ("--trust",) or not done.stdout, place


@pytest.mark.parametrize(
    "form",
    [
        {"kind": "weird"},
        {"kind": 3},
        {"dim": 99},
        {"dim": 0},
        {"dim": "1"},
        {"dim": True},
        {"ignored": "abc"},
        {"ignored": ["abc"]},
        {"ignored": 3},
        {"mask": 1.5},
        {"has_channel": 1},
        {"kind": "index", "has_channel": True},
        {"kind": "index"},
        {"kind": "one-vs-rest"},
    ],
)
def test_a_form_that_cannot_be_is_damage(whole, form):
    """And isn't blamed on the loss."""
    path = rewritten(whole, lambda words: put(words, ("form",), words["form"] | form))
    status, (line,) = replayed(path)
    assert status == 2
    assert "is a damaged capture" in line


@pytest.mark.parametrize(
    "place",
    [
        ("step",),
        ("rank",),
        ("told", "sample"),
        ("told", "logit"),
        ("told", "cause"),
        ("told", "position"),
        ("form", "kind"),
        ("call", "autocast"),
        ("call", "places"),
        ("call", "arguments"),
        ("versions",),
        ("is_enough",),
        ("format",),
    ],
)
def test_words_of_another_type_are_damage(whole, place):
    """A number can't be text that reaches the terminal."""
    status, (line,) = replayed(rewritten(whole, lambda words: put(words, place, OWNED)))
    assert (status, "is a damaged capture" in line) == (2, True)


@pytest.mark.parametrize("name", ["samples", "targets"])
def test_tensors_that_do_not_belong_together_are_damage(whole, name, tmp_path):
    """Of another length than the logits."""
    words, tensors = words_of(whole)
    save_file(
        {**tensors, name: tensors[name][:1].clone()},
        tmp_path / "f",
        {"parfocal": json.dumps(words)},
    )
    status, (line,) = replayed(tmp_path / "f")
    assert (status, "is a damaged capture" in line) == (2, True)


@pytest.mark.parametrize("place", [ORIGINAL, "torchvision.ops.focal_loss:sigmoid_focal_loss"])
def test_code_is_not_run_under_the_name_of_a_known_loss(whole, place, tmp_path):
    """Code belongs to a loss without a place."""
    mark = tmp_path / "mark"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef f(*a, **k): pass"
    path = rewritten(
        whole,
        lambda w: put(put(w, ("call", "loss", "text"), code), ("call", "loss", "place"), place),
    )
    for arguments in ((), ("--trust",)):
        assert replayed(path, *arguments)[0] == 1
    assert not mark.exists()


@pytest.mark.parametrize("place", ["", "__main__:focal"])
def test_code_is_shown_before_it_runs(whole, place, tmp_path, monkeypatch):
    """Whole, and with nothing in it that a terminal would obey."""
    body = "def focal(inputs, targets, **_):\n    return inputs.sum() / 0"
    code = f"print('it runs')\n# {OWNED[:4]}\n{body}"
    path = rewritten(
        whole,
        lambda w: put(put(w, ("call", "loss", "text"), code), ("call", "loss", "place"), place),
    )
    status, (line,) = replayed(path)
    assert status == 2
    assert "print('it runs')\\n# \\x1b" in line
    status, lines = replayed(path, "--show-code")
    assert (status, lines[0], "it runs" in lines) == (0, "| print('it runs')", False)
    status, lines = replayed(path, "--trust")
    assert status == 1
    assert lines.index("  | print('it runs')") < lines.index("it runs")
    assert "  |     return inputs.sum() / 0" in lines
    assert "loss: the code in the file" in "\n".join(lines)


def test_a_place_is_told_before_it_is_imported(whole, tmp_path):
    """With what is given to it."""
    (tmp_path / "mine.py").write_text(
        "print('it runs')\ndef focal(inputs, targets, **_):\n    return inputs.sum() / 0"
    )
    path = rewritten(
        whole, lambda w: put(w, ("call", "loss", "place"), f"{tmp_path}/mine.py:focal")
    )
    status, lines = replayed(path, "--trust")
    assert (status, lines[2]) == (1, "it runs")
    assert lines[0] == f"--trust imports {tmp_path}/mine.py:focal"
    assert lines[1] == "with gamma=0.5, reduction='mean'"


def test_a_name_of_a_file_cannot_steer_the_terminal(whole, tmp_path):
    """It may have come with the file."""
    path = tmp_path / OWNED.replace("/", "")
    path.write_bytes(whole.read_bytes())
    for arguments in ((path,), (path, "--loss", "math:nothing"), (f"{path}x",)):
        status, lines = replayed(*arguments)
        assert status in (1, 2)
        assert "".join(lines).isprintable()


# One line


MODULES = {
    "leaves.py": "raise SystemExit(1)",
    "breaks.py": "raise RuntimeError('long ' * 1000)",
    "lines.py": "def focal(x, y, **_):\n    raise ValueError('a\\nb\\n' * 100)",
    "ends.py": "def focal(x, y, **_):\n    raise SystemExit(1)",
    "needs.py": "class Focal:\n    def __init__(self, alpha, beta, gamma, delta): pass",
    "refuses.py": "class Focal:\n    def __init__(self, gamma): raise ValueError('no\\ngamma')",
}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("--loss", "kornia.losses:TverskyLoss"),
            "TverskyLoss can't be made with the options of the capture: it needs beta",
        ),
        (
            ("--loss", "needs.py:Focal"),
            "needs.py:Focal can't be made with the options of the capture: it needs beta and delta",
        ),
        (("--loss", "refuses.py:Focal"), "ValueError: no\\ngamma"),
        (("--loss", "leaves.py:focal"), "--loss leaves.py:focal can't be imported: SystemExit: 1"),
        (
            ("--loss", "breaks.py:focal"),
            "--loss breaks.py:focal can't be imported: RuntimeError: long",
        ),
        (
            ("--loss", "none.py:focal"),
            "--loss none.py:focal can't be imported: PlaceError: no file",
        ),
        (("--loss", "lines.py:focal"), "lines.py:focal can't be called as"),
        (("--loss", "ends.py:focal"), "ends.py:focal can't be called as"),
        (("--loss", "math"), "expected package.module:name"),
        (("--loss", "math.sqrt"), "got 'math.sqrt'; did you mean 'math:sqrt'?"),
        (("--loss", "x" * 5000), "can't be imported"),
        (("--show-code",), "holds no code"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_one_line(
    whole, arguments, expected, tmp_path, monkeypatch
):
    """With the status of a wrong use, whatever was raised."""
    for name, code in MODULES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    status, (line,) = replayed(whole, *arguments)
    assert status == 2
    assert line.startswith("Error: ")
    assert expected in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leaves.py", "can't import leaves.py:focal: SystemExit: 1; --loss"),
        ("breaks.py", "can't import breaks.py:focal: RuntimeError: long"),
        ("none.py", "can't import none.py:focal: no file none.py; --loss"),
        ("lines.py", "lines.py:focal can't be called as"),
        ("ends.py", "ends.py:focal can't be called as"),
    ],
)
def test_what_is_trusted_may_fail_in_any_way(whole, name, expected, tmp_path, monkeypatch):
    """A script that ends itself with 1 has not made the failure again."""
    for file, code in MODULES.items():
        (tmp_path / file).write_text(code)
    monkeypatch.chdir(tmp_path)
    path = rewritten(whole, lambda w: put(w, ("call", "loss", "place"), f"{name}:focal"))
    done = CliRunner().invoke(replay, [str(path), "--trust"])
    (line,) = done.stderr.splitlines()
    assert (done.exit_code, expected in line) == (2, True)


def test_an_option_that_another_class_needs_is_told(tmp_path):
    """By its name; the file is fine."""
    path = failure(partial(focal, gamma=0.5), tmp_path)
    status, lines = replayed(path, "--loss", "kornia.losses:FocalLoss")
    told = "kornia.losses:FocalLoss can't be made with the options of the capture: it needs alpha"
    assert (status, lines) == (2, [f"Error: {told}"])


def test_a_file_that_is_none_is_told_in_one_line(tmp_path):
    """A folder, nothing, text, other tensors, words that are no words."""
    text, other, words = tmp_path / "text", tmp_path / "other", tmp_path / "words"
    text.write_text("nothing")
    save_file({"x": torch.zeros(1)}, other)
    save_file({"x": torch.zeros(1)}, words, {"parfocal": "{" * 100_000})
    for path in (tmp_path, tmp_path / "none", text, other, words):
        status, (line,) = replayed(path)
        assert (status, line.startswith("Error: "), str(path) in line) == (2, True, True)


def test_long_code_and_long_options_are_cut(tmp_path):
    """In the line; what can't be kept isn't."""
    lines = "\n".join(f"    x = x + {i} - {i}" for i in range(60))
    names = {"focal": focal, "__name__": "notebook"}
    code = f"def long(x, y, note=''):\n{lines}\n    return focal(x, y, 0.5)\n"
    import linecache

    linecache.cache["<cell 9>"] = (len(code), None, code.splitlines(True), "<cell 9>")
    exec(compile(code, "<cell 9>", "exec"), names)
    path = failure(partial(names["long"], note="n" * 100_000), tmp_path)
    assert path.stat().st_size < 8192
    status, (line,) = replayed(path)
    assert (status, len(line) < 700) == (2, True)
    status, lines = replayed(path, "--loss", ORIGINAL)
    assert (status, "note (a text of 100000 characters)" in lines[-1]) == (0, True)
    status, shown = replayed(path, "--show-code")
    assert (status, len(shown)) == (0, 62)


def test_an_old_file_may_have_lost_options(whole):
    """Former versions dropped all with one, and didn't say so."""

    def older(words):
        words = copy.deepcopy(words)
        words["format"] = 2
        words["call"]["loss"] = {"place": "", "options": {}, "is_class": False, "text": ""}
        words["call"]["keywords"]["alpha"] = 0.5
        return words

    status, lines = replayed(rewritten(whole, older), "--loss", ORIGINAL)
    assert status == 0
    assert re.search("the options of the loss, if it had any: an older parfocal", lines[-1])
