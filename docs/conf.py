"""Sphinx settings: Markdown pages, a warning is an error (`make docs`)."""

from importlib import metadata

project = "reinfuse"
author = "The reinfuse contributors"
release = metadata.version("reinfuse")
extensions = ["myst_parser"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["generated/*", "_build"]
html_theme = "furo"
html_title = f"reinfuse {release}"
html_show_sphinx = False
html_copy_source = False
