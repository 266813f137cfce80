"""Lets the tests of this folder import what lies beside them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

# the local cloud that tests of its services use: `cloud`, `shell`
_CLOUD = Path(__file__).parents[1] / "contract/localaws/conftest.py"
_spec = importlib.util.spec_from_file_location("localaws_fixtures", _CLOUD)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
cloud, shell = _fixtures.cloud, _fixtures.shell


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The platform with two projects and three users, in a cloud of its own that denies."""
    from world import build, furnish

    from rehearse.cloud import LocalCloud

    folder = tmp_path_factory.mktemp("world")
    with LocalCloud(folder) as cloud:
        made = build(cloud)
        furnish(made)
        cloud.control("settings", {"enforce": True})
        yield made
