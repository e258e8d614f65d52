"""Which alarms stand, from what the injection page knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..cement.aging import Notice
from ..cement.alarms import Alarm

#: Stops that a person made, or knows of, call nobody.
_KNOWN = ("stop was pressed", "aborted", "connect the line", "a previous session")


def monitor_warning(routes: Sequence[str]) -> str:
    """What the spread monitor warns of though it does not stop, by the routes of its warnings; empty for none."""
    if set(routes) == {"missing"}:
        return "the pump gave cement that no view shows: in a vein, or out of the picture"
    return "the monitor sees cement outside the planned ala" if routes else ""


def standing_alarms(
    phase: str,
    reason: str,
    by_hand: bool,
    pump_alarm: str,
    monitor_level: str,
    monitor_text: str,
    warning: str,
    notices: Iterable[Notice],
    trouble: str,
) -> list[Alarm]:
    """All of them, in no order.

    Args:
        phase, reason: of the injection.
        by_hand: whether a person holds the syringe, to whom a stop has to be told.
        pump_alarm: what the pump does against its word, in words.
        monitor_level, monitor_text: what the spread monitor says.
        warning: what it warns of, see `monitor_warning`.
        notices: of the cement's clock.
        trouble: why the journal cannot be kept.
    """
    alarms = []
    under_way = phase in ("armed", "injecting", "holding", "withdrawing")
    if pump_alarm:
        alarms.append(Alarm("pump", "high", pump_alarm))
    if phase == "stopped" and not reason.startswith(_KNOWN):
        text = f"STOP INJECTING: {reason}" if by_hand else f"Stopped: {reason}"
        alarms.append(Alarm("stopped", "high", text))
    if monitor_level == "leak":
        alarms.append(Alarm("leak", "high", f"Cement leaks. {monitor_text}"))
    elif monitor_level == "blind" and under_way:
        alarms.append(Alarm("blind", "medium", f"The monitor is blind: {monitor_text}"))
    elif monitor_level == "warning":
        alarms.append(Alarm("warning", "medium", f"{warning[:1].upper()}{warning[1:]}. {monitor_text}"))
    elif monitor_level == "watch":
        alarms.append(Alarm("watch", "low", f"Cement near a protected structure. {monitor_text}"))
    if trouble:
        alarms.append(Alarm("journal", "medium", trouble))
    for notice in notices:
        if notice.level == "alarm" and phase != "none":
            alarms.append(Alarm(notice.code, "medium", notice.text))
        elif notice.level == "warning" and under_way and notice.code != "temperature":
            alarms.append(Alarm(notice.code, "medium" if notice.code == "last" else "low", notice.text))
    return alarms
