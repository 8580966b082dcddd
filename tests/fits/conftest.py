"""Two small cohorts, posed once: every test of a fit shares their two kernels."""

import numpy as np
import pytest

from reinfuse.fits.coordinates import Coordinates

from . import small_cohorts  # before the tests: it imports PyMC without its warnings
from .small_cohorts import Posed


@pytest.fixture(scope="session")
def one_infusion() -> Posed:
    """Four patients of each product with one infusion."""
    return small_cohorts.posed(one=4, two=0)


@pytest.fixture(scope="session")
def two_infusions() -> Posed:
    """Three patients with two infusions, and two of each product with one."""
    return small_cohorts.posed(one=2, two=3)


@pytest.fixture(scope="session", params=["one_infusion", "two_infusions"])
def either(request) -> Posed:
    """Both cohorts, one after the other."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def explored(one_infusion) -> Coordinates:
    """The coordinates in which a fit of the first cohort samples."""
    from reinfuse.fits.geometry import prepare

    return prepare(one_infusion.problem, one_infusion.density, one_infusion.layout, np.random.default_rng(1))
