"""Inputs and read-outs of virtual patients: the laboratory's own numbers, and exact derivatives."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.special import ndtr

from reinfuse.fits.retreatment.scenarios import ScenarioFile, World, load, parse
from reinfuse.fits.retreatment.virtual_patients import from_prior
from reinfuse.fits.sensitivity.gradients import gradient
from reinfuse.fits.sensitivity.inputs import NODES, REACH, Inputs, from_cohort, from_population
from reinfuse.fits.sensitivity.outcomes import UNDEFINED, describe, expanded, without_world
from reinfuse.fits.sensitivity.reader import Reader
from reinfuse.fits.sensitivity.study import check_suits
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.simulate import simulate_population

FILE = load(None)


@pytest.fixture(scope="module")
def prior() -> Inputs:
    products = [FILE.product(name) for name in FILE.product_names]
    population = from_prior(rng=np.random.default_rng(1), products=products, n_draws=4096, options="real")
    return from_population(population, rng=np.random.default_rng(2), n=4096)


def reader(inputs: Inputs, *names: str, file: ScenarioFile = FILE) -> Reader:
    return Reader(
        inputs=inputs, asked=expanded(names), file=file, scenario=file.scenarios[0], worlds=(file.worlds[0],),
        options="real",
    )  # fmt: skip


def test_tabulated_marginals_are_those_of_the_patients(prior: Inputs) -> None:
    place = prior.names.index("rho")
    drawn = prior.at(np.random.default_rng(3).standard_normal((20_000, prior.k)))[:, place]
    patients = prior.quantiles[:, place]
    at = ndtr(np.linspace(-REACH, REACH, NODES))
    for level in (0.1, 0.5, 0.9):
        assert np.quantile(drawn, level) == pytest.approx(np.interp(level, at, patients), rel=0.02)


def test_outcomes_of_a_few_are_those_within_many_and_one_row_is_one_patient(prior: Inputs) -> None:
    values = prior.at(np.random.default_rng(4).standard_normal((40, prior.k)))
    many, status = reader(prior, "cmax", "pfs1", "benefit").read(values)
    few, _ = reader(prior, "cmax", "pfs1", "benefit").read(values[7:11])
    np.testing.assert_array_equal(many[7:11], few)
    assert set(np.unique(status)) <= {0, UNDEFINED}


def test_exposure_alone_is_the_exposure_beside_the_rest(prior: Inputs) -> None:
    values = prior.at(np.random.default_rng(5).standard_normal((64, prior.k)))
    alone, _ = reader(prior, "cmax", "auc28").read(values)
    beside, status = reader(prior, "cmax", "auc28", "nadir").read(values)
    good = status == 0
    np.testing.assert_allclose(alone[good], beside[good][:, :2], atol=1e-3)


SECOND = """
[settings]
{settings}
[[world]]
name = "as assumed"
[[scenario]]
name = "again"
first.product = "ide-cel"
second.product = "cilta-cel"
{plan}
"""


@pytest.mark.parametrize(
    ("settings", "plan"),
    [
        ("", "second.days_after_progression = 1"),
        ("confirm_progression = true", "second.days_after_progression = 200"),
        ('progression = "hazard"', 'second.apheresis = "banked"'),
    ],
    ids=["at once", "late", "banked"],
)
def test_outcomes_are_those_of_whole_courses_each_simulated_from_its_beginning(
    settings: str, plan: str, prior: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = prior.at(np.random.default_rng(9).standard_normal((600, prior.k)))
    names = ("persistence", "nadir", "deepest", "pfs1", "burden", "cmax2", "best2", "pfs2", "benefit")
    one = reader(prior, *names, file=parse(SECOND.format(settings=settings, plan=plan)))
    found, status = one.read(values)
    asked = []

    def whole(**given: Any) -> xr.Dataset:
        asked.append({name for name in ("start", "stopping") if given.pop(name, None) is not None})
        return simulate_population(**given)

    monkeypatch.setattr("reinfuse.fits.sensitivity.reader.simulate_population", whole)
    wanted, state = one.read(values)
    assert asked == [{"stopping"}, {"start", "stopping"}, {"start", "stopping"}]
    np.testing.assert_array_equal(status, state)
    second = np.array([describe(name).needs != "first" for name in one.outcomes])
    np.testing.assert_allclose(found[:, ~second], wanted[:, ~second], atol=1e-5)
    assert np.isfinite(wanted[:, second]).all(axis=1).sum() > 200
    # another path of the solver: who stands on a limit may be found at another visit
    close = np.isclose(found, wanted, rtol=0, atol=2e-3, equal_nan=True)
    assert (~close).any(axis=1).sum() <= 2


class TestExtinction:
    """The last cell may die out by chance: a patient's luck, one more input."""

    @pytest.fixture(scope="class")
    @classmethod
    def lucky(cls) -> Inputs:
        products = [FILE.product(name) for name in FILE.product_names]
        population = from_prior(rng=np.random.default_rng(1), products=products, n_draws=512, options="real")
        return from_population(population, rng=np.random.default_rng(2), n=512, extinction=True)

    def read(self, inputs: Inputs, luck: float, settings: str = "extinction = true") -> np.ndarray:
        """PFS of both courses, with the same luck for all: 0 is the best."""
        file = parse(SECOND.format(settings=settings, plan="second.days_after_progression = 1"))
        values = inputs.at(np.random.default_rng(11).standard_normal((300, inputs.k)))
        values[:, [inputs.names.index(f"extinct {course}") for course in (1, 2)]] = luck
        return reader(inputs, "pfs1", "pfs2", file=file).read(values)[0]

    def test_without_luck_nothing_changes(self, lucky: Inputs) -> None:
        np.testing.assert_allclose(self.read(lucky, np.inf), self.read(lucky, 0.0, settings=""), atol=2e-3)

    def test_with_luck_who_has_any_chance_does_not_relapse(self, lucky: Inputs) -> None:
        with_it, without = self.read(lucky, 0.0), self.read(lucky, np.inf)
        told = np.isfinite(with_it[:, 0])
        assert (with_it[told, 0] >= without[told, 0] - 1e-9).all()
        cured = with_it[:, 0] > without[:, 0]
        assert cured.sum() > 3
        assert np.isnan(with_it[cured, 1]).all(), "no relapse, no second course"

    def test_luck_in_between_cures_some(self, lucky: Inputs) -> None:
        means = [np.nanmean(self.read(lucky, luck)[:, 0]) for luck in (0.0, 0.5, np.inf)]
        assert means[0] >= means[1] >= means[2]
        assert means[0] > means[2]


def test_worlds_are_read_of_the_same_patients_and_failures_are_left_out_of_all(prior: Inputs) -> None:
    values = prior.at(np.random.default_rng(10).standard_normal((200, prior.k)))
    values[:20, prior.names.index("P0")] = 0.01  # too little M-protein to judge a response
    worlds = FILE.worlds[:2]
    both = replace(reader(prior, "best", "benefit", "burden"), worlds=worlds)
    assert both.outcomes[:3] == ("best (as assumed)", "benefit (as assumed)", "burden (as assumed)@2")
    assert {without_world(name) for name in both.outcomes} == set(both.asked)
    found, status = both.read(values)
    parts = [replace(both, worlds=(world,)).read(values) for world in worlds]
    failed = (parts[0][1] != 0) | (parts[1][1] != 0)
    np.testing.assert_array_equal(status != 0, failed)
    assert failed.sum() == 20
    wanted = np.hstack([found for found, _ in parts])
    np.testing.assert_array_equal(found[~failed], wanted[~failed])
    assert np.isnan(found[failed]).all()
    q = len(both.asked)
    assert (found[~failed, 1] != found[~failed, q + 1]).any()


def test_who_does_not_relapse_has_no_benefit_and_no_second_course(prior: Inputs) -> None:
    values = prior.at(np.random.default_rng(6).standard_normal((128, prior.k)))
    found, status = reader(prior, "benefit", "pfs2").read(values)
    without = np.isnan(found[:, 1]) & (status == 0)
    assert without.any()
    np.testing.assert_array_equal(found[without, 0], 0.0)


OTHER = World(
    name="other",
    host_dysfunction=0.5,
    antigen_loss_fraction=1e8,
    microenvironment=2.0,
    resistance=2.0,
    short_persistence=0.5,
)


@pytest.mark.parametrize(
    ("name", "world"),
    [(name, FILE.worlds[0]) for name in ("cmax", "auc28", "nadir", "transgene@14", "transgene@90", "burden@60")]
    + [("auc28", OTHER), ("burden@60", OTHER)],
)
def test_derivatives_of_the_adjoint_are_those_of_differences(
    name: str, world: World, prior: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reinfuse.fits.sensitivity.reader.TOLERANCE", 1e-9)
    smooth = np.exp(0.3 * np.linspace(-REACH, REACH, NODES))[:, None]
    middle = prior.at(np.zeros((1, prior.k)))
    middle[:, prior.names.index("fr")] = 5e-9  # which the other world takes across its limit
    moved = ("rho", "tg", "dE", "dM", "KE", "feng", "KA", "gT", "f0 cilta-cel", "bR", "fr", "bK")
    chosen = [i for i, n in enumerate(prior.names) if n in moved]
    some = prior.only([prior.names[i] for i in chosen])
    some = replace(some, quantiles=middle[:, chosen] * smooth)
    one, step = replace(reader(some, name), worlds=(world,)), 1e-4
    node = 2 * REACH / (NODES - 1)
    # in the middle of a piece of the tabulated quantiles, so that both sides lie on it
    scores = (np.floor(np.random.default_rng(7).uniform(-1.5, 1.5, (4, some.k)) / node) + 0.5) * node
    exact = gradient(one, name, scores)
    for i in range(some.k):
        move = np.zeros(some.k)
        move[i] = step
        high, low = (one.read(some.at(scores + sign * move))[0][:, -1] for sign in (1, -1))
        np.testing.assert_allclose(exact[:, i], (high - low) / (2 * step), atol=2e-4)
    assert np.abs(exact).max() > 0.01


def test_outcomes_that_a_method_cannot_answer_for_are_refused_with_a_remedy() -> None:
    with pytest.raises(ReinfuseError, match="benefit"):
        check_suits("sobol", ("pfs2",))
    with pytest.raises(ReinfuseError, match="no derivative"):
        check_suits("dgsm", ("pfs1",))
    with pytest.raises(ReinfuseError, match="choose from"):
        expanded(["nonsense"])
    with pytest.raises(ReinfuseError, match="burden@13 is read on no such day; choose from burden@2, burden@4"):
        expanded(["burden@14", "burden@13"])


def test_a_virtual_cohort_keeps_its_correlation(tmp_path) -> None:
    rng = np.random.default_rng(8)
    z = rng.standard_normal((400, 2)) @ np.linalg.cholesky([[1.0, 0.8], [0.8, 1.0]]).T
    path = tmp_path / "cohort.csv"
    rows = "\n".join(f"{i},{np.exp(a) * 1e11:.6g},{np.exp(0.2 * b):.6g}" for i, (a, b) in enumerate(z))
    path.write_text(f"ID,B0,rho\n{rows}\n", encoding="utf-8")
    found = from_cohort(path, options="real", rng=rng)
    assert found.dependent[0][:2] == ("B0", "rho")
    assert found.dependent[0][2] == pytest.approx(0.8, abs=0.07)
    path.write_text("ID,weight\n1,70\n", encoding="utf-8")
    with pytest.raises(ReinfuseError, match="no parameter"):
        from_cohort(path, options="real", rng=rng)
