"""The simulated tracker: poses of stylus, trocar and reference, and the hands that hold them."""

from __future__ import annotations

import json

import numpy as np

from ..devices.link import Received, Server
from ..devices.messages import Command, CommandReply, Transform
from ..errors import DeviceError, GeometryError
from ..geometry import FloatArray, invert_rigid, rigid, rotation_about
from .hand import Hand
from .live import LiveFolder
from .world import World

#: Distance over which the markers of a tool lie: their jitter turns the tool by jitter / distance.
_MARKER_BODY_MM = 50.0
_LIVE_PERIOD_S = 0.05
_DEMONSTRATION_S = 20.0


class SimulatedTracker:
    """Streams `StylusToTracker`, `TrocarToTracker`, `ReferenceToTracker`; obeys COMMAND `Hand`.

    Args:
        epoch_s: seconds since 1970 at `now_s` zero, for time stamps.
    """

    def __init__(
        self, world: World, server: Server, live: LiveFolder, rng: np.random.Generator, epoch_s: float
    ) -> None:
        self._world = world
        self._server = server
        self._live = live
        self._rng = rng
        self._epoch_s = epoch_s
        self._hand = Hand(world, rng)
        self._next_s = float("-inf")
        self._next_live_s = float("-inf")
        self._demonstrated = 0
        self._RASToTracker = invert_rigid(world.TrackerToRAS)
        self._ToolToTip = {
            "Stylus": invert_rigid(world.StylusTipToStylus),
            "Trocar": invert_rigid(world.trocar.TipToTool),
        }
        live.write_hand(self._hand.state(0.0))

    def step(self, now_s: float, wait_s: float) -> None:
        """Obey what came, send what is due, wait at most `wait_s` for more."""
        for received in self._server.poll(now_s, max(0.0, min(wait_s, self._next_s - now_s))):
            self._obey(received, now_s)
        if self._world.demonstration:
            self._demonstrate(now_s)
        if now_s >= self._next_s:
            period_s = 1 / self._world.tracker.rate_hz
            # Keeps the mean rate; after a pause it does not catch up.
            self._next_s = now_s + period_s if now_s - self._next_s > period_s else self._next_s + period_s
            self._stream(now_s)
        if now_s >= self._next_live_s:
            self._next_live_s = now_s + _LIVE_PERIOD_S
            self._live.write_hand(self._hand.state(now_s))

    def _stream(self, now_s: float) -> None:
        stamp_s = self._epoch_s + now_s
        for tool, ToolToTip in self._ToolToTip.items():
            TipToRAS = self._hand.trembling_pose(tool, now_s)
            if TipToRAS is None:
                self._send(f"{tool}ToTracker", None, stamp_s)
            else:
                self._send(f"{tool}ToTracker", self._RASToTracker @ TipToRAS @ ToolToTip, stamp_s)
        self._send("ReferenceToTracker", self._world.ReferenceToTracker, stamp_s)
        self._server.flush(now_s)

    def _send(self, name: str, ToolToTracker: FloatArray | None, stamp_s: float) -> None:
        status = "OK" if ToolToTracker is not None else "MISSING"
        metadata = {"TransformStatus": status, "TransformValid": "true" if ToolToTracker is not None else "false"}
        matrix = np.eye(4) if ToolToTracker is None else self._measured(ToolToTracker)
        self._server.send(Transform(name, matrix, timestamp_s=stamp_s, metadata=metadata))

    def _measured(self, ToolToTracker: FloatArray) -> FloatArray:
        noise_mm = self._world.tracker.noise_mm
        turn = self._rng.normal(0, noise_mm / _MARKER_BODY_MM, 3)
        angle = float(np.linalg.norm(turn))
        rotation = rotation_about(turn, float(np.degrees(angle))) if angle > 0 else np.eye(3)
        return rigid(rotation @ ToolToTracker[:3, :3], ToolToTracker[:3, 3] + self._rng.normal(0, noise_mm, 3))

    def _obey(self, received: Received, now_s: float) -> None:
        message = received.message
        if not isinstance(message, Command) or message.name != "Hand":
            return
        try:
            body = json.loads(message.text)
            if not isinstance(body, dict):
                raise DeviceError("an order to the hand is a JSON object")
            answer = {"accepted": True, "reason": "", "busy_s": self._hand.order(body, now_s)}
        except (DeviceError, GeometryError, ValueError, TypeError) as error:
            answer = {"accepted": False, "reason": str(error), "busy_s": 0.0}
        self._live.write_hand(self._hand.state(now_s))
        reply = CommandReply("Hand", command_id=message.command_id, command=message.command, text=json.dumps(answer))
        self._server.send(reply, to=received.peer)

    def _demonstrate(self, now_s: float) -> None:
        """Without a world of its own the tools move, so that a connection can be seen to work."""
        turn = int(now_s // _DEMONSTRATION_S)
        if turn >= self._demonstrated:
            self._demonstrated = turn + 1
            self._hand.order({"tool": "Stylus", "pivot_s": _DEMONSTRATION_S}, now_s)
            tip = [20.0 * (-1) ** turn, -30.0, 0.0]
            self._hand.order({"tool": "Trocar", "place": {"tip_ras": tip}}, now_s)
