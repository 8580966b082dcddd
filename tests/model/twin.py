"""The slow, readable twin of the kernels: the same model text on plain floats, solved by SciPy.

Nothing of `derive` or `kernels` is used except the names in the model's text. Where the two agree, tracing,
simplification, code generation, lanes, step control, events and dense output are right together.
"""

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import numpy as np
from scipy.integrate import solve_ivp

from reinfuse.model.course import Infusion, resolve
from reinfuse.model.equations import bcma
from reinfuse.model.equations.definition import OdeModel
from reinfuse.model.parameters import median
from reinfuse.model.schedule import events, slot_parameters

TOLERANCE = 1e-10


def solve(
    model: OdeModel,
    *,
    parameters: Mapping[str, float],
    happenings: Sequence[tuple[float, str]],
    times: Sequence[float],
    method: str = "DOP853",
    tolerance: float = TOLERANCE,
    report: Callable | None = None,
) -> dict[str, np.ndarray]:
    """Read-outs of one patient, (T,) each; the row at an event is after it.

    `happenings` are the days and names of the events, in order. `report` stands in for the model's read-outs.
    """
    report = report or model.readouts
    p = SimpleNamespace(**parameters)
    logged = np.array([s.log for s in model.states])
    names = [s.name for s in model.states]

    def natural(z):
        with np.errstate(over="ignore", under="ignore"):
            return SimpleNamespace(**dict(zip(names, np.where(logged, np.exp(z), z), strict=True)))

    def stored(values):
        return np.array([np.log(values[n]) if log else values[n] for n, log in zip(names, logged, strict=True)])

    start, held = model.start(p)
    z, h = stored(start), SimpleNamespace(**held)
    t, rows, left = 0.0, {}, list(happenings)
    wanted = np.asarray(times, dtype=float)
    while True:
        while left and left[0][0] <= t:
            states, changed = model.events[left.pop(0)[1]](natural(z), h, p)
            before = vars(natural(z))
            moved = stored({**before, **states})
            z = np.array([moved[i] if n in states else z[i] for i, n in enumerate(names)])
            h = SimpleNamespace(**{**vars(h), **changed})
        for now in wanted[wanted == t]:
            rows[now] = report(now, natural(z), h, p)
        if t >= wanted[-1]:
            break
        stop = min(wanted[-1], left[0][0]) if left else wanted[-1]
        inside = wanted[(wanted > t) & (wanted < stop)]

        def derivative(now, z, h=h):
            d = model.rates(now, natural(z), h, p)
            return np.array([d[n] for n in names])

        solution = solve_ivp(
            derivative,
            (t, stop),
            z,
            method=method,
            rtol=tolerance,
            atol=tolerance,
            t_eval=[*inside, stop],
            first_step=min(1e-4, stop - t),
        )
        assert solution.success, solution.message
        for now, column in zip(inside, solution.y.T, strict=False):
            rows[now] = report(now, natural(column), h, p)
        t, z = stop, solution.y[:, -1]
    keys = rows[wanted[0]].keys()
    return {k: np.array([float(rows[now][k]) for now in wanted]) for k in keys}


def simulate(
    *,
    course: Sequence[Infusion],
    times: Sequence[float],
    options: str = "reference",
    parameters: Mapping[str, float] | None = None,
    method: str = "DOP853",
    tolerance: float = TOLERANCE,
) -> dict[str, np.ndarray]:
    """What `reinfuse.model.simulate.simulate` reports, from the twin."""
    resolved = resolve(course)
    model = bcma.build(len(resolved), bcma.OPTIONS[options])
    values = median(options) | ({"gT": 1.0, "dlt": 0.0} if options == "reference" else {})
    values |= {name: float(v) for name, v in slot_parameters(resolved, options).items()}
    values |= dict(parameters or {})
    days, codes, count = events(resolved, 1, list(model.events))
    names = list(model.events)
    happenings = [(float(days[0, i]), names[codes[0, i]]) for i in range(int(count[0]))]
    return solve(
        model,
        parameters=values,
        happenings=happenings,
        times=times,
        method=method,
        tolerance=tolerance,
    )
