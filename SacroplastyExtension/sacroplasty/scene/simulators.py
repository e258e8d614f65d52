"""The simulators at the scene's door: a process of their own, and the simulated people and machines that obey in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer import vtkMRMLScene

from ..anatomy.landmarks import touchable
from ..devices.link import Client
from ..devices.messages import Command, CommandReply
from ..errors import DeviceError
from ..planning.model import Trajectory
from .anatomy import RECORD_NAME as ANATOMY_RECORD
from .anatomy import segmented_ct
from .fluoroscopy import found_views, mean_views
from .planning import chosen, plan_of
from .records import read_record

_PIVOT_S = 6.0
_LIVE_VIEWS = ("outlet", "lateral")
_COLUMNS = 256
_FRAME_RATE_HZ = 5.0


@dataclass(frozen=True)
class RoomOrder:
    """Something that simulated people or machines can be asked for.

    Attributes:
        text: as a person reads it.
        device: `Hand` or `CArm`, the name of the command.
        body: of the command (docs/device-protocol.md).
    """

    text: str
    device: str
    body: Mapping[str, Any]


def room_orders(scene: vtkMRMLScene) -> list[RoomOrder]:
    """What can be asked for with the CT, anatomy and plan of the scene, in the order of a procedure."""
    hand, c_arm = "Hand", "CArm"
    plan = plan_of(scene)
    trajectories = chosen(plan) if plan is not None else {}
    landmarks = touchable((read_record(scene, ANATOMY_RECORD) or {}).get("landmarks", {}))
    orders = [
        RoomOrder("Turn the stylus about its tip", hand, {"tool": "Stylus", "pivot_s": _PIVOT_S}),
        RoomOrder("Turn the trocar about its tip", hand, {"tool": "Trocar", "pivot_s": _PIVOT_S}),
    ]
    orders += [RoomOrder(f"Stylus on {name}", hand, {"tool": "Stylus", "touch": name}) for name in landmarks]
    for side, trajectory in trajectories.items():
        orders += _trocar_orders(side, trajectory)
    ct, _ = segmented_ct(scene)
    if ct is not None:
        shown = mean_views(scene, ct) | found_views(scene)
        for views in (_LIVE_VIEWS, ("ap",), ("lateral",)):
            records = [shown[view].geometry.to_dict() for view in views]
            body = {"geometries": records, "frame_rate_hz": _FRAME_RATE_HZ, "pixels": _COLUMNS, "expose": True}
            orders.append(RoomOrder(f"C-arm: {' and '.join(views)}, live", c_arm, body))
            orders.append(RoomOrder(f"C-arm: {' and '.join(views)}, one picture", c_arm, {**body, "frames": 1}))
    for side in trajectories:
        orders.append(RoomOrder(f"Connect the pump's line on the {side}", hand, {"connect": side}))
    return [
        *orders,
        RoomOrder("Stand between camera and tools for 3 s", hand, {"tool": "all", "cover_s": 3.0}),
        RoomOrder("Put the stylus away", hand, {"tool": "Stylus", "hide": True}),
    ]


def _trocar_orders(side: str, trajectory: Trajectory) -> list[RoomOrder]:
    direction = (trajectory.target - trajectory.entry_skin).tolist()
    places = (("skin", trajectory.entry_skin), ("bone", trajectory.entry_bone), ("target", trajectory.target))
    orders = [
        RoomOrder(
            f"Trocar to the {place} on the {side}",
            "Hand",
            {"tool": "Trocar", "place": {"tip_ras": point.tolist(), "direction_ras": direction}},
        )
        for place, point in places
    ]
    return [*orders, RoomOrder(f"Leave the trocar on the {side}", "Hand", {"tool": "Trocar", "release": side})]


class SimulatedRoom:
    """Asks simulated hands and C-arm, over links of their own beside those of the procedure."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._clients = {"Hand": Client(port=ports["tracker"]), "CArm": Client(port=ports["carm"])}
        self._number = 0
        self._asked: dict[int, str] = {}
        self._answers: list[str] = []

    def ask(self, order: RoomOrder) -> bool:
        """Ask for something; False when nobody listens yet."""
        self._number += 1
        text = json.dumps(order.body)
        client = self._clients[order.device]
        sent = client.send(Command(order.device, command_id=self._number, command=order.device, text=text))
        if sent:
            self._asked[self._number] = order.text
        return sent

    def poll(self, now_s: float) -> None:
        for client in self._clients.values():
            for received in client.poll(now_s):
                if isinstance(received.message, CommandReply):
                    self._answer(received.message)

    def take_answers(self) -> list[str]:
        """What they said since the last call, in words."""
        answers, self._answers = self._answers, []
        return answers

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _answer(self, reply: CommandReply) -> None:
        text = self._asked.pop(reply.command_id, None)
        if text is None:
            return
        try:
            body = json.loads(reply.text)
            accepted, reason = bool(body["accepted"]), str(body.get("reason", ""))
        except (ValueError, KeyError, TypeError):
            accepted, reason = False, "the answer cannot be read"
        self._answers.append(f"✔ {text}" if accepted else f"✘ {text}: {reason}")


class SimulatorProcess:
    """The built-in simulators in a process of their own, which ends with this one.

    Attributes:
        ports: by role (`tracker`, `carm`, `pump`), filled by `poll` as they become ready.
        problem: why it ended, in words; empty while it runs.
    """

    def __init__(
        self,
        python: str = sys.executable,
        world: Path | None = None,
        faults: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Start it.

        Args:
            python: an interpreter without a window (PythonSlicer in 3D Slicer).
            world: the world document; None for the built-in demonstration.
            faults: named defects by role (`tracker`, `carm`, `pump`), as `sacroplasty simulate --fault` takes them.
        """
        engine = Path(__file__).resolve().parents[2]
        path = os.pathsep.join([str(engine), *filter(None, [os.environ.get("PYTHONPATH")])])
        # Not the command line: it needs packages that the Python of 3D Slicer lacks.
        told = json.dumps(
            {
                "role": "all",
                "until_stdin_closes": True,
                "world": None if world is None else str(world),
                "faults": {role: list(names) for role, names in (faults or {}).items()},
            }
        )
        try:
            self._process = subprocess.Popen(
                [python, "-m", "sacroplasty.simulation", told],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"PYTHONPATH": path},
                # On Windows a console program would open a window of its own.
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            raise DeviceError(f"the simulators cannot be started with {python}: {error.strerror}") from error
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            os.set_blocking(stream.fileno(), False)
        self._lines = b""
        self.ports: dict[str, int] = {}
        self.problem = ""

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def poll(self) -> None:
        """Read what it has printed, without waiting."""
        assert self._process.stdout is not None and self._process.stderr is not None
        self._lines += self._process.stdout.read() or b""
        *complete, self._lines = self._lines.split(b"\n")
        for line in complete:
            try:
                record = json.loads(line)
                self.ports[str(record["role"])] = int(record["port"])
            except (ValueError, KeyError, TypeError):
                continue
        if not self.running and not self.problem:
            said = (self._process.stderr.read() or b"").decode(errors="replace").strip().splitlines()
            self.problem = (
                said[-1].removeprefix("sacroplasty: ")
                if said
                else f"the simulators ended with code {self._process.returncode}"
            )

    def stop(self, patience_s: float = 3.0) -> None:
        """End it: by closing its input, and if it does not listen, by force."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
