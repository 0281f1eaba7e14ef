"""What a study is: data sets, objectives, seeds; a TOML file, read into frozen values.

Each objective is trained on each data set: with each of its rates at the seed of the search, and
with the rate that was best on the validation split at each of the other seeds.
"""

import hashlib
import math
from collections.abc import Mapping
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from parfocal.experiments.run.grid import read_toml
from parfocal.experiments.spec import (
    Count,
    DigitSource,
    LossName,
    NonNegative,
    Part,
    Positive,
    Share,
    converted,
)
from parfocal.places import did_you_mean

# Of the trainings: it changes where the same spec would give other numbers.
SCHEMA = 1

_SHIPPED = files("parfocal.experiments.study") / "shipped"

TableName = Literal["caravan", "randhie"]


class _Dataset(Part, frozen=True):
    """What all data sets have.

    epochs, batch_size, optimizer: of each training; its rate falls as a cosine to 0.
    rates: the learning rates of the search, ascending.
    alpha: that of the focal losses that have one: balanced, by the counts of the labels, or a
        number, the share of positives.
    beta: of the effective number of samples.
    """

    epochs: Count
    batch_size: Count
    rates: tuple[Positive, ...]
    optimizer: Literal["adam", "sgd"] = "adam"
    alpha: Literal["balanced"] | Share = "balanced"
    beta: Annotated[float, Meta(ge=0, le=1)] = 0.999

    def __post_init__(self) -> None:
        """Refuse rates that a search could not order."""
        super().__post_init__()
        if not self.rates or list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"Expected `rates` to ascend, got {list(self.rates)}")
        if not all(map(math.isfinite, self.rates)):
            raise ValueError(f"Expected `rates` to be finite, got {list(self.rates)}")


class DigitThreshold(_Dataset, frozen=True, tag="digits", tag_field="task"):
    """Digits up to a threshold against the rest, by the paper's network.

    source: mnist, whose own test images are the test, or mnist5k, which is split in three.
    images, validation: numbers of images for training and validation, evenly from each digit.
    """

    source: DigitSource = "mnist"
    threshold: Annotated[int, Meta(ge=0, le=8)] = 0
    images: Count = 2000
    validation: Count = 2000


class DigitInk(_Dataset, frozen=True, tag="masks", tag_field="task"):
    """The ink of noisy digits, by a narrow U-Net; a pixel is positive if it is over 0.5.

    images, validation, test: numbers of images; width: channels at the first level.
    """

    source: DigitSource = "mnist"
    images: Count = 200
    validation: Count = 50
    test: Count = 100
    noise: NonNegative = 0.5
    width: Count = 4


class LongTail(_Dataset, frozen=True, tag="long-tail", tag_field="task"):
    """A folder of images, a folder a class, by the paper's network with an output a class.

    Validation and test have as many images of each class, and are set aside first. Class c of C
    keeps `head * imbalance ** (-c / (C - 1))` of the rest for training (Cui et al., CVPR 2019).
    """

    head: Count = 1000
    imbalance: Annotated[float, Meta(ge=1)] = 10.0
    validation: Count = 100
    test: Count = 500
    pixels: Annotated[int, Meta(ge=16)] = 32


class Table(_Dataset, frozen=True, kw_only=True, tag="table", tag_field="task"):
    """Rows of numbers, by a network of two hidden layers.

    Rows with the same features stay together: two fifths for training, a fifth for validation, the
    rest for the test.
    """

    table: TableName
    width: Count = 64


class Shapes(_Dataset, frozen=True, tag="shapes", tag_field="task"):
    """Generated scenes with shapes on noise, by a small dense detector.

    images, validation, test: numbers of scenes; width: channels of the first layer.
    """

    images: Count = 600
    validation: Count = 200
    test: Count = 400
    width: Count = 16


Dataset = DigitThreshold | DigitInk | LongTail | Table | Shapes


class Objective(Part, frozen=True):
    """A loss and its weights.

    loss: exact, smoothed or original; at gamma 0 the exact loss is the cross-entropy.
    weights: none; balanced, the inverse of the counts; effective, the inverse of the effective
        number of samples; or usual, the `alpha` of the data set.
    logits: what they are cast to before the loss.
    """

    loss: LossName = "exact"
    gamma: NonNegative = 0.0
    weights: Literal["none", "balanced", "effective", "usual"] = "none"
    logits: Literal["float32", "bfloat16"] = "float32"


class Training(NamedTuple):
    """One training of a study; all that its numbers depend on, but for data and software."""

    dataset: Dataset
    objective: Objective
    rate: float
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of the schema and all fields, in hexadecimal.

        The rest of the study isn't in it: with an objective or a seed more, what is done stays.
        """
        return _digest(self._asdict())


class Study(Part, frozen=True):
    """All trainings, and what they are compared by.

    title: the subject, and after a colon its size.
    search_seed: of the trainings that choose a rate; seeds: of those that are compared.
    draws: of the bootstrap.
    references: objectives that all others are compared with.
    pairs: further comparisons, of the first objective with the second.
    notes: what a reader of its results has to know, a sentence each.
    """

    title: str
    search_seed: int
    seeds: tuple[int, ...]
    draws: Count
    datasets: dict[str, Dataset]
    objectives: dict[str, Objective]
    references: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse parts that don't go together."""
        super().__post_init__()
        seeds = (self.search_seed, *self.seeds)
        if len(set(seeds)) < max(3, len(seeds)):
            raise ValueError(
                f"Expected two `seeds` or more, all different, without `search_seed`; got {seeds}"
            )
        for name in (*self.references, *(name for pair in self.pairs for name in pair)):
            if name not in self.objectives:
                hint = did_you_mean(name, self.objectives)
                raise ValueError(f"Expected an objective from `objectives`, got {name!r}{hint}")
        for part in ("datasets", "objectives"):
            values = list(getattr(self, part).values())
            for place, value in enumerate(values):
                if value in values[:place]:
                    names = [name for name, one in getattr(self, part).items() if one == value]
                    raise ValueError(f"Expected `{part}` to differ, got {' and '.join(names)}")
        if not self.datasets or not self.references:
            raise ValueError("Expected `datasets` and `references`, got none")

    @property
    def subject(self) -> str:
        """What is asked: the title up to its colon."""
        return self.title.partition(":")[0]

    @property
    def has_several(self) -> bool:
        """Whether there is more than one data set to average over."""
        return len(self.datasets) > 1

    @property
    def digest(self) -> str:
        """SHA-256 of the whole spec, in hexadecimal."""
        return _digest({"study": self})

    def only(self, names: tuple[str, ...]) -> "Study":
        """The same with these data sets alone; with all if none is named.

        Raises:
            ValueError: there is no such data set.
        """
        for name in names:
            if name not in self.datasets:
                known = ", ".join(self.datasets)
                hint = did_you_mean(name, self.datasets)
                raise ValueError(f"Expected a data set from {known}; got {name!r}{hint}")
        kept = {name: self.datasets[name] for name in self.datasets if name in names}
        return msgspec.structs.replace(self, datasets=kept or self.datasets)

    def search(self, dataset: str, objective: str) -> list[Training]:
        """The trainings that choose the rate of an objective."""
        data = self.datasets[dataset]
        return [
            Training(data, self.objectives[objective], rate, self.search_seed)
            for rate in data.rates
        ]

    def trainings(self, dataset: str, objective: str, rate: float) -> list[Training]:
        """The trainings that are compared, with the rate that was chosen."""
        data = self.datasets[dataset]
        return [Training(data, self.objectives[objective], rate, seed) for seed in self.seeds]

    @property
    def size(self) -> int:
        """How many trainings there are."""
        rates = sum(len(data.rates) + len(self.seeds) for data in self.datasets.values())
        return rates * len(self.objectives)


def data_digest(dataset: Dataset) -> str:
    """SHA-256 of the schema and all fields of a data set, in hexadecimal."""
    return _digest({"dataset": dataset})


def _digest(parts: Mapping[str, Any]) -> str:
    text = msgspec.json.encode({"schema": SCHEMA, **parts}, order="sorted")
    return hashlib.sha256(text).hexdigest()


def read_study(name: str) -> tuple[str, Study]:
    """The name and the study of a spec of the package, by its name, or of a user's, by its path.

    Raises:
        ValueError: there is no such spec, or it isn't one; with the file's name and the place.
    """
    return read_toml(name, _SHIPPED, lambda stem, parts: (stem, study_of(parts)))


def study_of(parts: Mapping[str, Any]) -> Study:
    """The study with these parts, as a TOML file has them.

    Raises:
        ValueError: an unknown field, a wrong type, a number out of its range; with its path.
    """
    entries: dict[str, dict[str, Any]] = {}
    for part, kind in (("datasets", Dataset), ("objectives", Objective)):
        table = parts.get(part, {})
        if not isinstance(table, Mapping):
            raise ValueError(f"Expected `{part}` to be a table, got {table!r}")
        entries[part] = {name: _entry(part, name, table[name], kind) for name in table}
    return converted({**parts, **entries}, Study)


def _entry(part: str, name: str, values: Any, kind: Any) -> Any:
    """A data set or an objective; an error names it, which msgspec leaves out of its paths."""
    try:
        return converted(values, kind)
    except ValueError as error:
        raise ValueError(f"{part}.{name}: {error}") from error
