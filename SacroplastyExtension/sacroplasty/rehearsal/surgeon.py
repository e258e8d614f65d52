"""A simulated surgeon: does what the prompt says with the hands of the simulated world.

It knows what a surgeon knows: the prompt, the guidance display and the plan. Never the truth.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..cement.injection import Request
from ..devices.link import Client
from ..devices.messages import Command, CommandReply
from ..errors import DeviceError
from ..geometry import FloatArray, rotation_between, unit
from ..planning.model import Side
from ..procedure.prompts import ConnectLine, LeaveTrocar, Pivot, Press, Prompt, Steer, Touch

#: One swing of a tool in its divot, and one look at the display between two movements [s].
_PIVOT_S = 6.0
_LOOK_S = 0.25
#: The line must be kept within this before the trocar goes further, and so far it goes at a time.
_ON_LINE_MM = 1.0
_ON_LINE_DEG = 1.5
_ADVANCE_MM = 25.0
#: Where a surgeon sets the trocar onto the skin, by eye [mm].
_BY_EYE_MM = 6.0
_PATIENCE_S = 2.0


class SimulatedSurgeon:
    """Acts on prompts, one order to the hands at a time."""

    def __init__(self, client: Client, rng: np.random.Generator) -> None:
        self._client = client
        self._rng = rng
        self._number = 0
        self._waiting_since_s: float | None = None
        self._free_at_s = 0.0
        self._done: set[tuple[str, ...]] = set()
        self._set_down: set[Side] = set()

    def poll(self, now_s: float) -> None:
        """Hear what the hands say.

        Raises:
            DeviceError: when they refuse, which is a fault of the rehearsal.
        """
        for received in self._client.poll(now_s):
            message = received.message
            if isinstance(message, CommandReply) and message.name == "Hand" and message.command_id == self._number:
                answer = json.loads(message.text)
                if not answer["accepted"]:
                    raise DeviceError(f"the simulated hand refuses: {answer['reason']}")
                self._waiting_since_s = None
                self._free_at_s = now_s + float(answer["busy_s"]) + _LOOK_S

    def act(self, prompt: Prompt, now_s: float) -> Request | None:
        """Begin what the prompt asks, unless the hands are busy; returns the button pressed, if any."""
        task = prompt.task
        if isinstance(task, Press):
            return task.request
        if self._waiting_since_s is not None:
            if now_s - self._waiting_since_s > _PATIENCE_S:
                raise DeviceError("the simulated hand does not answer")
            return None
        if now_s < self._free_at_s or not self._client.connected:
            return None
        if isinstance(task, Pivot):
            self._order({"tool": task.tool, "pivot_s": _PIVOT_S}, now_s)
        elif isinstance(task, Touch):
            return self._confirmed(("touch", task.landmark), {"tool": "Stylus", "touch": task.landmark}, now_s)
        elif isinstance(task, Steer) and prompt.fraction == 0.0:
            # Once it is in place, the trocar is held still.
            self._steer(task, now_s)
        elif isinstance(task, LeaveTrocar):
            return self._confirmed(("leave", task.side), {"tool": "Trocar", "release": task.side}, now_s)
        elif isinstance(task, ConnectLine):
            return self._confirmed(("connect", task.side), {"connect": task.side}, now_s)
        return None

    def _steer(self, task: Steer, now_s: float) -> None:
        planned = unit(task.trajectory.target - task.trajectory.entry_skin)
        if task.side not in self._set_down:
            self._set_down.add(task.side)
            tip = task.trajectory.entry_skin + self._rng.normal(0, _BY_EYE_MM / np.sqrt(3), 3)
            direction = planned + self._rng.normal(0, 0.05, 3)
            where = {"tip_ras": tip.tolist(), "direction_ras": direction.tolist()}
            self._order({"tool": "Trocar", "place": where}, now_s)
            return
        reading, pose = task.reading, task.TrocarTipToRAS
        if not reading.valid or pose is None:
            return
        assert reading.offset_vector_ras_mm is not None and reading.depth_to_target_mm is not None
        turn = _rotation_vector_deg(rotation_between(pose[:3, 2], planned))
        shift = -reading.offset_vector_ras_mm
        straight = float(np.linalg.norm(turn)) <= _ON_LINE_DEG and float(np.linalg.norm(shift)) <= _ON_LINE_MM
        if straight:
            shift = shift + planned * np.clip(reading.depth_to_target_mm, -_ADVANCE_MM, _ADVANCE_MM)
        if np.linalg.norm(shift) < 0.5 and np.linalg.norm(turn) < 0.5:
            return
        self._order({"tool": "Trocar", "move": {"translate_mm": shift.tolist(), "rotate_deg": turn.tolist()}}, now_s)

    def _confirmed(self, key: tuple[str, ...], body: dict[str, Any], now_s: float) -> Request | None:
        """Do it, and say so when it is done."""
        if key in self._done:
            return "continue"
        self._done.add(key)
        self._order(body, now_s)
        return None

    def _order(self, body: dict[str, Any], now_s: float) -> None:
        self._number += 1
        if self._client.send(Command("Hand", command_id=self._number, command="Hand", text=json.dumps(body))):
            self._waiting_since_s = now_s


def _rotation_vector_deg(rotation: FloatArray) -> FloatArray:
    """Axis times angle in degrees of a rotation below 180 degrees."""
    twist = np.array(
        [rotation[2, 1] - rotation[1, 2], rotation[0, 2] - rotation[2, 0], rotation[1, 0] - rotation[0, 1]]
    )
    sine = float(np.linalg.norm(twist)) / 2
    cosine = (float(np.trace(rotation)) - 1) / 2
    angle_deg = float(np.degrees(np.arctan2(sine, cosine)))
    return unit(twist) * angle_deg if sine > 1e-12 else np.zeros(3)
