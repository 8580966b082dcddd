"""Populations too large for memory: the summary is that of the whole, whatever the chunks; memory is bounded."""

import subprocess
import sys

import numpy as np
import pytest

from reinfuse.model.course import Infusion
from reinfuse.model.ensemble import RESOLUTION, Histogram, prior_draw, summarise_population
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import REAL_COHORT
from reinfuse.model.simulate import simulate_population

COURSE = [Infusion(product="ide-cel"), Infusion(product="cilta-cel", day=300.0)]
TIMES = np.array([0.0, 14.0, 100.0, 314.0, 500.0])
GIVEN = {"course": COURSE, "times": TIMES, "readouts": ("cart", "Ts")}


class TestHistogram:
    def test_quantiles_are_those_of_the_values(self):
        values = np.exp(np.random.default_rng(1).normal([0.0, 5.0], [1.0, 3.0], size=(50_000, 2)))
        histogram = Histogram(2)
        for part in np.array_split(values, 7):
            histogram.add(part)
        wanted = np.quantile(values, [0.05, 0.5, 0.95], axis=0)
        found = histogram.quantiles([0.05, 0.5, 0.95])
        assert np.abs(np.log(found / wanted)).max() < RESOLUTION
        np.testing.assert_allclose(histogram.total / histogram.number, np.log(values).mean(axis=0), rtol=1e-10)

    def test_zero_is_the_smallest_and_nan_counts_nowhere(self):
        histogram = Histogram(1)
        histogram.add(np.array([[0.0], [1.0], [np.nan], [1.0]]))
        assert histogram.number == [3]
        assert histogram.quantiles([0.2])[0, 0] < 1e-50
        assert histogram.quantiles([0.9])[0, 0] == pytest.approx(1.0, rel=RESOLUTION)

    def test_nothing_counted_has_no_quantiles(self):
        assert np.isnan(Histogram(2).quantiles([0.5])).all()


class TestSummary:
    def test_it_is_that_of_the_whole_population(self):
        found = summarise_population(size=3000, chunk=700, **GIVEN)
        draws = [prior_draw()(np.random.default_rng([1, k]), n) for k, n in enumerate((700, 700, 700, 700, 200))]
        together = {name: np.concatenate([d[name] for d in draws]) for name in draws[0]}
        whole = simulate_population(
            course=COURSE, times=TIMES, parameters=together, options="real", tolerance=1e-4, readouts=("cart", "Ts")
        )
        assert found.attrs == {
            "patients": 3000,
            "failures": whole.attrs["failures"],
            "implicit": whole.attrs["implicit"],
        }
        for name in ("cart", "Ts"):
            wanted = np.nanquantile(whole[name], found["quantile"], axis=0, method="inverted_cdf")
            assert np.nanmax(np.abs(np.log(found[name] / wanted))) < RESOLUTION, name
            logs = np.log(whole[name])
            np.testing.assert_allclose(found[f"{name}_mean_log"], logs.mean("patient"), rtol=1e-9)
            np.testing.assert_allclose(found[f"{name}_sd_log"], logs.std("patient"), rtol=1e-6)

    def test_the_same_seed_gives_the_same_bits(self):
        one, two = (summarise_population(size=200, seed=5, **GIVEN) for _ in range(2))
        assert one.identical(two)
        assert not one.equals(summarise_population(size=200, seed=6, **GIVEN))

    def test_a_draw_of_ones_own(self):
        found = summarise_population(size=50, draw=lambda rng, n: {"B0": 1e10}, **GIVEN)
        assert found["Ts"].sel(time=0.0, quantile=0.5) == pytest.approx(1e10, rel=RESOLUTION)
        assert found["Ts_sd_log"].max() < 1e-5

    def test_priors_spread_as_the_table_says(self):
        drawn = prior_draw()(np.random.default_rng(2), 20_000)
        assert set(drawn) == {symbol for symbol, row in REAL_COHORT.items() if row.iiv > 0}
        logs = np.log(drawn["B0"])
        assert logs.std() == pytest.approx(REAL_COHORT["B0"].iiv, rel=0.03)
        assert logs.mean() == pytest.approx(np.log(REAL_COHORT["B0"].median), abs=0.05)

    def test_progress_counts_every_patient(self):
        seen = []
        summarise_population(size=250, chunk=100, tick=seen.append, **GIVEN)
        assert seen == [100, 100, 50]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"size": 0}, r"size is 0; give at least one patient"),
            ({"readouts": ()}, r"no read-outs are given"),
            ({"readouts": ("carts",)}, r"unknown read-out 'carts'; did you mean 'cart'"),
            ({"quantiles": (0.5, 1.0)}, r"quantiles are \(0.5, 1.0\); give probabilities"),
            ({"course": [Infusion(product="ide-cel", dose=np.full(3, 4e8))]}, r"draw them as parameters instead"),
        ],
    )
    def test_faults_are_told(self, change, message):
        with pytest.raises(ReinfuseError, match=message):
            summarise_population(**({"size": 10} | GIVEN | change))


MEMORY = """
import resource, sys
from tests.model.test_ensemble import GIVEN, summarise_population
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
summarise_population(size=4000, chunk=2000, **GIVEN)
before = peak()
summarise_population(size=int(sys.argv[1]), chunk=2000, **GIVEN)
print(peak() - before)
"""


def test_memory_does_not_grow_with_the_population():
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, "40000"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    # MiB; all trajectories of all states together would be 40,000 x 5 x 25 x 8 bytes = 40
    assert float(done.stdout) < 8.0
