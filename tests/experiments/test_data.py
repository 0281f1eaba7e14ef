"""Data are what they say, are found in either way, and are known again when they have changed."""

import os
import struct

import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as vision

from parfocal.experiments import memory
from parfocal.experiments.data import Sources, cifar10, evenly, image_folder, load, mnist, mnist5k
from parfocal.experiments.errors import ChangedDataError, DamagedDataError, MissingDataError
from parfocal.experiments.run.tasks import crop_boxes, noise_levels, noisy, resized, task_of
from parfocal.experiments.spec import DigitMasks, Digits, Photographs


@pytest.fixture
def folder(tmp_path):
    """Three classes of plain colours: 4 cats, 3 dogs, 2 owls, 20 x 20 pixels each."""
    generator = torch.Generator().manual_seed(0)
    for name, count in (("cat", 4), ("dog", 3), ("owl", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            colour = tuple(torch.randint(256, (3,), generator=generator).tolist())
            Image.new("RGB", (20, 20), colour).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_mnist5k_is_five_thousand_real_digits():
    """500 of each, bytes that use the whole range, and the ink where digits are."""
    digits = mnist5k()
    assert digits.pixels.shape == (5000, 1, 28, 28)
    assert digits.pixels.dtype == torch.uint8
    assert digits.labels.bincount().tolist() == [500] * 10
    assert digits.pixels.max() == 255
    assert digits.pixels[..., 8:20, 8:20].float().mean() > 3 * digits.pixels.float().mean() / 2


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (mnist, r"--download.*copy the four idx files.*--data-dir"),
        (cifar10, r"--download.*copy that folder.*--data-dir.*--image-folder"),
        (lambda s: image_folder(s._replace(image_folder=s.data_dir), None, 32), "--image-folder"),
        (lambda s: image_folder(s, None, 32), "--image-folder"),
    ],
)
def test_missing_data_name_every_way(read, words, tmp_path):
    """With a network, and without."""
    with pytest.raises(MissingDataError, match=words):
        read(Sources(data_dir=tmp_path))


def idx(magic, *sizes, contents):
    """A file as MNIST's are."""
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + bytes(contents)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        ((0x803, 4), [1, 2, 3], "3 labels and images of shape .4, 28, 28."),
        ((0x803, 4), [1, 2, 3, 4, 5], "5 labels and images of shape"),
        ((0x803, 4), [1, 2, 77, 4], "labels up to 77; expected 0 to 9"),
        ((0x12345678, 4), [1, 2, 3, 4], "no idx files of MNIST"),
        ((0x803, 9), [1, 2, 3, 4], "no idx files of MNIST"),
        ((0x803, 0), [], "no idx files of MNIST"),
    ],
    ids=["too few", "too many", "no digit", "magic", "cut off", "none"],
)
def test_digits_that_do_not_belong_together_are_refused(images, labels, words, tmp_path):
    """Trained on, they would be digits without a label, or negatives that are none."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    magic, count = images
    held = min(count, 4)
    for part in ("train", "t10k"):
        pixels = idx(magic, count, 28, 28, contents=held * 784)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(pixels)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(0x801, len(labels), contents=labels))
    with pytest.raises(DamagedDataError, match=words):
        mnist(Sources(data_dir=tmp_path))


@pytest.mark.parametrize("kind", ["bomb", "text", "cut off"])
def test_an_image_that_can_not_be_read_is_named(kind, tmp_path):
    """One that would take gigabytes, one that is none, and half of one."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / name / "1.png")
    wrong = tmp_path / "dog" / "2.png"
    if kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(wrong)
    else:
        whole = (tmp_path / "dog" / "1.png").read_bytes()
        wrong.write_bytes(b"a dog" if kind == "text" else whole[:-30])
    with pytest.raises(DamagedDataError, match=r"dog/2\.png can't be read as an image \(\w"):
        image_folder(Sources(image_folder=tmp_path), None, 32)


@pytest.mark.parametrize(
    ("pixels", "room"), [(2**40, 1e9), (2**62, float("inf")), (2**70, float("inf")), (100, 8e5)]
)
def test_images_larger_than_memory_are_refused(pixels, room, folder, monkeypatch):
    """Nine are read, of 10 bytes a pixel; where the room isn't known, Pillow can't make one."""
    monkeypatch.setattr(memory, "memory", lambda: room)
    with pytest.raises(ValueError, match=rf"fits into memory, got 9 with `pixels` {pixels} \(\w"):
        image_folder(Sources(image_folder=folder), None, pixels)


def test_evenly_takes_the_first_of_each_class_in_order():
    """As many of each; one more of some where the count isn't a multiple."""
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 2, 2, 1])
    assert evenly(labels, 3).tolist() == [0, 3, 6]
    assert evenly(labels, 6).tolist() == [0, 1, 3, 5, 6, 7]
    assert evenly(labels, 4).tolist() == [0, 1, 3, 6]
    assert evenly(labels, None).tolist() == list(range(9))


@pytest.mark.skipif(os.name != "posix", reason="names of files are text there")
def test_class_whose_name_no_record_can_hold_is_refused(tmp_path):
    """Its name isn't UTF-8; a report of its runs could not be written."""
    for name in (b"cat", b"caf\xe9"):
        folder = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(folder)
        with open(os.path.join(folder, b"0.png"), "wb") as file:
            Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(DamagedDataError, match="names in UTF-8, got 'caf"):
        image_folder(Sources(image_folder=tmp_path), None, 8)


def test_folder_is_read_scaled_and_known_by_its_checksum(folder):
    """Names are classes; pixels survive; a changed pixel is a changed data set."""
    data = Photographs(source="folder", images=6, positive=("cat",), pixels=16)
    images = load(data, Sources(image_folder=folder))
    assert images.classes == ("cat", "dog", "owl")
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert images.pixels.shape == (6, 3, 16, 16)
    first = Image.open(folder / "cat" / "0.png").getpixel((0, 0))
    assert images.pixels[0, :, 3, 5].tolist() == list(first)
    known = Photographs(**{**_fields(data), "checksum": images.checksum()})
    assert load(known, Sources(image_folder=folder)) is images
    Image.new("RGB", (20, 20), (1, 2, 3)).save(folder / "cat" / "1.png")
    with pytest.raises(ChangedDataError, match=images.checksum()):
        load(known, Sources(image_folder=folder / "." / ".." / folder.name))


def test_tasks_have_the_targets_of_the_paper(folder):
    """Digits up to the threshold; ink over one half; the classes that are named."""
    digits = mnist5k()
    some = torch.arange(0, 5000, 100)
    generator = torch.Generator()
    targets = task_of(Digits(source="mnist5k", threshold=3), digits).targets(some)
    assert torch.equal(targets, (digits.labels[some] <= 3).float())
    masks = task_of(DigitMasks(source="mnist5k", noise=0.5), digits)
    assert torch.equal(masks.targets(some), (digits.pixels[some] / 255 > 0.5).float())
    shown = masks.inputs(some, *masks.draw(len(some), generator))
    assert shown.shape == masks.targets(some).shape
    images = load(Photographs(source="folder", pixels=20), Sources(image_folder=folder))
    task = task_of(Photographs(source="folder", positive=("owl", "cat")), images)
    assert task.targets(torch.arange(9)).tolist() == [1, 1, 1, 1, 0, 0, 0, 1, 1]
    shown = task.inputs(torch.arange(9), *task.draw(9, generator))
    assert torch.allclose(shown, vision.normalize(images.pixels / 255, [0.5] * 3, [0.5] * 3))
    for positive in (("hen",), (), ("cat", "dog", "owl")):
        with pytest.raises(ValueError, match="some of the classes cat, dog, owl"):
            task_of(Photographs(source="folder", positive=positive), images)


@pytest.mark.parametrize("amplitude", [0.0, 0.5, 0.75])
def test_noise_is_uniform_and_clipped(amplitude):
    """On black its mean is half the amplitude; nothing leaves [0, 1]; white stays white."""
    pixels = torch.zeros(100, 1, 28, 28, dtype=torch.uint8)
    pixels[50:] = 255
    levels = noise_levels(pixels.shape, amplitude, torch.Generator().manual_seed(0))
    images = noisy(pixels, amplitude, *levels)
    assert abs(images[:50].mean() - amplitude / 2) < 0.005
    assert images[:50].max() <= amplitude
    assert (images[50:] == 1).all()
    if amplitude:
        shares = torch.histc(images[:50] / amplitude, bins=16, min=0, max=1) / images[:50].numel()
        assert (shares - 1 / 16).abs().max() < 0.005


def test_crops_are_torchvisions():
    """Cut and scaled as torchvision cuts and scales, box by box."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 3, 32, 32, generator=generator)
    boxes = crop_boxes(8, 32, generator)
    for image, box, ours in zip(
        images, boxes.int().tolist(), resized(images, boxes, 56), strict=True
    ):
        left, top, width, height = box
        theirs = vision.resized_crop(image, top, left, height, width, [56, 56], antialias=False)
        assert torch.allclose(ours, theirs, atol=2e-6)


def test_crop_boxes_are_distributed_as_torchvisions():
    """Inside the image; mean area, mean ratio and mean place of 4,000 agree."""
    boxes = crop_boxes(4000, 32, torch.Generator().manual_seed(2))
    left, top, width, height = boxes.unbind(1)
    assert (left >= 0).all()
    assert (left + width <= 32).all()
    assert (top + height <= 32).all()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        image = torch.zeros(3, 32, 32)
        theirs = [
            RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in range(4000)
        ]
    i, j, h, w = torch.tensor(theirs).float().unbind(1)
    for ours, expected in ((width * height, h * w), (width / height, w / h), (left, j), (top, i)):
        error = (ours.std() ** 2 / 4000 + expected.std() ** 2 / 4000).sqrt()
        assert abs(ours.mean() - expected.mean()) < 4 * error


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}
