"""PyMC, imported before any test without the warnings of its own imports."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import pymc  # noqa: F401
