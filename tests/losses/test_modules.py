"""Every loss has a module, of the same five pieces: name, options, batch, state, and words."""

import copy
import inspect
import io
import re

import pytest
import torch
from loss_cases import FUNCTIONS, batch_of

import parfocal

# What belongs to one batch; the rest is stored.
OF_A_BATCH = {
    *("input", "inputs", "nll", "target", "targets", "labels"),
    *("mask", "normalizer", "position_weight"),
}

# One factor a class.
CLASS_WEIGHTS = {"weight", "class_weight"}

every_loss = pytest.mark.parametrize("name", FUNCTIONS)


def module_of(name):
    """`sigmoid_focal_loss` as `SigmoidFocalLoss`."""
    return getattr(parfocal, "".join(word.capitalize() for word in name.split("_")))


def parameters_of(function):
    """Name, default and kind of each, but for self."""
    return {
        parameter.name: (parameter.default, parameter.kind)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    }


def weight_of(name):
    """What has the name `weight`, but is of a batch: positions, or a linear map."""
    if name == "linear_softmax_focal_loss":
        return {"weight", "bias"}
    return {"weight"} if is_elementwise(name) else set()


def is_elementwise(name):
    """Whether a weight is one of positions."""
    names = parameters_of(getattr(parfocal, name)).keys()
    return names >= {"weight", "normalizer"} and not name.startswith("softmax")


@every_loss
def test_options_and_batch_are_those_of_the_function(name):
    """In its order, with its defaults and kinds; but that the mean is what is stored."""
    whole = parameters_of(getattr(parfocal, name))
    of_batch = OF_A_BATCH | weight_of(name)
    stored = {option: whole[option] for option in whole if option not in of_batch}
    if "reduction" in stored:
        stored["reduction"] = ("mean", stored["reduction"][1])
    assert parameters_of(module_of(name)) == stored
    assert list(parameters_of(module_of(name))) == list(stored)
    forward = parameters_of(module_of(name).forward)
    assert set(forward) == {option for option in whole if option in of_batch}


def other_options(name):
    """No option at its default."""
    numbers = {"gamma": 0.7, "gamma_neg": 1.5, "gamma_pos": 0.5, "beta": 1.25, "background": 1}
    others = {"reduction": "sum", "per_image": False, "ignore_index": (-1, -2)}
    for option, (default, _) in parameters_of(module_of(name)).items():
        if option in others:
            yield option, others[option]
        elif option in CLASS_WEIGHTS:
            yield option, torch.tensor([0.5, 2.0, 1.0])
        else:
            yield option, numbers.get(option, 0.3 if default is None else default / 2 + 0.1)


@every_loss
def test_a_module_is_the_function_with_its_options(name):
    """All of them handed on, at their defaults and elsewhere; copied, saved and printed."""
    batch, options = batch_of(name), dict(other_options(name))
    for given in ({}, options):
        module = module_of(name)(**given)
        reduced = {"reduction": "mean"} if "reduction" in parameters_of(type(module)) else {}
        expected = getattr(parfocal, name)(*batch, **{**reduced, **given})
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        for twin in (module, copy.deepcopy(module), torch.load(file, weights_only=False)):
            assert torch.equal(twin(*batch), expected)
            assert repr(twin) == repr(module)
            assert twin.state_dict().keys() == module.state_dict().keys()
    assert set(module.state_dict()) == CLASS_WEIGHTS & set(options)
    if not CLASS_WEIGHTS & set(options):  # printed as it is made
        again = eval(repr(module), vars(parfocal))
        assert repr(again) == repr(module)
        assert torch.equal(again(*batch), expected)


@every_loss
def test_a_module_complains_when_it_is_made(name):
    """Not at the first batch, and under its own name."""
    wrong = {"reduction": "avg", "ignore_index": 1.5, "background": "sky"}
    for option, (default, _) in parameters_of(module_of(name)).items():
        if option in {*CLASS_WEIGHTS, "per_image"}:
            continue
        value = wrong.get(option, -3.0 if option != "alpha" or default is None else 2.0**50)
        if option == "alpha" and default is None:
            value = 2.0
        call = module_of(name).__name__
        with pytest.raises((TypeError, ValueError), match=f"^{call}: expected `{option}"):
            module_of(name)(**{option: value})


@every_loss
def test_a_module_says_what_it_is(name):
    """The function, its options, the shapes, and an example that runs with the documentation."""
    text = inspect.getdoc(module_of(name))
    assert text.startswith(f"`{name}` as a module")
    for part in ("Args:", "Shape:", "Example:", f"from parfocal import {module_of(name).__name__}"):
        assert part in text, part
    listed = re.split(r"[,:]\s+", text[text.index("Args:") : text.index("Shape:")])
    for option in parameters_of(module_of(name)):
        assert any(option in words.split() for words in listed), option


def test_an_alpha_that_is_a_tensor_is_looked_at_once():
    """Class weights are no alpha: negatives would get a negative loss."""
    with pytest.raises(ValueError, match=r"`alpha` in \[0, 1\], got 3; pass class weights"):
        parfocal.SigmoidFocalLoss(alpha=torch.tensor([0.5, 3.0]))
    with pytest.raises(ValueError, match=r"`gamma` to be >= 0 and .*, got -1"):
        parfocal.SigmoidFocalLoss(gamma=torch.nn.Parameter(torch.tensor(-1.0)))


def test_a_subclass_may_have_options_of_its_own():
    """As those of torch's losses may."""

    class Mine(parfocal.SoftmaxFocalLoss):
        def __init__(self, extra: int = 1, **options: float) -> None:
            super().__init__(**options)
            self.extra = extra

    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    expected = parfocal.softmax_focal_loss(logits, targets, gamma=0.5)
    assert torch.equal(Mine(extra=2, gamma=0.5)(logits, targets), expected)
