"""Write the tables of parameters, priors and sources of `docs/priors.md`: part of `make docs`."""

from fragments import table, write

from reinfuse.model.parameters import Parameter
from reinfuse.model.parameters import table as parameters

HEAD = ("parameter", "prior median, sd", "between patients", "tag", "source")
OPTIONS = ("real", "reference")


def main() -> None:
    """Write them."""
    for options in OPTIONS:
        write(
            f"priors_{options}",
            f"`reinfuse models bcma --options {options}` prints these, without the sources",
            listed(options),
        )


def listed(options: str) -> str:
    """All parameters of a configuration."""
    return table(HEAD, [row(one) for one in parameters(options).values()])


def row(one: Parameter) -> tuple[str, ...]:
    """A parameter in words; sds are on its scale."""
    unit = "" if one.unit == "-" else f", {one.unit}"
    prior = f"{one.log_sd:g} ({one.transform})" if one.log_sd else "fixed"
    spread = f"{one.iiv:g}" if one.iiv else "–"
    source = one.source.removeprefix(one.tag).lstrip(":; ").replace("|", "\\|")
    return f"`{one.symbol}` {one.meaning}{unit}", f"{one.median:g}, {prior}", spread, one.tag, source or "–"


if __name__ == "__main__":
    main()
