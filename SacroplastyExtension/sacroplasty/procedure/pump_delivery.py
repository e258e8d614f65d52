"""The pump as a delivery of cement: its role's readings as facts, and commands as its orders."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..cement.delivery import DeliveryFacts, Refusal
from ..cement.injection import Command
from ..cement.interlock import Observed
from ..devices.pump import PumpRole
from ..devices.pump_protocol import PumpState
from ..devices.pump_watch import implausible


class PumpDelivery:
    """Orders and facts of one pump.

    Args:
        pump: None while none is connected to.
    """

    def __init__(self, pump: PumpRole | None) -> None:
        self._pump = pump

    def order(self, command: Command, now_s: float) -> None:
        pump = self._pump
        if pump is None:
            return
        if command.name == "stop":
            pump.stop(now_s)
        elif command.name == "run":
            pump.run(now_s=now_s, **command.arguments)
        elif command.name == "withdraw":
            pump.withdraw(now_s=now_s, **command.arguments)
        else:
            {"arm": pump.arm, "hold": pump.hold, "reset": pump.reset}[command.name](now_s)

    def facts(self, now_s: float) -> DeliveryFacts:
        if self._pump is None:
            return DeliveryFacts(reason="not connected")
        refusals = tuple(
            Refusal(answer.command, answer.code, answer.reason)
            for answer in self._pump.take_answers()
            # What a stop overtook needs no reason beside the stop's own.
            if not answer.accepted and answer.code != "latched"
        )
        reading = self._pump.reading(now_s)
        # Figures in another unit are not known, as little as none at all.
        state = reading.state if reading.state is not None and not implausible(reading.state, None) else None
        heard_s = now_s - reading.age_s if math.isfinite(reading.age_s) else -math.inf

        def told(value: Callable[[PumpState], Any]) -> Observed[Any] | None:
            return None if state is None else Observed(value(state), heard_s)

        return DeliveryFacts(
            connected=Observed(reading.ready, heard_s),
            fault=told(lambda pump: pump.fault not in ("", "order")),
            pressure_kpa=told(lambda pump: pump.pressure_kpa),
            volume_ml=told(lambda pump: pump.delivered_ml),
            state=told(lambda pump: pump.state),
            rate_ml_s=told(lambda pump: pump.rate_ml_s),
            reason=reading.reason,
            alarm=reading.alarm,
            refusals=refusals,
        )
