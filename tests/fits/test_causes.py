"""Each likely cause of a bad fit is found in draws made to have it, and in no others; a healthy fit has none."""

import numpy as np
import pytest
import xarray as xr

from reinfuse.fits.diagnosis import convergence
from reinfuse.fits.diagnosis.causes import find_causes

CHAINS, DRAWS, PATIENTS = 4, 500, 6
EFFECTS = ("rho", "KE")
POPULATION = ("rho", "KE", "kS", "Bc")


class Draws:
    """Healthy draws on the transformed scale, to be spoilt: population, log omega, patients' deviations."""

    def __init__(self, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.population = 0.1 * rng.standard_normal((CHAINS, DRAWS, len(POPULATION)))
        self.log_omega = -1.0 + 0.15 * rng.standard_normal((CHAINS, DRAWS, len(EFFECTS)))
        self.deviations = 0.3 * np.arange(PATIENTS)[:, None] + 0.1 * rng.standard_normal(
            (CHAINS, DRAWS, PATIENTS, len(EFFECTS))
        )
        self.statistics: dict[str, np.ndarray] = {"trajectories": np.full((CHAINS, DRAWS), 60.0)}
        self.loglik = rng.standard_normal((CHAINS, DRAWS, PATIENTS))

    def slow(self, memory: float = 0.99) -> np.ndarray:
        """A chain with a long memory: agreeing, but short of effective draws."""
        x = np.empty((CHAINS, DRAWS))
        x[:, 0] = 0.0
        for t in range(1, DRAWS):
            x[:, t] = memory * x[:, t - 1] + np.sqrt(1 - memory**2) * self.rng.standard_normal(CHAINS)
        return x

    def modes(self, apart: float, stay: float = 0.99) -> np.ndarray:
        """Draws in two modes so many sds apart that every chain visits; it stays in one with this probability."""
        flips = self.rng.random((CHAINS, DRAWS)) > stay
        upper = np.cumsum(flips, axis=1) % 2
        return apart * upper + self.rng.standard_normal((CHAINS, DRAWS))

    @property
    def tree(self) -> xr.DataTree:
        lead = ("chain", "draw")
        posterior = xr.Dataset(
            {
                "population": ((*lead, "parameter"), np.exp(self.population)),
                "omega": ((*lead, "effect"), np.exp(self.log_omega)),
                "individual": ((*lead, "patient", "effect"), np.exp(self.deviations)),
            },
            coords={
                "parameter": list(POPULATION),
                "effect": list(EFFECTS),
                "patient": [f"P{i}" for i in range(PATIENTS)],
            },
        )
        return xr.DataTree.from_dict(
            {
                "/posterior": posterior,
                "/sample_stats": xr.Dataset({name: (lead, x) for name, x in self.statistics.items()}),
                "/log_likelihood": xr.Dataset({"patient": ((*lead, "subject"), self.loglik)}),
            }
        )

    def causes(self, **more) -> list:
        tree = self.tree
        scalars = convergence.scalar_table(tree["posterior"].to_dataset())
        least = scalars[["ess_bulk", "ess_tail"]].min(axis=1)
        poor = set(scalars[(scalars["rhat"] >= convergence.MAX_RHAT) | (least <= convergence.MIN_ESS)]["parameter"])
        return find_causes(tree, scalars, poor, wanted=convergence.MIN_ESS, **more)


def kinds(causes) -> list[str]:
    return [cause.kind for cause in causes]


@pytest.fixture
def draws() -> Draws:
    return Draws()


def test_a_healthy_fit_has_no_cause_and_no_advice(draws):
    assert draws.causes(solver_failures=40) == []
    found = convergence.diagnose(draws.tree, solver_failures=40)  # of 120,000 trajectories
    assert found.converged
    assert found.advice == []


def test_two_groups_of_chains_are_two_modes_and_the_better_one_is_named(draws):
    draws.population[:2, :, 2] += 1.0
    draws.loglik[:2] += 2.0
    causes = draws.causes()
    assert kinds(causes) == ["modes"]
    assert causes[0].names == ("kS",)
    assert "Chains 2, 3 and chains 0, 1 stand apart" in causes[0].sentence
    assert f"Chains 0, 1 describe the data better, by {2 * PATIENTS}" in causes[0].sentence


def test_one_chain_that_moves_elsewhere_is_a_mode_too(draws):
    draws.population[3, :, 2] += 1.0
    (cause,) = draws.causes()
    assert cause.kind == "modes"
    assert "Chain 3 stands apart from the others in kS" in cause.sentence
    assert "about equally well" in cause.sentence


def test_a_chain_that_hardly_moves_is_stuck(draws):
    draws.population[1, :, 2] = 0.8 + 1e-3 * draws.rng.standard_normal(DRAWS)
    causes = draws.causes()
    assert kinds(causes) == ["stuck"]
    assert causes[0].sentence.startswith("Chain 1 is stuck")


def test_two_modes_that_every_chain_visits_are_named_with_their_weight(draws):
    where = draws.modes(6.0)
    draws.population[..., 2] = 0.1 * where
    draws.population[..., 3] = -0.05 * where  # goes along: one cause
    causes = [cause for cause in draws.causes() if cause.kind != "alias"]  # which they are, too
    assert kinds(causes) == ["switching"]
    assert set(causes[0].names) == {"kS", "Bc"}
    upper = where > 3.0
    changes = np.median(np.abs(np.diff(upper.astype(int), axis=1)).sum(axis=1))
    assert f"change only {changes:.0f} times in {DRAWS} draws" in causes[0].sentence
    share = upper.mean() if causes[0].names[0] == "kS" else 1 - upper.mean()
    assert f"{100 * share:.0f} % of the draws in the upper one of {causes[0].names[0]}" in causes[0].sentence
    advice = convergence.diagnose(draws.tree).advice
    assert "explore the same two regions, and seldom go from one to the other" in advice[0]


def test_modes_of_one_number_and_of_another_are_two_causes(draws):
    draws.population[..., 2], draws.population[..., 0] = draws.modes(8.0), draws.modes(6.0)
    causes = draws.causes()
    assert kinds(causes) == ["switching", "switching"]
    assert [cause.names for cause in causes] == [("kS",), ("rho",)]


def test_modes_between_which_chains_go_freely_are_no_fault(draws):
    draws.population[..., 2] = 0.1 * draws.modes(6.0, stay=0.5)
    assert draws.causes() == []


@pytest.mark.parametrize("memory", [0.9, 0.99, 0.999])
def test_one_mode_is_never_called_two_however_slow_or_skewed(memory):
    """The fewer effective draws, the more heaps there are in a histogram of them."""
    for seed in range(20):
        draws = Draws(seed)
        slow = draws.slow(memory)
        draws.population[..., 0], draws.population[..., 2] = slow, np.exp(slow)
        draws.population[..., 3] = np.tanh(3 * slow)
        assert "switching" not in kinds(draws.causes())


def test_a_patient_whose_chains_disagree_is_named(draws):
    draws.deviations[:2, :, 4, :] += 1.5
    causes = draws.causes()
    assert kinds(causes) == ["modes", "patient"]
    assert causes[1].names[0] == "P4"
    assert set(causes[1].names[1:]) == {"rho[P4]", "KE[P4]"}
    assert "check its rows" in causes[1].sentence


def test_a_patient_who_wanders_slowly_is_on_a_ridge(draws):
    draws.deviations[:, :, 4, 0] = 0.1 * draws.slow()
    draws.population[..., 0] += 0.02 * draws.slow(0.9)
    (cause,) = (found for found in draws.causes() if found.kind == "ridge")
    assert cause.names[:2] == ("P4", "rho[P4]")
    assert "times as many sweeps" in cause.sentence


def test_a_slow_population_is_no_patients_ridge(draws):
    draws.population[..., 0] = 0.1 * draws.slow(0.999)
    draws.deviations[:, :, 4, 0] = 0.1 * draws.slow(0.97)
    assert "ridge" not in kinds(draws.causes())


def test_slow_patients_everywhere_are_no_one_patients_ridge(draws):
    for patient in range(PATIENTS):
        draws.deviations[:, :, patient, 0] = 0.1 * draws.slow()
    assert "ridge" not in kinds(draws.causes())


def test_a_population_that_splits_is_not_one_patients_doing(draws):
    draws.deviations[:2] += 1.5
    draws.population[:2, :, 0] += 1.5
    assert kinds(draws.causes()) == ["modes"]


def test_a_spread_that_reaches_down_with_its_deviations_is_a_funnel(draws):
    draws.log_omega[..., 1] = -1.0 + 1.2 * draws.slow()
    noise = draws.rng.standard_normal((CHAINS, DRAWS, PATIENTS))
    draws.deviations[..., 1] = np.exp(draws.log_omega[..., 1])[..., None] * noise
    causes = draws.causes()
    assert kinds(causes) == ["funnel"]
    assert causes[0].names == ("omega:KE",)
    assert "differ in KE" in causes[0].sentence


def test_a_slow_spread_that_the_data_hold_is_no_funnel(draws):
    draws.log_omega[..., 1] = -1.0 + 0.1 * draws.slow()
    assert kinds(draws.causes()) == []


def test_a_slow_pair_that_goes_together_is_aliased(draws):
    together = 0.5 * draws.slow()
    draws.population[..., 1] = together
    draws.population[..., 3] = -together + 0.02 * draws.rng.standard_normal((CHAINS, DRAWS))
    (cause,) = draws.causes()
    assert cause.kind == "alias"
    assert cause.names == ("KE", "Bc")
    assert "-1.00" in cause.sentence or "-0.99" in cause.sentence


def test_chains_that_disagree_do_not_make_pairs(draws):
    """Between chains everything that splits them correlates; within them nothing does."""
    draws.population[:2, :, 2] += 1.0
    draws.population[:2, :, 3] += 1.0
    causes = draws.causes()
    assert kinds(causes) == ["modes"]
    assert set(causes[0].names) == {"kS", "Bc"}


@pytest.mark.parametrize(("share", "told"), [(0.009, []), (0.02, ["solver"])])
def test_the_solver_is_named_only_above_its_share(draws, share, told):
    failures = int(share * draws.statistics["trajectories"].sum())
    causes = draws.causes(solver_failures=failures)
    assert kinds(causes) == told
    if told:
        assert f"gave up {failures} times" in causes[0].sentence
        assert "does not say at which draws" in causes[0].sentence


def test_failures_that_gather_name_the_place(draws):
    high = draws.population[..., 1] > np.quantile(draws.population[..., 1], 0.9)
    draws.statistics["solver_failures"] = np.where(high, 20, 0)
    (cause,) = draws.causes()
    assert cause.kind == "solver"
    assert cause.names == ("KE",)
    assert "KE is high" in cause.sentence


def test_failures_everywhere_have_no_place(draws):
    draws.statistics["solver_failures"] = np.full((CHAINS, DRAWS), 2)
    (cause,) = draws.causes()
    assert "no common place" in cause.sentence


def test_advice_holds_the_causes_after_the_fact(draws):
    draws.population[:2, :, 2] += 1.0
    advice = convergence.diagnose(draws.tree).advice
    assert advice[0].startswith("R-hat is 1.01 or more for kS")
    assert any("more than one explanation" in sentence for sentence in advice)
    draws = Draws(2)
    draws.population[..., 2] = draws.slow()
    advice = convergence.diagnose(draws.tree).advice
    assert any("slowly" in sentence or "longer ones will do" in sentence for sentence in advice)
    assert not any("explanation" in sentence for sentence in advice)
