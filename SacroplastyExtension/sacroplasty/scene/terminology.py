"""Terminology codes of segments, so that other programs know a bone by its code and not by its English name.

Codes are those of Slicer's own terminologies and of TotalSegmentator's (totalsegmentator_snomed_mapping.csv, 2.18.0).
Neither has the sacral canal, a sacral foramen, an ala or a sacral body. Those segments have no code rather than that of
the sacrum: a program that goes by codes would take a nerve's room for bone.
"""

from __future__ import annotations

from collections.abc import Mapping

_DICOM = "Segmentation category and type - DICOM master list"
_TOTALSEGMENTATOR = "Segmentation category and type - Total Segmentator"
_ANATOMY = "SCT^123037004^Anatomical Structure"
_ALTERED = "SCT^49755003^Morphologically Altered Structure"
_LEFT, _RIGHT = "SCT^7771000^Left", "SCT^24028007^Right"
_NONE = "^^"
_REGIONS = "Anatomic codes - DICOM master list"

#: Terminology, category, type and modifier of each structure that has a code.
_CODES: Mapping[str, tuple[str, str, str, str]] = {
    "sacrum": (_DICOM, _ANATOMY, "SCT^54735007^Sacrum", _NONE),
    "l5": (_TOTALSEGMENTATOR, _ANATOMY, "SCT^49668003^L5 vertebra", _NONE),
    "hip_left": (_TOTALSEGMENTATOR, _ANATOMY, "SCT^29836001^Hip", _LEFT),
    "hip_right": (_TOTALSEGMENTATOR, _ANATOMY, "SCT^29836001^Hip", _RIGHT),
    "oedema_left": (_DICOM, _ALTERED, "SCT^79654002^Edema", _NONE),
    "oedema_right": (_DICOM, _ALTERED, "SCT^79654002^Edema", _NONE),
}


def terminology_entry(structure: str) -> str | None:
    """What Slicer stores in a segment's tag `TerminologyEntry`, or None for a structure that has no code.

    Fields are parted by `~`: terminology, category, type, modifier, anatomic terminology, region, its modifier.
    """
    if structure not in _CODES:
        return None
    context, category, kind, modifier = _CODES[structure]
    region = "SCT^54735007^Sacrum" if category == _ALTERED else _NONE
    return "~".join((context, category, kind, modifier, _REGIONS, region, _NONE))
