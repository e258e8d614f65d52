"""Fracture suggestions as lines for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..anatomy.fracture_model import FractureSuggestion


def suggestion_lines(suggestions: Sequence[FractureSuggestion]) -> list[str]:
    """One line for each suggestion under a heading that says what they are."""
    from ..anatomy.fracture_model import SUGGESTION_NOTICE, evidence_text

    if not suggestions:
        return ["Fracture lines suggested: none. That does not mean that there is no fracture."]
    lines = [f"Fracture lines suggested: {len(suggestions)}. {SUGGESTION_NOTICE}"]
    for number, one in enumerate(suggestions, start=1):
        place = ", ".join(f"{coordinate:.0f}" for coordinate in one.center_ras)
        zone = f"Denis zone {'I' * one.denis_zone}" if one.denis_zone else "zone unknown"
        lines.append(
            f"  {number}. {one.side}, {one.direction}, {zone}, score {one.score:.2f}, at RAS {place}: "
            + "; ".join([*(evidence_text(sign) for sign in one.evidence), *one.notes])
        )
    return lines
