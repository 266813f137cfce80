"""Start the local cloud and keep it up: ``python -m localaws --port 4566``.

Prints the ``export`` lines with which the AWS CLI, boto3 and git use it, once it is ready. Ends on Ctrl-C, on
SIGTERM, when its terminal closes, or when the process ``--parent-pid`` is gone (also after kill -9), and
takes every process with it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

ACCOUNT = "123456789012"


def main(argv: list[str] | None = None) -> int:
    """Run the cloud until it is told to stop; 0 after a clean stop, 2 when it cannot have the port."""
    parser = argparse.ArgumentParser(prog="localaws", description=__doc__.split("\n")[0])
    parser.add_argument("--port", type=int, default=4566, help="port on 127.0.0.1 (default 4566)")
    parser.add_argument("--region", default="us-east-1")
    parser.add_argument(
        "--time-scale",
        type=float,
        default=0.01,
        help="share of AWS's waiting times that is waited (default 0.01)",
    )
    parser.add_argument("--parent-pid", type=int, help="stop when this process is gone")
    parser.add_argument(
        "--home", type=Path, help="folder of this run (default: a fresh temporary one, removed at the end)"
    )
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache"), help="folder kept between runs (default .cache)"
    )
    parser.add_argument("--log", type=Path, help="write the log there instead of to stderr")
    options = parser.parse_args(argv)
    if problem := _problem(options.port):
        print(f"port {options.port} {problem}; choose another with PORT= (--port)", file=sys.stderr)
        return 2
    logging.basicConfig(
        filename=options.log,
        level=os.environ.get("LOCALAWS_LOG_LEVEL", "WARNING"),
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    os.environ.update(
        BIND_HOST="127.0.0.1",
        GATEWAY_PORT=str(options.port),
        IOT_MTLS_ENABLED="0",
        SFTP_ENABLED="0",
        MINISTACK_ACCOUNT_ID=ACCOUNT,
        MOTO_ACCOUNT_ID=ACCOUNT,
        MINISTACK_REGION=options.region,
        MINISTACK_HOST="localhost",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION=options.region,
        AWS_ENDPOINT_URL=f"http://localhost:{options.port}",
    )
    return asyncio.run(_serve(options))


async def _serve(options: argparse.Namespace) -> int:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    from localaws.assembly import assemble
    from localaws.cloud import Cloud, default_home

    home = options.home or default_home()
    scratch = home.resolve() / "tmp"
    scratch.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)  # what emulators unpack goes with the run
    options.cache.mkdir(parents=True, exist_ok=True)
    cloud = Cloud(
        options.port, home.resolve(), options.cache.resolve(), ACCOUNT, options.region, options.time_scale
    )
    gateway = assemble(cloud)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    stays = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started with nohup
    for number in (signal.SIGINT, signal.SIGTERM, *(() if stays else (signal.SIGHUP,))):
        loop.add_signal_handler(number, stop.set)
    if options.parent_pid:
        threading.Thread(target=_watch, args=(options.parent_pid, loop, stop), daemon=True).start()
    config = Config()
    config.bind = [f"127.0.0.1:{options.port}"]
    config.loglevel = "WARNING"
    config.keep_alive_timeout = 75
    config.graceful_timeout = 1
    server = asyncio.create_task(serve(gateway, config, shutdown_trigger=stop.wait))
    await _ready(options.port, server)
    for name, value in cloud.environment().items():
        print(f"export {name}={value}")
    print(f"# ready on {cloud.endpoint}; Ctrl-C ends it", flush=True)
    await stop.wait()
    await asyncio.to_thread(cloud.close)
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(server, 5)
    if not options.home:
        shutil.rmtree(home, ignore_errors=True)
    sys.stdout.flush()
    os._exit(0)  # worker threads of the emulators do not end by themselves


async def _ready(port: int, server: asyncio.Task) -> None:
    while not server.done():
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    server.result()


def _watch(pid: int, loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    ours = os.getppid() == pid  # then ask so: a killed parent keeps its pid until it is collected
    with contextlib.suppress(OSError):
        while not ours or os.getppid() == pid:
            os.kill(pid, 0)
            time.sleep(0.5)
    loop.call_soon_threadsafe(stop.set)


def _problem(port: int) -> str:
    """Why the cloud cannot listen on a port, "" when it can."""
    if not 0 < port < 65536:
        return "is none: ports are 1 to 65535"
    with socket.socket() as probe:  # where others listen on all addresses, bind alone would succeed
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return "is in use on this machine"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return f"cannot be used ({error.strerror})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
