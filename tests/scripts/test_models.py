"""`reinfuse models` shows what the library holds."""

import pytest

from reinfuse.model.equations import bcma
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.parameters import VARIANTS, table
from reinfuse.scripts import models


@pytest.fixture
def shown(capsys, monkeypatch):
    """Page that a call prints on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def page(*arguments: str) -> str:
        models.command(*arguments)
        return capsys.readouterr().out

    return page


def test_the_library_is_listed_with_its_configurations_and_variants(shown):
    page = shown()
    assert page.startswith("bcma  ")
    assert [f"- {name} configuration: " in page for name in bcma.OPTIONS] == [True] * len(bcma.OPTIONS)
    assert [f"- {name}: " in page for name in VARIANTS] == [True] * len(VARIANTS)


def test_only_files_that_build_a_model_are_models():
    assert list(models.library_of_models()) == ["bcma"]


@pytest.mark.parametrize("options", ["reference", "real"])
def test_every_state_and_parameter_has_a_line_with_its_unit_and_tag(shown, options):
    lines = [line.split() for line in shown("bcma", options).splitlines()]
    first = {words[0]: words for words in lines if words}
    for state in bcma.build(1, bcma.OPTIONS[options]).states:
        assert first[state.name][1] == state.unit
    for row in table(options).values():
        assert first[row.symbol][-1] == row.tag
        assert f"{row.median:.3g}" in first[row.symbol]


def test_a_page_fits_80_columns_and_cuts_nothing(shown):
    page = shown("bcma")
    assert max(map(len, page.splitlines())) <= 80
    assert "…" not in page


def test_an_unknown_model_is_told_with_those_that_there_are():
    with pytest.raises(ReinfuseError, match=r"'absent'.*bcma"):
        models.command("absent")


def test_an_unknown_configuration_is_told():
    with pytest.raises(ReinfuseError, match="'absent'"):
        models.command("bcma", "absent")
