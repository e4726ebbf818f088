"""How the documentation is built: ``make docs``, without torch and without network."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "pytest-elastic"
author = "The pytest-elastic developers"
version = release = version_of("pytest-elastic")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

myst_heading_anchors = 4
myst_links_external_new_tab = False
highlight_language = "none"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_title = "pytest-elastic"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = ["torch"]
python_use_unqualified_type_names = True

nitpicky = True
# Signatures name what others document; their inventories are on the network, and nothing is fetched here.
nitpick_ignore_regex = [
    ("py:class", r"_?pytest\..*|torch\..*|etcd\..*"),
    ("py:class", r"(os|pathlib|re|collections\.abc|datetime)\..*"),
]
# torch's too, in the words of the files that import them while types are checked only.
nitpick_ignore = [
    ("py:class", "Event"),
    ("py:class", "LaunchConfig"),
    # What `pytest.fixture` takes as scope= and ids=.
    ("py:class", "ScopeOf"),
    ("py:class", "Ids"),
]
autodoc_type_aliases = {"LaunchSpec": "pytest_elastic.spec.LaunchSpec"}
