"""CAR-T cells against myeloma, over any number of infusions: the unified model.

States per infusion ``j``: effector ``Ej``, memory ``Mj`` and exhausted ``Xj`` CAR-T cells (cells/µL
blood-equivalent); shared: BCMA-positive and BCMA-low myeloma ``Ts``, ``Tr`` (cells), host T-cell dysfunction
``Q`` (0..1), anti-CAR immunity ``A`` (0..1), M-protein ``P`` (g/dL), soluble BCMA ``S`` (ng/mL), and the
cumulative hazard of progression ``H``. Parameters with their units, priors and provenance are in
`reinfuse.model.parameters`; the numbers that differ between infusions (product, dose, lymphodepletion, ...)
carry the infusion's number, as in ``dose_2``.

The structure combines published models (growth and contraction: Stein 2019; memory formed when antigen is
gone: Hardiansyah & Ng 2019; killing with saturation: Kimmel 2021; biomarkers: Singh 2021); the terms for
exhaustion, host dysfunction and anti-CAR immunity are assumptions, marked as such in the parameter table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from ..derive.algebra import exp, expit, log, maximum, step_up
from .definition import OdeModel, State, Values

EMPTY = 1e-30  # cells/µL of a product not yet infused
AT_ONCE = 1e-9  # d, keeps the logarithm of the time since infusion finite
EARLY = 10.0  # d after infusion: until then leukopenia inflates copies per µg; from then progression counts
UNFIT = 1e-6  # least fitness of host T cells, keeps its logarithm finite
IMMUNOFIXATION = 0.05  # g/dL added to M-protein before its logarithm is compared


@dataclass(frozen=True)
class Options:
    """Choices of structure. The reference configuration has them all off; real cohorts want them all on.

    Attributes
    ----------
    lag
        Proliferation starts only some days after infusion.
    burden_scaled_sbcma
        Soluble BCMA is a patient's floor plus a multiple of the burden (``sS`` per 1e11 cells), instead of an
        independent baseline ``S0``.
    antigen_independent_memory
        Effectors turn into memory cells once the niche has closed (Li & Cheng report that data support a
        delay on this step), not only when antigen is low. Without the delay the rate would brake expansion,
        and patients whose cells do not expand would be explained by it.
    hazard
        Progression is a hazard driven by burden and growth.
    engager
        A bispecific antibody may be given: it kills by the patient's own T cells, whose fitness is ``1 - Q``, and
        wears them.
    """

    lag: bool = False
    burden_scaled_sbcma: bool = False
    antigen_independent_memory: bool = False
    hazard: bool = False
    engager: bool = False


OPTIONS = {"reference": Options(), "real": Options(True, True, True, True)}

SLOT_PARAMETERS = (
    *("day", "dose", "ld", "bridge", "survive", "chi"),
    *("f0", "m0", "h", "gp", "feng", "fM0", "fX0", "i", "occ", "aT", "bT"),
)


def of(values: Any, j: int, joiner: str = "") -> Any:
    """The values of infusion ``j``: ``of(y, 2).E`` is ``y.E2``, ``of(p, 2, "_").dose`` is ``p.dose_2``."""

    class View:
        def __getattr__(self, name: str) -> Any:
            return getattr(values, f"{name}{joiner}{j}")

    return View()


def build(infusions: int, options: Options) -> OdeModel:
    """The model for patients with up to ``infusions`` infusions.

    Events: ``apheresis_j`` notes the host dysfunction that product ``j > 1`` inherits, ``infusion_j`` is the
    bridging, lymphodepletion and infusion itself, ``assessment_j`` starts the count of the progression
    hazard.
    """
    slots = range(1, infusions + 1)

    def start(p: Any) -> tuple[Values, Values]:
        low = p.fr + 20.0 * p.u  # mutation equilibrium: keeps ln Tr from being stiff
        y = {
            "Ts": p.B0 * (1.0 - low),
            "Tr": p.B0 * low,
            "Q": p.Q0,
            "A": 0.0,
            "P": p.P0,
            "S": baseline_sbcma(p) + p.Sbg,
        }
        y |= {f"{cell}{j}": EMPTY for cell in "EMX" for j in slots} | {"H": 0.0}
        h = {"last": 0.0, "ld": 0.0, "gate": 1.0} | ({"engaged": 0.0} if options.engager else {})
        h |= {f"{name}{j}": 0.0 for name in ("on", "f", "qx") for j in slots} | {f"Qaph{j}": p.Q0 for j in slots}
        return y, h

    def baseline_sbcma(p: Any) -> Any:
        return p.sS * p.B0 / 1e11 if options.burden_scaled_sbcma else p.S0

    def total(y: Any, j: int) -> Any:
        cells = of(y, j)
        return cells.E + cells.M + cells.X

    def apheresis(j: int) -> Callable[[Any, Any, Any], tuple[Values, Values]]:
        return lambda y, h, p: ({}, {f"Qaph{j}": y.Q})

    def infusion(j: int) -> Callable[[Any, Any, Any], tuple[Values, Values]]:
        def event(y: Any, h: Any, p: Any) -> tuple[Values, Values]:
            new, q = of(p, j, "_"), of(h, j).Qaph
            cells = new.dose * p.feng * new.feng / p.VT
            exhausted = new.fX0 + (1.0 - new.fX0) * p.fXQ * q
            memory = new.fM0 * (1.0 - q)
            states = {"Ts": y.Ts * new.bridge, "Tr": y.Tr * new.bridge, "Q": y.Q + p.qLD * (1.0 - y.Q)}
            states |= {f"{cell}{i}": getattr(y, f"{cell}{i}") * new.survive for cell in "EMX" for i in range(1, j)}
            states |= {
                f"E{j}": of(y, j).E + cells * (1.0 - memory - exhausted),
                f"M{j}": of(y, j).M + cells * memory,
                f"X{j}": of(y, j).X + cells * exhausted,
            }
            held = {
                f"on{j}": 1.0,
                f"f{j}": new.f0 * exp(new.occ - p.bR * (q - p.qref) - p.sline * (j - 1)),
                f"qx{j}": exp(p.bXQ * (q - p.qref)),
                "last": new.day,
                "ld": new.ld,
                "gate": new.gp,
            }
            return states, held

        return event

    def engagement(y: Any, h: Any, p: Any) -> tuple[Values, Values]:
        return {}, {"engaged": 1.0}

    def assessment(y: Any, h: Any, p: Any) -> tuple[Values, Values]:
        return {"H": 0.0}, {}

    def mechanism(t: Any, y: Any, h: Any, p: Any) -> SimpleNamespace:
        """Everything that the rates share."""
        b = y.Ts + y.Tr
        a = y.Ts / (p.KA + y.Ts)
        s = b / (b + p.KQ)
        since = log(maximum(t - h.last, AT_ONCE))
        gate = expit(p.hg * (log(p.tg * h.gate) - since))
        niche = p.psi + (1.0 - p.psi) * h.ld * gate
        if options.lag:
            niche = niche * expit(p.hlag * (since - log(p.lag)))
        crowding = 1.0 - sum(of(h, j).on * total(y, j) for j in slots) / p.KC
        kill: Any = 0.0
        for j in slots:
            mine, product = of(y, j), of(p, j, "_")
            f = of(h, j).on * (mine.E + p.xi * mine.X)
            potency = p.k * product.m0 * exp(-p.sres * (j - 1))
            kill = kill + potency * f / (p.KE * product.h + f + p.w * y.Ts / p.VT)
        if options.engager:
            fitness = maximum(1.0 - y.Q, UNFIT)
            kill = kill + h.engaged * p.kbs * exp(p.gbs * log(fitness))
        kill = kill * (1.0 - p.bK * s)
        room = 1.0 - b / p.KB
        growth_s = p.r * alive(y.Ts) * room - kill * y.Ts / (y.Ts + 1e-3)
        growth_r = p.crt * p.r * alive(y.Tr) * room - p.by * kill * y.Tr / (y.Tr + 1e-3) + p.u * p.r * (y.Ts / y.Tr)
        return SimpleNamespace(
            b=b, a=a, s=s, gate=gate, niche=niche, crowding=crowding, growth_s=growth_s, growth_r=growth_r
        )

    def alive(cells: Any) -> Any:
        """Growth fades smoothly below one cell."""
        return cells**3 / (1.0 + cells**3)

    def hazard(m: SimpleNamespace, y: Any, p: Any) -> Any:
        growth = (y.Ts * m.growth_s + y.Tr * m.growth_r) / m.b
        burden = expit((log(m.b) - log(p.Bc)) / p.wB)
        return p.hbg + p.h1 * burden * expit((growth / p.r - p.cG) / p.wG)

    def rates(t: Any, y: Any, h: Any, p: Any) -> Values:
        m = mechanism(t, y, h, p)
        d: dict[str, Any] = {"Ts": m.growth_s, "Tr": m.growth_r}
        immunogen: Any = 0.0
        for j in slots:
            cells, held, product = of(y, j), of(h, j), of(p, j, "_")
            c = total(y, j)
            clearance = p.alA * product.chi * y.A
            exhaustion = p.kX * held.qx * m.a * (1.0 + p.bX * m.s)
            to_memory = p.eps * (1.0 - (m.gate if options.antigen_independent_memory else m.a))
            to_effector = p.eta * m.a
            proliferation = p.rho * held.f * m.a * m.niche * m.crowding
            e_m, m_e, x_m, e_x = cells.E / cells.M, cells.M / cells.E, cells.X / cells.M, cells.E / cells.X
            recovery = p.rX * (1.0 - m.a)
            d[f"E{j}"] = held.on * (proliferation - p.dE - to_memory - exhaustion - clearance + to_effector * m_e)
            d[f"M{j}"] = held.on * (
                p.rM * m.crowding - to_effector - p.dM - clearance + to_memory * e_m + recovery * x_m
            )
            d[f"X{j}"] = held.on * (exhaustion * e_x - recovery - p.dX - clearance)
            immunogen = immunogen + held.on * product.i * c / (p.KAC + c)
        worn = p.kQon * m.s + (h.engaged * p.wbs if options.engager else 0.0)
        d["Q"] = worn * (1.0 - y.Q) - p.kQoff * y.Q
        d["A"] = p.kA * immunogen * (1.0 - y.A) - p.dA * y.A
        d["P"] = p.kP * (p.P0 * (m.b / p.B0) - y.P)
        shed = baseline_sbcma(p) * ((y.Ts + 0.1 * y.Tr) / p.B0)
        d["S"] = p.kS * (p.Sbg + shed - y.S)
        d["H"] = hazard(m, y, p) if options.hazard else 0.0
        return d

    def transgene(t: Any, y: Any, h: Any, p: Any) -> Any:
        copies: Any = 0.0
        for j in slots:
            product = of(p, j, "_")
            copies = copies + of(h, j).on * exp(product.aT + product.bT * log(total(y, j)))
        return p.gT * exp(p.dlt * step_up(EARLY - (t - h.last))) * copies

    def flow(y: Any, h: Any) -> Any:
        return sum(of(h, j).on * total(y, j) for j in slots)

    def readouts(t: Any, y: Any, h: Any, p: Any) -> Values:
        out = {s.name: getattr(y, s.name) for s in states} | {f"on{j}": of(h, j).on for j in slots}
        out |= {"transgene": transgene(t, y, h, p), "cart": flow(y, h), "sbcma": y.S, "mprotein": y.P}
        out |= {f"Qaph{j}": of(h, j).Qaph for j in slots}
        if options.hazard:
            out |= {"hazard": hazard(mechanism(t, y, h, p), y, p)}
        return out

    def observations(t: Any, y: Any, h: Any, p: Any) -> dict[str, tuple[Any, Any]]:
        pairs = {
            "transgene": (log(transgene(t, y, h, p)), p.sigma_transgene),
            "cart": (log(flow(y, h)), p.sigma_cart),
            "sbcma": (log(y.S), p.sigma_sbcma),
            "mprotein": (log(y.P + IMMUNOFIXATION), p.sigma_mprotein),
        }
        if options.hazard:
            pairs["progression"] = (log(hazard(mechanism(t, y, h, p), y, p)), y.H)
            pairs["death"] = (log(p.hD), p.hD * t)
        return pairs

    states = (
        *(State(f"{cell}{j}", "cells/µL") for j in slots for cell in "EMX"),
        State("Ts", "cells"),
        State("Tr", "cells"),
        State("Q", "-", log=False),
        State("A", "-", log=False),
        State("P", "g/dL", log=False),
        State("S", "ng/mL", log=False),
        State("H", "-", log=False),
    )
    events: dict[str, Callable[[Any, Any, Any], tuple[Values, Values]]] = {}
    for j in slots:
        if j > 1:  # the first product is made before therapy: it inherits Q0, which `start` notes
            events[f"apheresis_{j}"] = apheresis(j)
        events[f"infusion_{j}"] = infusion(j)
        if options.hazard:
            events[f"assessment_{j}"] = assessment
    if options.engager:
        events["engagement"] = engagement
    extra = ("engaged",) if options.engager else ()
    held = ("last", "ld", "gate", *extra, *(f"{name}{j}" for j in slots for name in ("on", "f", "qx", "Qaph")))
    return OdeModel("bcma", states, held, start, rates, readouts, events, observations)
