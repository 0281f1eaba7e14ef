"""The page of the explorer in a real browser: what it says, its controls, its address, a file."""

import importlib.metadata
import json
import re

import pytest
import torch

from parfocal.guard import FocalGuard
from parfocal.losses.sigmoid import sigmoid_focal_loss

MINUS = "\N{MINUS SIGN}"
READY = """new Promise((ready, late) => {
  const end = Date.now() + 30000, look = () => document.body.ariaBusy === "false" ? ready(0)
    : Date.now() > end ? late(new Error("nothing is drawn")) : setTimeout(look, 20);
  look();
})"""


def _open(browser, path, fragment="", width=1280, *, dark=False):
    page = browser.open(path, width, 900, dark)
    assert page.errors() == []
    if fragment:
        page.evaluate(f"location.hash = {json.dumps(fragment)}; 0")
        page.settle()
    page.evaluate(READY)
    return page


def _set(page, name, value):
    """Type into a control."""
    page.evaluate(
        f"(c => {{ c.value = {json.dumps(value)};"
        " c.dispatchEvent(new Event('input', {bubbles: true})); })"
        f"(document.querySelector('[name={name}]'))"
    )
    page.evaluate(READY)


def _few(page):
    """A picture of few numbers: its tables are soon looked through."""
    page.evaluate("location.hash = '#dtype=bfloat16&from=16&to=18'; 0")
    page.settle()
    page.evaluate(READY)


def _table(page):
    """The rows of the table of cliffs."""
    rows = page.evaluate(
        "[...document.querySelector('#cliffs').tBodies[0].rows]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    return {row[0]: row[1:] for row in rows}


def test_one_small_file_that_fetches_nothing(path):
    """Below 200 kB; no address but that of Sleef's and of notices; a policy that allows nothing."""
    text = path.read_text()
    assert path.stat().st_size < 200_000
    assert "default-src 'none'" in text
    assert not re.search(
        r"\b(src|srcset|action)=|@import|url\(|fetch\(|XMLHttpRequest|import\(", text
    )
    links = set(re.findall(r'href="([^"#][^"]*)"', text))
    assert links == {"https://sleef.org"}
    assert "{{" not in text.partition("<script>")[0]


def test_versions_are_those_of_the_tests(build):
    """The page says whose bits they are; the tests compare them with what is installed."""
    told = build.versions()
    for name in ("torch", "torchvision", "monai", "kornia"):
        assert importlib.metadata.version(name).partition("+")[0] == told[name]


def test_modules_come_after_what_they_import(build):
    """As a bundle needs it."""
    order = build.order("view.js")
    assert order.index("floats.js") < order.index("elementary.js") < order.index("torch.js")
    assert order[-1] == "view.js"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_it_is_drawn_and_accessible(browser, path, width, dark):
    """At both widths and in both schemes."""
    page = _open(browser, path, width=width, dark=dark)
    assert page.text("#verdict") == "torchvision: NaN from a logit of 16.64 (float32)."
    assert page.evaluate("document.querySelectorAll('.plot canvas').length") == 4
    headings = page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)")
    assert headings == ["H1"] + ["H2"] * (len(headings) - 1)
    assert page.overflow() <= 0
    assert page.errors() == []
    _few(page)
    assert page.violations() == []


def test_what_it_says_of_each_loss(browser, path):
    """In words and in the table; at target 0 the logit is negative."""
    page = _open(browser, path, "#dtype=bfloat16&target=0&gamma=0.1")
    assert page.text("#verdict") == f"torchvision: NaN from a logit of {MINUS}6.25 (bfloat16)."
    rows = _table(page)
    assert [row[0] for row in rows.values()] == ["6.25", *["nowhere"] * 4]
    assert rows["parfocal, exact"][1] == "nowhere"
    assert float(rows["parfocal, exact"][2]) <= 0.5
    _set(page, "gamma", "2")
    assert (
        page.text("#verdict") == "No gradient is infinite or NaN up to a logit of 120 (bfloat16)."
    )


def test_without_a_loss_nothing_is_said_of_gradients(browser, path):
    """Neither that they break nor that they don't."""
    page = _open(browser, path, "#losses=")
    assert page.text("#verdict") == "No loss is chosen."
    assert _table(page) == {}


def test_the_address_is_the_picture(browser, path):
    """What is chosen stands in the fragment, and a page with that fragment shows the same."""
    page = _open(browser, path)
    for name, value in {"gamma": "0.7", "alpha": "", "dtype": "float16", "to": "12"}.items():
        _set(page, name, value)
    page.evaluate("document.querySelector('[name=losses][value=monai]').click()")
    page.evaluate(READY)
    fragment = page.evaluate("location.hash")
    assert fragment == (
        "#gamma=0.7&alpha=none&epsilon=0.001&dtype=float16&target=1&from=-10&to=12"
        "&losses=torchvision,kornia,smoothed,exact"
    )
    rows, first = _table(page), page.evaluate("document.querySelector('canvas').toDataURL()")
    again = _open(browser, path)
    assert _table(again) != rows
    again = _open(browser, path, fragment)
    assert _table(again) == rows
    assert again.evaluate("document.querySelector('canvas').toDataURL()") == first
    values = again.evaluate(
        "[...document.querySelectorAll('input[type=number]')].map(i => i.value)"
    )
    assert values == ["0.7", "", "0.001", "1", "-10", "12"]


def test_what_cannot_be_drawn_changes_nothing(browser, path):
    """A number out of its range is marked; a fragment of nonsense is the start."""
    page = _open(browser, path, "#gamma=-3&dtype=int8&from=9&to=2&losses=none")
    fragment = page.evaluate("module_state.format(module_state.parse(location.hash))")
    assert "gamma=0.5" in fragment
    assert "dtype=float32&target=1&from=-10&to=40&losses=" in fragment
    assert "dtype=float32" in page.evaluate(
        "module_state.format(module_state.parse('#dtype=constructor'))"
    )
    page = _open(browser, path, "#gamma=3")
    _set(page, "gamma", "-1")
    assert page.evaluate("document.querySelector('[name=gamma]').ariaInvalid") == "true"
    assert "gamma=3&" in page.evaluate("location.hash")
    page = _open(browser, path, "#from=-30&to=-15")
    _set(page, "from", "-10")
    invalid = "[...document.querySelectorAll('[aria-invalid=true]')].map(i => i.name)"
    assert page.evaluate(invalid) == ["from", "to"]
    assert "from=-30&to=-15" in page.evaluate("location.hash")


def test_keys_read_and_zoom_the_gradient(browser, path):
    """The arrows go from number to number, and the line under the chart tells them; + zooms."""
    page = _open(browser, path, "#from=16&to=17&losses=torchvision,exact")
    page.evaluate("document.querySelector('#gradient .plot').focus()")
    page.press("End")
    told = page.text("#gradient .readout")
    assert told.startswith(f"logit 17: the truth = {MINUS}")
    assert "torchvision = not finite" in told
    page.press("Home", "ArrowRight")
    assert page.text("#gradient .readout").startswith("logit 16.0021: the truth")
    page.press("+")
    page.evaluate("document.querySelector('#zoom').click()")
    page.evaluate(READY)
    low, high = map(float, re.findall(r"(?:from|to)=([\d.]+)", page.evaluate("location.hash")))
    assert 15.9 < low < 16.1
    assert high - low < 0.7


def test_every_control_is_reached_by_tab(browser, path):
    """In the order in which they stand."""
    page = _open(browser, path)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(20):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.id"))
    names = ["gamma", "slider", "alpha", "epsilon", "target", "dtype", "from", "to"]
    assert reached[1:15] == [*names, *["losses"] * 5, "zoom"]


DROP = """(text => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], "margins.json"));
  document.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, cancelable: true}));
  return new Promise(done => setTimeout(done, 100));
})(%s)"""


def test_margins_of_a_guard_are_drawn(browser, path):
    """The share beyond a cliff is that of the margins themselves."""
    guard = FocalGuard(sigmoid_focal_loss)
    x = torch.randn(1 << 12, generator=torch.Generator().manual_seed(5)) * 12
    guard(x.requires_grad_(), (torch.arange(1 << 12) % 2).float()).sum().backward()
    page = _open(browser, path)
    page.evaluate(DROP % json.dumps(json.dumps(guard.margins())))
    page.evaluate(READY)
    rows = _table(page)
    positives = x[1::2].detach()
    share = (positives >= 17).double().mean().item()  # of whole bins beyond 16.64
    assert float(rows["torchvision"][3].removesuffix(" %")) == pytest.approx(100 * share, abs=0.01)
    assert rows["kornia"][3:] == ["0 %", "0 %"]
    assert not page.evaluate("document.querySelector('#margins').hidden")
    assert page.text("#margins-of") == (
        "Margins of sigmoid_focal_loss at step 0, logits in float32."
    )
    _few(page)
    assert page.violations() == []


START_OF_ERROR = 'Expected the format "parfocal margins 1", got '


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no JSON", "This isn't JSON"),
        ('{"format": 1}', START_OF_ERROR + "1."),
        ('{"format": "parfocal margins 1", "edges": [1, 1]}', "Expected ascending edges"),
        (
            '{"format": "parfocal margins 1", "edges": [0, 1], "zeros": [1, 2], "ones": []}',
            "Expected 3 counts of margins",
        ),
        ('{"format": "parfocal margins 1", "edges": ["0", "1"]}', "Expected ascending edges"),
        (
            '{"format": "parfocal margins 1", "edges": [0, 1], "zeros": [1, 2, 3],'
            ' "ones": [1, 2, 3]}',
            "Expected the number of a step, got none.",
        ),
        (
            '{"format": "parfocal margins 1", "edges": [0, 1], "zeros": [1, 2, 3],'
            ' "ones": [1, 2, 3], "step": 1, "loss": {}}',
            "Expected the name of a loss, got {}.",
        ),
        (json.dumps({"format": "x" * 1000}), f'{START_OF_ERROR}"{"x" * 59}...'),
    ],
    ids=["text", "format", "edges", "counts", "edges in quotes", "step", "name", "length"],
)
def test_a_wrong_file_is_told_in_one_line(browser, path, text, told):
    """And nothing is drawn of it."""
    page = _open(browser, path)
    page.evaluate(DROP % json.dumps(text))
    page.evaluate(READY)
    assert page.text("#file-error").startswith(f"margins.json: {told}")
    assert page.evaluate("document.querySelector('#margins').hidden")
    assert page.errors() == []
