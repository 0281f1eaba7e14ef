"""The formulas of docstrings, typeset.

A docstring writes a formula as one types it, ``alpha_t (1 - p_t) ** gamma ce``, in an indented
block. `help()` shows it so; on the site the same block is read by the grammar below and typeset.

    equation  sides, joined by =, !=, <, <=, >, >=, a comma, `or`
    side      products, joined by + and -
    product   powers side by side, divided by what follows a /
    power     atom ** atom
    atom      number, name, number of WORDS, f(side), log atom, (side), |side|, [equation],
              sum of product, sum over NAME of product, mean over WORDS of product

Columns are set apart by two spaces or more; a column that isn't in this grammar is prose.
"""

import re
from typing import NamedTuple

from sphinx.application import Sphinx

GREEK = {"alpha", "beta", "gamma", "delta", "epsilon", "pi"}
FUNCTIONS = {"log": r"\log", "exp": r"\exp", "max": r"\max", "cos": r"\cos"}
RELATIONS = {"=": "=", "!=": r"\neq", "<": "<", "<=": r"\leq", ">": ">", ">=": r"\geq"}
BRACKETS = {"(": ")", "[": "]", "|": "|"}
TOKEN = re.compile(
    r"""(?P<space>\s*)(?:
        (?P<number>\d+(?:\.\d+)?)
      | (?P<words>(?:number|logsumexp)\ of(?:\ [a-z]+)+)
      | (?P<name>[A-Za-z]+'?(?:_(?:\w+|\([^()]*\)))?)
      | (?P<sign>\*\*|!=|<=|>=|\.\.\.|[-+/^=<>,()\[\]|])
    )""",
    re.VERBOSE,
)


class Token(NamedTuple):
    """A piece of a formula: its text, its kind, and whether a space comes before it."""

    text: str
    kind: str
    is_apart: bool


class NotAFormulaError(ValueError):
    """A text that isn't in the grammar."""


def tokens(text: str) -> list[Token]:
    """The pieces of a formula.

    >>> [token.text for token in tokens("alpha_t (1 - p_t) ** gamma_pos")]
    ['alpha_t', '(', '1', '-', 'p_t', ')', '**', 'gamma_pos']
    """
    found, end = [], 0
    while text[end:].strip():
        match = TOKEN.match(text, end)
        if match is None:
            raise NotAFormulaError(text)
        kind = match.lastgroup or ""
        found.append(Token(match[kind], kind, bool(match["space"])))
        end = match.end()
    return found


class Reader:
    """Reads one formula from left to right, and gives its TeX."""

    def __init__(self, text: str) -> None:
        """Start before the first token."""
        self.text = text
        self.rest = tokens(text)

    def peek(self, place: int = 0) -> str:
        """The text of a token to come, or nothing."""
        return self.rest[place].text if place < len(self.rest) else ""

    def take(self, expected: str = "") -> Token:
        """The next token."""
        if not self.rest or (expected and self.peek() != expected):
            raise NotAFormulaError(self.text)
        return self.rest.pop(0)

    def equation(self, end: str = "") -> str:
        """Sides and relations, up to a closing bracket or the last token."""
        tex = self.side()
        while self.peek() != end:
            sign = self.take().text
            if sign == ",":
                tex += r",\, " if end else r",\quad "
            elif sign == "or":
                tex += r"\text{ or }"
            elif sign in RELATIONS:
                tex += f" {RELATIONS[sign]} "
            else:
                raise NotAFormulaError(self.text)
            tex += self.side()
        return tex

    def side(self) -> str:
        """Products, added and subtracted."""
        tex = ""
        while True:
            if self.peek() in ("-", "+"):
                tex += f" {self.take().text} "
            tex += self.product()
            if self.peek() not in ("-", "+"):
                return tex

    def product(self, divides: bool = True) -> str:
        """Powers, multiplied and divided from left to right."""
        tex = self.power()
        while True:
            if divides and self.peek() == "/":
                self.take()
                tex = rf"\frac{{{bare(tex)}}}{{{bare(self.power())}}}"
            elif self.starts_a_power():
                tex += rf"\,{self.power()}"
            else:
                return tex

    def starts_a_power(self) -> bool:
        """Whether a factor comes next."""
        if not self.rest or self.peek() == "or":
            return False
        return self.rest[0].kind in ("number", "name") or self.peek() in ("(", "[")

    def power(self) -> str:
        """A factor and its exponent."""
        base = self.atom()
        if self.peek() in ("**", "^"):
            self.take()
            return f"{{{base}}}^{{{bare(self.atom())}}}"
        return base

    def atom(self) -> str:
        """What isn't added, multiplied or raised."""
        token = self.take()
        if token.text in BRACKETS:
            return bracketed(token.text, self.up_to(BRACKETS[token.text]), BRACKETS[token.text])
        if token.text in ("sum", "mean") and self.peek() in ("of", "over"):
            return self.sum_or_mean(token.text)
        if token.text == "the":
            return self.atom()
        if token.kind == "name":
            return self.named(token.text)
        plain = {"number": token.text, "words": rf"\text{{{token.text}}}"}
        if token.kind not in plain and token.text != "...":
            raise NotAFormulaError(self.text)
        return plain.get(token.kind, r"\dots")

    def up_to(self, bracket: str) -> str:
        """What is inside of brackets."""
        tex = self.equation(bracket)
        self.take(bracket)
        return tex

    def sum_or_mean(self, word: str) -> str:
        """A sum or a mean with what it goes over, and its terms."""
        sign = r"\sum" if word == "sum" else r"\operatorname{mean}"
        over = ""
        if self.take().text == "over":
            until = next((i for i, t in enumerate(self.rest) if t.text == "of"), 0)
            index = [self.take() for _ in range(until)]
            self.take("of")
            texts = [token.text for token in index]
            is_index = (len(texts) == 1 and len(texts[0]) == 1) or "!=" in texts
            inside = Reader(" ".join(texts)).equation() if is_index else prose(" ".join(texts))
            over = f"_{{{inside}}}"
        return rf"{sign}{over} {self.product(divides=False)}"

    def named(self, word: str) -> str:
        """A function with its argument, or a variable."""
        tex = name(word)
        if self.peek() == "(" and not self.rest[0].is_apart:
            self.take()
            inside = self.up_to(")")
            return rf"\sqrt{{{inside}}}" if word == "sqrt" else tex + bracketed("(", inside, ")")
        if self.peek() == "[" and not self.rest[0].is_apart:
            self.take()
            return f"{tex}_{{{self.up_to(']')}}}"
        if word in FUNCTIONS:
            return rf"{tex} {self.power()}"
        return tex


def bracketed(opening: str, inside: str, closing: str) -> str:
    """An expression in brackets, which are as high as a fraction in it."""
    if r"\frac" not in inside and r"\sum" not in inside:
        return f"{opening}{inside}{closing}"
    return rf"\left{opening}{inside}\right{closing}"


def bare(tex: str) -> str:
    """An expression without the round brackets around all of it, where nothing depends on them."""
    tall = re.fullmatch(r"\\left\((.*)\\right\)", tex)
    match = tall if tall and r"\left" not in tall[1] else re.fullmatch(r"\(([^()]*)\)", tex)
    return match[1] if match else tex


def name(word: str) -> str:
    r"""The TeX of a name with its index.

    >>> name("gamma_pos"), name("p_t"), name("g_(i+1)"), name("log"), name("smooth")
    ('\\gamma_{\\mathrm{pos}}', 'p_{t}', 'g_{i+1}', '\\log', '\\mathrm{smooth}')
    """
    stem, _, index = word.partition("_")
    stem, prime = stem.rstrip("'"), "'" if "'" in stem else ""
    if stem in FUNCTIONS:
        tex = FUNCTIONS[stem]
    elif stem in GREEK:
        tex = rf"\{stem}"
    else:
        tex = stem if len(stem) == 1 else rf"\mathrm{{{stem}}}"
    index = index.strip("()")
    if len(index) > 1 and index.isalpha():
        index = rf"\mathrm{{{index}}}"
    return tex + prime + (f"_{{{index}}}" if index else "")


def prose(text: str) -> str:
    """Words beside a formula, whose equations are typeset."""
    parts = re.split(r"(\w+ (?:=|!=|<|<=|>|>=) [\w.]+)", text)
    return "".join(
        Reader(part).equation() if place % 2 else rf"\text{{{part}}}"
        for place, part in enumerate(parts)
        if part
    )


def is_formula(cell: str) -> bool:
    """Whether a column is an equation, and not words about one."""
    if not re.search(r" (=|<=|<) ", cell) or re.match(r'(where|for|of|with|without)\b|"', cell):
        return False
    try:
        Reader(cell).equation()
    except NotAFormulaError:
        return False
    return True


def columns(line: str) -> list[str]:
    """The columns of a line; an = may be set below another by spaces."""
    line = re.sub(r"\s+=\s+", " = ", line.strip())
    return re.split(r"\s{2,}", line)


def typeset(block: list[str]) -> list[str] | None:
    """The rows of a block of formulas in TeX, or None where the block is something else.

    A line that is indented deeper goes on with the one before: with its formula where it begins
    with a sign, with its prose else.
    """
    rows: list[list[str]] = []
    indent = len(block[0]) - len(block[0].lstrip())
    for line in block:
        cells = columns(line)
        is_deeper = len(line) - len(line.lstrip()) > indent
        if rows and is_deeper and not is_formula(cells[0]):
            place = 0 if cells[0][0] in "+-" else -1
            rows[-1][place] += f" {cells[0]}"
        else:
            rows.append(cells)
    if not all(is_formula(row[0]) for row in rows):
        return None
    return [row_in_tex(row) for row in rows]


def row_in_tex(cells: list[str]) -> str:
    """One row: its first relation is what the rows are aligned at."""
    first, *others = cells
    tex = Reader(first).equation()
    left, _, right = tex.partition(" = ")
    aligned = f"{left} &= {right}" if right else f"{left} &"
    more = (Reader(c).equation() if is_formula(c) else prose(c) for c in others)
    return aligned + "".join(rf" \qquad {cell}" for cell in more)


def blocks(lines: list[str]) -> list[tuple[int, int]]:
    """Where the literal blocks of a docstring begin and end."""
    found = []
    for place, line in enumerate(lines):
        if not line.rstrip().endswith("::") or line.lstrip().startswith(".."):
            continue
        start = place + 1
        while start < len(lines) and not lines[start].strip():
            start += 1
        if start == len(lines):
            continue
        depth = len(line) - len(line.lstrip())
        end = start
        while end < len(lines) and (
            not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > depth
        ):
            end += 1
        while not lines[end - 1].strip():
            end -= 1
        found.append((start, end))
    return found


def set_formulas(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Put a `math` directive in the place of each block of formulas of a docstring."""
    for start, end in reversed(blocks(lines)):
        rows = typeset([line for line in lines[start:end] if line.strip()])
        if rows is None:
            continue
        head = lines[start - 2] if not lines[start - 1].strip() else lines[start - 1]
        depth = " " * (len(head) - len(head.lstrip()))
        body = [rf"{depth}   {row} \\" for row in rows]
        body[-1] = body[-1].removesuffix(r" \\")
        place = start - 1
        while not lines[place].strip():
            place -= 1
        lines[place] = lines[place].rstrip().removesuffix(":")
        lines[start:end] = [f"{depth}.. math::", "", *body, ""]


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to autodoc."""
    app.connect("autodoc-process-docstring", set_formulas)
    return {"parallel_read_safe": True}
