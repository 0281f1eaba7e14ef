"""The documentation site: `make docs` builds it into `site/`, with warnings as errors."""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "extensions"), str(DOCS.parent / "src")]

import inventories  # noqa: E402
import parfocal  # noqa: E402

project = "parfocal"
project_copyright = "The parfocal developers, Apache-2.0"
release = version = parfocal.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "commands",
    "complete",
    "formulas",
    "llms",
    "made",
    "mathml",
    "measured",
    "repository",
]
exclude_patterns = ["extensions", "explorer", "reproduction/records"]

# Markdown: the anchors of headings are GitHub's, so that a link holds here and there.
myst_enable_extensions = ["dollarmath", "fieldlist"]
myst_heading_anchors = 3

# Docstrings: Google's sections; a word in single backticks is code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_use_unqualified_type_names = True

# Nothing is fetched: the names that are linked, and their pages, are in a file of ours.
intersphinx_mapping = inventories.write(DOCS / "extensions" / "inventories.toml")

# The examples `plot_*.py`, of seconds, are run, and show what they print and draw.
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_\w+\.py$",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "within_subsection_order": "FileNameSortKey",
    "reference_url": {"parfocal": None},
    "write_computation_times": False,
}

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"parfocal {release}"
html_static_path = ["static"]
templates_path = ["templates"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "github_url": "https://github.com/parfocal/parfocal",
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["made"],
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "navbar_persistent": ["search-button"],
    "pygments_light_style": "github-light-high-contrast",
    "pygments_dark_style": "github-dark-high-contrast",
}
html_context = {"default_mode": "auto"}
