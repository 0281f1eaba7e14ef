"""`llms.txt`: the pages of the site for language models, a line each (https://llmstxt.org)."""

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx


def first_paragraph(page: nodes.document) -> str:
    """What a page begins with, in one line."""
    for paragraph in page.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if text:
            return text
    return ""


def write(app: Sphinx, error: Exception | None) -> None:
    """The file, after a build that succeeded."""
    if error is not None or app.builder.format != "html":
        return
    env = app.env
    lines = [f"# {app.config.project}", "", f"> {first_paragraph(env.get_doctree('index'))}"]
    for section in env.toctree_includes.get("index", []):
        pages = [section, *env.toctree_includes.get(section, [])]
        lines += ["", f"## {env.titles[section].astext()}", ""]
        for page in pages:
            title, said = env.titles[page].astext(), first_paragraph(env.get_doctree(page))
            lines.append(f"- [{title}]({app.builder.get_target_uri(page)}): {said}")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to the end of a build."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}
