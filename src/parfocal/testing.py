"""For testing code that defines losses."""

from collections.abc import Callable
from typing import Any

from parfocal import extras

with extras.needs("audit", "parfocal.testing"):
    from parfocal.audit import AuditReport, Subject, audit
    from parfocal.audit.findings import Kind, Severity
    from parfocal.audit.output.wording import groups, title, where


def assert_accurate(
    loss: str | Callable[..., Any] | Subject,
    *,
    quick: bool = True,
    ignore: tuple[Kind, ...] = (),
    fail_on: tuple[Severity | Kind, ...] = ("error",),
    **options: Any,
) -> AuditReport:
    """Fail with a helpful message if a loss isn't a correct focal loss.

    Args:
        loss: as in `parfocal.audit.audit`.
        quick: fewer gammas, and only samples of the 16-bit dtypes: takes a few seconds.
        ignore: kinds of findings that are known and allowed.
        fail_on: severities and kinds of findings that fail; "warning" is an error too small to
            affect training, or one in a second derivative.
        options: as in `audit`.

    Returns:
        The report.

    Raises:
        AssertionError: says what is wrong, where and why, with Python that reproduces it.
        SubjectError: the loss can't be called.

    Example:
        >>> from parfocal import sigmoid_focal_loss
        >>> from parfocal.testing import assert_accurate
        >>> assert_accurate(sigmoid_focal_loss, gammas=[0.5]).status
        0
    """
    __tracebackhide__ = True
    report = audit(loss, quick=quick, **options)
    wrong = [f for f in report.failures(fail_on) if f.kind not in ignore]
    if not wrong:
        return report
    lines = [f"{title(report)} is no accurate focal loss:", ""]
    for group in groups(wrong):
        worst = max(group, key=lambda f: (f.share, f.ulp))
        gammas = sorted({gamma for f in group for gamma in f.gammas})
        mode = "" if worst.mode == "eager" else f" ({worst.mode})"
        lines.append(
            f"{worst.severity}: {worst.kind}, {worst.quantity}{mode}, at gamma "
            + ", ".join(f"{gamma:g}" for gamma in gammas)
        )
        lines += [f"    from logit {line}" for line in where(group).splitlines()]
        lines.append(f"    why: {worst.cause}")
        lines.append(f"    see: {worst.reproduce}")
    raise AssertionError("\n".join(lines))
