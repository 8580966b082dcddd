from dataclasses import fields, replace

import pytest

from reinfuse.model import products as pr
from reinfuse.model.errors import ReinfuseError
from reinfuse.model.products import PRODUCTS, Product, load_products, product, register

MINE = dict(
    name="mine",
    dose=1e8,
    fM0=0.2,
    fX0=0.05,
    immunogenicity=0.5,
    scale=300.0,
    scfv="humanised",
    source="a protocol",
)


@pytest.fixture
def registry(monkeypatch):
    kept = dict(pr._registry)
    yield
    pr._registry.clear()
    pr._registry.update(kept)


def test_reference_products_have_the_numbers_of_the_design():
    ide, cilta = product("ide-cel"), product("cilta-cel")
    assert (ide.dose, ide.f0, ide.m0, ide.h, ide.gp, ide.feng) == (4.5e8, 1, 1, 1, 1, 1)
    assert (ide.fM0, ide.fX0, ide.immunogenicity, ide.scale, ide.power) == (0.10, 0.05, 1.0, 450.0, 1.0)
    assert (cilta.dose, cilta.f0, cilta.m0, cilta.h, cilta.gp, cilta.feng) == (
        5.5e7,
        1.40,
        1.15,
        0.15,
        1.2,
        1,
    )
    assert (cilta.fM0, cilta.fX0, cilta.immunogenicity, cilta.scale, cilta.power) == (
        0.15,
        0.05,
        0.4,
        75.0,
        1.0,
    )


def test_binders_differ_and_are_marked_as_unread():
    ide, cilta = product("ide-cel"), product("cilta-cel")
    assert ide.scfv != cilta.scfv
    assert ide.sources["scfv"].startswith("RECALLED")
    assert cilta.sources["scfv"].startswith("RECALLED")


@pytest.mark.parametrize("name", ["ide-cel", "cilta-cel"])
def test_every_number_has_a_tagged_source(name):
    numbers = {f.name for f in fields(Product)} - {"name", "source", "sources"}
    assert set(product(name).sources) == numbers
    for text in product(name).sources.values():
        assert text.startswith(("READ", "RECALLED", "CAL", "ASSUMED"))


def test_unknown_product_names_the_known_ones():
    with pytest.raises(ReinfuseError, match=r"unknown product 'abe-cel'; known are ide-cel, cilta-cel"):
        product("abe-cel")


def test_from_mapping_fills_multipliers_with_one():
    made = Product.from_mapping(MINE)
    assert (made.f0, made.m0, made.h, made.gp, made.feng, made.power) == (1, 1, 1, 1, 1, 1)
    assert made.dose == 1e8
    assert made == Product(**MINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "blue"}, "product 'mine': unknown field 'colour'; the fields are name, dose"),
        ({"dose": -1.0}, "dose is -1.0; give a number > 0"),
        ({"dose": "many"}, "dose is 'many'; give a number"),
        ({"dose": True}, "dose is True"),
        ({"dose": float("inf")}, "dose is inf"),
        ({"h": 0}, "h is 0; give a number > 0"),
        ({"fM0": 1.0}, r"fM0 is 1.0; give a share in \[0, 1\)"),
        ({"fX0": -0.1}, "fX0 is -0.1"),
        ({"fM0": 0.6, "fX0": 0.4}, "fM0 . fX0 is 1; leave room"),
        ({"immunogenicity": -1}, "immunogenicity is -1"),
        ({"name": "Mine"}, "'Mine': give a lower-case name"),
        ({"name": "my cells"}, "give a lower-case name without spaces"),
        ({"name": 3}, "name is 3; give a text"),
        ({"scfv": " "}, "scfv is ' '; give a text"),
        ({"sources": "none"}, "sources is 'none'; give a table"),
    ],
)
def test_from_mapping_refuses_what_is_wrong(change, message):
    with pytest.raises(ReinfuseError, match=message):
        Product.from_mapping({**MINE, **change})


def test_from_mapping_lists_what_is_missing():
    with pytest.raises(
        ReinfuseError, match="product 'mine': dose, fM0, fX0, immunogenicity, scale, scfv, source missing"
    ):
        Product.from_mapping({"name": "mine"})


def test_sources_do_not_tell_products_apart_and_cannot_be_changed():
    with_notes = Product(**MINE, sources={"dose": "READ a protocol"})
    assert with_notes == Product(**MINE)
    assert hash(with_notes) == hash(Product(**MINE))
    with pytest.raises(TypeError):
        with_notes.sources["dose"] = "other"  # type: ignore[index]


@pytest.mark.usefixtures("registry")
def test_register_makes_a_product_known_once():
    mine = Product(**MINE)
    register(mine)
    register(mine)
    assert product("mine") is PRODUCTS["mine"]
    with pytest.raises(ReinfuseError, match="'mine' is already known with other values"):
        register(replace(mine, dose=2e8))
    with pytest.raises(ReinfuseError, match="'ide-cel' is already known"):
        register(replace(mine, name="ide-cel"))


def test_the_registry_was_left_as_it_was():
    assert set(PRODUCTS) == {"ide-cel", "cilta-cel"}
    with pytest.raises(TypeError):
        PRODUCTS["mine"] = Product(**MINE)  # type: ignore[index]


TOML = """
[[product]]
name = "mine"
dose = 1e8
f0 = 1.2
fM0 = 0.2
fX0 = 0.05
immunogenicity = 0.5
scale = 300
scfv = "humanised"
source = "a protocol"

[product.sources]
dose = "READ a protocol"
"""


def test_products_from_a_toml_file(tmp_path):
    path = tmp_path / "products.toml"
    path.write_text(TOML, encoding="utf-8")
    (mine,) = load_products(path)
    assert mine == Product(**MINE, f0=1.2)
    assert mine.sources["dose"] == "READ a protocol"
    assert "mine" not in PRODUCTS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[product]\n", "not a TOML file"),
        ("title = 'x'\n", r"no \[\[product\]\] table"),
        ("product = [1, 2]\n", r"no \[\[product\]\] table"),
        (TOML + TOML, "product 'mine' stands twice"),
        (TOML.replace("scale = 300", ""), "products.toml: product 'mine': scale missing"),
    ],
)
def test_bad_product_files_are_refused(tmp_path, text, message):
    path = tmp_path / "products.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReinfuseError, match=message):
        load_products(path)


def test_a_missing_product_file_is_refused(tmp_path):
    with pytest.raises(ReinfuseError, match="cannot be read"):
        load_products(tmp_path / "absent.toml")
