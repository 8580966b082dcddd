from importlib import resources
from pathlib import Path

import pytest

from reinfuse.fits.retreatment.mechanisms import MECHANISMS
from reinfuse.fits.retreatment.scenarios import GROUPS, HYPOTHESIS_NAMES, WORLDS, ScenarioError, load, parse
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import VARIANTS

GOOD = """
[[scenario]]
name = "a"
first.product = "ide-cel"
second.product = "cilta-cel"
"""
OWN = """
[[product]]
name = "home-cel"
dose = 1e8
fM0 = 0.2
fX0 = 0.05
immunogenicity = 0.1
scale = 100.0
scfv = "human"
source = "ASSUMED"
"""


def test_the_bundled_file_asks_what_it_promises():
    file = load()
    by_name = {scenario.name: scenario for scenario in file.scenarios}
    assert file.anchor == "ide-cel, then cilta-cel"
    anchor = by_name[file.anchor]
    assert (anchor.first.product, anchor.second_label, anchor.first.response) == (
        "ide-cel",
        "cilta-cel",
        None,
    )
    assert (anchor.second.days_after_progression, anchor.second.bridging) == (60, 0.3)
    assert tuple(file.worlds) == WORLDS
    assert sum(file.weights.values()) == pytest.approx(1.0)
    assert by_name["bispecific antibody"].second_label == "bispecific"
    assert by_name["bispecific antibody"].later == ()
    assert by_name["wait and see"].wait_and_see
    assert [plan.product for plan in by_name["a third infusion"].later] == ["cilta-cel", "ide-cel"]
    assert by_name["ide-cel twice"].second.same_scfv is True
    assert by_name["banked cells"].second.apheresis == "banked"
    assert by_name["no second infusion"].second_label == "none"
    # every arm shares its first courses with the anchor, patient by patient
    assert {scenario.first_key(WORLDS[0]) for scenario in file.scenarios} == {anchor.first_key(WORLDS[0])}


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=lambda mechanism: mechanism.key)
def test_every_hypothesis_is_explained_where_users_look(mechanism):
    bundled = resources.files("reinfuse.fits.retreatment").joinpath("data", "sequential_bcma.toml").read_text("utf-8")
    (line,) = [line for line in bundled.splitlines() if line.startswith(f"{mechanism.key} = ")]
    page = (Path(__file__).parents[3] / "docs" / "retreatment.md").read_text("utf-8")
    (row,) = [row for row in page.splitlines() if row.startswith(f"| `{mechanism.key}` | {mechanism.words} |")]
    for name in (*mechanism.parameters, *mechanism.product_fields):
        assert name in line.partition("#")[2]
        assert f"`{name}`" in row


def test_switches_become_multipliers():
    scenario = parse(GOOD + "host_dysfunction = false\nanti_car_immunity = true\nmicroenvironment = 2\n").scenarios[0]
    assert scenario.hypotheses(WORLDS[0]) == dict.fromkeys(HYPOTHESIS_NAMES, 1.0) | {
        "host_dysfunction": 0.0,
        "microenvironment": 2.0,
    }


def test_worlds_that_are_no_others_to_a_model_are_left_out_unless_the_file_names_them():
    lacking = [each for each in MECHANISMS if each.absent(VARIANTS["no-exhaustion"].parameters)]
    gone = [world for world in WORLDS if world not in parse(GOOD).without(lacking).worlds]
    assert [world.name for world in gone] == ["no exhaustion of CAR-T cells"]
    assert tuple(parse(GOOD).without([]).worlds) == WORLDS
    named = parse(GOOD + '[[world]]\nname = "no exhaustion of CAR-T cells"\nexhaustion = false\n')
    assert named.without(lacking) == named


def test_an_own_product_is_known_in_its_file_only():
    file = parse(OWN + GOOD.replace("cilta-cel", "home-cel"))
    assert file.product("home-cel").dose == 1e8
    assert file.product_names == ("ide-cel", "home-cel")
    with pytest.raises(ReinfuseError, match="home-cel"):
        parse(GOOD).product("home-cel")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD + "second.bridging = 1.4", ["scenario[1].second.bridging ('a')", "1.4", "at most 1"]),
        (GOOD + "second.bridging = 0", ["scenario[1].second.bridging ('a')", "0", "above 0"]),
        (GOOD + 'second.bridging = "some"', ["second.bridging", "'some'", "number without quotes"]),
        (GOOD + "second.bridgin = 0.3", ["scenario[1].second.bridgin", "0.3", "did you mean 'bridging'"]),
        (GOOD + "host_disfunction = false", ["host_disfunction", "did you mean 'host_dysfunction'"]),
        (GOOD + "xyzzy = 1", ["scenario[1].xyzzy", "the keys here are host_dysfunction,"]),
        (GOOD + "host_dysfunction = -1", ["host_dysfunction", "-1", "at least 0"]),
        (GOOD + 'first.response = ["late"]', ["first.response[1]", "'late'", *GROUPS]),
        (GOOD + "first.response = []", ["first.response", "[]", "at least 1 item"]),
        (GOOD + "first.pfs_months = [12, 6]", ["first", "[12.0, 6.0]", "two rising numbers"]),
        (GOOD + "first.pfs_months = [70, 80]", ["first.pfs_months", "70", "first_horizon_months"]),
        (GOOD + 'first.best_at_least = "CR"\nfirst.best_at_most = "PR"', ["CR", "PR", "exchange"]),
        (GOOD + 'second.apheresis = "frozen"', ["second.apheresis", "'frozen'", "'at-relapse' or 'banked'"]),
        (GOOD + "second.lymphodepletion = nan", ["second.lymphodepletion", "nan", "finite number"]),
        (GOOD + "second.days_after_progression = 0", ["days_after_progression", "0", "above 0"]),
        (
            GOOD.replace("cilta-cel", "cilta"),
            ["second.product", "'cilta'", "ide-cel, cilta-cel", "[[product]]"],
        ),
        (GOOD.replace('second.product = "cilta-cel"', ""), ["second is missing", "no_second = true"]),
        (GOOD.replace('first.product = "ide-cel"', ""), ["scenario[1].first ('a')", "is missing", "add it"]),
        (GOOD + "bispecific = true\nno_second = true", ["bispecific", "two scenarios"]),
        (GOOD + GOOD, ["'a' stands twice"]),
        (GOOD + "wait_and_see = true\nno_second = true", ["wait_and_see", "no_second", "remove one"]),
        (GOOD + 'no_second = true\n[[scenario.then]]\nproduct = "ide-cel"', ["then", "no_second", "remove one"]),
        (GOOD + '[[scenario.then]]\nproduct = "ide"', ["then[1].product", "'ide'"]),
        ('[[world]]\nname = "stacked"\n' + GOOD, ["'stacked'", "its own name"]),
        ('[[world]]\nname = "x"\nweight = 0\n' + GOOD, ["weights", "0"]),
        ("[bispecific]\nkilling = -1\n" + GOOD, ["bispecific.killing", "-1"]),
        ('anchor = "b"\n' + GOOD, ["anchor is 'b'", "'a'"]),
        ("[settings]\nsecond_horizon_months = 12\n" + GOOD, ["settings.second_horizon_months", "12", "24"]),
        ("[settings]\nvisit_days = [14, 7]\n" + GOOD, ["settings", "[14", "rising days"]),
        ("[settings]\nvisit_every_days = 2.5\n" + GOOD, ["settings.visit_every_days", "2.5", "whole number"]),
        ('[settings]\nprogression = "guess"\n' + GOOD, ["settings.progression", "'guess'", "'hazard'"]),
        ("title = 3\n" + GOOD, ["title", "3", "text in quotes"]),
        ("", ["scenario", "missing"]),
        ("[[scenario]\n", ["not valid TOML", "line 1"]),
        (OWN.replace("1e8", "-1") + GOOD, ["home-cel", "dose", "-1"]),
        (OWN + OWN + GOOD, ["'home-cel' stands twice"]),
        ("product = 3\n" + GOOD, ["product", "one [[product]] table per product"]),
    ],
)
def test_faults_name_file_key_value_and_remedy(text, told):
    with pytest.raises(ScenarioError) as caught:
        parse(text, where="mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    for words in told:
        assert words in str(caught.value)


def test_every_fault_is_told_at_once():
    with pytest.raises(ScenarioError) as caught:
        parse(GOOD + "second.bridging = 2\nsecond.lymphodepletion = 2\nmicroenvironment = -3\n")
    assert len(caught.value.faults) == 3


def test_a_file_that_cannot_be_read_is_told(tmp_path):
    with pytest.raises(ScenarioError, match=r"gone\.toml: cannot be read"):
        load(tmp_path / "gone.toml")
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'title = "\xe9"')
    with pytest.raises(ScenarioError, match="not UTF-8"):
        load(latin)


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    assert [scenario.name for scenario in load(path).scenarios] == ["a"]
