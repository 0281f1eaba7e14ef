"""The page of an audit in a real browser: its figures are drawn, and answer."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from parfocal.audit import audit
from parfocal.audit.output.page import page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium isn't installed")

# After the page's own script: touch it, and say what it shows.
TOUCH = """<script>
const get = query => document.querySelector(query);
const root = document.documentElement;
const before = get('svg[data-figure="curve"]').innerHTML;
const select = document.querySelector('select[data-key="g"]');
select.value = "2"; select.dispatchEvent(new Event("change"));
const tip = document.querySelector("[data-tip]").textContent;
const changed = before !== get('svg[data-figure="curve"]').innerHTML;
const cells = document.querySelectorAll("rect.cell");
cells[0].dispatchEvent(new MouseEvent("click"));
const svg = get('svg[data-figure="curve"]');
svg.dispatchEvent(new PointerEvent("pointermove", {clientX: 200, clientY: 100}));
const found = {
  bad: before.split('class="bad"').length - 1, changed, tip,
  touched: get('select[data-key="g"]').value, pointed: get("[data-tip]").textContent,
  cells: cells.length, width: root.scrollWidth, window: window.innerWidth,
  points: document.querySelectorAll('svg[data-figure="ulp"] circle').length,
};
document.body.innerHTML = '<pre id="found"></pre>';
document.getElementById("found").textContent = JSON.stringify(found);
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARFOCAL_CACHE", str(tmp_path_factory.mktemp("truths")))
        target = f"{Path(__file__).with_name('planted.py')}:plain"
        yield audit(target, quick=True, gammas=(0.5, 2.0), dtypes=[torch.float32])


@pytest.mark.parametrize("width", [1200, 500])
def test_figures_are_drawn_and_answer(report, tmp_path, width):
    path = tmp_path / "audit.html"
    path.write_text(page([report]).replace("</body>", TOUCH + "</body>"))
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", path.as_uri(),
        ],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    text = done.stdout.partition('<pre id="found">')[2].partition("</pre>")[0]
    found = json.loads(text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
    assert found["bad"] > 10, "no red points where the gradient isn't finite"
    assert found["changed"]
    assert "gamma 2" in found["tip"]
    assert found["touched"] == "0.5"  # by the click on a cell of the heat map
    assert found["pointed"].startswith("logit ")
    assert found["cells"] > 50
    assert found["points"] > 50
    assert found["width"] <= found["window"], "the page is wider than the window"


def test_nothing_is_loaded_from_elsewhere(report):
    """Self-contained: no address but that of the SVG namespace."""
    html = page([report])
    assert html.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    assert "src=" not in html
