"""Formulas as MathML, which browsers typeset themselves: no script, nothing to fetch."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

FUNCTIONS = re.compile(
    r"(<mi>(?:log|exp|max|cos|softmax)</mi>|<mo>mean</mo>)(?!<mo[^>]*>&#x00028;)"
)

PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>(&#x0203[23];)</mi></msup>")

SIGN = re.compile(r"(<mrow>|<mtd[^>]*>|<mi />|<mo[^>]*>&#x000(?:28|3D);</mo>)<mo>(?=&#x02212;)")


def of_tex(tex: str, display: str) -> str:
    r"""The MathML of a formula; rows that are aligned at & stand in a table.

    >>> of_tex("p_t", "inline").count("<msub>")
    1
    >>> of_tex(r"a &= b \\ c &= d", "block").count("<mtr>")
    2
    """
    tex = tex.replace("{aligned}", "{split}")
    if "{split}" not in tex and ("&" in tex or r"\\" in tex):
        tex = rf"\begin{{split}}{tex}\end{{split}}"
    mathml = re.sub(r"\s*\n\s*", "", convert(tex, display=display))
    # Browsers set no space behind the name of a function, a raised prime too high, a sign as
    # they set a difference, and a bar as a relation.
    mathml = FUNCTIONS.sub(r'\1<mspace width="0.17em" />', mathml)
    mathml = PRIME.sub(r"\1<mo>\2</mo>", mathml)
    mathml = SIGN.sub(r'\1<mo form="prefix" rspace="0">', mathml)
    return mathml.replace("<mo>&#x0007C;</mo>", '<mo lspace="0" rspace="0">&#x0007C;</mo>')


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """A formula in a line."""
    self.body.append(of_tex(node.astext(), "inline"))
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """A formula of its own, which scrolls where it is wider than the page."""
    self.body.append(self.starttag(node, "div", CLASS="formula", tabindex="0"))
    if node["number"]:
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">({number})</span>')
    self.body.append(of_tex(node.astext(), "block") + "</div>")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """The renderer `mathml`."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True}
