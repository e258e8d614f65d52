"""Draw the icons of the extension and of its modules: python Utilities/draw_icons.py

Every icon is a sacrum from the front with its four pairs of foramina, and the module's own sign on it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QGuiApplication, QImage, QPainter, QPainterPath, QPen

ROOT = Path(__file__).resolve().parents[1]
SIZE = 128
BONE, EDGE, HOLE = QColor("#eceff1"), QColor("#546e7a"), QColor("#37474f")
CEMENT, TOOL, SIGNAL = QColor("#d6409f"), QColor("#1565c0"), QColor("#2e7d32")


def sacrum() -> QPainterPath:
    """Outline of a sacrum from the front in a field of 128 x 128: endplate and alae above, apex below."""
    path = QPainterPath(QPointF(40, 16))
    path.cubicTo(50, 22, 78, 22, 88, 16)
    path.cubicTo(104, 14, 124, 24, 122, 38)
    path.cubicTo(120, 52, 104, 54, 100, 66)
    path.cubicTo(96, 78, 90, 84, 86, 92)
    path.cubicTo(82, 102, 76, 104, 74, 112)
    path.cubicTo(72, 122, 56, 122, 54, 112)
    path.cubicTo(52, 104, 46, 102, 42, 92)
    path.cubicTo(38, 84, 32, 78, 28, 66)
    path.cubicTo(24, 54, 8, 52, 6, 38)
    path.cubicTo(4, 24, 24, 14, 40, 16)
    return path


def draw_sacrum(painter: QPainter) -> None:
    painter.setPen(QPen(EDGE, 4))
    painter.setBrush(BONE)
    painter.drawPath(sacrum())
    painter.setPen(QPen(EDGE, 3, Qt.SolidLine, Qt.RoundCap))
    for y, half_width in ((42, 16), (58, 13), (74, 10), (89, 7)):
        painter.drawLine(QPointF(64 - half_width, y), QPointF(64 + half_width, y))
    painter.setPen(Qt.NoPen)
    painter.setBrush(HOLE)
    for y, half_width, radius in ((45, 26, 6), (61, 22, 5.2), (76, 18, 4.4), (91, 14, 3.6)):
        for side in (-1, 1):
            painter.drawEllipse(QPointF(64 + side * half_width, y), radius * 1.15, radius)


def draw_cement(painter: QPainter) -> None:
    painter.setPen(QPen(CEMENT.darker(130), 2))
    painter.setBrush(CEMENT)
    for side in (-1, 1):
        painter.drawEllipse(QPointF(64 + side * 43, 36), 10, 9)


def draw_regions(painter: QPainter) -> None:
    painter.setClipPath(sacrum())
    painter.setPen(Qt.NoPen)
    for color, left in (("#408cc8b0", 0), ("#2e7d32a0", 92)):
        shade = QColor(color[:7])
        shade.setAlpha(int(color[7:], 16))
        painter.setBrush(shade)
        painter.drawRect(QRectF(left, 0, 36, 128))
    shade = QColor("#e0b000")
    shade.setAlpha(200)
    painter.setBrush(shade)
    painter.drawRoundedRect(QRectF(59, 24, 10, 84), 5, 5)


def draw_trajectory(painter: QPainter) -> None:
    painter.setPen(QPen(TOOL, 7, Qt.SolidLine, Qt.RoundCap))
    painter.drawLine(QPointF(124, 120), QPointF(107, 43))
    painter.setPen(QPen(CEMENT, 4))
    painter.setBrush(Qt.NoBrush)
    painter.drawEllipse(QPointF(106, 37), 11, 11)


def draw_link(painter: QPainter) -> None:
    painter.setBrush(SIGNAL)
    painter.setPen(Qt.NoPen)
    painter.drawEllipse(QPointF(24, 108), 7, 7)
    painter.setBrush(Qt.NoBrush)
    painter.setPen(QPen(SIGNAL, 6, Qt.SolidLine, Qt.RoundCap))
    for radius in (18, 31, 44):
        painter.drawArc(QRectF(24 - radius, 108 - radius, 2 * radius, 2 * radius), 5 * 16, 80 * 16)


def draw_crosshair(painter: QPainter) -> None:
    painter.setPen(QPen(TOOL, 6, Qt.SolidLine, Qt.RoundCap))
    painter.setBrush(Qt.NoBrush)
    painter.drawEllipse(QPointF(64, 64), 32, 32)
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        painter.drawLine(QPointF(64 + 20 * dx, 64 + 20 * dy), QPointF(64 + 54 * dx, 64 + 54 * dy))


def draw_c_arm(painter: QPainter) -> None:
    painter.setBrush(Qt.NoBrush)
    painter.setPen(QPen(TOOL, 9, Qt.SolidLine, Qt.FlatCap))
    painter.drawArc(QRectF(8, 8, 112, 112), 90 * 16, 180 * 16)
    painter.setBrush(TOOL)
    painter.setPen(Qt.NoPen)
    painter.drawRect(QRectF(58, 2, 28, 14))
    painter.drawRect(QRectF(54, 110, 40, 16))


def draw_drop(painter: QPainter) -> None:
    draw_cement(painter)
    painter.setPen(QPen(SIGNAL, 6, Qt.SolidLine, Qt.RoundCap, Qt.RoundJoin))
    painter.setBrush(Qt.NoBrush)
    curve = QPainterPath(QPointF(8, 118))
    for x, y in ((36, 112), (54, 98), (78, 92), (96, 74), (120, 70)):
        curve.lineTo(x, y)
    painter.drawPath(curve)


def draw_page(painter: QPainter) -> None:
    painter.setPen(QPen(QColor("#455a64"), 4))
    painter.setBrush(QColor("white"))
    painter.drawRoundedRect(QRectF(66, 58, 54, 66), 5, 5)
    painter.setPen(QPen(QColor("#90a4ae"), 4, Qt.SolidLine, Qt.RoundCap))
    for y in (74, 87):
        painter.drawLine(QPointF(76, y), QPointF(110, y))
    painter.setPen(QPen(SIGNAL, 6, Qt.SolidLine, Qt.RoundCap, Qt.RoundJoin))
    painter.drawPolyline([QPointF(78, 106), QPointF(87, 114), QPointF(106, 98)])


SIGNS: dict[str, Callable[[QPainter], None]] = {
    "Sacroplasty": draw_cement,
    "SacroplastySegmentation": draw_regions,
    "SacroplastyPlanning": draw_trajectory,
    "SacroplastyDevices": draw_link,
    "SacroplastyNavigation": draw_crosshair,
    "SacroplastyFluoroscopy": draw_c_arm,
    "SacroplastyCementMonitor": draw_drop,
    "SacroplastyReport": draw_page,
}


def icon(sign: Callable[[QPainter], None]) -> QImage:
    image = QImage(SIZE, SIZE, QImage.Format_ARGB32)
    image.fill(Qt.transparent)
    painter = QPainter(image)
    painter.setRenderHint(QPainter.Antialiasing)
    draw_sacrum(painter)
    sign(painter)
    painter.end()
    return image


def main() -> int:
    application = QGuiApplication(sys.argv)
    files = {ROOT / "Modules" / name / "Resources" / "Icons" / f"{name}.png": sign for name, sign in SIGNS.items()}
    files[ROOT / "Sacroplasty.png"] = SIGNS["Sacroplasty"]
    for file, sign in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        if not icon(sign).save(str(file)):
            print(f"{file} could not be written", file=sys.stderr)
            return 1
        print(file.relative_to(ROOT))
    del application
    return 0


if __name__ == "__main__":
    sys.exit(main())
