"""Tsit5's coefficients satisfy the conditions that give it its order, error estimate and interpolant."""

import itertools
import math

import numpy as np
import pytest

from reinfuse.model.kernels.tableaux import DENSE, ERROR, MATRIX, NODES, STAGES

WEIGHTS = MATRIX[STAGES - 1]


def rooted_trees(order: int) -> list[tuple]:
    """All rooted trees with so many nodes; a tree is the sorted tuple of the trees on its root."""
    if order == 1:
        return [()]
    found = set()
    for first in range(1, order):
        for small, rest in itertools.product(rooted_trees(first), rooted_trees(order - first)):
            found.add(tuple(sorted((*rest, small))))
    return sorted(found)


def size(tree: tuple) -> int:
    return 1 + sum(map(size, tree))


def density(tree: tuple) -> int:
    return size(tree) * math.prod(map(density, tree))


def stage_weight(tree: tuple) -> np.ndarray:
    return np.prod([MATRIX @ stage_weight(child) for child in tree], axis=0) if tree else np.ones(STAGES)


def residual(weights: np.ndarray, tree: tuple, at: float = 1.0) -> float:
    return float(weights @ stage_weight(tree) - at ** size(tree) / density(tree))


def weights_at(x: float) -> np.ndarray:
    return DENSE @ x ** np.arange(1, DENSE.shape[1] + 1)


def test_the_trees_are_counted_right():
    assert [len(rooted_trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


def test_the_method_is_explicit_and_its_nodes_are_row_sums():
    assert np.all(np.triu(MATRIX) == 0)
    np.testing.assert_allclose(MATRIX.sum(axis=1), NODES, atol=1e-14)


def test_the_last_stage_is_the_first_of_the_next_step():
    assert NODES[-1] == 1.0
    assert WEIGHTS[-1] == 0.0


@pytest.mark.parametrize("tree", [t for n in range(1, 6) for t in rooted_trees(n)], ids=str)
def test_the_solution_has_order_five(tree):
    assert residual(WEIGHTS, tree) == pytest.approx(0.0, abs=1e-13)


def test_the_solution_has_no_higher_order():
    assert max(abs(residual(WEIGHTS, tree)) for tree in rooted_trees(6)) > 1e-5


def test_the_embedded_solution_has_order_four_only():
    embedded = WEIGHTS - ERROR
    low = [residual(embedded, tree) for n in range(1, 5) for tree in rooted_trees(n)]
    np.testing.assert_allclose(low, 0.0, atol=1e-13)
    assert max(abs(residual(embedded, tree)) for tree in rooted_trees(5)) > 1e-4


@pytest.mark.parametrize("tree", [t for n in range(1, 5) for t in rooted_trees(n)], ids=str)
def test_the_interpolant_has_order_four_everywhere(tree):
    worst = max(abs(residual(weights_at(x), tree, at=x)) for x in np.linspace(0, 1, 21))
    assert worst == pytest.approx(0.0, abs=1e-13)


def test_the_interpolant_joins_smoothly():
    np.testing.assert_allclose(weights_at(1.0), WEIGHTS, atol=1e-13)
    slope_at_1 = DENSE @ np.arange(1, DENSE.shape[1] + 1)
    np.testing.assert_allclose(DENSE[:, 0], np.eye(STAGES)[0], atol=1e-15)
    np.testing.assert_allclose(slope_at_1, np.eye(STAGES)[-1], atol=1e-12)
