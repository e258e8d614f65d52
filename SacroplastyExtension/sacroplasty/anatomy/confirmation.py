"""Which structures planning relies on, and when a person must have looked at them first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from ..errors import AnatomyError
from .labels import BONE_LABEL, LEVELS
from .quality import QualityReport

#: Below this a structure is more guessed than seen, and blocks planning until a person confirms it. Foramina that are
#: placed by their neighbours have 0.3, a canal whose walls are seen on half of its length 0.5.
LEAST_CONFIDENCE = 0.5


class Reliable(Protocol):
    """What is asked here of an anatomy."""

    @property
    def confidence(self) -> dict[str, float]: ...
    @property
    def quality(self) -> QualityReport | None: ...
    @property
    def confirmed(self) -> frozenset[str]: ...


@dataclass(frozen=True)
class Reliability:
    """An anatomy's confidence, quality and confirmations without its voxels."""

    confidence: dict[str, float]
    quality: QualityReport | None
    confirmed: frozenset[str]


AnyReliable = TypeVar("AnyReliable", bound=Reliable)


def relied_on(side: str) -> tuple[str, ...]:
    """Structures without which nothing may be planned on a side.

    Sacrum and L5 give the frame and the count of the levels, the ala the target, all others are kept clear of.
    """
    foramina = (f"foramen_{level}_{side}" for level in LEVELS)
    return ("sacrum", "l5", "sacral_canal", *foramina, f"ala_{side}", f"si_joint_{side}", f"hip_{side}")


def blocking_reasons(anatomy: Reliable, side: str) -> tuple[str, ...]:
    """Why nothing may be planned on a side, each reason naming its structure first; empty when nothing blocks it."""
    problems = {name: _problem(anatomy, name) for name in relied_on(side)}
    return tuple(f"{name}: {problem}" for name, problem in problems.items() if problem is not None)


def to_confirm(anatomy: Reliable, sides: Iterable[str]) -> tuple[str, ...]:
    """Structures that block planning of these sides, but no longer do once a person has confirmed them."""
    names = dict.fromkeys(name for side in sides for name in relied_on(side))
    return tuple(name for name in names if _not_shown(anatomy, name) is None and _problem(anatomy, name) is not None)


def confirm(anatomy: AnyReliable, names: Iterable[str]) -> AnyReliable:
    """The anatomy with structures that a person has looked at and found right.

    Raises:
        AnatomyError: for a structure that the CT does not show, which nobody can confirm.
    """
    wanted = frozenset(names)
    for name in sorted(wanted):
        problem = _not_shown(anatomy, name)
        if problem is not None:
            known = ", ".join(sorted(anatomy.confidence))
            raise AnatomyError(f"{name} cannot be confirmed: {problem}; there are {known}")
    return replace(anatomy, confirmed=anatomy.confirmed | wanted)  # type: ignore[type-var]


def _problem(anatomy: Reliable, name: str) -> str | None:
    not_shown = _not_shown(anatomy, name)
    if not_shown is not None:
        return f"{not_shown}, so it counts as in the way"
    confidence = anatomy.confidence[name]
    # NaN is no confidence at all.
    if confidence >= LEAST_CONFIDENCE or name in anatomy.confirmed:
        return None
    return f"found with a confidence of only {confidence:.0%}; look at it, correct it if needed, and confirm it"


def _not_shown(anatomy: Reliable, name: str) -> str | None:
    # A bone may go on beyond the image; what planning keeps clear of may not.
    if anatomy.quality is not None and name in anatomy.quality.cut_off and name not in BONE_LABEL:
        return f"cut off by the border of the image ({' and '.join(anatomy.quality.cut_off[name])})"
    return None if name in anatomy.confidence else "not found in this CT"
