import numpy as np
import pytest

from reinfuse.fits.figures import retreatment as draw
from reinfuse.fits.retreatment import anchor, engine, scenarios
from reinfuse.fits.retreatment.statistics import trial_counts
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import DAYS_PER_MONTH

from .conftest import TEXT, toy, toy_population


@pytest.fixture(scope="module")
def outcomes():
    file = scenarios.parse(TEXT)
    return engine.run(file, toy_population(), patients=120, seed=1, simulate=toy).outcomes


@pytest.fixture(scope="module")
def two(outcomes):
    return outcomes[outcomes["scenario"] == "two"]


def texts(figure):
    return {text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


def test_the_swimmer_plot_has_two_bars_per_patient_in_the_colours_of_their_responses(two):
    figure = draw.swimmer(two, at_most=20)
    bars = figure.axes[0].patches
    assert 15 <= len(bars) / 2 <= 25
    few = two.head(3)
    bars = draw.swimmer(few).axes[0].patches
    months = sorted([*few["pfs_days_1"] / DAYS_PER_MONTH, *few["pfs_days_2"] / DAYS_PER_MONTH])
    np.testing.assert_allclose(sorted(bar.get_width() for bar in bars), months)


def test_every_group_keeps_a_swimmer(two):
    shown = draw._thinned(two, 12)
    assert set(shown["group"]) == set(two["group"])


def test_survival_curves_are_the_kaplan_meier_estimates(outcomes, two):
    figure = draw.survival({"two": two, "few": two.head(3)}, months=60)
    lines = [line for line in figure.axes[0].lines if line.get_label() == "two"]
    months = two["pfs_days_2"].to_numpy() / DAYS_PER_MONTH
    at_year = np.interp(12.0, *lines[0].get_data())
    assert lines[0].get_drawstyle() == "steps-post"
    assert at_year == pytest.approx((months > 12).mean(), abs=0.03)
    assert "few" not in texts(figure), "three patients give no curve"
    assert "120" in texts(figure), "the number at risk at the start"
    with pytest.raises(ReinfuseError, match="--patients"):
        draw.survival({"few": two.head(3)})


def test_response_bars_fill_their_row(outcomes):
    figure = draw.best_response(outcomes, groups=("durable", "non-responder"))
    panel = figure.axes[0]
    assert panel.get_title(loc="left") == "two"
    width = sum(bar.get_width() for bar in panel.patches if round(bar.get_y() + bar.get_height() / 2) == 0)
    assert width == pytest.approx(1)
    with pytest.raises(ReinfuseError, match="nothing to draw"):
        draw.best_response(outcomes.assign(evaluable_2=False), groups=())


def test_the_study_is_drawn_with_its_exact_intervals(two):
    table = anchor.compare(two, "two")
    counts = [trial_counts(*pair, anchor.SIZE) for pair in anchor.simulated_outcomes(two)]
    figure = draw.anchor(table, counts)
    shares, bars = figure.axes[0], figure.axes[1]
    np.testing.assert_allclose(shares.lines[0].get_xdata(), [0.6915, 1.0], atol=1e-4)
    assert [bar.get_height() for bar in bars.patches] == pytest.approx(list(counts[0]))
    assert {"study, 10/10", "model, all who progressed"} <= texts(figure)
    with_responders = draw.anchor(table, counts, responders=anchor.compare(two, "two", responders=True))
    assert "model, first responders" in texts(with_responders)


def test_no_patients_give_no_swimmer_plot(two):
    with pytest.raises(ReinfuseError, match="no patients"):
        draw.swimmer(two.head(0))
