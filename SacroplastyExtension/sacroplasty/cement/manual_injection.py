"""Injection by hand: a person with syringes in place of the pump, under the same state machine, limits and monitor.

The commands that a pump would get are told to the person, and in place of a stop there is an alarm. What was given is
entered by hand, or read by something that counts it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from ..errors import PlanError
from .delivery import DeliveryFacts
from .injection import Command
from .interlock import Observed

#: Nobody gives more than this in one go: syringes of 1 to 3 mL are usual.
LARGEST_ENTRY_ML = 3.0

#: While cement is injected by hand, somebody has to say within this time how much it was.
ENTRY_VALID_S = 60.0


class VolumeSource(Protocol):
    """What counts the cement given: entries by hand, a scale, a sensor.

    Attributes:
        valid_s: how long a reading speaks for.
        by_hand: whether it changes only when a person says so; then it is current as long as nobody injects.
    """

    valid_s: float
    by_hand: bool

    def read(self, now_s: float) -> Observed[float] | None:
        """Cement given since the source began in mL, and when that was true; None while it says nothing."""


class EnteredVolumes:
    """Syringe volumes as a person enters them. What was entered counts; nothing is taken back."""

    valid_s = ENTRY_VALID_S
    by_hand = True

    def __init__(self) -> None:
        self._total_ml = 0.0
        self._time_s = -math.inf

    def enter(self, volume_ml: float, now_s: float) -> None:
        """Count one syringe, or part of it.

        Raises:
            PlanError: for a volume that no syringe gave.
        """
        if not 0 < volume_ml <= LARGEST_ENTRY_ML:
            raise PlanError(f"{volume_ml:g} mL was entered; enter what one syringe gave, up to {LARGEST_ENTRY_ML:g} mL")
        self._total_ml += volume_ml
        self._time_s = now_s

    def read(self, now_s: float) -> Observed[float] | None:
        return Observed(self._total_ml, self._time_s)


class WeighedVolumes:
    """Cement that left the syringes, by the weight of syringes and cement that are still on the scale.

    Args:
        read_g: weight in g and when it was true; None while the scale says nothing.
        density_g_ml: of the cement.
    """

    by_hand = False

    def __init__(
        self, read_g: Callable[[float], Observed[float] | None], density_g_ml: float, valid_s: float = 1.0
    ) -> None:
        if not density_g_ml > 0:
            raise PlanError(f"the cement's density is {density_g_ml} g/mL; it must be a positive number")
        self.valid_s = valid_s
        self._read_g = read_g
        self._density_g_ml = density_g_ml
        self._full_g: float | None = None

    def read(self, now_s: float) -> Observed[float] | None:
        weight = self._read_g(now_s)
        if weight is None or not math.isfinite(weight.value):
            return None
        if self._full_g is None:
            self._full_g = weight.value
        return Observed((self._full_g - weight.value) / self._density_g_ml, weight.time_s)


class ManualDelivery:
    """Takes the state machine's commands as a pump would, and turns them into words for a person."""

    def __init__(self, source: VolumeSource) -> None:
        self.source = source
        self._state = "idle"
        self._told_s = -math.inf
        self._step_ml = 0.0

    def order(self, command: Command, now_s: float) -> None:
        """Tell the person."""
        after = {"arm": "armed", "run": "running", "hold": "holding", "stop": "stopped", "reset": "idle"}
        state = after.get(command.name, self._state)
        if state != self._state:
            self._state, self._told_s = state, now_s
        self._step_ml = command.arguments.get("volume_ml", self._step_ml)

    def facts(self, now_s: float) -> DeliveryFacts:
        """The volume with a time that says whether it can still be relied upon, and what the person was told."""
        state = Observed(self._state, now_s)
        reading = self.source.read(now_s)
        if reading is None:
            return DeliveryFacts(state=state, reason="no volume is told")
        heard_s = max(reading.time_s, self._told_s) if self.source.by_hand else reading.time_s
        rests = self.source.by_hand and self._state != "running"
        current = rests or 0 <= now_s - heard_s <= self.source.valid_s
        return DeliveryFacts(volume_ml=Observed(reading.value, now_s if current else heard_s), state=state)

    @property
    def instruction(self) -> str:
        """What the person at the syringe is to do now."""
        return {
            "idle": "Do not inject",
            "armed": "Do not inject yet: start when all is ready",
            "running": f"Inject {self._step_ml:.1f} mL slowly, then enter it",
            "holding": "Do not inject: wait",
            "stopped": "STOP INJECTING",
        }[self._state]
