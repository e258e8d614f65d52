"""What others call the structures: TotalSegmentator's class names, our own, common spellings, terminology codes."""

from __future__ import annotations

import re

from .labels import BONE_LABEL, VESSELS

#: A label of both hips, or of the whole spine: `composite_labels` parts them.
HIPS, SPINE = "hips", "spine"
CANAL = "sacral_canal"
#: What a label may be said to be.
KNOWN = (*BONE_LABEL, CANAL, VESSELS, HIPS, SPINE)

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
#: Words that say no more than that it is a bone.
_FILLERS = {"bone", "bones", "os"}
_PHRASES = {
    frozenset(phrase.split()): name
    for name, phrases in {
        "sacrum": ("sacrum", "sacral", "sacrum coccyx", "vertebrae s1", "vertebra s1", "s1 vertebral body"),
        "l5": (
            *("l5", "vertebrae l5", "vertebra l5", "lumbar vertebra l5", "lumbar vertebra 5", "lumbar l5", "lumbar 5"),
            *("fifth lumbar vertebra", "5 th lumbar vertebra"),
        ),
        CANAL: ("sacral canal", "spinal canal", "vertebral canal", "spinal cord"),
        SPINE: ("spine", "lumbar spine", "lumbar vertebrae", "vertebral column", "vertebrae"),
        "vessels": (
            "iliac artery",
            "iliac vein",
            "iliac vena",
            "common iliac artery",
            "common iliac vein",
            "iliac vessels",
        ),
        "hip": ("hip", "hips", "coxa", "coxae", "innominate", "ilium", "iliac", "hemipelvis"),
    }.items()
    for phrase in phrases
}
#: SNOMED CT, as TotalSegmentator's and Slicer's terminologies give them (totalsegmentator_snomed_mapping.csv, 2.18.0).
_TYPE_CODES = {
    **{"54735007": "sacrum", "65985001": "sacrum", "49668003": "l5", "29836001": "hip"},
    **{"73634005": VESSELS, "46027005": VESSELS},
}
_SIDE_CODES = {"7771000": "left", "24028007": "right"}


def structure_of(name: str, terminology: str = "") -> str | None:
    """Our name of a structure, or None when it is none of those that are looked for.

    Args:
        name: as a person or another program wrote it (`vertebrae_L5`, `Left hip bone`, `os sacrum`).
        terminology: Slicer's terminology entry, `context~category~type~modifier~...`, each `scheme^code^meaning`;
            looked at when the name says nothing.

    Returns:
        One of `KNOWN`.
    """
    return _of_words(re.findall(r"[a-z]+\d*|\d+", name.lower())) or _of_terminology(terminology)


def _of_words(words: list[str]) -> str | None:
    sides = {_SIDES[word] for word in words if word in _SIDES}
    found = _PHRASES.get(frozenset(set(words) - _SIDES.keys() - _FILLERS))
    if found == "hip" and len(sides) < 2:
        return f"hip_{sides.pop()}" if sides else HIPS
    if found == "vessels":
        return VESSELS
    # Half a sacrum is not the sacrum.
    return None if sides else found


def _of_terminology(entry: str) -> str | None:
    parts = [part.split("^") for part in entry.split("~")]
    if len(parts) < 3 or any(len(part) < 3 for part in parts[2:4]):
        return None
    kind, modifier = parts[2], parts[3] if len(parts) > 3 else ["", "", ""]
    found = _TYPE_CODES.get(kind[1]) if kind[0] == "SCT" else None
    if found is None:
        return _of_words(re.findall(r"[a-z]+\d*|\d+", f"{kind[2]} {modifier[2]}".lower()))
    if found != "hip":
        return found
    side = _SIDE_CODES.get(modifier[1])
    return f"hip_{side}" if side else HIPS
