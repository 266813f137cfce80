"""Lets the tests of this folder import what lies beside them."""

import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# the local cloud that tests of its services use: `cloud`, `shell`
_CLOUD = Path(__file__).parents[1] / "contract/localaws/conftest.py"
_spec = importlib.util.spec_from_file_location("localaws_fixtures", _CLOUD)
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)
cloud, shell = _fixtures.cloud, _fixtures.shell
