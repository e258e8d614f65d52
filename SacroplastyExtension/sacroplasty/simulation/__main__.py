"""Simulators as a process: `python -m sacroplasty.simulation '{"role": "tracker", ...}'` (see `serve.Service`).

The role `all` stands for one of each; its `faults` are lists by role. Needs nothing that the Python of 3D Slicer lacks.
"""

from __future__ import annotations

import json
import sys

from ..errors import SacroplastyError
from .serve import ROLES, Service, serve, serve_all

if __name__ == "__main__":
    record = json.loads(sys.argv[1])
    faults = record.pop("faults", ())
    try:
        if record["role"] == "all":
            by_role = faults or {}
            serve_all(Service(**record | {"role": role, "faults": tuple(by_role.get(role, ()))}) for role in ROLES)
        else:
            serve(Service(**record, faults=tuple(faults)))
    except SacroplastyError as error:
        print(f"sacroplasty: {error}", file=sys.stderr)
        sys.exit(2)
