"""Label values and names that every part agrees on."""

from __future__ import annotations

BONES: dict[int, str] = {1: "sacrum", 2: "l5", 3: "hip_left", 4: "hip_right"}

LEVELS = ("s1", "s2", "s3", "s4")
SIDES = ("left", "right")

#: Common iliac arteries and veins of both sides.
VESSELS = "iliac_vessels"
#: Bone beside canal and foramina that the image does not clearly show as bone: as forbidden as they are.
NERVE_BORDER = "nerve_border"

REGIONS: dict[int, str] = {
    1: "sacral_canal",
    **{11 + number: f"foramen_{level}_left" for number, level in enumerate(LEVELS)},
    **{21 + number: f"foramen_{level}_right" for number, level in enumerate(LEVELS)},
    30: NERVE_BORDER,
    31: "ala_left",
    32: "ala_right",
    **{40 + number: f"body_s{number}" for number in range(1, 6)},
    # Outside the sacrum, and only when the label map has them.
    51: VESSELS,
}

BONE_LABEL = {name: label for label, name in BONES.items()}
REGION_LABEL = {name: label for label, name in REGIONS.items()}

#: TotalSegmentator task `total`, version 2 numbering (its sacrum lacks the S1 body, which is a class of its own).
TOTALSEGMENTATOR: dict[int, str] = {
    25: "sacrum",
    26: "sacrum",
    27: "l5",
    77: "hip_left",
    78: "hip_right",
}
TOTALSEGMENTATOR_S1_BODY = 26
TOTALSEGMENTATOR_CANAL = 79
#: Common iliac arteries and veins, left and right.
TOTALSEGMENTATOR_VESSELS = (65, 66, 67, 68)

#: Version 1 numbered otherwise; its sacrum holds the S1 body.
TOTALSEGMENTATOR_V1: dict[int, str] = {92: "sacrum", 18: "l5", 90: "hip_left", 91: "hip_right"}
