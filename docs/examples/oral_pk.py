"""Oral one-compartment pharmacokinetics: a dose enters a depot, from which it is absorbed and then cleared."""

from reinfuse.model.define import Model, parameter, relative_error


def start(p):
    return {"depot": 0.0, "central": 0.0}


def rates(t, y, p):
    absorbed = p.ka * y.depot
    return {"depot": -absorbed, "central": absorbed - p.CL / p.V * y.central}


def dose(y, p, amount):
    return {"depot": y.depot + amount}


def observables(t, y, p):
    return {"conc": relative_error(y.central / p.V, p.sigma, unit="mg/L")}


pk = Model(
    name="oral-pk", time_unit="h", dose_unit="mg", states={"depot": "mg", "central": "mg"},
    parameters=[
        parameter("ka", "absorption rate", unit="1/h", median=1.0, log_sd=0.5, iiv=0.3),
        parameter("CL", "clearance", unit="L/h", median=4.0, log_sd=0.5, iiv=0.3),
        parameter("V", "volume of distribution", unit="L", median=30.0, log_sd=0.5, iiv=0.2),
        parameter("sigma", "residual sd of ln(conc)", median=0.2, log_sd=0.5),
    ],
    start=start, rates=rates, dose=dose, observables=observables,
)  # fmt: skip
