"""The likelihood's discrete adjoint against central differences, for every parameter, assay and censoring."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from reinfuse.model.course import Infusion, resolve
from reinfuse.model.densities import DENSITIES, Family
from reinfuse.model.derive.build import Kernel, build
from reinfuse.model.equations import bcma
from reinfuse.model.parameters import VARIANTS, median
from reinfuse.model.schedule import FAR, events, slot_parameters

from . import twin

KINDS = ("transgene", "cart", "sbcma", "mprotein", "progression", "death")
ASSAYS = KINDS[:4]
COMBINATIONS = [(k, f) for k in ASSAYS for f in (Family.QUANTIFIED, Family.BELOW, Family.ABOVE)]
COMBINATIONS += [(k, f) for k in KINDS[4:] for f in (Family.EVENT, Family.NO_EVENT)]
LEVELS = {"transgene": 8.0, "cart": 2.0, "sbcma": 3.0, "mprotein": 1.0, "progression": 0.0, "death": 0.0}
PATIENTS = 8  # one group of lanes
TIGHT = 1e-11
SOLVED = 0


@dataclass
class Problem:
    """Patients with every assay and censoring, at times before, at and after their events."""

    kernel: Kernel
    theta: np.ndarray
    happenings: tuple[np.ndarray, np.ndarray, np.ndarray]
    time: np.ndarray
    kind: np.ndarray
    family: np.ndarray
    value: np.ndarray
    count: np.ndarray

    @property
    def n(self) -> int:
        return len(self.theta)

    @property
    def records(self) -> tuple[np.ndarray, ...]:
        return self.time, self.kind, self.family, self.value, self.count

    def evaluate(self, theta=None, *, tol=TIGHT, max_steps=30_000, order=None):
        theta = self.theta if theta is None else theta
        loglik, grad = np.full(self.n, np.nan), np.full(theta.shape, np.nan)
        status = np.full(self.n, -1)
        order = np.arange(self.n) if order is None else order
        self.kernel.loglik_grad(
            order, theta, *self.happenings, *self.records, tol, max_steps, True, loglik, grad, status
        )
        return loglik, grad, status

    def column(self, name: str) -> int:
        return self.kernel.parameters.index(name)

    def size(self, name: str) -> np.ndarray:
        """What a relative change of a parameter refers to."""
        value = np.abs(self.theta[:, self.column(name)])
        return np.where(value == 0, 1.0, value)

    def difference(self, name: str, step: float) -> np.ndarray:
        """Central difference of order four."""
        h = step * self.size(name)

        def at(multiple):
            theta = self.theta.copy()
            theta[:, self.column(name)] += multiple * h
            loglik, _, status = self.evaluate(theta)
            assert np.all(status == SOLVED)
            return loglik

        return (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h)


def pose(infusions: int, *, seed: int, fixed=None, method="tsit5") -> Problem:
    """A problem whose patients have from one to `infusions` infusions."""
    rng = np.random.default_rng(seed)
    kernel = build(bcma.build(infusions, bcma.OPTIONS["real"]), fixed=fixed, kinds=KINDS, readouts=(), method=method)
    second = np.where(np.arange(PATIENTS) % 4 == 3, np.inf, 150.0 + 20.0 * np.arange(PATIENTS))
    third = np.where(np.arange(PATIENTS) % 2 == 1, np.inf, second + 200.0)
    course = [
        Infusion(product="ide-cel"),
        Infusion(product="cilta-cel", day=second, bridging=0.3, lymphodepletion=0.8),
        Infusion(product="ide-cel", day=third, bridging=0.5),
    ][:infusions]
    resolved = resolve(course)
    values = median("real") | slot_parameters(resolved, "real")
    theta = np.empty((PATIENTS, len(kernel.parameters)))
    for i, name in enumerate(kernel.parameters):
        spread = 0.0 if name.startswith("day_") else 0.15
        theta[:, i] = values[name] * (1.0 + spread * rng.uniform(-1, 1, PATIENTS))
    happenings = events(resolved, PATIENTS, kernel.events)

    rows: list[list[tuple[float, str, Family]]] = []
    for patient in range(PATIENTS):
        at_events = [t for t in happenings[0][patient] if t < FAR]
        fill = [1.0, 7.0, 14.0, 28.0, 60.0, 100.0, 145.0, 180.0, 290.0, 330.0, 400.0, 431.5, 520.0, 640.0]
        days = sorted([*at_events, *at_events, *fill, *fill])
        turned = np.roll(np.arange(len(COMBINATIONS)), 5 * patient)
        rows.append([(t, *COMBINATIONS[turned[i % len(turned)]]) for i, t in enumerate(days)])
    width = max(map(len, rows))
    shape = (PATIENTS, width)
    time, value = np.zeros(shape), np.zeros(shape)
    kind, family = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for patient, own in enumerate(rows):
        for i, (t, name, how) in enumerate(own):
            time[patient, i], kind[patient, i], family[patient, i] = t, KINDS.index(name), how
            value[patient, i] = LEVELS[name] + rng.normal()
    return Problem(kernel, theta, happenings, time, kind, family, value, np.array([len(r) for r in rows]))


@pytest.fixture(scope="module")
def two() -> Problem:
    return pose(2, seed=1)


@pytest.fixture(scope="module")
def one() -> Problem:
    """As a fit to one infusion takes it: without exhaustion, some parameters fixed."""
    variant = VARIANTS["no-exhaustion"]
    fixed = dict(variant.parameters) | {f"{name}_1": v for name, v in variant.product.items()}
    fixed |= {"wB": 0.5, "cG": 0.3, "wG": 0.15, "occ_1": 0.0, "xi": 0.05}
    return pose(1, seed=2, fixed=fixed)


@pytest.fixture(scope="module")
def three() -> Problem:
    return pose(3, seed=3)


def agrees(problem: Problem, names: Sequence[str]) -> None:
    """Derivatives by relative changes: to 1e-5, and 3e-7 where differences can tell no more."""
    _, grad, status = problem.evaluate()
    assert np.all(status == SOLVED)
    faults = []
    for name in names:
        found = grad[:, problem.column(name)] * problem.size(name)
        wanted = problem.difference(name, 2e-4) * problem.size(name)
        worst = np.max(np.abs(found - wanted) / (1e-5 * np.abs(wanted) + 3e-7))
        if not worst < 1.0:
            faults.append(f"{name}: {worst:.1f} times the tolerance")
    assert not faults, "; ".join(faults)


def differentiable(problem: Problem) -> list[str]:
    """All parameters but the days of infusions: those are data, and a step of time is not smooth."""
    return [name for name in problem.kernel.parameters if not name.startswith("day_")]


class TestDerivatives:
    def test_one_infusion(self, one):
        assert len(differentiable(one)) > 50
        agrees(one, differentiable(one))

    def test_two_infusions(self, two):
        """All have records exactly at their events; a quarter of the patients has no second infusion."""
        names = differentiable(two)
        assert {"sline", "sres", "survive_2", "bridge_2", "occ_2", "chi_2", "qLD", "bT_2", "hD"} <= set(names)
        agrees(two, names)

    def test_three_infusions(self, three):
        own = [name for name in differentiable(three) if name.endswith("_3")]
        assert len(own) > 12
        agrees(three, [*own, "rho", "tg", "r", "qLD", "sline", "survive_2", "sigma_cart", "Bc"])

    def test_the_method_for_tight_tolerances_has_the_same(self, two):
        """Its interpolant has stages of its own, which the reverse sweep has to visit."""
        other = pose(2, seed=1, method="vern7")
        same = Problem(other.kernel, two.theta, two.happenings, *two.records)
        found, wanted = same.evaluate(), two.evaluate()
        np.testing.assert_array_equal(found[2], SOLVED)
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-9)
        scale = np.stack([two.size(name) for name in two.kernel.parameters], axis=1)
        np.testing.assert_allclose(found[1] * scale, wanted[1] * scale, rtol=1e-6, atol=1e-6)

    def test_every_parameter_matters_to_someone(self, two):
        _, grad, _ = two.evaluate()
        idle = {name for name in differentiable(two) if not np.any(grad[:, two.column(name)])}
        assert idle == set()

    def test_parameters_of_an_infusion_not_given_do_not_matter(self, two):
        _, grad, _ = two.evaluate()
        without = two.happenings[2] == 2
        assert without.sum() == 2
        for name in ("dose_2", "f0_2", "m0_2", "aT_2", "sres", "bridge_2", "survive_2"):
            column = grad[:, two.column(name)]
            np.testing.assert_array_equal(column != 0.0, ~without, err_msg=name)

    def test_the_gradient_follows_the_tolerance(self, two):
        size = np.stack([two.size(name) for name in two.kernel.parameters], axis=1)
        _, fine, _ = two.evaluate()
        errors = []
        for tol in (1e-5, 1e-7, 1e-9):
            _, grad, _ = two.evaluate(tol=tol)
            errors.append(np.max(np.abs(grad - fine) * size / (1.0 + np.abs(fine * size))))
        assert errors[0] < 2e-2
        assert errors[1] < errors[0] / 20
        assert errors[2] < errors[1] / 20


class TestValues:
    @pytest.mark.parametrize("patient", [0, 3])
    def test_the_log_likelihood_from_the_twin(self, two, patient):
        """Trajectory by SciPy on plain floats, densities as written, added up record by record."""
        model, kernel = bcma.build(2, bcma.OPTIONS["real"]), two.kernel
        parameters = dict(zip(kernel.parameters, map(float, two.theta[patient]), strict=True))
        assert parameters.keys() >= {"rho", "day_2"}
        days, codes, count = (part[patient] for part in two.happenings)
        pairs = twin.solve(
            model,
            parameters=median("real") | parameters,
            happenings=[(days[i], kernel.events[codes[i]]) for i in range(count)],
            times=np.unique(two.time[patient, : two.count[patient]]),
            report=lambda t, y, h, p: {
                f"{kind}.{i}": part
                for kind, pair in model.observations(t, y, h, p).items()
                for i, part in enumerate(pair)
            },
        )
        total, times = 0.0, np.unique(two.time[patient, : two.count[patient]])
        for i in range(two.count[patient]):
            kind, family = KINDS[two.kind[patient, i]], Family(two.family[patient, i])
            row = np.searchsorted(times, two.time[patient, i])
            location, scale = (pairs[f"{kind}.{k}"][row] for k in (0, 1))
            total += float(DENSITIES[family](location, scale, two.value[patient, i]))
        assert two.evaluate()[0][patient] == pytest.approx(total, rel=1e-8)

    def test_groups_and_order_change_no_bits(self, two):
        repeat = np.resize(np.arange(two.n), 19)
        many = Problem(
            two.kernel,
            two.theta[repeat],
            tuple(part[repeat] for part in two.happenings),
            *(part[repeat] for part in two.records),
        )
        order = np.random.default_rng(5).permutation(19)
        for found, wanted in zip(many.evaluate(tol=1e-6, order=order), two.evaluate(tol=1e-6), strict=True):
            np.testing.assert_array_equal(found, wanted[repeat])

    def test_the_c_function_gives_the_same(self, two):
        n, columns = two.theta.shape
        order = np.arange(n)
        loglik, grad = np.empty(n), np.empty((n, columns))
        failures = np.zeros(5, dtype=np.int64)
        arrays = [order, two.theta, *two.happenings, *two.records, loglik, grad, failures]
        assert all(a.flags.c_contiguous for a in arrays)
        sizes = (n, n, two.happenings[0].shape[1], two.time.shape[1])
        two.kernel.entry.ctypes(*(a.ctypes.data for a in arrays), *sizes, 1e-6, 2000, True)
        wanted = two.evaluate(tol=1e-6)
        np.testing.assert_array_equal(loglik, wanted[0])
        np.testing.assert_array_equal(grad, wanted[1])
        np.testing.assert_array_equal(failures, [n, 0, 0, 0, 0])

    def test_nobody_to_evaluate(self, one):
        loglik, grad, _ = one.evaluate(order=np.empty(0, dtype=np.int64))
        np.testing.assert_array_equal(loglik, 0.0)
        np.testing.assert_array_equal(grad, 0.0)

    def test_a_patient_without_records_has_log_likelihood_zero(self, one):
        empty = Problem(one.kernel, one.theta, one.happenings, *one.records[:4], np.zeros_like(one.count))
        loglik, grad, status = empty.evaluate()
        np.testing.assert_array_equal(loglik, 0.0)
        np.testing.assert_array_equal(grad, 0.0)
        np.testing.assert_array_equal(status, SOLVED)


class TestFailures:
    BAD = 2

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("tg", np.nan),
            ("tg", -1.0),
            ("KC", 0.0),
            ("B0", -1.0),
            ("sigma_cart", 0.0),
        ],
    )
    def test_a_failed_patient_is_impossible_and_pulls_nowhere(self, one, name, value):
        theta = one.theta.copy()
        theta[self.BAD, one.column(name)] = value
        loglik, grad, status = one.evaluate(theta, tol=1e-6, max_steps=1500)
        assert loglik[self.BAD] == -np.inf
        np.testing.assert_array_equal(grad[self.BAD], 0.0)
        assert status[self.BAD] != SOLVED
        others = np.arange(one.n) != self.BAD
        wanted = one.evaluate(tol=1e-6, max_steps=1500)
        for found, good in zip((loglik, grad, status), wanted, strict=True):
            np.testing.assert_array_equal(found[others], good[others])

    def test_a_failed_patient_hands_its_lane_on(self, one):
        """More patients than one tape holds, some of whom fail at once and some on their way."""
        rows = np.tile(np.arange(one.n), 6)
        theta, bad = one.theta[rows], np.array([1, 2, 9, 17, 30, 31, 40])
        theta[bad[:4], one.column("tg")] = np.nan
        theta[bad[4:], one.column("KC")] = 0.0
        many = Problem(one.kernel, theta, *[tuple(x[rows] for x in one.happenings)], *(x[rows] for x in one.records))
        good = np.setdiff1d(np.arange(rows.size), bad)
        found, wanted = many.evaluate(tol=1e-6, max_steps=1500), one.evaluate(tol=1e-6, max_steps=1500)
        for mine, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(mine[good], theirs[rows][good])
        assert np.all(found[0][bad] == -np.inf)
        np.testing.assert_array_equal(found[1][bad], 0.0)

    def test_too_few_steps_for_anyone(self, one):
        loglik, grad, status = one.evaluate(max_steps=20)
        assert np.all(loglik == -np.inf)
        np.testing.assert_array_equal(grad, 0.0)
        assert np.all(status == 1)

    def test_fast_killing_of_a_slow_tumour_is_no_failure(self, one):
        """Growth hundreds of times below its threshold: the hazard's switch must not overflow."""
        theta = one.theta.copy()
        for name, value in (("k", 6.0), ("KE", 20.0), ("r", 0.008)):
            theta[:, one.column(name)] = value
        loglik, grad, status = one.evaluate(theta, tol=1e-6)
        assert np.all(status == SOLVED)
        assert np.isfinite(loglik).all()
        assert np.isfinite(grad).all()
