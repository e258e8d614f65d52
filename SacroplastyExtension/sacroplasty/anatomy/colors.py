"""The color of each structure, the same in slices, in 3D and over X-rays."""

from __future__ import annotations

#: Colors (red, green, blue; 0 to 1) that stay apart for color-blind readers too: bone pale, nerves yellow,
#: targets green and blue, cement magenta, trocars cyan.
COLORS: dict[str, tuple[float, float, float]] = {
    "sacrum": (0.95, 0.84, 0.57),
    "l5": (0.85, 0.76, 0.62),
    "hip_left": (0.75, 0.70, 0.62),
    "hip_right": (0.75, 0.70, 0.62),
    "sacral_canal": (0.98, 0.85, 0.10),
    "foramen": (0.95, 0.55, 0.05),
    "nerve_border": (0.99, 0.75, 0.45),
    "ala_left": (0.25, 0.70, 0.45),
    "ala_right": (0.25, 0.55, 0.80),
    "body": (0.80, 0.80, 0.72),
    "si_joint": (0.55, 0.40, 0.70),
    "fracture": (0.85, 0.20, 0.20),
    "cement": (0.85, 0.25, 0.65),
    "oedema": (0.35, 0.85, 0.95),
    "trajectory": (0.20, 0.80, 0.90),
}


def color_of(structure: str) -> tuple[float, float, float]:
    """The color of a structure by its name or the family it belongs to (`foramen_s2_left`: `foramen`)."""
    for name, color in COLORS.items():
        if structure == name or structure.startswith(f"{name}_"):
            return color
    return (0.6, 0.6, 0.6)
