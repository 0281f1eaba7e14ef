"""The page of a study for browsers: what its page in Markdown says, with charts that answer."""

import re
from collections.abc import Iterator, Sequence

from markupsafe import Markup, escape

from parfocal import __version__
from parfocal.experiments.run.sessions import SessionLine
from parfocal.experiments.study.comparison import Comparison
from parfocal.experiments.study.words import AP, focal_objectives
from parfocal.pages.charts import Axis, Chart, Interval, Level, Line
from parfocal.pages.page import DOCS, Made, render

# Of the objectives, by the weights that they have: the line that they are of, and its colour.
_LINES = (("none", "without alpha", "--of-exact"), ("usual", "with alpha", "--of-smoothed"))


def study_page(
    markdown: str,
    comparison: Comparison,
    command: str,
    sessions: Sequence[SessionLine],
) -> str:
    """HTML; the same record gives the same page.

    Args:
        markdown: the page in Markdown, whose figure the charts take the place of.
        comparison: what was found.
        command: what makes it.
        sessions: those that worked on it, for the day of the last.
    """
    last = ([session for session in sessions if session.began] or [SessionLine("begin")])[-1]
    day = last.began.date().isoformat() if last.began else ""
    before, _, after = markdown.partition("\n\n![")
    return render(
        "parfocal.experiments.study",
        "study.html",
        Made(command, day, {"parfocal": __version__, **last.installed}),
        title=markdown.partition("\n")[0].removeprefix("# "),
        before=list(html(before)),
        after=list(html(after.partition("\n\n")[2])),
        charts=differences_charts(comparison),
    )


def differences_charts(comparison: Comparison) -> list[Chart]:
    """Average precision less the first reference's by gamma, on average and of each data set."""
    *others, first = comparison.places
    return [_chart(comparison, first, 320), *(_chart(comparison, name, 240) for name in others)]


def _chart(comparison: Comparison, dataset: str | None, height: int) -> Chart:
    reference = comparison.study.references[0]
    kinds = [focal_objectives(comparison, weights) for weights, *_ in _LINES]
    gammas = sorted({objective.gamma for kind in kinds for objective in kind.values()})
    lines = []
    for kind, (_, label, colour) in zip(kinds, _LINES, strict=True):
        of_gamma = {
            objective.gamma: Interval(*(100 * value for value in found))
            for name, objective in kind.items()
            if (found := comparison.difference(dataset, name, reference, AP)) is not None
        }
        values = {f"{gamma:g}": of_gamma[gamma] for gamma in gammas if gamma in of_gamma}
        lines.append(Line(label, values, colour=colour, style="interval"))
    where = dataset or f"average over {len(comparison.study.datasets)} data sets"
    clear = [
        f"{line.name} at gamma {gamma} ({found.value:+.2f})"
        for line in lines
        for gamma, found in line.values.items()
        if isinstance(found, Interval) and not found.low <= 0 <= found.high
    ]
    return Chart(
        label=f"{where}: average precision less the {reference}'s in points, by gamma, with "
        f"the interval that holds 95 of 100. It doesn't hold 0: {', '.join(clear) or 'none'}.",
        caption=f"{where}: average precision less the {reference}'s, which is the dashed line",
        x=Axis("gamma", "category"),
        y=Axis("points"),
        lines=lines,
        levels=[Level(0)],
        height=height,
    )


def html(markdown: str) -> Iterator[Markup]:
    r"""The blocks of a page in Markdown, of the few kinds that a study's has.

    >>> [*html("## Data\n\n- `a` < b\n- [c](choosing.md)")][0]
    Markup('<h2>Data</h2>')
    """
    for block in markdown.strip().split("\n\n"):
        lines = block.split("\n")
        if block.startswith("#"):
            level = len(block) - len(block.lstrip("#"))
            yield Markup("<h{0}>{1}</h{0}>").format(level, _inline(block[level:].strip()))
        elif block.startswith("- "):
            items = Markup("").join(
                Markup("<li>{}</li>").format(_inline(line[2:])) for line in lines
            )
            yield Markup("<ul>{}</ul>").format(items)
        elif block.startswith("| "):
            yield _table(lines)
        elif block.startswith("    "):
            code = "\n".join(line.strip() for line in lines)
            yield Markup("<pre data-copy><code>{}</code></pre>").format(code)
        elif block:
            yield Markup("<p>{}</p>").format(_inline(block))


def _table(lines: Sequence[str]) -> Markup:
    header, _, *rows = ([_inline(cell) for cell in line[2:-2].split(" | ")] for line in lines)
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(cell) for cell in header)
    body = Markup("\n").join(
        Markup('<tr><th scope="row">{}</th>{}</tr>').format(
            row[0], Markup("").join(map(_cell, row[1:]))
        )
        for row in rows
    )
    return Markup(
        '<div class="scroll" tabindex="0" role="group" aria-label="table: {}">'
        "<table><thead><tr>{}</tr></thead>\n<tbody>\n{}\n</tbody></table></div>"
    ).format(", ".join(cell.striptags() for cell in header[:3]), head, body)


def _cell(content: Markup) -> Markup:
    """A number, or words, which may take more than a line."""
    is_long = len(content.striptags()) > 40
    return Markup('<td class="words">{}</td>' if is_long else "<td>{}</td>").format(content)


def _inline(text: str) -> Markup:
    """Links and code; pages are the repository's, files beside this one are named from here."""

    def link(found: re.Match[str]) -> str:
        words, place = found.groups()
        target = f"{DOCS}/{place}" if ".md" in place else place.rpartition("/")[2]
        return f'<a href="{target}">{words}</a>'

    marked = re.sub(r"\[([^\]]*)\]\(([^)]*)\)", link, str(escape(text)))
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", marked))
