"""The chance that a clone is extinct: closed forms, exact simulation, a readable twin, and the model's own states."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.integrate import quad, solve_ivp

from reinfuse.model.course import Infusion
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.extinction import extinction_chance, kendall
from reinfuse.model.parameters import median
from reinfuse.model.products import product
from reinfuse.model.simulate import simulate_population

RATES = {"r": 0.1, "crt": 0.8, "by": 0.3, "u": 0.0, "KB": 1e30}
FADE = 1e-3  # of the model's H
MANY = 25.0  # ln cells of a clone that is out of danger


def clone(kill: Callable[[float], float], growth: float, start: float, days: np.ndarray) -> np.ndarray:
    """ln cells by the model's equation with its smooth extinction, (T,)."""

    def slope(t: float, z: np.ndarray) -> np.ndarray:
        x = np.exp(z)
        return growth * x**3 / (1 + x**3) - kill(t) * x / (x + FADE)

    found = solve_ivp(slope, (days[0], days[-1]), [np.log(start)], t_eval=days, rtol=1e-9, atol=1e-9, method="LSODA")
    return found.y[0]


def of_sensitive(logs: np.ndarray, days: np.ndarray, **changes) -> np.ndarray:
    """Chances of BCMA+ clones (n, T) beside a BCMA-low one that matters to nothing."""
    logs = np.atleast_2d(logs)
    changes = {"parameters": RATES} | changes
    return extinction_chance(times=days, log_sensitive=logs, log_low=np.full_like(logs, MANY), **changes).sensitive


@njit
def gillespie(cells, birth, kill, decay, seeds, fall, until, repeats, rng):
    """Share of exact simulations without a cell at the end; killing and seeding fall exponentially. Poisson starts < 0.

    Thinning: the rates fall with time, so those of now are bounds.
    """
    gone = 0
    for _ in range(repeats):
        n = cells if cells > 0 else rng.poisson(-cells)
        t = 0.0
        while True:
            k, s = kill * np.exp(-decay * t), seeds * np.exp(-fall * t)
            total = n * (birth + k) + s
            if total <= 0.0:
                break
            t += rng.exponential(1.0 / total)
            if t >= until or n > 2 * abs(cells) + 2000:
                break
            pick, bound = rng.random() * total, n * (birth + k)
            if pick < n * birth:
                n += 1
            elif pick < n * (birth + kill * np.exp(-decay * t)):
                n -= 1
            elif bound <= pick < bound + seeds * np.exp(-fall * t):
                n += 1
        gone += n == 0
    return gone / repeats


# ------------------------------------------------------------------------------------------ closed forms


@pytest.mark.parametrize("cells", [1, 3, 20])
def test_what_grows_dies_out_with_the_ratio_of_the_rates(cells):
    found = kendall(cells=cells, days=[4000.0], birth=[0.2], death=[0.15])
    assert found == pytest.approx((0.15 / 0.2) ** cells, rel=1e-12)


@pytest.mark.parametrize("cells", [1, 50])
def test_without_births_cells_die_one_by_one(cells):
    found = kendall(cells=cells, days=[3.0, 4.0], birth=[0.0, 0.0], death=[0.3, 0.5])
    assert found == pytest.approx((1 - np.exp(-0.9 - 2.0)) ** cells, rel=1e-12)


def test_equal_rates():
    found = kendall(cells=[2, 7], days=[10.0], birth=[0.3], death=[0.3])
    np.testing.assert_allclose(found, (3.0 / 4.0) ** np.array([2, 7]), rtol=1e-12)


def test_equal_and_nearly_equal_rates_agree():
    near = kendall(cells=5, days=[10.0], birth=[0.3], death=[0.3 + 1e-11])
    assert near == pytest.approx(float(kendall(cells=5, days=[10.0], birth=[0.3], death=[0.3])), rel=1e-9)


def test_rates_of_time_against_quadrature():
    def death(t):
        return 0.8 * np.exp(-t / 9.0)

    def lost(t):  # integral of death - birth
        return 0.8 * 9.0 * (1 - np.exp(-t / 9.0)) - 0.1 * t

    weight = quad(lambda t: death(t) * np.exp(lost(t)), 0, 60, epsabs=0, epsrel=1e-11, limit=200)[0]
    edges = np.linspace(0, 60, 6001)
    middle = 0.5 * (edges[1:] + edges[:-1])
    found = kendall(cells=300, days=np.diff(edges), birth=np.full(6000, 0.1), death=death(middle))
    assert found == pytest.approx((weight / (1 + weight)) ** 300, rel=1e-5)


def test_no_cells_are_extinct_and_endless_killing_leaves_none():
    assert kendall(cells=0, days=[1.0], birth=[0.5], death=[0.0]) == 1
    assert kendall(cells=3, days=[1.0], birth=[0.5], death=[0.0]) == 0
    assert kendall(cells=1e12, days=[1e5], birth=[0.1], death=[10.0]) == 1


RATE = st.floats(0.0, 2.0)
SPANS = st.lists(st.tuples(st.floats(0.01, 40.0), RATE, RATE), min_size=1, max_size=6)


@given(spans=SPANS, cells=st.floats(0.0, 1e6), more=st.floats(0.0, 1e4), extra=st.floats(0.0, 1.0))
@settings(max_examples=200)
def test_it_is_a_chance_that_cells_lower_and_killing_never_does(spans, cells, more, extra):
    days, birth, death = (np.array(column) for column in zip(*spans, strict=True))
    found = float(kendall(cells=cells, days=days, birth=birth, death=death))
    assert 0 <= found <= 1
    assert kendall(cells=cells + more, days=days, birth=birth, death=death) <= found + 1e-12
    killed = death.copy()
    killed[len(spans) // 2] += extra
    assert kendall(cells=cells, days=days, birth=birth, death=killed) >= found - 1e-9


@given(spans=SPANS, cells=st.floats(0.1, 1e4), share=st.floats(0.05, 0.95))
def test_splitting_a_span_changes_nothing(spans, cells, share):
    days, birth, death = (np.array(column) for column in zip(*spans, strict=True))
    cut = np.concatenate([np.array([share, 1 - share]) * days[0], days[1:]])
    whole = kendall(cells=cells, days=days, birth=birth, death=death)
    parts = kendall(cells=cells, days=cut, birth=np.r_[birth[0], birth], death=np.r_[death[0], death])
    assert parts == pytest.approx(float(whole), rel=1e-6, abs=1e-9)


# -------------------------------------------------------------------------------------- exact simulation

REPEATS = 20_000


def error(p: float) -> float:
    """Four standard errors of a share of `REPEATS`."""
    return 4 * np.sqrt(max(p * (1 - p), 1e-4) / REPEATS)


@pytest.mark.parametrize(("cells", "kill", "decay"), [(1, 0.3, 0.02), (10, 0.5, 0.05), (60, 1.0, 0.1)])
def test_kendall_against_gillespie(cells, kill, decay):
    edges = np.linspace(0, 80, 4001)
    death = kill * np.exp(-decay * 0.5 * (edges[1:] + edges[:-1]))
    exact = float(kendall(cells=cells, days=np.diff(edges), birth=np.full(4000, 0.2), death=death))
    found = gillespie(cells, 0.2, kill, decay, 0.0, 0.0, 80.0, REPEATS, np.random.default_rng(5))
    assert 0.02 < exact < 0.98
    assert found == pytest.approx(exact, abs=error(exact))


@pytest.mark.parametrize("kill", [0.9, 1.1, 1.3])
def test_equations_with_a_tail_against_gillespie_from_a_thousand_cells(kill):
    days = np.linspace(0, 90, 181)
    logs = clone(lambda t: kill * np.exp(-t / 9.0), RATES["r"], 1e3, days)
    simulated = gillespie(1000, RATES["r"], kill, 1 / 9.0, 0.0, 0.0, 90.0, REPEATS, np.random.default_rng(7))
    assert 0.03 < simulated < 0.97
    for threshold in (100.0, 300.0, 1000.0):
        found = of_sensitive(logs, days, threshold=threshold)[0]
        assert found == pytest.approx(simulated, abs=error(simulated) + 0.005), threshold


@njit
def two_clones(cells, low, rates, kill, decay, until, repeats, rng):
    """Shares of exact simulations without BCMA-low and without any cell at the end; ``low`` is a Poisson mean."""
    r, crt, by, u = rates
    neither, no_low = 0, 0
    for _ in range(repeats):
        n, m, t = cells, rng.poisson(low), 0.0
        while n + m > 0:
            k = kill * np.exp(-decay * t)
            total = n * (r + k + u * r) + m * (crt * r + by * k)
            t += rng.exponential(1.0 / total)
            if t >= until or m > 300 or n > 4 * cells + 3000:
                break
            now = kill * np.exp(-decay * t)
            pick = rng.random() * total
            if pick < n * (r + k + u * r):
                if pick < n * r:
                    n += 1
                elif pick < n * (r + u * r):
                    m += 1
                elif pick < n * (r + u * r + now):
                    n -= 1
            else:
                pick -= n * (r + k + u * r)
                if pick < m * crt * r:
                    m += 1
                elif pick < m * (crt * r + by * now):
                    m -= 1
        neither += n + m == 0
        no_low += m == 0
    return no_low / repeats, neither / repeats


@pytest.mark.parametrize(("kill", "u", "start"), [(1.0, 0.001, 2.0), (1.3, 0.01, 2.0), (1.0, 0.05, 0.02)])
def test_both_clones_with_seeding_against_gillespie(kill, u, start):
    days = np.linspace(0, 40, 161)
    rates = {**RATES, "u": u, "by": 0.2}
    sensitive = clone(lambda t: kill * np.exp(-t / 9.0), rates["r"], 1000.0, days)
    found = extinction_chance(
        times=days, log_sensitive=sensitive[None], log_low=np.full((1, days.size), np.log(start)), parameters=rates
    )
    order = tuple(rates[name] for name in ("r", "crt", "by", "u"))
    no_low, neither = two_clones(1000, start, order, kill, 1 / 9.0, 40.0, REPEATS, np.random.default_rng(11))
    assert found.low[0] == pytest.approx(no_low, abs=error(no_low) + 0.001)
    assert found.both[0] == pytest.approx(neither, abs=error(neither) + 0.001)
    assert found.both[0] > found.low[0] * found.sensitive[0]
    apart = extinction_chance(
        times=days,
        log_sensitive=sensitive[None],
        log_low=np.full((1, days.size), np.log(start)),
        parameters=rates | {"u": 0.0},
    )
    assert apart.both[0] == pytest.approx(apart.low[0] * apart.sensitive[0], rel=1e-9)


def test_seeding_before_the_switch_is_poisson():
    days = np.linspace(0, 60, 601)
    sensitive = np.log(1e6) - 0.1 * days  # 2479 cells at the end: never a birth-death process
    given_ = {"times": days, "log_sensitive": sensitive[None], "log_low": np.full((1, days.size), 1.0)}
    found, none = (extinction_chance(**given_, parameters=RATES | {"u": u}) for u in (1e-6, 0.0))
    # killing is 0.2, so a BCMA-low cell is born at 0.08 and dies at 0.06
    survive = [1 - kendall(cells=1, days=[60 - t], birth=[0.08], death=[0.06]) for t in days]
    seeds = np.trapezoid(1e-6 * 0.1 * np.exp(sensitive) * np.array(survive), days)
    assert found.low[0] == pytest.approx(none.low[0] * np.exp(-seeds), rel=1e-5)
    assert none.low[0] / found.low[0] > 1.2
    assert found.both[0] == 0


# ------------------------------------------------------------------------------------ twin and the model


def killed(logs: np.ndarray, growth: np.ndarray) -> np.ndarray:
    """Integral of the killing rate over every span, (n, T - 1), written as the module's docstring says it."""
    x = np.exp(logs)
    slope = np.diff(logs, axis=1)
    fade = np.log1p(x**3) / 3
    return np.maximum(growth * np.diff(fade, axis=1) / slope - np.diff(logs - FADE / x, axis=1), 0.0)


def twin(days, sensitive, low, p, turnover):
    """Chances of clones that switch on the first row, to the end of the report, without bridging, (3, n)."""
    length = np.diff(days)
    total = np.exp(sensitive) + np.exp(low)
    growth = p["r"] * (1 - 0.5 * (total[:, 1:] + total[:, :-1]) / p["KB"]) * length
    kill = killed(sensitive, growth) / length
    birth = growth / length / (1 - turnover)
    death = kill + turnover * birth
    b, d = p["crt"] * birth, p["by"] * kill + turnover * p["crt"] * birth
    spans = range(length.size)
    survive = 1 - np.stack(
        [kendall(cells=1, days=length[j:], birth=b[:, j:], death=d[:, j:]) for j in spans] + [np.zeros(len(b))], axis=1
    )
    left = np.stack([np.ones(len(b)), np.zeros(len(b))])  # any cell, a BCMA-low cell
    for j in reversed(spans):
        seeds = 0.5 * p["u"] * p["r"] * (survive[:, j] + survive[:, j + 1])
        left = backwards(left, birth[:, j], death[:, j], seeds, length[j])
    first, poisson = np.exp(sensitive[:, 0]), np.exp(-np.exp(low[:, 0]) * survive[:, 0])
    any_, low_ = (1 - left) ** first
    return np.stack([kendall(cells=first, days=length, birth=birth, death=death), poisson * low_, poisson * any_])


def backwards(q, b, d, seeds, length, steps=200):
    """The branching process's equation, by Runge and Kutta."""

    def slope(q):
        return seeds + (b - d - seeds) * q - b * q**2

    h = length / steps
    for _ in range(steps):
        k1 = slope(q)
        k2 = slope(q + 0.5 * h * k1)
        k3 = slope(q + 0.5 * h * k2)
        q = q + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(q + h * k3))
    return q


def test_kernel_against_its_readable_twin():
    rng = np.random.default_rng(3)
    days = np.unique(np.r_[np.arange(0, 30.0), np.arange(30, 250, 14.0)])
    n, threshold = 40, 400.0
    slope = RATES["r"] - rng.uniform(0.3, 1.2, n)[:, None] * np.exp(-days[:-1] / rng.uniform(8, 25, n)[:, None])
    sensitive = np.cumsum(np.c_[np.full(n, np.log(threshold) + 1e-12), slope * np.diff(days)], axis=1)
    sensitive = np.clip(sensitive, -4 - 1e-3 * days, 12 + 1e-3 * days)
    sensitive[:, 0] = np.log(threshold) + 2e-9  # just above: a count, not a Poisson number; switches at once
    low = rng.uniform(-2, 3, n)[:, None] + 0.01 * days
    p = {**RATES, "u": 1e-3, "KB": 1e6}
    found = extinction_chance(
        times=days, log_sensitive=sensitive, log_low=low, parameters=p, threshold=threshold, turnover=0.4
    )
    expected = twin(days, sensitive, low, p, 0.4)
    assert np.ptp(expected[0]) > 0.3
    assert np.ptp(expected[1]) > 0.3
    np.testing.assert_allclose(found.sensitive, expected[0], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.low, expected[1], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(found.both, expected[2], rtol=1e-5, atol=1e-8)


def test_the_killing_rate_solved_for_is_that_of_the_model():
    days = np.arange(0.0, 120.0, 0.05)
    p, item = {name: value for name, value in median("reference").items() if "sigma" not in name}, product("cilta-cel")
    p |= {"KE": 20.0, "k": 1.5}
    out = simulate_population(course=[Infusion(product=item)], times=days, parameters=p).isel(patient=0)
    sensitive, low = out["Ts"].to_numpy(), out["Tr"].to_numpy()
    s = (sensitive + low) / (sensitive + low + p["KQ"])
    f = out["E1"].to_numpy() + p["xi"] * out["X1"].to_numpy()
    rate = (1 - p["bK"] * s) * p["k"] * item.m0 * f / (p["KE"] * item.h + f + p["w"] * sensitive / p["VT"])
    expected = np.diff(days) * 0.5 * (rate[1:] + rate[:-1])
    growth = p["r"] * (1 - 0.5 * (sensitive + low)[1:] / p["KB"] - 0.5 * (sensitive + low)[:-1] / p["KB"])
    found = killed(np.log(sensitive)[None], growth[None] * np.diff(days))[0]
    assert sensitive.min() < 0.01  # deep in what the smooth extinction distorts
    np.testing.assert_allclose(found[4:], expected[4:], rtol=2e-3, atol=1e-5)


# ------------------------------------------------------------------------------------------ behaviour


@pytest.fixture(scope="module")
def cured():
    """Forty BCMA+ clones from 1e6 cells under ever more killing: days and ln cells."""
    days = np.arange(0.0, 301.0)
    kills = np.linspace(0.7, 1.6, 40)
    return days, np.array([clone(lambda t, k=k: k * np.exp(-t / 20.0), RATES["r"], 1e6, days) for k in kills])


def test_more_killing_never_lowers_the_chance(cured):
    found = of_sensitive(cured[1], cured[0])
    assert (np.diff(found) >= -1e-9).all()
    assert found[0] < 0.01
    assert found[-1] > 0.99


def test_the_threshold_does_not_matter(cured):
    found = [of_sensitive(cured[1], cured[0], threshold=threshold) for threshold in (100.0, 300.0, 1000.0, 1e4)]
    assert ((found[0] > 0.1) & (found[0] < 0.9)).sum() > 5
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=0.005)


def test_a_coarse_report_serves(cured):
    days, logs = cured
    fine = of_sensitive(logs, days)
    for spacing, off in ((2, 0.005), (7, 0.03)):
        np.testing.assert_allclose(of_sensitive(logs[:, ::spacing], days[::spacing]), fine, atol=off)


def test_the_chance_rises_with_the_day_and_is_none_before_the_switch(cured):
    days, logs = cured
    by_day = np.array([of_sensitive(logs, days, until=day) for day in np.arange(0.5, 300, 7.3)])
    assert (np.diff(by_day, axis=0) >= -1e-12).all()
    assert (by_day[0] == 0).all()
    np.testing.assert_allclose(of_sensitive(logs, days, until=np.full(40, 300.0)), of_sensitive(logs, days))


def test_turnover_makes_extinction_likelier(cured):
    days, logs = cured
    found = [of_sensitive(logs, days, turnover=turnover) for turnover in (0.0, 0.5, 0.9)]
    assert (found[0] <= found[1] + 1e-12).all()
    assert (found[1] <= found[2] + 1e-12).all()
    deep = (found[0] > 0.6) & (found[0] < 0.99)
    survivors = [-np.log(chance[deep]) for chance in found]
    np.testing.assert_allclose(survivors[1] / survivors[0], 0.5, atol=0.06)


def test_a_clone_that_stays_large_is_not_extinct():
    days = np.array([0.0, 10.0, 20.0])
    found = extinction_chance(
        times=days, log_sensitive=[[20.0, 8.0, 20.0]], log_low=[[10.0, 11.0, 12.0]], parameters=RATES
    )
    assert (found.sensitive, found.low, found.both) == (0, 0, 0)
    assert np.isnan([found.switch_sensitive, found.switch_low]).all()


def test_unsolved_patients_have_no_chance_given():
    logs = np.array([[5.0, 4.0], [np.nan, np.nan]])
    found = of_sensitive(logs, np.array([0.0, 1.0]))
    assert np.isfinite(found).tolist() == [True, False]


def test_bridging_kills_every_cell_with_the_same_chance():
    days, b, share, mean = np.linspace(0, 20, 41), 0.08, 0.1, 2.0
    logs = np.log(mean) + b * days + np.where(days >= 7.25, np.log(share), 0.0)
    many = np.full((1, days.size), MANY) + np.where(days >= 7.25, np.log(share), 0.0) + RATES["r"] * days
    found = extinction_chance(
        times=days, log_sensitive=many, log_low=logs[None], parameters=RATES, bridging_day=7.25, bridging=share
    )
    # a lineage is a geometric number of cells by the end of the span that holds the day (Yule)
    one = np.exp(-b * 7.5)
    gone = one * (1 - share) / (1 - (1 - one) * (1 - share))
    assert found.low[0] == pytest.approx(np.exp(-mean * (1 - gone)), rel=1e-6)
    per_event = extinction_chance(
        times=days,
        log_sensitive=many,
        log_low=logs[None],
        parameters=RATES,
        bridging_day=[[7.25, np.inf]],
        bridging=[[share, 0.5]],
    )
    assert per_event.low[0] == found.low[0]


def test_bridging_below_the_threshold_starts_the_tail_there():
    days = np.arange(0.0, 200.0)
    fall = np.where(days >= 50, np.log(0.001), 0.0)
    found = extinction_chance(
        times=days,
        log_sensitive=(np.log(2e4) + fall)[None],
        log_low=np.full((1, 200), MANY),
        parameters=RATES,
        bridging_day=50.0,
        bridging=0.001,
    )
    # birth equals killing from day 50 on, from 20 cells
    weight = 0.1 * 149
    assert found.switch_sensitive[0] == 50
    assert found.sensitive[0] == pytest.approx((weight / (1 + weight)) ** 20, rel=2e-3)  # G = 0.9999


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"times": [0.0, 0.0]}, "times are"),
        ({"times": [0.0, np.inf]}, "times are"),
        ({"log_low": [[1.0, 2.0, 3.0]]}, r"log_low has shape \(1, 3\)"),
        ({"log_low": [[1.0, 2.0], [1.0, 2.0]]}, "log_low has shape"),
        ({"parameters": {"r": 0.1}}, "lack crt, by, u, KB"),
        ({"parameters": {**RATES, "r": -0.1}}, "'r' is -0.1"),
        ({"parameters": {**RATES, "KB": 0.0}}, "'KB' is 0"),
        ({"parameters": {**RATES, "u": [1.0, 1.0]}}, "'u'.*shape"),
        ({"until": 5.0}, "until is 5"),
        ({"until": np.nan}, "until is nan"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"turnover": 1.0}, "turnover is 1.0"),
        ({"bridging": 0.5}, "belong together"),
        ({"bridging_day": 0.5, "bridging": 0.0}, "bridging is 0"),
        ({"bridging_day": [[1.0], [2.0], [3.0]], "bridging": 0.5}, "bridging_day has shape"),
    ],
)
def test_faults_are_named(changes, words):
    good = {"times": [0.0, 1.0], "log_sensitive": [[5.0, 4.0]], "log_low": [[5.0, 4.0]], "parameters": RATES}
    with pytest.raises(ReinfuseError, match=words):
        extinction_chance(**(good | changes))
