"""One simulator as a process: `python -m sacroplasty.simulation '{"role": "tracker", ...}'` (see `serve.Service`)."""

from __future__ import annotations

import json
import sys

from ..errors import SacroplastyError
from .serve import Service, serve

if __name__ == "__main__":
    record = json.loads(sys.argv[1])
    try:
        serve(Service(**record | {"faults": tuple(record.get("faults", ()))}))
    except SacroplastyError as error:
        print(f"sacroplasty: {error}", file=sys.stderr)
        sys.exit(2)
