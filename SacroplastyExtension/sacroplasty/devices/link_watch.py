"""What is wrong with a link, by name: judged from the messages that come, for the screen and the log.

The roles decide what may be used, and refuse what is stale, frozen or not valid. This says in words why the stream is
not as it should be, also where a role still finds enough to live on.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from .freshness import OLDEST_POSE_S, Freshness
from .link import LinkCounts, Received
from .messages import Image, Message, Sensor, String, Transform

#: What a finding is called, and what it means.
FINDINGS: dict[str, str] = {
    "disconnected": "the connection was lost",
    "silent": "the connection stands and nothing comes",
    "late": "messages come late",
    "uneven": "messages come unevenly",
    "lost": "messages are missing",
    "repeated": "messages come twice",
    "out-of-order": "an older message came after a newer one",
    "frozen": "the content does not change",
    "clock-stands": "the sender's clock stands still",
    "clock-set": "the sender's clock was set",
    "damaged": "bytes came damaged",
    "implausible": "the numbers cannot be in mm",
}
_SILENT_S = 0.5
_SILENT_PERIODS = 5.0
_LATE_S = 0.1
_UNEVEN_S = 0.04
_UNEVEN_SAMPLES = 20
_GAP_PERIODS = 1.7
_MANY_GAPS = 5
_CLOCK_SET_S = 1.0
#: No tool can be this close to its tracker: cameras and field generators need some distance.
_NEAREST_TOOL_MM = 20.0
_SHORTEST_C_ARM_MM = 100.0
_KEPT = 64


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with a link.

    Attributes:
        code: a key of `FINDINGS`.
        text: in words, with numbers.
        first_s, last_s: when it was seen, by the poller's clock.
        count: how often.
    """

    code: str
    text: str
    first_s: float
    last_s: float
    count: int


@dataclass
class _Stream:
    freshness: Freshness = field(default_factory=Freshness)
    stamp_s: float = 0.0
    received_s: float = 0.0
    content: Any = None
    changed_s: float = 0.0
    number: int | None = None
    periods: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT))
    gaps: deque[int] = field(default_factory=lambda: deque(maxlen=_KEPT))
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=_UNEVEN_SAMPLES))

    @property
    def period_s(self) -> float | None:
        """Of the sender: the median, which a gap now and then does not move."""
        return sorted(self.periods)[len(self.periods) // 2] if len(self.periods) >= _UNEVEN_SAMPLES else None


class LinkWatch:
    """Watches the messages of one link."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._findings: dict[str, Finding] = {}
        self._news: list[Finding] = []
        self._counts = LinkCounts()
        self._was_connected = False

    def observe(self, received: Received) -> None:
        """Take note of a message."""
        message, now_s = received.message, received.received_s
        if not isinstance(message, Transform | Image | String | Sensor):
            return
        self._judge_numbers(message, now_s)
        key = (message.type_name, message.name)
        stream = self._streams.get(key)
        content = _content(message)
        if stream is None:
            stream = self._streams[key] = _Stream(stamp_s=message.timestamp_s, content=content)
            stream.received_s = stream.changed_s = now_s
            stream.freshness.observe(message.timestamp_s, now_s)
            stream.number = _number(message)
            return
        same = _equal(content, stream.content)
        if not same:
            stream.changed_s = now_s
        if message.timestamp_s > 0 and message.timestamp_s == stream.stamp_s:
            code = "repeated" if same else "clock-stands"
            self._find(code, f"{message.name}: {FINDINGS[code]}", now_s)
        else:
            self._judge_stamp(stream, message, now_s)
            self._judge_content(stream, message, same, now_s)
        stream.content, stream.received_s = content, now_s

    def assess(self, now_s: float, connected: bool, reason: str, counts: LinkCounts) -> None:
        """Take note of what no message tells: silence, damage, a lost connection. Call it at every poll."""
        damaged = (counts.crc_errors - self._counts.crc_errors) + (counts.malformed - self._counts.malformed)
        skipped = counts.skipped_bytes - self._counts.skipped_bytes
        if damaged or skipped:
            self._find("damaged", f"{damaged} damaged messages, {skipped} bytes that mean nothing", now_s)
        if self._was_connected and (not connected or counts.connections != self._counts.connections):
            self._find("disconnected", f"the connection was lost: {reason or 'it came back at once'}", now_s)
            self._streams.clear()
        self._was_connected = connected
        self._counts = LinkCounts(**vars(counts))
        if connected and self._streams:
            last_s = max(stream.received_s for stream in self._streams.values())
            periods = [stream.period_s for stream in self._streams.values() if stream.period_s is not None]
            limit_s = max([_SILENT_S, *(_SILENT_PERIODS * period_s for period_s in periods)])
            if now_s - last_s > limit_s:
                self._find("silent", f"nothing has come for {now_s - last_s:.1f} s", now_s)

    @property
    def latency_s(self) -> float:
        """By which the newest messages came later than the quickest of their stream; NaN before the first."""
        delays = [stream.delays[-1] for stream in self._streams.values() if stream.delays]
        return max(delays, default=math.nan)

    def findings(self, now_s: float, within_s: float = 5.0) -> list[Finding]:
        """What was seen lately, the newest first."""
        recent = [finding for finding in self._findings.values() if now_s - finding.last_s <= within_s]
        return sorted(recent, key=lambda finding: -finding.last_s)

    def take_news(self) -> list[Finding]:
        """What has begun since the last call, for a log."""
        news, self._news = self._news, []
        return news

    def _find(self, code: str, text: str, now_s: float) -> None:
        known = self._findings.get(code)
        again = known is not None and now_s - known.last_s <= 10.0
        first_s, count = (known.first_s, known.count + 1) if known is not None and again else (now_s, 1)
        self._findings[code] = Finding(code, text, first_s, now_s, count)
        if not again:
            self._news.append(self._findings[code])

    def _judge_stamp(self, stream: _Stream, message: Message, now_s: float) -> None:
        if message.timestamp_s <= 0:
            return
        step_s = message.timestamp_s - stream.stamp_s
        if -_CLOCK_SET_S < step_s < 0:
            self._find("out-of-order", f"{message.name}: {FINDINGS['out-of-order']}", now_s)
            return
        if step_s < 0 or step_s - (now_s - stream.received_s) > _CLOCK_SET_S:
            self._find("clock-set", f"{message.name}: the sender's clock was set by {step_s:+.1f} s", now_s)
            stream.delays.clear()
        elif stream.number is None and (period_s := stream.period_s) is not None:
            missing = round(step_s / period_s) - 1 if step_s > _GAP_PERIODS * period_s else 0
            self._judge_gap(stream, message, missing, now_s)
        if 0 < step_s < _CLOCK_SET_S:
            stream.periods.append(step_s)
        stream.stamp_s = message.timestamp_s
        stream.freshness.observe(message.timestamp_s, now_s)
        delay_s = stream.freshness.age_s(now_s)
        stream.delays.append(delay_s)
        if delay_s > _LATE_S:
            self._find("late", f"{message.name}: {1000 * delay_s:.0f} ms late", now_s)
        if len(stream.delays) == _UNEVEN_SAMPLES and (spread_s := _spread(stream.delays)) > _UNEVEN_S:
            self._find("uneven", f"{message.name}: comes unevenly, by ±{1000 * spread_s:.0f} ms", now_s)

    def _judge_gap(self, stream: _Stream, message: Message, missing: int, now_s: float) -> None:
        """A gap now and then is a busy computer; many of them are a fault."""
        stream.gaps.append(missing)
        gaps = sum(1 for gap in stream.gaps if gap)
        if missing and gaps >= _MANY_GAPS:
            lost = sum(stream.gaps)
            self._find("lost", f"{message.name}: {lost} of the latest {len(stream.gaps) + lost} are missing", now_s)

    def _judge_content(self, stream: _Stream, message: Message, same: bool, now_s: float) -> None:
        number = _number(message)
        if number is not None and stream.number is not None and number > stream.number:
            self._judge_gap(stream, message, number - stream.number - 1, now_s)
        stream.number = number if number is not None else stream.number
        if not same:
            return
        # A pump's text counts up even when nothing else changes.
        hangs = isinstance(message, Image) or (isinstance(message, String) and number is not None)
        if isinstance(message, Transform) and message.metadata.get("TransformStatus", "OK") == "OK":
            hangs = now_s - stream.changed_s > OLDEST_POSE_S
        if hangs:
            self._find("frozen", f"{message.name}: {FINDINGS['frozen']}", now_s)

    def _judge_numbers(self, message: Message, now_s: float) -> None:
        text = implausible(message)
        if text:
            self._find("implausible", text, now_s)


def implausible(message: Message) -> str:
    """Why the numbers of a message cannot be in mm, in words; empty when they can."""
    if isinstance(message, Transform) and message.name.endswith("ToTracker"):
        distance_mm = math.hypot(*message.matrix[:3, 3])
        if message.metadata.get("TransformStatus", "OK") == "OK" and distance_mm < _NEAREST_TOOL_MM:
            return f"{message.name} is {distance_mm:.1f} mm from the tracker: is it in mm?"
    if isinstance(message, Image):
        source_mm = _as_dict(message.metadata.get("Geometry")).get("source_to_detector_mm")
        if isinstance(source_mm, int | float) and not source_mm >= _SHORTEST_C_ARM_MM:
            return f"{message.name}: the X-ray source is {source_mm:g} mm from the detector: is it in mm?"
    return ""


def _content(message: Message) -> Any:
    if isinstance(message, Transform):
        return message.matrix
    if isinstance(message, Image):
        # Some pixels are enough to see that it changes; the role compares them all.
        return message.voxels[..., ::7, ::5].copy()
    return message.text if isinstance(message, String) else getattr(message, "values", None)


def _spread(values: Collection[float]) -> float:
    mean = fmean(values)
    return math.sqrt(fmean((value - mean) ** 2 for value in values))


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else one == other


def _number(message: Message) -> int | None:
    """The count that the sender keeps of its messages; None when it keeps none."""
    found: Any = None
    if isinstance(message, Image):
        text = message.metadata.get("FrameNumber", "")
        found = int(text) if text.isascii() and text.isdigit() else None
    elif isinstance(message, String):
        found = _as_dict(message.text).get("counter")
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def _as_dict(text: str | None) -> Mapping[str, Any]:
    try:
        body = json.loads(text or "")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
