"""Whether a pump does what it says: its plunger's way against its state and its orders."""

from __future__ import annotations

from dataclasses import dataclass

from .pump_protocol import PumpState

#: The plunger's place is told this exactly at worst; less is no movement.
_RESTS_ML = 0.02
#: From a state to the next judgement, long enough for the slowest useful rate to show.
_WINDOW_S = 1.0
#: A running plunger that makes less of its told way than this does not run.
_LEAST_SHARE = 0.25
_RATE_TOLERANCE = 0.02
#: No syringe for cement holds more, and no pump for it presses harder; so other numbers are in another unit.
_LARGEST_SYRINGE_ML = 100.0
_PRESSURES_KPA = (-100.0, 20_000.0)


@dataclass
class _Since:
    state: str
    received_s: float
    remaining_ml: float
    most_remaining_ml: float


class PumpWatch:
    """Watches one pump for as long as it is connected.

    Attributes:
        alarm: what the pump does against its word, in words; it stays until `forget`. Empty when nothing was seen.
    """

    def __init__(self) -> None:
        self.alarm = ""
        self._since: _Since | None = None

    def forget(self) -> None:
        """A person has seen to it."""
        self.alarm = ""
        self._since = None

    def observe(self, state: PumpState, received_s: float) -> None:
        """Judge a new state of the pump."""
        since = self._since
        if since is None or since.state != state.state:
            self._since = _Since(state.state, received_s, state.remaining_ml, state.remaining_ml)
            return
        since.most_remaining_ml = max(since.most_remaining_ml, state.remaining_ml)
        if state.state != "running":
            # Backing off is allowed; forward is not, and in a stop least of all.
            forward_ml = since.most_remaining_ml - state.remaining_ml
            if forward_ml > _RESTS_ML:
                self.alarm = (
                    f"the pump says {state.state} and its plunger goes on ({forward_ml:.2f} mL): "
                    "switch it off at the pump"
                )
            return
        passed_s = received_s - since.received_s
        if passed_s < _WINDOW_S:
            return
        moved_ml = since.remaining_ml - state.remaining_ml
        if moved_ml < _LEAST_SHARE * state.rate_ml_s * passed_s:
            self.alarm = f"the pump says that it runs and its plunger stands ({moved_ml:.3f} mL in {passed_s:.1f} s)"
        self._since = _Since(state.state, received_s, state.remaining_ml, state.remaining_ml)


def implausible(state: PumpState, ordered_rate_ml_s: float | None) -> str:
    """Why the figures of a state cannot be in mL, kPa and mL/s, in words; empty when they can.

    Args:
        ordered_rate_ml_s: of the run under way; None when this controller ordered none.
    """
    if not -_RESTS_ML <= state.remaining_ml <= _LARGEST_SYRINGE_ML:
        return f"the pump tells of {state.remaining_ml:g} mL in the syringe; does it use another unit?"
    if not _PRESSURES_KPA[0] <= state.pressure_kpa <= _PRESSURES_KPA[1]:
        return f"the pump tells a pressure of {state.pressure_kpa:g} kPa; does it use another unit?"
    if state.state == "running" and ordered_rate_ml_s is not None:
        difference = abs(state.rate_ml_s - ordered_rate_ml_s)
        if difference > _RATE_TOLERANCE * ordered_rate_ml_s:
            return f"the pump runs at {state.rate_ml_s:g} mL/s where {ordered_rate_ml_s:g} mL/s were ordered"
    return ""
