"""The BCMA model's text against its equations, written here a second time on the linear scale."""

from types import SimpleNamespace

import numpy as np
import pytest

from reinfuse.model.derive.trace import Trace
from reinfuse.model.equations import bcma
from reinfuse.model.equations.definition import OdeModel, State
from reinfuse.model.parameters import median

CELLS = ("E1", "M1", "X1", "E2", "M2", "X2")
SLOTS = {
    1: {"dose": 4.5e8, "ld": 1.0, "bridge": 1.0, "survive": 0.1, "chi": 1.0, "f0": 1.0, "m0": 1.0, "h": 1.0},
    2: {
        "dose": 5.5e7,
        "ld": 0.7,
        "bridge": 0.3,
        "survive": 0.2,
        "chi": 0.1,
        "f0": 1.4,
        "m0": 1.15,
        "h": 0.15,
    },
}
MORE = {
    1: {
        "gp": 1.0,
        "feng": 1.0,
        "fM0": 0.10,
        "fX0": 0.05,
        "i": 1.0,
        "occ": 0.0,
        "aT": np.log(450.0),
        "bT": 1.0,
    },
    2: {
        "gp": 1.2,
        "feng": 0.8,
        "fM0": 0.15,
        "fX0": 0.06,
        "i": 0.4,
        "occ": 0.1,
        "aT": np.log(75.0),
        "bT": 0.9,
    },
}
DAY_2 = 260.0


def parameters(options: str) -> SimpleNamespace:
    values = median(options) | {"day_1": 0.0, "day_2": DAY_2}
    values |= {"gT": 1.0, "dlt": 0.0} if options == "reference" else {}
    for j in (1, 2):
        values |= {f"{name}_{j}": v for name, v in (SLOTS[j] | MORE[j]).items()}
    return SimpleNamespace(**values)


@pytest.fixture(params=["reference", "real"])
def options(request):
    return request.param


@pytest.fixture
def model(options):
    return bcma.build(2, bcma.OPTIONS[options])


@pytest.fixture
def p(options):
    return parameters(options)


@pytest.fixture
def y():
    """A patient between relapse and response, 8 days after the second infusion."""
    return SimpleNamespace(
        E1=0.8, M1=2.0, X1=0.3, E2=40.0, M2=5.0, X2=1.5, Ts=4e10, Tr=3e8, Q=0.6, A=0.3, P=2.2, S=240.0, H=0.1
    )


@pytest.fixture
def h():
    return SimpleNamespace(
        last=DAY_2,
        ld=0.7,
        gate=1.2,
        on1=1.0,
        on2=1.0,
        f1=1.0,
        f2=1.1,
        qx1=0.9,
        qx2=1.3,
        Qaph1=0.55,
        Qaph2=0.5,
    )


def by_hand(t, y, h, p):
    """The equations as first written down: derivatives on the linear scale, reference configuration."""
    b = y.Ts + y.Tr
    a, s = y.Ts / (p.KA + y.Ts), b / (b + p.KQ)
    tau = t - DAY_2
    niche = p.psi + (1 - p.psi) * h.ld / (1 + (tau / (p.tg * h.gate)) ** p.hg)
    total = sum(getattr(y, c) for c in CELLS)
    room, out, force, stimulus = 1 - total / p.KC, {}, 0.0, 0.0
    for j in (1, 2):
        e, m, x = (getattr(y, f"{c}{j}") for c in "EMX")
        chi, f, qx = SLOTS[j]["chi"], getattr(h, f"f{j}"), getattr(h, f"qx{j}")
        immune = p.alA * chi * y.A
        ex = p.kX * qx * a * (1 + p.bX * s)
        out[f"E{j}"] = (p.rho * f * a * niche * room - p.dE - p.eps * (1 - a) - ex - immune) * e + p.eta * a * m
        out[f"M{j}"] = (p.rM * room - p.eta * a - p.dM - immune) * m + (1 - a) * (p.eps * e + p.rX * x)
        out[f"X{j}"] = ex * e - (p.rX * (1 - a) + p.dX + immune) * x
        killers = e + p.xi * x
        potency = p.k * SLOTS[j]["m0"] * np.exp(-p.sres * (j - 1))
        force += potency * killers / (p.KE * SLOTS[j]["h"] + killers + p.w * y.Ts / p.VT)
        c = e + m + x
        stimulus += MORE[j]["i"] * c / (p.KAC + c)
    force *= 1 - p.bK * s

    def growing(x):
        return x**3 / (1 + x**3)

    def dying(x):
        return x / (x + 1e-3)

    out["Ts"] = p.r * y.Ts * growing(y.Ts) * (1 - b / p.KB) - force * y.Ts * dying(y.Ts)
    out["Tr"] = (
        p.crt * p.r * y.Tr * growing(y.Tr) * (1 - b / p.KB) - p.by * force * y.Tr * dying(y.Tr) + p.u * p.r * y.Ts
    )
    out["Q"] = p.kQon * s * (1 - y.Q) - p.kQoff * y.Q
    out["A"] = p.kA * stimulus * (1 - y.A) - p.dA * y.A
    out["P"] = p.kP * (p.P0 * b / p.B0 - y.P)
    out["S"] = p.kS * (p.Sbg + p.S0 * (y.Ts + 0.1 * y.Tr) / p.B0 - y.S)
    out["H"] = 0.0
    return out


def natural(model, rates, y):
    """Derivatives on the linear scale."""
    return {s.name: rates[s.name] * (getattr(y, s.name) if s.log else 1.0) for s in model.states}


@pytest.mark.parametrize("tau", [0.5, 8.0, 100.0])
@pytest.mark.parametrize("tumour", [4e10, 1e6, 0.5])
def test_the_reference_rates_are_the_equations(y, h, tau, tumour):
    model, p = bcma.build(2, bcma.OPTIONS["reference"]), parameters("reference")
    y.Ts, y.Tr = tumour, tumour / 100
    found = natural(model, model.rates(DAY_2 + tau, y, h, p), y)
    wanted = by_hand(DAY_2 + tau, y, h, p)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-10, abs=1e-14), name


class TestStart:
    def test_states(self, model, p, options):
        y, h = model.start(p)
        assert y.keys() == {s.name for s in model.states}
        assert h.keys() == set(model.held)
        assert y["Ts"] + y["Tr"] == pytest.approx(p.B0)
        assert y["Tr"] / p.B0 == pytest.approx(p.fr + 20 * p.u)
        assert (y["Q"], y["A"], y["P"], y["H"]) == (p.Q0, 0.0, p.P0, 0.0)
        shed = p.S0 if options == "reference" else p.sS * p.B0 / 1e11
        assert y["S"] == pytest.approx(shed + p.Sbg)

    def test_biomarkers_start_in_balance(self, model, p, h):
        values, held = model.start(p)
        d = model.rates(0.0, SimpleNamespace(**values), SimpleNamespace(**held), p)
        assert d["P"] == pytest.approx(0.0, abs=1e-12)
        assert d["S"] == pytest.approx(0.0, abs=1e-6)

    def test_a_product_not_yet_infused_rests(self, model, p):
        values, held = model.start(p)
        d = model.rates(5.0, SimpleNamespace(**values), SimpleNamespace(**held), p)
        assert [d[c] for c in CELLS] == [0.0] * 6
        reported = model.readouts(5.0, SimpleNamespace(**values), SimpleNamespace(**held), p)
        assert reported["cart"] == 0.0
        assert reported["transgene"] == 0.0


class TestInfusion:
    @pytest.fixture
    def after(self, model, p, y, h):
        states, held = model.events["infusion_2"](y, h, p)
        return SimpleNamespace(**{**vars(y), **states}), SimpleNamespace(**{**vars(h), **held})

    def test_all_engrafted_cells_arrive(self, after, y, p):
        engrafted = SLOTS[2]["dose"] * p.feng * MORE[2]["feng"] / p.VT
        arrived = {c: getattr(after[0], f"{c}2") - getattr(y, f"{c}2") for c in "EMX"}
        assert sum(arrived.values()) == pytest.approx(engrafted)
        q, slot = 0.5, MORE[2]
        assert arrived["M"] / engrafted == pytest.approx(slot["fM0"] * (1 - q))
        assert arrived["X"] / engrafted == pytest.approx(slot["fX0"] + (1 - slot["fX0"]) * p.fXQ * q)

    def test_bridging_and_lymphodepletion(self, after, y, p):
        assert after[0].Ts == pytest.approx(0.3 * y.Ts)
        assert after[0].Tr == pytest.approx(0.3 * y.Tr)
        assert [getattr(after[0], f"{c}1") / getattr(y, f"{c}1") for c in "EMX"] == pytest.approx([0.2] * 3)
        assert y.Q + p.qLD * (1 - y.Q) == pytest.approx(after[0].Q)
        assert (after[0].P, after[0].S, after[0].A) == (y.P, y.S, y.A)

    def test_the_clock_and_the_niche_begin_anew(self, after):
        assert (after[1].last, after[1].ld, after[1].gate, after[1].on2) == (DAY_2, 0.7, 1.2, 1.0)

    def test_fitness_is_inherited_from_apheresis(self, after, p):
        q = 0.5
        assert after[1].f2 == pytest.approx(1.4 * np.exp(0.1 - p.bR * (q - p.qref) - p.sline))
        assert after[1].qx2 == pytest.approx(np.exp(p.bXQ * (q - p.qref)))
        assert after[1].f1 == 1.0

    def test_apheresis_notes_the_host(self, model, p, y, h):
        assert model.events["apheresis_2"](y, h, p) == ({}, {"Qaph2": y.Q})

    def test_the_first_product_has_no_apheresis_of_its_own(self, model):
        assert "apheresis_1" not in model.events
        assert next(iter(model.events)) == "infusion_1"


class TestRealOptions:
    @pytest.fixture
    def model(self):
        return bcma.build(2, bcma.OPTIONS["real"])

    @pytest.fixture
    def p(self):
        return parameters("real")

    def test_proliferation_waits_for_the_lag(self, model, p, y, h):
        def growth(tau):
            return model.rates(DAY_2 + tau, y, h, p)["E2"]

        assert growth(p.lag / 4) < growth(2 * p.lag)
        without = bcma.build(2, bcma.Options(lag=False, burden_scaled_sbcma=True, hazard=True))
        late = DAY_2 + 50 * p.lag
        p.eps = 0.0
        assert model.rates(late, y, h, p)["E2"] == pytest.approx(without.rates(late, y, h, p)["E2"], rel=1e-6)

    def test_sbcma_is_a_floor_plus_a_multiple_of_burden(self, model, p, y, h):
        y.Ts, y.Tr, y.S = 3e10, 0.0, 0.0
        y.Tr = 1e-300
        d = model.rates(DAY_2 + 5.0, y, h, p)["S"]
        assert d == pytest.approx(p.kS * (p.Sbg + p.sS * 0.3))

    def test_the_hazard(self, model, p, y, h):
        m = SimpleNamespace(b=y.Ts + y.Tr)
        t = DAY_2 + 20.0
        d = model.rates(t, y, h, p)
        growth = (y.Ts * d["Ts"] + y.Tr * d["Tr"]) / m.b
        burden = 1 / (1 + (p.Bc / m.b) ** (1 / p.wB))
        growing = 1 / (1 + np.exp(-(growth / p.r - p.cG) / p.wG))
        wanted = p.hbg + p.h1 * burden * growing
        assert d["H"] == pytest.approx(wanted, rel=1e-10)
        assert model.readouts(t, y, h, p)["hazard"] == pytest.approx(wanted, rel=1e-10)
        log_hazard, cumulative = model.observations(t, y, h, p)["progression"]
        assert (log_hazard, cumulative) == (pytest.approx(np.log(wanted)), y.H)

    def test_assessment_starts_the_count(self, model, p, y, h):
        assert model.events["assessment_2"](y, h, p) == ({"H": 0.0}, {})

    def test_early_transgene_is_inflated(self, model, p, y, h):
        def copies(tau):
            return model.observations(DAY_2 + tau, y, h, p)["transgene"][0]

        assert copies(9.999) - copies(10.0) == pytest.approx(p.dlt)

    def test_death_has_a_constant_hazard(self, model, p, y, h):
        assert model.observations(400.0, y, h, p)["death"] == pytest.approx((np.log(p.hD), 400.0 * p.hD))


class TestObservations:
    def test_assays(self, model, p, y, h, options):
        if options == "reference":
            p.sigma_cart = 0.5
        t = DAY_2 + 30.0
        seen = model.observations(t, y, h, p)
        first, second = y.E1 + y.M1 + y.X1, y.E2 + y.M2 + y.X2
        copies = p.gT * (np.exp(p.aT_1) * first**p.bT_1 + np.exp(p.aT_2) * second**p.bT_2)
        assert seen["transgene"] == pytest.approx((np.log(copies), p.sigma_transgene))
        assert seen["cart"] == pytest.approx((np.log(first + second), p.sigma_cart))
        assert seen["sbcma"] == pytest.approx((np.log(y.S), p.sigma_sbcma))
        assert seen["mprotein"] == pytest.approx((np.log(y.P + 0.05), p.sigma_mprotein))
        assert ("progression" in seen) == (options == "real")

    def test_readouts_agree_with_the_observations(self, model, p, y, h):
        p.sigma_cart = 0.5
        t = DAY_2 + 3.0
        seen, reported = model.observations(t, y, h, p), model.readouts(t, y, h, p)
        for assay in ("transgene", "cart", "sbcma"):
            assert np.log(reported[assay]) == pytest.approx(seen[assay][0])


@pytest.mark.parametrize("infusions", [1, 2, 3])
def test_names_count_with_the_infusions(infusions, options):
    model = bcma.build(infusions, bcma.OPTIONS[options])
    states = [s.name for s in model.states]
    assert len(states) == 7 + 3 * infusions
    assert f"X{infusions}" in states
    assert f"infusion_{infusions}" in model.events
    assert f"infusion_{infusions + 1}" not in model.events
    used = {n.name[2:] for n in Trace(model, {}).graph._nodes.values() if n.name.startswith("p.")}
    own = {f"{name}_{j}" for name in ("day", *bcma.SLOT_PARAMETERS) for j in range(1, infusions + 1)}
    known = {*median(options), "gT", "dlt", "sigma_cart", *own}
    assert used <= known, "a parameter of the text stands in no table"


class TestDefinition:
    def test_a_state_is_found_by_name(self):
        model = bcma.build(1, bcma.OPTIONS["reference"])
        assert model.state("Ts") == State("Ts", "cells", log=True)
        assert not model.state("Q").log

    @pytest.mark.parametrize(("text", "wrong"), [("y.Zz", "Zz"), ("h.hold", "hold")])
    def test_a_misspelt_name_is_told_with_the_names_there_are(self, text, wrong):
        def rates(t, y, h, p):
            return {"N": eval(text, {"y": y, "h": h})}

        model = OdeModel(
            "typo",
            (State("N", "cells"),),
            ("held",),
            lambda p: ({"N": 1.0}, {"held": 0.0}),
            rates,
            lambda t, y, h, p: {},
        )
        with pytest.raises(AttributeError, match=rf"'typo'.*'{wrong}'.*(N|held)"):
            Trace(model, {})
