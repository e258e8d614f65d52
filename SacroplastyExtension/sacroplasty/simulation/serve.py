"""Simulators as processes: one per device, all in one world, none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..clock import WallClock
from ..errors import DeviceError
from .faults import FaultyServer, parse_faults
from .live import LiveFolder, live_folder_of
from .world import TOOLS, TrackerModel, demonstration_world, read_world

ROLES = ("tracker", "carm", "pump")
_STEP_S = 0.02
_READY_S = 60.0
_GOODBYE_S = 3.0
_FASTEST_TRACKER_HZ = 1000.0


@dataclass(frozen=True)
class Service:
    """What one simulator process is told.

    Attributes:
        role: one of `ROLES`.
        port: 0 for any free one.
        world: path of a world document; None for the built-in demonstration.
        live: folder in which the processes of a world meet; None for beside the document, or a private one.
        speed: of the pump's physics.
        seed: of the noise; None for the world's own.
        faults: see `faults.FAULTS`.
        until_stdin_closes: end when standard input reaches its end, so that none outlives its parent.
        rate_hz: poses per second of each tool; None for the world's own.
        tools: how many of `world.TOOLS` the tracker looks for; None for the world's own.
    """

    role: str
    port: int = 0
    world: str | None = None
    live: str | None = None
    speed: float = 1.0
    seed: int | None = None
    faults: tuple[str, ...] = ()
    until_stdin_closes: bool = False
    rate_hz: float | None = None
    tools: int | None = None


class _Device(Protocol):
    def step(self, now_s: float, wait_s: float) -> None: ...


def serve(service: Service) -> None:
    """Be one simulator until SIGTERM, SIGINT or (if asked) the end of standard input.

    Prints one JSON line on stdout when ready: `{"role": "tracker", "port": 18944}`.

    Raises:
        SacroplastyError: for a world that cannot be read, a port in use, an unknown fault.
    """
    stop = _stop_when_told(service.until_stdin_closes)
    with ExitStack() as stack:
        device, port = _device(service, stack)
        _announce({"role": service.role, "port": port})
        clock = WallClock()
        while not stop.is_set():
            device.step(clock.now(), _STEP_S)


def serve_all(services: Iterable[Service]) -> None:
    """Be the parent of several simulators, each a process of its own, until told to stop or one of them ends.

    Raises:
        DeviceError: when one of them cannot start or ends by itself; the message is its own.
    """
    services = list(services)
    stop = _stop_when_told(services[0].until_stdin_closes)
    with tempfile.TemporaryDirectory(prefix="sacroplasty-") as meeting:
        children: list[subprocess.Popen[str]] = []
        try:
            for service in services:
                live = service.live or (None if service.world else meeting)
                children.append(start(replace(service, live=live)))
            for child in children:
                _announce(read_ready(child))
            while not stop.wait(0.1):
                for child in children:
                    if child.poll() is not None:
                        raise DeviceError(_last_words(child))
        finally:
            end(children)


def start(service: Service) -> subprocess.Popen[str]:
    """Start a simulator as a child process that ends with this one. See `read_ready` and `end`."""
    told = json.dumps(asdict(replace(service, until_stdin_closes=True)))
    command = [sys.executable, "-m", "sacroplasty.simulation", told]
    # The children need not inherit Ctrl-C: their parent ends them.
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=os.name == "posix",
    )


def read_ready(child: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the line that says that a child is ready.

    Raises:
        DeviceError: with the child's own words when it ended instead.
    """
    assert child.stdout is not None
    watchdog = threading.Timer(_READY_S, child.kill)
    watchdog.start()
    try:
        line = child.stdout.readline()
    finally:
        watchdog.cancel()
    if not line:
        child.wait(_GOODBYE_S)
        raise DeviceError(_last_words(child))
    record: dict[str, Any] = json.loads(line)
    return record


def end(children: Iterable[subprocess.Popen[str]]) -> None:
    """End child processes: first by closing their standard input, then, for one that hangs, by force."""
    children = list(children)
    for child in children:
        if child.stdin is not None:
            child.stdin.close()
    for child in children:
        try:
            child.wait(_GOODBYE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for stream in (child.stdout, child.stderr):
            if stream is not None:
                stream.close()


def _device(service: Service, stack: ExitStack) -> tuple[_Device, int]:
    import numpy as np

    if service.role not in ROLES:
        raise DeviceError(f"there is no simulator of {service.role!r}; there are {', '.join(ROLES)}")
    if not service.speed > 0:
        raise DeviceError(f"the speed is {service.speed}; it must be positive")
    faults = parse_faults(service.faults)
    world = demonstration_world(service.seed or 0) if service.world is None else read_world(Path(service.world))
    world = replace(world, tracker=_tracker_model(world.tracker, service))
    seed = world.seed if service.seed is None else service.seed
    rng = np.random.default_rng([seed, ROLES.index(service.role)])
    if service.live is not None:
        folder = Path(service.live)
    elif service.world is not None:
        folder = live_folder_of(Path(service.world))
    else:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sacroplasty-")))
    server = FaultyServer(service.port, faults, np.random.default_rng([seed, 10 + ROLES.index(service.role)]))
    stack.callback(server.close)
    live = LiveFolder(folder)
    epoch_s = time.time() - WallClock().now()
    device: _Device
    if service.role == "tracker":
        from .tracker import SimulatedTracker

        device = SimulatedTracker(world, server, live, rng, epoch_s)
    elif service.role == "carm":
        from .carm import SimulatedCArm

        device = carm = SimulatedCArm(world, server, live, rng, epoch_s)
        stack.callback(carm.close)
    else:
        from .pump import SimulatedPump

        device = SimulatedPump(world, server, live, faults, service.speed, epoch_s)
    return device, server.port


def _tracker_model(model: TrackerModel, service: Service) -> TrackerModel:
    if service.rate_hz is not None:
        if not 0 < service.rate_hz <= _FASTEST_TRACKER_HZ:
            raise DeviceError(f"the tracker gives up to {_FASTEST_TRACKER_HZ:.0f} poses per second")
        model = replace(model, rate_hz=service.rate_hz)
    if service.tools is not None:
        if not 1 <= service.tools <= len(TOOLS):
            raise DeviceError(f"the tracker looks for 1 to {len(TOOLS)} tools, not {service.tools}")
        model = replace(model, tools=TOOLS[: service.tools])
    return model


def _stop_when_told(until_stdin_closes: bool) -> threading.Event:
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    if until_stdin_closes:

        def watch() -> None:
            # Not sys.stdin: its lock would keep the interpreter from ending.
            while os.read(0, 4096):
                pass
            stop.set()

        threading.Thread(target=watch, daemon=True).start()
    return stop


def _announce(record: dict[str, Any]) -> None:
    try:
        print(json.dumps(record), flush=True)
    except BrokenPipeError:
        raise DeviceError("nobody reads what the simulator says any more") from None


def _last_words(child: subprocess.Popen[str]) -> str:
    assert child.stderr is not None
    words = child.stderr.read().strip() if child.poll() is not None else ""
    return words.splitlines()[-1].removeprefix("sacroplasty: ") if words else "a simulator ended without a word"
