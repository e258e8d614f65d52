"""What gives the cement, as the injection sees it: a pump, or a person with syringes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .injection import Command
from .interlock import Observed


@dataclass(frozen=True)
class Refusal:
    """An order that was not done: its name, the kind of refusal, and why in words."""

    order: str
    code: str
    reason: str

    @property
    def text(self) -> str:
        return f"the pump refuses to {self.order}: {self.reason}"


@dataclass(frozen=True)
class DeliveryFacts:
    """What is known of a pump or a person at a tick; None is not known, or something that a syringe does not have.

    Attributes:
        connected, fault, pressure_kpa: as in `interlock.Facts`.
        volume_ml: cement given since it began to count.
        state: by the names of a pump's states.
        rate_ml_s: of the plunger.
        reason: why it cannot be used now, in words.
        alarm: what it does against its word or our orders, in words.
        refusals: since the last look.
    """

    connected: Observed[bool] | None = None
    fault: Observed[bool] | None = None
    pressure_kpa: Observed[float] | None = None
    volume_ml: Observed[float] | None = None
    state: Observed[str] | None = None
    rate_ml_s: Observed[float] | None = None
    reason: str = ""
    alarm: str = ""
    refusals: tuple[Refusal, ...] = ()


class Delivery(Protocol):
    """Takes orders and tells what it does."""

    def order(self, command: Command, now_s: float) -> None:
        """Have it done. A stop goes out at once."""

    def facts(self, now_s: float) -> DeliveryFacts:
        """What is known now. Refusals are told once."""
