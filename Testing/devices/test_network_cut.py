"""A line that loses, delays and is cut, between two network namespaces: nothing old is used, and all comes back."""

from __future__ import annotations

import pytest
from lossy_line import FRAMES_HZ, good_and_bad_times, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

OLDEST_POSE_S, OLDEST_FRAME_S = 0.1, 2 / FRAMES_HZ
#: The two ends read their clocks a little after what they stand for, on a machine that does other things too.
SLACK_S = 0.03


@pytest.fixture(scope="module")
def story():
    return good_and_bad_times(seed=1)


def live(entries, what="pose") -> float:
    return sum(entry[f"{what}_age_s"] is not None for entry in entries) / len(entries)


def test_nothing_older_than_it_may_be_is_ever_live(story):
    for what, oldest_s in (("pose", OLDEST_POSE_S), ("frame", OLDEST_FRAME_S)):
        ages_s = [e[f"{what}_age_s"] for entries in story.values() for e in entries if e[f"{what}_age_s"] is not None]
        assert len(ages_s) > 300
        assert max(ages_s) <= oldest_s + SLACK_S


def test_good_times_are_used(story):
    assert live(story["good"]) > 0.95 and live(story["good"], "frame") > 0.95
    assert live(story["loss"]) > 0.3


def test_what_is_late_is_not_live_though_it_keeps_coming(story):
    late = [entry for entry in story["delay"] if entry["now_s"] > story["delay"][0]["now_s"] + 0.2]
    assert all(entry["connected"] for entry in late)
    assert live(late) == 0.0
    assert "old" in late[-1]["reason"]


def test_a_short_cut_keeps_the_connection_and_a_long_one_makes_a_new_one(story):
    first = story["good"][-1]["connections"]
    assert story["after the short cut"][-1]["connections"] == first
    assert live(story["after the short cut"][-50:]) > 0.9
    assert not story["long cut"][-1]["connected"]
    assert story["good at last"][-1]["connections"] > first


def test_a_line_that_was_slow_from_the_start_is_seen_to_be(story):
    """Time stamps alone cannot show it: every pose is equally late."""
    entries = story["back with loss and delay"]
    assert entries[-1]["connected"]
    assert live(entries) == 0.0


def test_all_is_well_again_without_a_hand(story):
    assert live(story["good at last"][-100:]) > 0.9
    assert live(story["good at last"][-100:], "frame") > 0.9
