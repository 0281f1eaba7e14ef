"""Reports as JUnit XML, for the CI systems that read such files."""

from collections.abc import Collection, Sequence
from xml.etree import ElementTree

from parfocal.audit.report import AuditReport


def junit(reports: Sequence[AuditReport], fail_on: Collection[str] = ("error",)) -> str:
    """A suite a report; a test case a quantity, dtype and target."""
    suites = ElementTree.Element("testsuites")
    for report in reports:
        _suite(suites, report, fail_on)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _suite(suites: ElementTree.Element, report: AuditReport, fail_on: Collection[str]) -> None:
    suite = ElementTree.SubElement(
        suites, "testsuite", name=_clean(f"parfocal audit {report.name}")
    )
    failing = report.failures(fail_on)
    told = [(f.quantity, f.dtype, f.target) for f in failing]
    failures = 0
    for place in dict.fromkeys([*((c.quantity, c.dtype, c.target) for c in report.cells), *told]):
        quantity, dtype, target = place
        name = _clean(f"{quantity} {dtype} target {target:g}")
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(report.name), name=name)
        here = [finding for finding, spot in zip(failing, told, strict=True) if spot == place]
        if here:  # readers of such files expect one failure a test case
            failures += 1
            messages = [f"{f.kind} ({f.mode}): {f.cause}" for f in here]
            node = ElementTree.SubElement(case, "failure", message=_clean("; ".join(messages)))
            node.text = _clean("\n".join(finding.reproduce for finding in here))
    if report.error is not None:
        case = ElementTree.SubElement(
            suite, "testcase", classname=_clean(report.name), name="audit"
        )
        ElementTree.SubElement(case, "error", message=_clean(report.error))
    suite.set("tests", str(len(suite)))
    suite.set("failures", str(failures))
    suite.set("errors", str(int(report.error is not None)))


def _clean(text: str) -> str:
    """Without the characters that XML 1.0 has no way to write."""
    return "".join(c for c in text if c in "\t\n" or (ord(c) >= 32 and c not in "\ufffe\uffff"))
