"""How old a reading is, judged by the receiver's clock and by the sender's time stamps."""

from __future__ import annotations

#: An older pose is none. Numbers that stay the very same for as long are the same measurement: a tracker jitters [s].
OLDEST_POSE_S = 0.1
#: Two clocks drift apart by less than this; the smallest delay seen so far is forgotten at this pace.
_DRIFT_S_PER_S = 1e-3
#: A time stamp further back than this is a clock that was set, not a message that overtook another.
_CLOCK_SET_S = 1.0


class Freshness:
    """Age of the newest sample of one stream.

    A sample counts from when it was received, plus how long the link takes at its quickest, plus the delay by which it
    came later than the quickest one of the stream: that shows a queue that fills up on the way. What it cannot show is
    a delay that the sender has had from the start. A message whose time stamp does not move on is no new sample.
    """

    def __init__(self) -> None:
        self._stamp_s: float | None = None
        self._received_s: float | None = None
        self._quickest_s = 0.0
        self._delay_s = 0.0

    def observe(self, timestamp_s: float, received_s: float, link_delay_s: float = 0.0) -> bool:
        """Note a message; whether it is a new sample.

        Args:
            timestamp_s: by the sender's clock, 0 when it sends none.
            received_s: by the receiver's clock.
            link_delay_s: how long it was under way at least, as far as the link knows (`Received.delay_s`).
        """
        if timestamp_s <= 0:
            self._received_s, self._delay_s = received_s, link_delay_s
            return True
        if self._stamp_s is not None and self._stamp_s - _CLOCK_SET_S < timestamp_s <= self._stamp_s:
            return False
        offset_s = received_s - timestamp_s
        if self._stamp_s is None or self._received_s is None or timestamp_s < self._stamp_s:
            self._quickest_s = offset_s
        else:
            drifted_s = self._quickest_s + _DRIFT_S_PER_S * (received_s - self._received_s)
            self._quickest_s = min(offset_s, drifted_s)
        self._stamp_s, self._received_s = timestamp_s, received_s
        self._delay_s = offset_s - self._quickest_s + link_delay_s
        return True

    def age_s(self, now_s: float) -> float:
        """Seconds since the newest sample; infinite when there is none."""
        return float("inf") if self._received_s is None else now_s - self._received_s + self._delay_s
