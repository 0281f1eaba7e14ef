"""Specs mean one thing each, say what is wrong with them, and name their runs."""

import pytest

from parfocal.experiments.losses import compared_loss
from parfocal.experiments.run.grid import read_grid, read_setting, shipped
from parfocal.experiments.spec import (
    Cnn,
    DigitMasks,
    Digits,
    Objective,
    Photographs,
    RunSpec,
    Training,
    UNet,
    Vit,
)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"threshold": 9}, r"`\$\.data\.threshold`, got 9"),
        ({"gamma": -1}, r">= 0.*`\$\.objective\.gamma`, got -1"),
        ({"gamma": float("inf")}, r"`\$\.objective\.gamma`, got inf"),
        ({"gamma": float("nan")}, r"`\$\.objective\.gamma`, got nan"),
        ({"learning_rate": 1e308}, r"`\$\.training\.learning_rate`, got 1e\+308"),
        ({"noise": 1e308}, r"`\$\.data\.noise`, got 1e\+308"),
        ({"alpha": 1.5}, r"`\$\.objective\.alpha`, got 1\.5"),
        ({"epochs": 1.5}, r"`int`, got `float` - at `\$\.training\.epochs`"),
        ({"batch_size": 10**21}, r"`\$\.training\.batch_size`, got 10{21}"),
        ({"source": "mnist6k"}, r"'mnist6k' - at `\$\.data\.source`"),
        ({"gama": 1}, r"a setting from .*gamma.*; got 'gama'"),
    ],
)
def test_spec_refuses_what_means_nothing(wrong, words):
    """The error names the place and what came."""
    with pytest.raises(ValueError, match=words):
        RunSpec().with_settings(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        *({name: size} for name in ("pixels", "crop") for size in (15, 100_000, 2**62, 2**70)),
        *({name: size} for name in ("input_size", "patch") for size in (0, 2**15, 2**70)),
        *({name: 2**40} for name in ("width", "depth", "heads")),
    ],
)
def test_a_size_beyond_reason_is_refused(wrong):
    """Before a network or an image is made of it; the error names the place and what came."""
    ((name, size),) = wrong.items()
    with pytest.raises(ValueError, match=rf"`int` [<>]= \d+ - at `\$\.\w+\.{name}`, got {size}$"):
        read_grid("cifar10-vit").base.with_settings(wrong)


def test_the_channels_of_a_unet_are_bounded():
    """They double at each level."""
    with pytest.raises(ValueError, match=r"`\$\.network\.width`, got 100000"):
        read_grid("segmentation").base.with_settings({"width": 100_000})


@pytest.mark.parametrize(
    "variant",
    ["hf-hub:timm/vit_tiny", "local-dir:/tmp/vit", "timm/vit", "", "vit_tiny_patch16_224\n"],
)
def test_no_network_comes_from_elsewhere(variant):
    """A prefix of timm would have it fetched."""
    with pytest.raises(ValueError, match=r"`\$\.network\.variant`, got "):
        read_grid("cifar10-vit").base.with_settings({"variant": variant})


def test_parts_have_to_go_together():
    """Masks with a U-Net, a transformer with images of its size."""
    with pytest.raises(ValueError, match="masks to go with unet"):
        RunSpec(data=DigitMasks())
    with pytest.raises(ValueError, match="vit to go with photographs"):
        RunSpec(network=Vit())
    with pytest.raises(ValueError, match="`input_size` 224, got 32"):
        RunSpec(data=Photographs(), network=Vit())
    with pytest.raises(ValueError, match="`patch` of at most `input_size` 32, got 33"):
        Vit(input_size=32, patch=33)
    RunSpec(data=Photographs(crop=224), network=Vit())


def test_names_of_settings_are_unique():
    """A field stands in one part only, so that its name says which."""
    parts = [(Digits, DigitMasks, Photographs), (Cnn, UNet, Vit), (Objective,), (Training,)]
    seen = [{name for kind in kinds for name in kind.__struct_fields__} for kinds in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))


def test_digest_names_the_whole_spec():
    """Each field changes it; the record gives the spec back; a wrong record is refused."""
    spec = read_grid("mnist").base
    changes = {
        "source": "mnist5k", "images": 10, "threshold": 1, "noise": 0.5, "loss": "exact",
        "gamma": 0.2, "alpha": 0.4, "options": {"epsilon": 0.1}, "logits": "bfloat16", "epochs": 2,
        "batch_size": 32, "learning_rate": 1e-2, "momentum": 0.0, "seed": 1,
    }  # fmt: skip
    assert {name.rpartition(".")[2] for name in spec.settings()} == set(changes)
    changed = [spec.with_settings({name: value}) for name, value in changes.items()]
    assert len({s.digest for s in (spec, *changed)}) == len(changes) + 1
    assert spec.with_settings({"gamma": 1}).digest == spec.with_settings({"gamma": 1.0}).digest
    record = changed[7].as_record()
    assert RunSpec.from_record(record) == changed[7]
    for wrong in ({"gama": 1}, {"schema": 1}, {"digest": "0"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RunSpec.from_record({**record, **wrong})


def test_shipped_specs_are_the_papers():
    """As many runs as the paper has, a third more for the loss that it hasn't."""
    runs = {grid.name: grid.runs() for grid in shipped()}
    assert len(runs["mnist"]) == 15 * 9 * 3 * 3
    assert len(runs["cifar10-cnn"]) == len(runs["cifar10-vit"]) == 3
    assert len(runs["segmentation"]) == 9
    gammas = {run.objective.gamma for run in runs["mnist"]}
    assert gammas == {*(n / 10 for n in range(1, 10)), 0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert {grid.name for grid in shipped() if not grid.title} == set()


def test_axes_are_set_anew_and_others_kept():
    """A setting that varied is fixed, one that didn't varies; no run occurs twice."""
    grid = read_grid("mnist").with_axes({"gamma": [0.1, 0.5], "objective.loss": ["exact"]})
    assert len(grid.runs()) == 2 * 9 * 3
    assert len(grid.with_axes({"seed": [0, 1, 1]}).runs()) == 2 * 9 * 3 * 2
    with pytest.raises(ValueError, match="gamma"):
        grid.with_axes({"gamma": [-1.0]})


def test_user_files_are_read_and_their_errors_name_the_file(tmp_path):
    """TOML of the same form; an unknown key, a wrong axis and a missing file are errors."""
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ntask = "digits"\n[grid]\ngamma = [0.1, 2]\nloss = ["exact"]\n')
    grid = read_grid(str(path))
    assert (grid.name, [run.objective.gamma for run in grid.runs()]) == ("mine", [0.1, 2.0])
    for text, words in (
        ('[data]\ntask = "digits"\nnoize = 1\n', "noize"),
        ("[grid]\ngamma = 0.1\n", "list of values"),
        ("[data\n", "mine.toml"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"mine.toml.*{words}|{words}"):
            read_grid(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine.toml: expected text in UTF-8"):
        read_grid(str(path))
    with pytest.raises(ValueError, match=r"mnist-quick.*got 'mist'"):
        read_grid("mist")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed=1", ("seed", [1])),
        ("objective.loss=exact,smoothed", ("objective.loss", ["exact", "smoothed"])),
        ("source=mnist5k", ("source", ["mnist5k"])),
        ("variant=vit_base_patch16_224", ("variant", ["vit_base_patch16_224"])),
        ("learning_rate=1e-3,0.1", ("learning_rate", [1e-3, 0.1])),
        ("options={epsilon=0.1}", ("options", [{"epsilon": 0.1}])),
        ("positive=[cat, dog]", ("positive", [["cat", "dog"]])),
        ("gamma=-.5,+5.,1.e-3", ("gamma", [-0.5, 5.0, 1e-3])),
        ('positive=["v .5", "1., 2", "# 3", cat]', ("positive", [["v .5", "1., 2", "# 3", "cat"]])),
        ("options={name='a .5', b=.5}", ("options", [{"name": "a .5", "b": 0.5}])),
    ],
)
def test_settings_are_read_as_they_are_written(text, expected):
    """Numbers, words with and without quotes, lists, tables; what is in quotes stays as it is."""
    assert read_setting(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"images = {'[' * 100_000}", r"mine\.toml: .*nested too deeply"),
        (f"data = {'{a = ' * 100_000}", r"mine\.toml: .*nested too deeply"),
        (f"data.{'.'.join('a' * 3000)} = 1", r"mine\.toml: .*`task`.*nested too deeply"),
    ],
)
def test_what_is_nested_without_end_is_refused(text, words, tmp_path):
    """Python reads no deeper than its stack."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_grid(str(path))


def test_a_setting_that_is_nested_without_end_is_refused():
    """Python reads no deeper than its stack."""
    with pytest.raises(ValueError, match=r"positive: .*nested too deeply"):
        read_setting(f"positive={'[' * 100_000}")


def test_a_grid_that_is_no_table_is_refused(tmp_path):
    """With the file's name."""
    path = tmp_path / "mine.toml"
    path.write_text("grid = 5\n")
    with pytest.raises(ValueError, match=r"mine\.toml: Expected `grid` to be a table.*got 5"):
        read_grid(str(path))


@pytest.mark.parametrize("text", ["gamma", "gamma=", "gamma=[1", "gamma=1]#", "gamma=1]\nseed=[2"])
def test_a_setting_without_values_is_an_error(text):
    """It names what came, and drops nothing of it."""
    with pytest.raises(ValueError, match="NAME=VALUE"):
        read_setting(text)


@pytest.mark.parametrize("option", ["weight", "inputs", "targets", "mask", "normalizer", "alpha"])
def test_options_are_none_of_the_batch(option):
    """Nor a setting of their own, which they wouldn't change."""
    with pytest.raises(ValueError, match=f"`options` out of epsilon for exact; got {option}"):
        compared_loss("exact", alpha=0.5, gamma=0.5, reduction="mean", options={option: 2.0})
