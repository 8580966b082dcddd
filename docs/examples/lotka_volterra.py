"""Lotka and Volterra: prey multiply and are eaten, predators live on them; a dose releases predators."""

from reinfuse.model.define import Model, State, parameter, relative_error


def start(p):
    return {"prey": p.N0, "predators": p.P0}


def rates(t, y, p):
    eaten = p.beta * y.prey * y.predators
    return {"prey": p.alpha * y.prey - eaten, "predators": p.delta * eaten - p.gamma * y.predators}


def dose(y, p, amount):
    return {"predators": y.predators + amount}


def observables(t, y, p):
    return {"hares": relative_error(y.prey, p.sigma), "lynxes": relative_error(y.predators, p.sigma)}


lv = Model(
    name="lotka-volterra", time_unit="a", states=[State("prey", "thousands"), State("predators", "thousands")],
    parameters=[
        parameter("alpha", "growth of prey", unit="1/a", median=0.6, log_sd=0.3, iiv=0.1),
        parameter("beta", "predation", unit="1/a per thousand", median=0.03, log_sd=0.3, iiv=0.1),
        parameter("gamma", "death of predators", unit="1/a", median=0.8, log_sd=0.3),
        parameter("delta", "predators made of a prey", median=0.8, log_sd=0.3),
        parameter("N0", "prey at first", unit="thousands", median=30.0, log_sd=0.5, iiv=0.3),
        parameter("P0", "predators at first", unit="thousands", median=5.0, log_sd=0.5, iiv=0.3),
        parameter("sigma", "residual sd of the logarithms", median=0.2, log_sd=0.3),
    ],
    start=start, rates=rates, dose=dose, observables=observables,
)  # fmt: skip
