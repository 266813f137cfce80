"""The local cloud's process: on the loopback interface only, and gone with whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rehearse.cloud import CloudError, LocalCloud, client_environment, free_port

ROOT = Path(__file__).resolve().parents[2]
STARTER = """
import sys, time
from pathlib import Path
from rehearse.cloud import LocalCloud
cloud = LocalCloud(Path(sys.argv[1]), int(sys.argv[2])).start()
print(cloud.process.pid, flush=True)
time.sleep(600)
"""


def is_open(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port)) == 0


def addresses() -> list[str]:
    """This machine's addresses beside the loopback."""
    found = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    return sorted(address for address in found if not address.startswith("127."))


def test_nothing_listens_beyond_the_loopback_interface(local_cloud: LocalCloud) -> None:
    assert is_open(local_cloud.port)
    assert not [address for address in addresses() if is_open(local_cloud.port, address)]


def test_it_is_gone_when_its_starter_is_killed(tmp_path: Path) -> None:
    port = free_port()
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    command = [sys.executable, "-c", STARTER, str(tmp_path), str(port)]
    starter = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    cloud = int(starter.stdout.readline())
    assert is_open(port)
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and (is_open(port) or Path(f"/proc/{cloud}").exists()):
        time.sleep(0.2)
    assert not is_open(port)
    assert not Path(f"/proc/{cloud}").exists()


def test_a_taken_port_is_said(tmp_path: Path, local_cloud: LocalCloud) -> None:
    with pytest.raises(CloudError, match=f"port {local_cloud.port} is in use"):
        LocalCloud(tmp_path, local_cloud.port).start()


def test_clients_get_nothing_of_the_persons_aws_settings() -> None:
    env = client_environment(
        4566, {"AWS_PROFILE": "production", "AWS_SESSION_TOKEN": "x", "HOME": "/home/jane"}
    )
    assert "AWS_PROFILE" not in env
    assert "AWS_SESSION_TOKEN" not in env
    assert (env["HOME"], env["AWS_ENDPOINT_URL"]) == ("/home/jane", "http://localhost:4566")
