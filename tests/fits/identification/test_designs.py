"""Designs: their file, and what schedules may be expected to leave."""

import numpy as np
import pytest

from reinfuse.fits.identification import benefit
from reinfuse.fits.identification.designs import NONE, allocate, load, parse, pose_designs
from reinfuse.fits.identification.information import Lines, censored
from reinfuse.fits.identification.preposterior import (
    Expected,
    Knowledge,
    Prediction,
    expect,
    individuals,
    predicted,
    regress,
    telling,
)
from reinfuse.fits.identification.records import Instrument, limits
from reinfuse.model.errors import ReinfuseError

FILE = {
    "study": {"patients": 8, "products": {"ide-cel": 1.0}, "lloq": {"transgene": 50.0, "cart": 0.5, "sbcma": 1.1}},
    "design": [
        {"name": "sparse", "transgene": [7, 30], "cart": [14], "sbcma": [0, 30]},
        {"name": "dense", "transgene": [4, 7, 14, 30], "cart": [7, 14, 30], "sbcma": [0, 7, 30, 100]},
        {"name": "turned", "transgene": [30, 7], "cart": [14], "sbcma": [30, 0]},
        {"name": "blind", "progression": False, "death": False},
        {"name": "twice", "transgene": [7, 30], "cart": [14], "sbcma": [0, 30], "patients": 16},
        {
            "name": "blunt",
            "transgene": [7, 30],
            "cart": [14],
            "sbcma": [0, 30],
            "lloq": {"transgene": 5e4, "cart": 50.0},
        },
    ],
}


class TestFile:
    def test_the_bundled_one_is_read(self):
        file = load()
        assert [design.name for design in file.design][:2] == ["as Leipzig", "plus days 2-5"]
        assert file.lloq(file.design[0])["sbcma"] == 1.1
        assert sum(file.allocation[1]) == pytest.approx(1.0)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"design": []}, "design: "),
            ({"design": [{"name": "a", "transgene": [0, 7]}]}, "transgene is sampled on day 0"),
            ({"design": [{"name": "a", "sbcma": [-1]}]}, "sbcma has a day outside"),
            ({"design": [{"name": "a", "sbcma": [7, 7]}]}, "name each day once"),
            ({"design": [{"name": "a", "flow": [7]}]}, "design.0.flow"),
            ({"design": [{"name": "a"}, {"name": "a"}]}, "give each design a name of its own"),
            ({"design": [{"name": NONE}]}, "is taken"),
            ({"design": [{"name": "a"}], "study": {"products": {"xyz-cel": 1.0}}}, "xyz-cel"),
            ({"design": [{"name": "a"}], "study": {"patients": 0}}, "study.patients"),
        ],
    )
    def test_faults_are_named_with_their_key(self, change, words):
        with pytest.raises(ReinfuseError, match=words):
            parse(change)

    def test_what_is_no_toml_is_said(self, tmp_path):
        path = tmp_path / "designs.toml"
        path.write_text("design = [")
        with pytest.raises(ReinfuseError, match="is not TOML"):
            load(path)

    def test_patients_are_spread_over_products_evenly(self):
        found = allocate([0.65, 0.35], 40)
        assert np.bincount(found).tolist() == [26, 14]
        assert abs(np.mean(found[:10]) - 0.35) < 0.06

    def test_m_protein_brings_its_own_differences_between_patients(self):
        file = parse({"design": [{"name": "a", "mprotein": [0, 28]}]})
        assert {"P0", "kP", "r"} <= set(pose_designs(file).random)
        assert "P0" not in pose_designs(parse({"design": [{"name": "a", "cart": [7]}]})).random


@pytest.fixture(scope="module")
def instrument():
    return Instrument(pose_designs(parse(FILE)))


@pytest.fixture(scope="module")
def expected(instrument) -> Expected:
    rng = np.random.default_rng(1)
    known = Knowledge.of_prior(instrument, 4, rng)
    near = known.mean + 0.3 * (known.draws - known.mean)  # far draws of wide priors are slow
    knowledge = Knowledge(known.names, known.mean, known.covariance, near, known.logs, known.prior_sd, known.source)
    return expect(parse(FILE), instrument, knowledge, np.random.default_rng(2), variant="no-exhaustion")


def of(expected: Expected, name: str) -> np.ndarray:
    return expected.covariance[expected.designs.index(name)]


def smaller(narrow: np.ndarray, wide: np.ndarray) -> bool:
    return bool(np.linalg.eigvalsh(wide - narrow).min() > -1e-9)


class TestExpected:
    def test_no_samples_leave_what_is_known(self, expected):
        assert np.allclose(of(expected, NONE), expected.knowledge.covariance)
        assert np.allclose(of(expected, "blind"), expected.knowledge.covariance)
        assert np.allclose(expected.shrinkage[expected.designs.index("blind")], 1.0)

    def test_a_sample_more_never_widens_anything(self, expected):
        """In any direction of the population, in every population that was drawn."""
        assert smaller(of(expected, "dense"), of(expected, "sparse"))
        assert smaller(of(expected, "sparse"), of(expected, NONE))
        table = expected.table().set_index(["design", "parameter"])["sd"]
        assert (table["dense"] <= table["sparse"] + 1e-12).all()

    def test_the_order_of_samples_changes_nothing(self, expected):
        assert np.array_equal(of(expected, "turned"), of(expected, "sparse"))

    def test_more_patients_tell_more(self, expected):
        assert smaller(of(expected, "twice"), of(expected, "sparse"))

    def test_a_higher_limit_tells_less(self, expected):
        sd = expected.table().set_index(["design", "parameter"])["sd"]
        assert sd["blunt", "sigma_cart"] > sd["sparse", "sigma_cart"] * 1.02
        assert sd["blunt", "aT:ide-cel"] > sd["sparse", "aT:ide-cel"]

    def test_shrinkage_falls_with_samples(self, expected):
        dense, sparse = (expected.shrinkage[expected.designs.index(name)] for name in ("dense", "sparse"))
        assert np.all(dense <= sparse + 1e-9)
        assert np.all((sparse >= 0) & (sparse <= 1))
        assert set(expected.shrinkage_table()["effect"]) == set(expected.effects)

    def test_parameters_that_tell_designs_apart_come_first(self, expected):
        assert len(telling(expected.table(), 5)) == 5


class TestReadings:
    def test_a_reading_is_the_models_location_and_who_is_there(self, instrument):
        h = instrument.posterior.prior_mean
        b = np.zeros((3, instrument.posterior.q))
        product = np.zeros(3, dtype=np.int64)
        theta = individuals(instrument, h, b, product)
        found = instrument.planned(theta, product, [("cart", 14.0), ("cart", 100.0)], 365.0)
        assert np.all(np.diff(found.follow[0, :2]) <= 0)
        assert np.all(found.follow[:, :2] <= 1.0)
        # who progresses, dies or stays adds up to everybody who was there on day 10
        events = found.follow[0, 2:].sum()
        rate = theta[0, instrument.problem.column("hD")]
        passed = instrument.cumulative_hazard(theta[:1], product[:1], np.array([365.0]))[0, 0]
        assert events + np.exp(-passed - 365.0 * rate) == pytest.approx(np.exp(-10.0 * rate), rel=1e-6)

    def test_an_assay_below_its_limit_weighs_by_m3(self, instrument):
        h = instrument.posterior.prior_mean
        product = np.zeros(2, dtype=np.int64)
        theta = individuals(instrument, h, np.zeros((2, instrument.posterior.q)), product)
        found = instrument.planned(theta, product, [("cart", 30.0)], 365.0)
        lines: Lines = found.lines(limits(found, {"cart": 20.0}))
        away = (np.log(20.0) - found.location[0, 0]) / found.sigma[0, 0]
        weight = censored(np.array(away))[0] / found.sigma[0, 0] ** 2 * found.follow[0, 0]
        assert lines.weight[0, 0] == pytest.approx(weight)

    def test_a_patient_who_cannot_be_solved_counts_as_not_sampled(self, instrument):
        product = np.zeros(2, dtype=np.int64)
        theta = individuals(instrument, instrument.posterior.prior_mean, np.zeros((2, instrument.posterior.q)), product)
        theta[1, instrument.problem.column("rho")] = np.nan
        found = instrument.planned(theta, product, [("cart", 30.0)], 365.0)
        assert found.failed.tolist() == [False, True]
        lines = found.lines(limits(found, {}))
        assert np.all(lines.weight[1] == 0.0)
        assert np.isfinite(lines.slope).all()


class TestPrediction:
    """A prediction that is linear in two of the parameters, with noise of known size."""

    def prediction(self, expected, rng, *, draws=400, noise=0.5, monte_carlo=0.3) -> tuple[Prediction, np.ndarray]:
        names = ("rho", "KE", "tg")
        places = [expected.knowledge.names.index(name) for name in names]
        root = np.linalg.cholesky(expected.knowledge.covariance[np.ix_(places, places)])
        x = rng.standard_normal((draws, 3)) @ root.T
        slope = np.array([4.0, -1.0, 0.0])
        chance = rng.standard_normal((2, draws))
        y = x @ slope + noise * chance[0] + monte_carlo * chance[1]
        whole = np.zeros(len(expected.knowledge.names))
        whole[places] = slope
        return Prediction("gain", "months", y, np.full(draws, monte_carlo**2), names, x), whole

    def test_its_sd_is_that_of_the_linear_gaussian_closed_form(self, expected):
        prediction, slope = self.prediction(expected, np.random.default_rng(3), draws=20_000)
        table = predicted(expected, prediction, np.random.default_rng(4), repeats=10).set_index("design")
        for k, name in enumerate(expected.designs):
            exact = np.sqrt(slope @ expected.covariance[k].mean(axis=0) @ slope + 0.5**2)
            assert table.loc[name, "sd"] == pytest.approx(exact, rel=0.02)

    def test_its_monte_carlo_error_is_the_scatter_over_repeats(self, expected):
        """Over new draws, the sd scatters as the error says, and around the closed form."""
        found = [self.prediction(expected, np.random.default_rng(100 + k), draws=300) for k in range(30)]
        sd = [np.sqrt(regress(p, expected.knowledge).variance(expected.knowledge.covariance)) for p, _ in found]
        slope = found[0][1]
        exact = np.sqrt(slope @ expected.knowledge.covariance @ slope + 0.25)
        table = predicted(expected, found[0][0], np.random.default_rng(5), repeats=100).set_index("design")
        assert np.mean(sd) == pytest.approx(exact, abs=4.0 * np.std(sd) / np.sqrt(30))
        assert 0.5 < table.loc[NONE, "mc_error"] / np.std(sd) < 2.0

    def test_more_samples_never_widen_it_and_none_leave_it(self, expected):
        prediction, _ = self.prediction(expected, np.random.default_rng(6))
        table = predicted(expected, prediction, np.random.default_rng(7), repeats=20).set_index("design")
        assert table.loc["dense", "sd"] <= table.loc["sparse", "sd"] <= table.loc[NONE, "sd"]
        assert table.loc[NONE, "ratio"] == 1.0
        assert table.loc["turned", "against_first"] == 0.0
        assert table.loc["sparse", "against_first_error"] == 0.0

    def test_noise_alone_explains_next_to_nothing(self, expected):
        prediction, _ = self.prediction(expected, np.random.default_rng(8))
        chance = np.random.default_rng(9).standard_normal(prediction.value.size)
        nothing = Prediction("x", "-", chance, 0.0 * chance, prediction.names, prediction.explaining)
        found = regress(nothing, expected.knowledge)
        assert found.explained(expected.knowledge.covariance) < 0.02

    def test_what_few_draws_explain_by_chance_is_taken_back(self, expected):
        """Three parameters explain a tenth of thirty draws of pure chance; shrunk, well below that."""
        shares = []
        for k in range(200):
            rng = np.random.default_rng(k)
            prediction, _ = self.prediction(expected, rng, draws=30)
            chance = rng.standard_normal(30)
            nothing = Prediction("x", "-", chance, 0.0 * chance, prediction.names, prediction.explaining)
            shares.append(regress(nothing, expected.knowledge).explained(expected.knowledge.covariance))
        assert np.mean(shares) < 0.06

    def test_too_few_draws_are_refused(self, expected):
        prediction, _ = self.prediction(expected, np.random.default_rng(8), draws=6)
        with pytest.raises(ReinfuseError, match="ask for more"):
            regress(prediction, expected.knowledge)


class TestBenefit:
    def test_means_by_draw_and_their_variances(self):
        gain = np.array([1.0, 2.0, 3.0, 6.0, 5.0])
        mean, variance, enough = benefit.by_draw(gain, np.array([0, 0, 0, 0, 1]), 3)
        assert mean[0] == pytest.approx(3.0)
        assert variance[0] == pytest.approx(np.var(gain[:4], ddof=1) / 4)
        assert enough.tolist() == [True, False, False]

    def test_it_is_the_laboratorys_own_difference(self, tmp_path):
        """The overall mean, weighted by patients, is that of the paired difference of the retreatment laboratory."""
        from reinfuse.fits.retreatment import engine
        from reinfuse.fits.retreatment.contrasts import limited_months, pair

        file = benefit.scenario(None)
        population = benefit.population_of(None, file, 60, np.random.default_rng(1), variant="no-exhaustion")
        found = benefit.benefit(file=file, population=population, names=("rho", "KE"), patients=600, seed=5)
        again = engine.run(file, population, patients=600, seed=5, path=tmp_path / "o.parquet", cores=1)
        arms = [again.outcomes.read(scenario.name, file.worlds[0].name) for scenario in file.scenarios]
        paired = pair(*arms)
        gain = limited_months(paired.first, 24.0) - limited_months(paired.second, 24.0)
        mean, _, enough = benefit.by_draw(gain, paired.draw, 60)
        assert found.value == pytest.approx(mean[enough])
        assert set(found.names) == {"rho", "KE"}
        assert found.explaining.shape == (enough.sum(), 2)

    def test_what_explains_it_has_the_names_of_a_runs_scalars(self):
        file = benefit.scenario(None)
        population = benefit.population_of(None, file, 12, np.random.default_rng(1), variant="no-exhaustion")
        columns = benefit.hyper_columns(population)
        assert {"rho", "omega:rho", "rho:cilta-cel", "KE:cilta-cel"} <= set(columns)
        assert "qref" not in columns  # a definition does not vary
        assert columns["rho"].std() == pytest.approx(0.2, rel=0.6)
