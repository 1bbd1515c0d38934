"""Settings of the site: Sphinx reads the repository's Markdown where it lies.

The source folder is the repository's root, so that a link such as
../benchmarks/results/shots.md leads to the same page here and on a code host.
"""

project = "fakedetect-jax"
author = copyright = "fakedetect-jax developers"
extensions = ["myst_parser", "sphinx_copybutton", "sphinx_design"]
root_doc = "docs/index"
include_patterns = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"),
    *("ACKNOWLEDGEMENTS.md", "CODE_OF_CONDUCT.md"),
    *("docs/**.md", "benchmarks/results/*.md"),
]
exclude_patterns = [".*", "build", "dist", "runs", "**/node_modules"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4  # links such as page.md#a-heading, as code hosts make them
# A block without a language is a command line or its output: no guesses.
highlight_language = "none"
# The same heading may stand in two tables of one result.
suppress_warnings = ["myst.header"]

html_theme = "furo"
html_title = "fakedetect-jax"
html_static_path = ["site"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
# The first page lies in docs/; this leads to it from the top.
html_extra_path = ["top"]
html_theme_options = {"navigation_with_keys": True}
