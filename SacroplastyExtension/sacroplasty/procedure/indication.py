"""The indication checklist: never a silent pass.

The questions follow the technique this project implements (non-displaced Denis zone I insufficiency fracture with
refractory severe pain) and its exclusions. The verdict supports a clinician's decision and never replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Answer = Literal["yes", "no", "unknown"]


@dataclass(frozen=True)
class Question:
    """One line of the checklist and the answer that lets the procedure go on."""

    key: str
    text: str
    wanted: Answer


QUESTIONS: tuple[Question, ...] = (
    Question("insufficiency_fracture", "Insufficiency fracture of the sacral ala (Denis zone I) on CT or MRI", "yes"),
    Question("severe_pain", "Severe pain, VAS above 5", "yes"),
    Question("refractory", "Pain persists under conservative treatment", "yes"),
    Question("displacement", "Displaced fracture", "no"),
    Question("pelvic_instability", "Pelvic instability", "no"),
    Question("neurological_deficit", "Neurological deficit", "no"),
    Question("infection", "Local or systemic infection", "no"),
    Question("coagulopathy", "Uncorrected coagulopathy", "no"),
    Question("cement_allergy", "Allergy to bone cement", "no"),
)


@dataclass(frozen=True)
class Verdict:
    """Whether the checklist is complete and clean; `reasons` names every line that is not."""

    indicated: bool
    reasons: tuple[str, ...]


def assess_indication(answers: dict[str, Answer]) -> Verdict:
    """Judge the answers by question key. A question without an answer counts as unknown, and unknown forbids."""
    reasons = []
    for question in QUESTIONS:
        answer = answers.get(question.key, "unknown")
        if answer == "unknown":
            reasons.append(f"not answered: {question.text}")
        elif answer != question.wanted:
            reasons.append(f"{answer}: {question.text}")
    return Verdict(not reasons, tuple(reasons))
