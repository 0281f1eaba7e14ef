"""Look at pages of the built site as axe-core does, at both widths, light and dark.

    python tests/look_at_site.py site

Exit status 1 for a page that breaks a rule or is wider than its window; `make docs` runs it.
"""

import sys
from pathlib import Path

from pages.browser import CHROMIUM, Browser

# One of each kind.
PAGES = (
    "index.html",
    "tutorial.html",
    "guides.html",
    "why-it-is-exact.html",
    "reference/sigmoid_focal_loss.html",
    "reference/benchmarks.html",
    "gallery/plot_gradient.html",
    "explorer.html",
)
WINDOWS = ((1280, False), (390, True))


def faults(site):
    """What is wrong with the pages, a line each."""
    with Browser() as browser:
        for name in PAGES:
            for width, dark in WINDOWS:
                page = browser.open(site / name, width, 900, dark=dark)
                seen = f"{name}, {width} pixels, {'dark' if dark else 'light'}"
                for violation in page.violations(opened=False):
                    yield f"{seen}: {violation}"
                if page.overflow():
                    yield f"{seen}: wider than its window"


def main(folder):
    """Print the faults; the exit status."""
    if CHROMIUM is None:
        print("no Chromium to look at the site with")
        return 0
    found = list(faults(Path(folder).resolve()))
    print("\n".join(found) or f"{len(PAGES)} pages keep the rules")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
