"""A baseline that the tests of the monitor share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from monitored import make_baseline, sample


@pytest.fixture(scope="session")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data-quality baseline of 800 rows."""
    return make_baseline(tmp_path_factory.mktemp("baseline"), sample(np.random.default_rng(21), 800))
