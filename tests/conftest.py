"""Fixtures that every folder of tests may use."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Machines are shared: how long an example takes says nothing about the code.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that take minutes run where they are asked for."""
    if "minutes" not in config.option.markexpr:
        for item in items:
            if "minutes" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m minutes"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder `shared` beside the checkout: real cohort and reference data, never part of the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        reason = f"../shared is not beside this checkout: {folder} is no folder"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI must have it", pytrace=False)
        pytest.skip(reason)
    return folder
