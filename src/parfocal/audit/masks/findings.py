"""Findings from trials of a loss's own masks."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from parfocal.audit.findings import SEVERITIES, Finding, Kind
from parfocal.audit.masks.trials import MaskFault
from parfocal.audit.reproduce import masked_reproduction
from parfocal.audit.subject import Subject


def mask_findings(subject: Subject, faults: Iterable[MaskFault]) -> Iterator[Finding]:
    """One finding an argument, a dtype and a stage, told at the first of its settings."""
    groups: dict[tuple[object, ...], list[MaskFault]] = defaultdict(list)
    for f in faults:
        key = f.mask.name, f.dtype, f.stage, f.quantity, _is_left_out(f)
        groups[key].append(f)
    for group in groups.values():
        first = group[0]
        same = [f for f in group if f.mask == first.mask]
        kind: Kind = "fails" if first.stage == "fails" else "masked leak"
        yield Finding(
            kind=kind,
            severity="warning" if first.stage == "not finite" else SEVERITIES[kind],
            quantity=first.quantity,
            dtype=first.dtype,
            target=0.0 if first.mask.ignored is None else float(first.mask.ignored),
            mode=first.mask.name or "ignored",
            gammas=tuple(f.gamma for f in same),
            logit=None if kind == "fails" else _logit(first),
            before=None,
            computed=first.computed,
            truth=first.truth,
            share=first.share,
            ulp=math.inf,
            certified=False,
            cause=_cause(group),
            reproduce=masked_reproduction(
                subject, first.mask, first.batch, first.gamma, first.position,
                "fails" if kind == "fails" else first.quantity,
            ),
        )  # fmt: skip


def _is_left_out(fault: MaskFault) -> bool:
    return bool(fault.batch.left_out[fault.position])


def _logit(fault: MaskFault) -> float:
    """That of a position that is left out, the farthest from 0."""
    out = int(fault.batch.left_out.nonzero()[-1])
    at = fault.position if _is_left_out(fault) else out
    row = fault.batch.rows[at].double().reshape(-1)
    return float(row[row.abs().nan_to_num(math.inf).argmax()])


def _cause(group: Sequence[MaskFault]) -> str:
    """A sentence; settings are named where the argument is a target."""
    first = group[0]
    mask, name = first.mask, first.mask.name
    if mask.ignored is None:
        position = f"a position that is {mask.state} in {name}"
    elif name:
        settings = ", ".join(dict.fromkeys(str(f.mask.ignored) for f in group))
        position = f"a position with the ignored target ({name}={settings})"
    else:
        position = f"a position with the target {mask.ignored}"
    unread = "" if first.is_read else f"no result that was tried depends on {name}: "
    if first.stage == "fails":
        at_first = f"at {mask.ignored} " if len({f.mask for f in group}) > 1 else ""
        return f"{unread}{position} fails: {at_first}{first.words}"
    at = {
        "calm": "",
        "extreme": " at extreme logits, and none at calm ones",
        "not finite": " where its logits are NaN or infinite, and none at finite ones",
    }[first.stage]
    if _is_left_out(first):
        return f"{unread}{position} has a {first.quantity} that is not 0{at}"
    of = {"calm": "", "extreme": "extreme ", "not finite": "NaN or infinite "}[first.stage]
    return f"the gradient of another position changes with {of}logits of {position}"
