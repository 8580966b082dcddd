"""The coefficients satisfy the conditions that give a method its order, error estimates and interpolant."""

import itertools
import math
from functools import cache

import numpy as np
import pytest

from reinfuse.model.kernels.tableaux import METHODS, TSIT5, VERN7, Tableau

#: Orders of the embedded solution and of the interpolant.
EMBEDDED = {"tsit5": 4, "vern7": 6}
INTERPOLANT = {"tsit5": 4, "vern7": 7}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=lambda m: m.name)


@cache
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


def stage_weight(method: Tableau, tree: tuple) -> np.ndarray:
    inner = [method.matrix @ stage_weight(method, child) for child in tree]
    return np.prod(inner, axis=0) if inner else np.ones(method.slots)


def residual(method: Tableau, weights: np.ndarray, tree: tuple, at: float = 1.0) -> float:
    return float(weights @ stage_weight(method, tree) - at ** size(tree) / density(tree))


def weights_at(method: Tableau, x: float) -> np.ndarray:
    return method.dense @ x ** np.arange(1, method.dense.shape[1] + 1)


def solution(method: Tableau) -> np.ndarray:
    return method.matrix[method.stages - 1]


def up_to(order: int) -> list[tuple]:
    return [tree for n in range(1, order + 1) for tree in rooted_trees(n)]


def test_the_trees_are_counted_right():
    assert [len(rooted_trees(n)) for n in range(1, 9)] == [1, 1, 2, 4, 9, 20, 48, 115]


@methods
def test_the_method_is_explicit_and_its_nodes_are_row_sums(method):
    assert np.all(np.triu(method.matrix) == 0)
    np.testing.assert_allclose(method.matrix.sum(axis=1), method.nodes, atol=1e-13)


@methods
def test_the_last_stage_is_the_first_of_the_next_step(method):
    assert method.nodes[method.stages - 1] == 1.0
    assert np.all(solution(method)[method.stages - 1 :] == 0.0)


@methods
def test_the_solution_has_its_order(method):
    assert max(abs(residual(method, solution(method), tree)) for tree in up_to(method.order)) < 1e-12


@methods
def test_the_solution_has_no_higher_order(method):
    assert max(abs(residual(method, solution(method), tree)) for tree in rooted_trees(method.order + 1)) > 1e-7


@methods
def test_the_embedded_solution_has_its_order_only(method):
    embedded, order = solution(method).copy(), EMBEDDED[method.name]
    embedded[: method.stages] -= method.error
    assert max(abs(residual(method, embedded, tree)) for tree in up_to(order)) < 1e-12
    assert max(abs(residual(method, embedded, tree)) for tree in rooted_trees(order + 1)) > 1e-5


@methods
@pytest.mark.parametrize("x", np.linspace(0, 1, 11))
def test_the_interpolant_has_its_order_everywhere(method, x):
    trees = up_to(INTERPOLANT[method.name])
    assert max(abs(residual(method, weights_at(method, x), tree, at=x)) for tree in trees) < 1e-11


@methods
def test_the_interpolant_joins_smoothly(method):
    degrees = np.arange(1, method.dense.shape[1] + 1)
    np.testing.assert_allclose(weights_at(method, 1.0), solution(method), atol=1e-11)
    np.testing.assert_allclose(method.dense[:, 0], np.eye(method.slots)[0], atol=1e-12)
    np.testing.assert_allclose(method.dense @ degrees, np.eye(method.slots)[method.stages - 1], atol=1e-10)


def test_tsit5_has_no_stage_of_its_own_for_the_interpolant():
    assert (TSIT5.slots, VERN7.slots - VERN7.stages) == (TSIT5.stages, 5)
