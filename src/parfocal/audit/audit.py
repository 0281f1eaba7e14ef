"""Audits a loss: finds out what it means, fills the grid, and says what is wrong."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any

import torch

from parfocal.audit.behaviour import behaviour_of
from parfocal.audit.cell import Cell
from parfocal.audit.cell_findings import findings_of
from parfocal.audit.classes import class_findings
from parfocal.audit.convention import Convention, Fault, find_convention
from parfocal.audit.discover import discover
from parfocal.audit.evaluate import evaluate
from parfocal.audit.judge import DTYPES, GAMMAS, QUANTITIES, QUICK_GAMMAS, cells
from parfocal.audit.masks.findings import mask_findings
from parfocal.audit.masks.trials import MaskTrials, try_masks
from parfocal.audit.mode_findings import leak_findings, mode_findings
from parfocal.audit.modes import MODES, default_modes, leaks, mismatches
from parfocal.audit.replacement import replacement
from parfocal.audit.report import AuditReport
from parfocal.audit.soft import SOFT_TARGET
from parfocal.audit.subject import Subject, in_a_line

# Told to whoever shows progress: what is done now, and which part of the whole is behind it.
Progress = Callable[[str, float], None]


def audit(
    loss: str | Callable[..., Any] | Subject,
    *,
    quick: bool = False,
    modes: Sequence[str] | None = None,
    gammas: Sequence[float] | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    quantities: Sequence[str] = QUANTITIES,
    executor: Executor | None = None,
    progress: Progress | None = None,
    version: str = "",
    **given: Any,
) -> AuditReport:
    """Judge a loss against its own definition, in ball arithmetic.

    It runs the code that you point it at.

    Args:
        loss: a function or class of logits and targets, its place as text, or a `Subject`.
        quick: fewer gammas, and only samples of the 16-bit dtypes.
        modes: which of compiled, autocast, vmap and cuda to compare with eager on a CPU; by default
            autocast, vmap and, if there is a GPU, cuda.
        gammas: exponents; by default 10 from 0 to 5, including the neighbours of 1.
        dtypes: of the logits.
        quantities: which of value, gradient and curvature.
        executor: of processes that compute the certified values.
        progress: called with the current task, and the fraction that is done.
        version: the version of the distribution, for the report.
        given: fields of `Subject` that discovery would get wrong.

    Returns:
        The verdict; `status` is 0 if nothing is wrong.

    Raises:
        SubjectError: the loss can't be called.
        ValueError: an unknown mode or quantity.

    Example:
        >>> from parfocal.audit import audit
        >>> report = audit("torchvision.ops:sigmoid_focal_loss", gammas=(0.5,), quick=True)
        >>> report.status, report.findings[0].kind
        (1, 'not finite')
    """
    modes = default_modes() if modes is None else modes
    unknown = set(modes) - set(MODES)
    if unknown:
        raise ValueError(f"expected modes from {MODES}, got {sorted(unknown)}")
    unknown = set(quantities) - set(QUANTITIES)
    if unknown:
        raise ValueError(f"expected quantities from {QUANTITIES}, got {sorted(unknown)}")
    lines: tuple[str, ...] = ()
    if isinstance(loss, Subject):
        subject = loss
    else:
        subject, lines = discover(loss, progress=progress, **given)
    say = progress or (lambda words, part: None)
    say("which function it is", 0.0)
    subject, convention = _meant(subject)
    behaviour = behaviour_of(subject)
    faults = tuple(Fault("no function", words) for words in behaviour.words)
    convention = convention._replace(faults=(*convention.faults, *faults))
    chosen = tuple(gammas) if gammas is not None else (QUICK_GAMMAS if quick else GAMMAS)
    if subject.gamma is None:
        chosen = (subject.fixed_gamma,)
    if subject.framework == "numpy":
        dtypes = [dtype for dtype in dtypes if dtype.itemsize > 2]
    chosen, refused = _accepted(subject, chosen)
    lines += tuple(line for line in refused if line not in convention.lines)
    targets = (1.0, 0.0, SOFT_TARGET)
    dtypes = [d for d in dtypes if str(d).removeprefix("torch.") not in subject.refused]
    grid: list[Cell] = []
    places = [(dtype, target) for dtype in dtypes for target in targets]
    places = places if behaviour.is_function else []
    for i, (dtype, target) in enumerate(places):
        say(f"{str(dtype).removeprefix('torch.')}, target {target:g}", i / (len(places) + 1))
        grid += cells(
            subject,
            convention,
            dtype,
            target,
            chosen,
            quantities=quantities,
            quick=quick,
            executor=executor,
        )
    say("masks and modes", len(places) / (len(places) + 1))
    probed = tuple(gamma for gamma in (0.0, 0.5, 2.0) if gamma in chosen) or chosen[:1]
    trials = try_masks(subject, probed, dtypes) if places else MaskTrials()
    findings = [
        *findings_of(subject, convention, grid),
        *mask_findings(subject, trials.faults),
    ]
    if "gradient" in quantities and places:
        narrow = [dtype for dtype in (torch.float32, torch.bfloat16) if dtype in dtypes]
        leaking = [leak for dtype in narrow for leak in leaks(subject, probed, dtype)]
        findings += leak_findings(subject, leaking)
        findings += class_findings(subject, convention, grid, probed, dtypes)
        findings += mode_findings(subject, mismatches(subject, probed, tuple(modes)))
    order = {"error": 0, "warning": 1, "note": 2}
    findings.sort(key=lambda f: (order[f.severity], -f.share))
    return AuditReport(
        name=subject.name,
        target=subject.target,
        version=version,
        how=lines,
        meaning=(*convention.lines, *trials.lines),
        cells=tuple(grid),
        findings=tuple(findings),
        quick=quick,
        modes=("eager", *modes),
        instead=replacement(subject, convention),
        held=convention.definition is not None,
    )


def _accepted(
    subject: Subject, gammas: Sequence[float]
) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The exponents that a loss takes, and a line for each that it refuses."""
    accepted, lines = [], []
    x = torch.tensor([0.5, -1.0], dtype=subject.widest)
    for gamma in gammas:
        try:
            evaluate(subject, x, 1.0, gamma, second=False)
        except Exception as error:
            lines.append(f"gamma {gamma:g} is refused: {in_a_line(error)}")
        else:
            accepted.append(gamma)
    return tuple(accepted), tuple(lines)


def _meant(subject: Subject) -> tuple[Subject, Convention]:
    """What it means; of a loss with one exponent, at the exponent that it has."""
    convention = find_convention(subject)
    if subject.gamma is None and convention.definition is not None:
        exponent = convention.exponents[0].constant
        convention = convention._replace(lines=(f"its exponent is {exponent:g}", *convention.lines))
        subject = subject.with_options(fixed_gamma=exponent)
    return subject, convention
