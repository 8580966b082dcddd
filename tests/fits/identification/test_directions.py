"""Eigen-directions in words."""

import numpy as np
import pytest

from reinfuse.fits.identification.directions import directions


def weakest(information, sd=(1.0, 1.0), names=("KE", "B0"), logs=(True, True)):
    return directions(np.asarray(information, dtype=float), np.asarray(sd), names, logs)[0]


def seen_along(*combination: float) -> np.ndarray:
    """Information of data that see one combination only, and that very well."""
    v = np.asarray(combination)
    return 1e4 * np.outer(v, v)


def test_data_that_see_a_product_are_said_to():
    found = weakest(seen_along(1.0, 1.0))
    assert "only their product is seen" in found.words
    assert found.value == pytest.approx(0.0, abs=1e-8)
    assert found.contraction == pytest.approx(0.0, abs=1e-8)


def test_data_that_see_a_ratio_are_said_to():
    assert "only their ratio is seen" in weakest(seen_along(1.0, -1.0)).words


@pytest.mark.parametrize("power", [0.5, 2.0])
def test_data_that_see_a_power_name_it(power):
    """Seen is ln B0 + power ln KE, whichever comes first in the sentence."""
    words = weakest(seen_along(power, 1.0)).words
    first = "only B0 × KE^0.5 is seen" if power < 1 else "only KE × B0^0.5 is seen"
    assert first in words


def test_widths_of_priors_change_what_moves_not_what_is_seen():
    words = weakest(seen_along(1.0, 1.0), sd=(2.0, 0.7)).words
    assert "their product" in words


def test_a_parameter_by_itself_is_named_alone():
    found = directions(np.diag([0.0, 1e4, 0.9]), np.ones(3), ["hg", "rho", "tg"], [True] * 3)
    assert [one.words for one in found] == [
        "hg by itself: hardly seen",
        "tg by itself: partly seen",
        "rho by itself: measured",
    ]


def test_scales_that_are_no_logarithms_make_no_product():
    words = weakest(seen_along(1.0, 1.0), logs=(True, False)).words
    assert "product" not in words
    assert "hardly seen apart" in words


def test_eigenvalues_are_in_units_of_the_prior():
    found = directions(np.diag([4.0, 1.0]), np.array([0.5, 3.0]), ["a", "b"], [True, True])
    assert [one.value for one in found] == pytest.approx([1.0, 9.0])
    assert [one.contraction for one in found] == pytest.approx([0.5, 0.9])
