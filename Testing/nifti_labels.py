"""Label maps as TotalSegmentator 2.18.0 writes them: NIfTI with a table of names in the header's extension."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

from sacroplasty.image import Volume, write_volume


def write_with_names(labels: Volume, names: dict[int, str], path: Path) -> None:
    """Write labels (uint8) with the table that nibabel's `Nifti1Extension(0, xml)` leaves behind byte 348."""
    rows = "\n".join(
        f'<Label Key="{value}" Red="0.5" Green="0.5" Blue="0.5" Alpha="1"><![CDATA[{name}]]></Label>'
        for value, name in names.items()
    )
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension> <LabelTable>\n{rows}\n</LabelTable> </CaretExtension>'
    )
    content = xml.encode()
    content += b"\0" * (-(len(content) + 8) % 16)
    plain = path.with_name("plain.nii")
    write_volume(labels, plain)
    data = plain.read_bytes()
    plain.unlink()
    voxels_at = int(struct.unpack("<f", data[108:112])[0])
    header = bytearray(data[:348])
    header[108:112] = struct.pack("<f", 352 + 8 + len(content))
    whole = bytes(header) + b"\1\0\0\0" + struct.pack("<ii", 8 + len(content), 0) + content + data[voxels_at:]
    path.write_bytes(gzip.compress(whole, 1) if path.suffix == ".gz" else whole)
