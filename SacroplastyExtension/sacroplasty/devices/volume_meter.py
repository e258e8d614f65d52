"""Volumes told by a scale or a syringe's sensor over OpenIGTLink, for injections by hand."""

from __future__ import annotations

import math

from .link import Client, Received
from .messages import Sensor, String

#: Name under which a meter tells the volume given so far in mL: the first value of a SENSOR, or a STRING with a number.
METER_NAME = "SyringeVolume"
_LARGEST_ML = 100.0


class VolumeMeterRole:
    """The newest volume that a meter told.

    Args:
        client: the link to the meter; `poll` polls it.

    Attributes:
        problem: why the newest message was not used, in words; empty when it was.
    """

    def __init__(self, client: Client, name: str = METER_NAME) -> None:
        self.client = client
        self.problem = "the meter has told nothing yet"
        self._name = name
        self._volume_ml: float | None = None
        self._time_s = -math.inf

    def poll(self, now_s: float) -> None:
        """Receive what has come."""
        for received in self.client.poll(now_s):
            self.handle(received)

    def handle(self, received: Received) -> None:
        """Take one message of a link that somebody else polls. What is no volume is none, and says why."""
        message = received.message
        if not isinstance(message, Sensor | String) or message.name != self._name:
            return
        try:
            volume_ml = float(message.text if isinstance(message, String) else message.values[0])
        except (ValueError, IndexError):
            volume_ml = math.nan
        if not 0 <= volume_ml <= _LARGEST_ML:
            self._volume_ml, self.problem = None, f"the meter tells no volume in mL ({volume_ml:g})"
            return
        self._volume_ml, self._time_s, self.problem = volume_ml, received.received_s, ""

    def volume_ml(self) -> tuple[float, float] | None:
        """The volume in mL and when it was received; None while there is none that can be used."""
        return None if self._volume_ml is None else (self._volume_ml, self._time_s)
