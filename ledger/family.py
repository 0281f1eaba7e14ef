"""The errors of the rest of the family against its textbooks in ball arithmetic.

A line is a loss with one set of options, a quantity, a dtype and an exponent. Errors are counted in
ULP of the sum of the absolute values of the terms where terms of both signs meet.
"""

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from flint import arb, arb_series
from record import Line
from torch import Tensor

import parfocal
from parfocal.audit.oracle import Truth
from parfocal.audit.ulp import ulp_error
from series import derivative_truth

# The rows of class logits at which a search found the largest errors.
HARD_ROWS = Path(__file__).with_name("hard_rows.csv")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Row = Sequence[float]
Series = Sequence[arb_series]

# The |logits| up to which results are normal numbers, or hardly so.
REACH = {torch.float64: 300.0, torch.float32: 40.0, torch.bfloat16: 40.0, torch.float16: 9.0}


class Points(NamedTuple):
    """Rows of logits, the targets as the loss takes them, and as the formula does."""

    logits: Tensor
    targets: Tensor
    given: Sequence[Any]


class Subject(NamedTuple):
    """What is measured, and what is allowed.

    loss: rows of logits (M, K), their targets and an exponent, to one loss a row (M).
    formula: one row, its target and the exponent, to the terms of the textbook.
    allowed: the same, to the error in ULP that is allowed in float64 and float32.
    variables: the logits in which a derivative is taken; none if the loss has no gradient.
    of_scale: whether terms of both signs meet.
    flushes: whether subnormal numbers are taken for 0, those of terms too, so that results count
        from some binades above.
    """

    name: str
    exponents: Sequence[float]
    points: Callable[[torch.dtype], Points]
    loss: Callable[[Tensor, Tensor, float], Tensor]
    formula: Callable[[Series, Any, arb], Series]
    allowed: Callable[[Row, Any, float], float]
    variables: Sequence[int] = (0,)
    of_scale: bool = False
    flushes: bool = False


def rounded(number: float, dtype: torch.dtype) -> float:
    """A parameter as it takes part in the computation."""
    computation = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.tensor(number, dtype=computation).item()


def measure(subject: Subject, dtype: torch.dtype, exponent: float) -> list[Line]:
    """The lines of one loss, dtype and exponent: its value and its gradient."""
    points = subject.points(dtype)
    rows = points.logits.double().tolist()
    x = points.logits.clone().requires_grad_(bool(subject.variables))
    value = subject.loss(x, points.targets, exponent)
    found = {"value": [_errors(subject, dtype, exponent, rows, points, value.detach(), None)]}
    if subject.variables:
        (gradient,) = torch.autograd.grad(value.sum(), x)
        found["gradient"] = [
            _errors(subject, dtype, exponent, rows, points, gradient[:, variable], variable)
            for variable in subject.variables
        ]
    name = str(dtype).removeprefix("torch.")
    lines = []
    for quantity, parts in found.items():
        ulp, share = (torch.cat(column) for column in zip(*parts, strict=True))
        worst = (ulp.max().item(), share.max().item(), ulp.numel())
        lines.append(Line(subject.name, quantity, name, str(exponent), *worst))
    return lines


def measure_subject(name: str, dtype: torch.dtype) -> list[Line]:
    """The lines of one loss and dtype."""
    torch.set_num_threads(1)
    (subject,) = (subject for subject in subjects(dtype) if subject.name == name)
    return [line for exponent in subject.exponents for line in measure(subject, dtype, exponent)]


def _errors(
    subject: Subject,
    dtype: torch.dtype,
    exponent: float,
    rows: Sequence[Row],
    points: Points,
    computed: Tensor,
    variable: int | None,
) -> tuple[Tensor, Tensor]:
    """Errors in ULP, and as shares of what is allowed, where the true result is normal."""
    k = arb(rounded(exponent, dtype))
    truths = []
    for row, given in zip(rows, points.given, strict=True):
        both = derivative_truth(lambda s, y=given: subject.formula(s, y, k), [row], variable or 0)
        truths.append(both.value if variable is None else both.gradient)
    truth = Truth(*(torch.cat(column) for column in zip(*truths, strict=True)))
    error = ulp_error(computed, truth, of_scale=subject.of_scale)
    allowed = torch.tensor(
        [subject.allowed(row, y, exponent) for row, y in zip(rows, points.given, strict=True)]
    )
    if dtype.itemsize == 2:  # what is allowed in float32, and one rounding
        step = torch.finfo(torch.float32).eps / torch.finfo(dtype).eps
        allowed = (0.5 + allowed * step).clamp(min=1.0)
    magnitude = truth.scale if subject.of_scale else truth.hi.abs()
    headroom = 16 / torch.finfo(dtype).eps if subject.flushes else 1.0
    normal = magnitude >= headroom * torch.finfo(dtype).tiny
    return error[normal], (error / allowed)[normal]


def spread(dtype: torch.dtype, count: int) -> Tensor:
    """Single logits over the whole reach, and more of them around 0."""
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.rand(count, generator=generator, dtype=torch.float64) * 2 - 1) * REACH[dtype]
    return torch.cat([drawn, drawn / 20, torch.zeros(1)]).to(dtype).view(-1, 1)


def at_targets(*targets: float) -> Callable[[torch.dtype], Points]:
    """Every logit of a spread, at one of the targets in turn."""

    def points(dtype: torch.dtype) -> Points:
        x = spread(dtype, 80 * len(targets))
        y = torch.tensor(targets, dtype=dtype)[torch.arange(len(x)) % len(targets)]
        return Points(x, y.view(-1, 1), y.tolist())

    return points


def likelihoods(dtype: torch.dtype) -> Points:
    """Negative log-likelihoods, from the least normal number on; 0 itself has a test of its own."""
    least = max(torch.finfo(dtype).tiny, 1e-40)
    x = torch.logspace(math.log10(least), math.log10(REACH[dtype]), 240, dtype=torch.float64)
    x = torch.cat([x, torch.linspace(0.05, 5, 80, dtype=torch.float64)]).to(dtype).view(-1, 1)
    return Points(x, torch.zeros_like(x), [None] * len(x))


def class_rows(classes: int, soft: bool = False) -> Callable[[torch.dtype], Points]:
    """Rows of every spread, shifted as a whole; the class of every second is the largest."""

    def points(dtype: torch.dtype) -> Points:
        generator = torch.Generator().manual_seed(classes)
        spreads = torch.linspace(0.5, REACH[dtype], 40, dtype=torch.float64).view(-1, 1)
        rows = torch.rand(40, classes, generator=generator, dtype=torch.float64) * spreads
        x = (rows + torch.linspace(-20, 20, 40, dtype=torch.float64).view(-1, 1)).to(dtype)
        if soft:
            y = torch.rand(40, classes, generator=generator, dtype=torch.float64).to(dtype)
            return Points(x, y, y.tolist())
        labels = torch.randint(0, classes, (40,), generator=generator)
        labels[::2] = x[::2].argmax(1)
        # The labelled class first and the largest other second; derivatives are in these and in
        # the last.
        _swap(x, 0, labels)
        _swap(x, 1, 1 + x[:, 1:].argmax(1))
        x = torch.cat([x, hard_rows(classes).to(dtype)])
        return Points(x, torch.zeros(len(x), dtype=torch.int64), [0] * len(x))

    return points


def _swap(x: Tensor, column: int, other: Tensor) -> None:
    """Exchange a column with another one in each row."""
    rows = torch.arange(len(x))
    x[rows, other], x[:, column] = x[:, column].clone(), x[rows, other].clone()


def hard_rows(classes: int) -> Tensor:
    """The rows of so many classes that a search found, of class 0; see `search.py`."""
    with HARD_ROWS.open(newline="", encoding="utf-8") as file:
        texts = [row["logits"] for row in csv.DictReader(file) if int(row["classes"]) == classes]
    return torch.tensor([[float(number) for number in text.split()] for text in texts]).view(
        -1, classes
    )


PIXELS = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
LABELS = torch.tensor([0, 1, 0, 2])


def binary_regions(dtype: torch.dtype) -> Points:
    """Regions of six pixels, found perfectly or with one wrong."""
    generator = torch.Generator().manual_seed(0)
    reaches = torch.linspace(1.0, 2 * REACH[dtype], 16).repeat_interleave(2).view(-1, 1)
    margins = reaches * (0.75 + 0.25 * torch.rand(32, 6, generator=generator))
    x = margins * (2 * PIXELS - 1)
    x[1::2, 2] *= -0.5
    x = x.to(dtype)
    return Points(x, PIXELS.expand_as(x), [PIXELS.tolist()] * len(x))


def class_regions(dtype: torch.dtype, reach: float | None = None) -> Points:
    """Three classes of four pixels, as rows of 12; mostly right, or with one pixel wrong."""
    generator = torch.Generator().manual_seed(0)
    reaches = torch.linspace(1.0, reach or REACH[dtype], 12).repeat_interleave(2).view(-1, 1, 1)
    x = torch.rand(24, 3, 4, generator=generator) * reaches * 0.3
    x[:, LABELS, torch.arange(4)] += reaches[:, 0]
    x[1::2, 0, 3] += 1.5 * reaches[1::2, 0, 0]
    return Points(x.to(dtype).view(24, 12), LABELS.expand(24, 4), [LABELS.tolist()] * 24)


def p_of(x: Any) -> Any:
    """The logistic function."""
    return 1 / (1 + (-x).exp())


def probability(x: float) -> float:
    """The same of a number."""
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def focal(x: Any, y: float, k: arb) -> Any:
    """Of a hard target."""
    p_t = p_of(x if y else -x)
    return -((1 - p_t) ** k) * p_t.log()


def gaussian(s: Series, y: float, k: arb) -> Series:
    """Law and Deng, equation 1, beta 4."""
    if y == 1:
        return [focal(s[0], 1, k)]
    return [(1 - arb(y)) ** 4 * focal(s[0], 0, k)]


def quality(s: Series, y: float, k: arb) -> Series:
    """Li et al., equation 4."""
    if y in (0, 1):
        return [focal(s[0], y, k)]
    p, q = p_of(s[0]), p_of(-s[0])
    d = p - arb(y)
    d = d if d[0] > 0 else -d
    return [d**k * (-arb(y) * p.log() - (1 - arb(y)) * q.log())]


def shifted(s: Series, y: float, k: arb) -> Series:
    """Ben-Baruch et al., equation 6, of a negative, margin 1 / 16."""
    p_m = p_of(s[0]) - arb(2) ** -4
    return [-(p_m**k) * (1 - p_m).log() if p_m[0] > 0 else 0 * s[0]]


def lost_in_distance(x: float, y: float) -> float:
    """By how much the terms of y - p are larger than it is."""
    p, q = probability(x), probability(-x)
    return (y * q + (1 - y) * p) / max(abs(y * q - (1 - y) * p), 1e-300)


def lost_in_shift(x: float) -> float:
    """By how much the terms of p - 1/16 are larger than it is."""
    p = probability(x)
    return (p + 0.0625) / max(abs(p - 0.0625), 1e-300)


def lost_in_slope(row: Row, gamma: float) -> float:
    """By how much the parts of gamma ce - 1 of a wrong class are larger than it is, at most."""
    top = max(row)
    log_sum = top + math.log(sum(math.exp(x - top) for x in row))
    parts = [gamma * (log_sum - x) for x in row[1:]]
    return max((part + 1) / max(abs(part - 1), 1e-300) for part in parts)


def softmax_focal(s: Series, y: Any, k: arb) -> Series:
    """Of the probabilities y, or of class 0."""
    weights = y if isinstance(y, list) else [1.0] + [0.0] * (len(s) - 1)
    terms = []
    for c, weight in enumerate(weights):
        if weight:
            p = 1 / sum((u - s[c]).exp() for u in s)
            others = [(u - s[c]).exp() for i, u in enumerate(s) if i != c]
            terms.append(-arb(weight) * (sum(others) * p) ** k * p.log())
    return terms


def likelihood(s: Series, y: None, k: arb) -> Series:
    """Of any probability exp(-L)."""
    return [(1 - (-s[0]).exp()) ** k * s[0]]


def softmax_asymmetric(s: Series, y: Any, k: arb) -> Series:
    """Of class 0, smoothing 1/8, gamma_pos 1/2; p ** gamma_neg of the others."""
    terms, share = [], arb("0.125") / len(s)
    for c in range(len(s)):
        p = 1 / sum((u - s[c]).exp() for u in s)
        if c:
            terms.append(-share * p**k * p.log())
        else:
            others = sum((u - s[0]).exp() for u in s[1:])
            terms.append(-(arb("0.875") + share) * (others * p) ** arb("0.5") * p.log())
    return terms


def wrong_share(p: Sequence[Any], q: Sequence[Any], y: Row, alpha: float, beta: float) -> Any:
    """1 - T, smooth 1."""
    pairs = list(zip(p, q, y, strict=True))
    right = sum((u for u, _, t in pairs if t), 0 * p[0])
    wrong = sum((arb(alpha) * v if t else arb(beta) * u for u, v, t in pairs), 0 * p[0])
    return wrong / (right + wrong + 1)


def tversky(dtype: torch.dtype) -> Callable[[Series, Any, arb], Series]:
    """Abraham and Khan, equation 4; of class 0 for rows of three classes."""
    alpha, beta = rounded(0.7, dtype), rounded(0.3, dtype)

    def formula(s: Series, y: Any, k: arb) -> Series:
        if len(s) == 6:
            p, q = [p_of(u) for u in s], [p_of(-u) for u in s]
            return [wrong_share(p, q, y, alpha, beta) ** k]
        p, q = class_probabilities(s, 0)
        return [wrong_share(p, q, [t == 0 for t in y], alpha, beta) ** k]

    return formula


def class_probabilities(s: Series, c: int) -> tuple[list[Any], list[Any]]:
    """Of class c at each of four pixels, and of the others together."""
    p, q = [], []
    for pixel in range(4):
        terms = [(s[4 * j + pixel] - s[4 * c + pixel]).exp() for j in range(3) if j != c]
        p.append(1 / (1 + sum(terms)))
        q.append(sum(terms) * p[-1])
    return p, q


def unified(asymmetric: bool, dtype: torch.dtype) -> Callable[[Series, Any, arb], Series]:
    """Yeung et al., delta 0.5, balance 0.5, background 0; classes, or two of six logits.

    The exponent of a region is 1 - gamma as it takes part, rounded to the dtype.
    """

    def formula(s: Series, y: Any, k: arb) -> Series:
        binary = len(s) == 6
        exponent = arb(rounded(1 - float(k.mid()), dtype))
        terms = []
        for c in range(2 if binary else 3):
            if binary:
                p = [p_of(u if c else -u) for u in s]
                q = [p_of(-u if c else u) for u in s]
            else:
                p, q = class_probabilities(s, c)
            here = [t == c for t in y]
            region = 1 if asymmetric and c == 0 else exponent
            focus = 0 if asymmetric and c else k
            terms.append(wrong_share(p, q, here, 0.5, 0.5) ** region / (4 if binary else 6))
            terms += [
                -(v**focus) * u.log() / (4 * len(y))
                for u, v, t in zip(p, q, here, strict=True)
                if t
            ]
        return terms

    return formula


def of_each(loss: Callable[..., Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    """A loss that is a scalar, of each row by itself."""

    def losses(x: Tensor, y: Tensor, gamma: float) -> Tensor:
        pairs = zip(x.split(1), y.split(1), strict=True)
        return torch.stack([loss(u, v, gamma=gamma) for u, v in pairs])

    return losses


def of_identity(x: Tensor, labels: Tensor, gamma: float, reduction: str = "sum") -> Tensor:
    """The loss of a linear map that gives its input: what it adds to a loss of logits is 0."""
    same = torch.eye(x.shape[1], dtype=x.dtype)
    return parfocal.linear_softmax_focal_loss(x, same, labels, gamma=gamma, reduction=reduction)


def summed_beside_far(x: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """The sum in the form that it takes where some logit is far; that row itself is ignored."""
    far = torch.full_like(x[:1], 50.0)
    ignored = torch.full_like(labels[:1], -100)
    rows, labels = torch.cat([x, far]), torch.cat([labels, ignored])
    return parfocal.softmax_focal_loss(rows, labels, gamma=gamma, reduction="sum")


def both_ways(subject: Subject) -> tuple[Subject, Subject]:
    """An elementwise loss unreduced, and as a sum of each row, which has forms of its own."""

    def unreduced(x: Tensor, y: Tensor, exponent: float) -> Tensor:
        return subject.loss(x, y, exponent)[:, 0]

    def summed(x: Tensor, y: Tensor, exponent: float) -> Tensor:
        pairs = zip(x.split(1), y.split(1), strict=True)
        total = partial(subject.loss, reduction="sum")
        return torch.stack([total(u, v, exponent) for u, v in pairs])

    return (
        subject._replace(loss=unreduced),
        subject._replace(name=f"{subject.name}, summed", loss=summed),
    )


def over_maps(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A unified loss, delta 0.5, of rows of pixels."""

    def of_rows(x: Tensor, y: Tensor, gamma: float) -> Tensor:
        targets = as_maps(y) if y.is_floating_point() else y
        return loss(as_maps(x), targets, delta=0.5, gamma=gamma)

    return of_rows


def range_of(row: Row) -> float:
    """The spread of a row, or the largest of a pixel's."""
    if len(row) != 12:
        return max(row) - min(row)
    return max(max(row[i::4]) - min(row[i::4]) for i in range(4))


def class_bound(spread: Any, gamma: float, classes: int) -> Any:
    """What is allowed to the focal loss of class logits, a number or a tensor of rows."""
    return (1 + gamma) * (8 + spread + math.log2(classes) / 2)


def of_class(row: Row, gamma: float) -> float:
    """The same of a row."""
    return float(class_bound(range_of(row), gamma, 3 if len(row) == 12 else len(row)))


def of_region(row: Row, k: float) -> float:
    """What is allowed to a power of a region of class logits."""
    return 8 + 6 * k + (1 + k) * range_of(row)


def as_maps(x: Tensor) -> Tensor:
    """Rows of pixels (M, P) as (M, 1, P), those of three classes (M, 3 P) as (M, 3, P)."""
    return x.view(len(x), 1 if x.shape[1] == 6 else 3, -1)


def subjects(dtype: torch.dtype) -> list[Subject]:
    """The family, and the versions of it that are of JAX."""
    import family_jax  # which has the subjects of this file

    family = subjects_of_torch(dtype)
    unreduced = [subject for subject in family if "summed" not in subject.name]
    return [*family, *family_jax.subjects(dtype, unreduced)]


def subjects_of_torch(dtype: torch.dtype) -> list[Subject]:
    """PyTorch's. Some parameters are rounded to the dtype in which they take part."""
    focusing = (0.1, 0.5, 2.0)
    exponents = (0.1, 0.5, 0.75, 1.0, 3.0)
    return [
        *class_subjects(),
        Subject(
            "softmax_focal_loss, probabilities",
            focusing,
            class_rows(4, soft=True),
            lambda x, y, g: parfocal.softmax_focal_loss(x, y, gamma=g, reduction="none"),
            softmax_focal,
            lambda row, y, g: of_class(row, g),
            variables=(0, 1),
            of_scale=True,
        ),
        *(
            Subject(
                f"softmax_asymmetric_loss, {classes} classes",
                focusing,
                class_rows(classes),
                lambda x, y, g: parfocal.softmax_asymmetric_loss(
                    x, y, gamma_neg=g, gamma_pos=0.5, label_smoothing=0.125, reduction="none"
                ),
                softmax_asymmetric,
                lambda row, y, g: of_class(row, max(g, 0.5)) * lost_in_slope(row, g),
                variables=(0, 1, classes - 1),
                of_scale=True,
            )
            for classes in (3, 21)
        ),
        *(way for subject in elementwise_subjects(dtype) for way in both_ways(subject)),
        Subject(
            "focal_matching_cost",
            focusing,
            at_targets(0),
            lambda x, y, g: parfocal.focal_matching_cost(x, torch.zeros(1, dtype=int), gamma=g)[
                :, 0
            ],
            lambda s, y, k: [focal(s[0], 1, k) / 4, -3 * focal(s[0], 0, k) / 4],
            lambda row, y, g: 6 + 2 * g,
            variables=(),
            of_scale=True,
        ),
        Subject(
            "sigmoid_tversky_loss",
            (1.0,),
            binary_regions,
            lambda x, y, k: parfocal.sigmoid_tversky_loss(as_maps(x), as_maps(y), reduction="none")[
                :, 0
            ],
            tversky(dtype),
            lambda row, y, k: 8 + 6 * k,
            variables=(0, 1, 2),
        ),
        Subject(
            "sigmoid_focal_tversky_loss",
            exponents,
            binary_regions,
            lambda x, y, k: parfocal.sigmoid_focal_tversky_loss(
                as_maps(x), as_maps(y), gamma=1 / k, reduction="none"
            )[:, 0],
            tversky(dtype),
            lambda row, y, k: 8 + 6 * k,
            variables=(0, 1, 2),
        ),
        Subject(
            "softmax_tversky_loss",
            (1.0,),
            class_regions,
            lambda x, y, k: parfocal.softmax_tversky_loss(as_maps(x), y, reduction="none")[:, 0],
            tversky(dtype),
            lambda row, y, k: of_region(row, k),
            variables=(0, 3, 4),
        ),
        Subject(
            "softmax_focal_tversky_loss",
            exponents,
            class_regions,
            lambda x, y, k: parfocal.softmax_focal_tversky_loss(
                as_maps(x), y, gamma=1 / k, reduction="none"
            )[:, 0],
            tversky(dtype),
            lambda row, y, k: of_region(row, k),
            variables=(0, 3, 4),
        ),
        Subject(  # no logit is so far from another that sums of probabilities underflow
            "softmax_focal_tversky_loss, near",
            exponents,
            partial(class_regions, reach=9.0),
            lambda x, y, k: parfocal.softmax_focal_tversky_loss(
                as_maps(x), y, gamma=1 / k, reduction="none"
            )[:, 0],
            tversky(dtype),
            lambda row, y, k: of_region(row, k),
            variables=(0, 3, 4),
        ),
        *(
            Subject(
                loss.__name__,
                (0.1, 0.5),
                binary_regions,
                of_each(over_maps(loss)),
                unified("asymmetric" in loss.__name__, dtype),
                lambda row, y, g: 8 + 6 * (1 - g) + 2 * g,
                variables=(0, 1, 2),
                of_scale=True,
            )
            for loss in (
                parfocal.sigmoid_unified_focal_loss,
                parfocal.sigmoid_asymmetric_unified_focal_loss,
            )
        ),
        *(
            Subject(
                loss.__name__,
                (0.1, 0.5),
                class_regions,
                of_each(over_maps(loss)),
                unified("asymmetric" in loss.__name__, dtype),
                lambda row, y, g: max(of_class(row, g), of_region(row, 1)),
                variables=(0, 3, 4),
                of_scale=True,
            )
            for loss in (
                parfocal.softmax_unified_focal_loss,
                parfocal.softmax_asymmetric_unified_focal_loss,
            )
        ),
    ]


def class_subjects() -> list[Subject]:
    """The loss of class indices, unreduced and in the two forms that its sums have."""

    def unreduced(x: Tensor, y: Tensor, gamma: float) -> Tensor:
        return parfocal.softmax_focal_loss(x, y, gamma=gamma, reduction="none")

    summed = of_each(partial(parfocal.softmax_focal_loss, reduction="sum"))
    forms = (
        ("", (2, 3, 21, 40), unreduced),
        (", summed", (2, 3, 21, 40), summed),
        (", summed beside a far row", (2, 3, 21), of_each(summed_beside_far)),
    )
    named = [
        (f"softmax_focal_loss, {classes} classes{form}", classes, loss)
        for form, counts, loss in forms
        for classes in counts
    ]
    of_map = "linear_softmax_focal_loss, 21 classes"
    named += [
        (of_map, 21, partial(of_identity, reduction="none")),
        (f"{of_map}, summed", 21, of_each(of_identity)),
    ]
    return [
        Subject(
            name,
            (0.0, 0.1, 0.5, 2.0),
            class_rows(classes),
            loss,
            softmax_focal,
            lambda row, y, g: of_class(row, g),
            variables=tuple({0, 1, classes - 1}),
        )
        for name, classes, loss in named
    ]


def elementwise_subjects(dtype: torch.dtype) -> list[Subject]:
    """Those of one logit and one target, whose losses are (M, 1) unless they are reduced."""
    focusing, third = (0.1, 0.5, 2.0), rounded(0.3, dtype)
    return [
        Subject(
            "varifocal_loss, negatives and full quality",
            focusing,
            at_targets(0, 1),
            lambda x, y, g, **how: parfocal.varifocal_loss(x, y, gamma=g, **how),
            lambda s, y, k: [-p_of(s[0]).log() if y else focal(s[0], 0, k) * arb("0.75")],
            lambda row, y, g: 5 + 2 * g,
        ),
        Subject(
            "varifocal_loss, positives",
            (2.0,),
            at_targets(0.25, 0.9),
            lambda x, y, g, **how: parfocal.varifocal_loss(x, y, gamma=g, **how),
            lambda s, y, k: [
                -(arb(y) ** 2) * p_of(s[0]).log(),
                -arb(y) * (1 - arb(y)) * p_of(-s[0]).log(),
            ],
            lambda row, y, g: 5,
            of_scale=True,
        ),
        Subject(
            "gaussian_focal_loss, exact penalty",
            focusing,
            at_targets(0, 0.5, 1),
            lambda x, y, g, **how: parfocal.gaussian_focal_loss(x, y, gamma=g, **how),
            gaussian,
            lambda row, y, g: 5 + 2 * g,
        ),
        Subject(
            "gaussian_focal_loss",
            focusing,
            at_targets(0.3, 0.9),
            lambda x, y, g, **how: parfocal.gaussian_focal_loss(x, y, gamma=g, **how),
            gaussian,
            lambda row, y, g: 6 + 2 * g + 4 / 2,
        ),
        Subject(
            "quality_focal_loss, hard",
            focusing,
            at_targets(0, 1),
            lambda x, y, g, **how: parfocal.quality_focal_loss(x, y.long(), beta=g, **how),
            quality,
            lambda row, y, g: 4 + 2 * g,
        ),
        Subject(
            "quality_focal_loss, soft",
            (1.0, 1.5, 2.0),
            at_targets(0.25, 0.8),
            lambda x, y, g, **how: parfocal.quality_focal_loss(x, y, beta=g, **how),
            quality,
            lambda row, y, g: 6 + 3 * g * lost_in_distance(row[0], y),
        ),
        Subject(
            "asymmetric_loss, no margin",
            focusing,
            at_targets(0, 1),
            lambda x, y, g, **how: parfocal.asymmetric_loss(x, y, g, 0.3, margin=0.0, **how),
            lambda s, y, k: [focal(s[0], y, arb(third) if y else k)],
            lambda row, y, g: 4 + 2 * max(g, 0.3),
        ),
        Subject(
            "asymmetric_loss, margin",
            (1.0, 1.5, 4.0),
            at_targets(0),
            lambda x, y, g, **how: parfocal.asymmetric_loss(x, y, g, margin=2.0**-4, **how),
            shifted,
            lambda row, y, g: 6 + 3 * (1 + g) * lost_in_shift(row[0]),
        ),
        Subject(
            "likelihood_focal_loss",
            focusing,
            likelihoods,
            lambda x, y, g, **how: parfocal.likelihood_focal_loss(x, g, **how),
            likelihood,
            lambda row, y, g: 4 + 2 * g,
        ),
        *(
            Subject(
                f"poly_focal_loss, epsilon_1 {epsilon_1}",
                focusing,
                at_targets(0, 1),
                lambda x, y, g, e=epsilon_1, **how: parfocal.poly_focal_loss(
                    x, y, gamma=g, epsilon_1=e, **how
                ),
                lambda s, y, k, e=epsilon_1: [
                    focal(s[0], y, k),
                    arb(e) * p_of(-s[0] if y else s[0]) ** (k + 1),
                ],
                lambda row, y, g: 7 + 2 * g,
                of_scale=epsilon_1 < 0,
            )
            for epsilon_1 in (1.0, -0.5)
        ),
    ]


def jobs() -> Iterator[tuple[Subject, torch.dtype, float]]:
    """Every measurement."""
    for dtype in DTYPES:
        for subject in subjects(dtype):
            for exponent in subject.exponents:
                yield subject, dtype, exponent
