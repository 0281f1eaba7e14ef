"""Two thousand calls of the fuzzer, and that it can tell what is wrong."""

import functools
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fuzz
import parfocal
from fuzzing.calls import draw

CALLS = 2000
SEED = 16


def test_every_call_gives_what_its_docstring_says():
    """Value and gradient against float64, or a refusal in the name of the call."""
    failures = fuzz.many(SEED, range(CALLS)).failures
    assert not failures, "\n".join([f"{len(failures)} faults of {CALLS} calls:", *failures])


def test_whatever_can_be_drawn_is_drawn():
    """Every loss with every option, dtype, layout, kind of logit and kind of nonsense."""
    features = Counter(feature for index in range(CALLS) for feature in draw(SEED, index).features)
    assert fuzz.missing(features) == []


def test_threads_do_not_disturb_each_other():
    """Calls of four Python threads at once, which give what they give one after the other."""
    calls = range(CALLS, CALLS + 240)
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as threads:
        warnings.simplefilter("ignore")
        together = [
            line for lines, _ in threads.map(fuzz.one, [SEED] * 240, calls) for line in lines
        ]
    assert together == fuzz.many(SEED, calls).failures


def test_a_call_is_its_seed_and_its_index():
    """Drawn again it is the same, whatever was drawn before."""
    for index in (3, 500, 1234):
        first = fuzz.program(draw(SEED, index))
        torch.manual_seed(index)
        assert fuzz.program(draw(SEED, index)) == first
    assert fuzz.program(draw(SEED, 3)) != fuzz.program(draw(SEED + 1, 3))


@pytest.mark.filterwarnings("ignore:.*a single class", "ignore:gaussian_focal_loss. no value")
def test_the_program_is_the_call():
    """What is printed of a call gives what the call gives, to the bit."""
    count = 0
    for index in range(120):
        call = draw(SEED, index)
        text = fuzz.program(call)
        x = call.arguments["inputs"]
        if call.wrong or call.is_module or call.way == "autocast" or "..." in text or 0 in x.shape:
            continue
        results: list[torch.Tensor] = []
        exec(text, {"print": results.append})
        torch.testing.assert_close(results[0], fuzz.invoke(call, x), rtol=0, atol=0, equal_nan=True)
        count += 1
    assert count > 40


@pytest.mark.covering
@pytest.mark.parametrize("name", ["gaussian_focal_loss", "softmax_focal_loss"])
@pytest.mark.parametrize("wrong", ["value", "gradient", "refusal", "dtype"])
def test_a_fault_is_found(monkeypatch, name, wrong):
    """A loss with one fault, in at most forty calls of it."""
    right = getattr(parfocal, name)

    @functools.wraps(right)
    def faulty(inputs, *arguments, **options):
        if wrong == "refusal":
            try:
                return right(inputs, *arguments, **options)
            except ValueError:
                return torch.zeros(())
        loss = right(inputs, *arguments, **options)
        if wrong == "gradient":
            return loss + 1e-2 * (loss - loss.detach())
        return 1.01 * loss if wrong == "value" else loss.double()

    calls = [index for index in range(CALLS) if draw(SEED, index).name == name]
    calls = [i for i in calls if bool(draw(SEED, i).wrong) == (wrong == "refusal")][:40]
    before = len(fuzz.many(SEED, calls).failures)
    monkeypatch.setattr(parfocal, name, faulty)
    assert len(fuzz.many(SEED, calls).failures) > before
