"""Benchmarks are no tests, but they have to keep up with what they measure."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_a_benchmark_can_be_loaded(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # What it is compared with need not be installed; what is ours must be there.
        missing = str(error.name).split(".")[0]
        if missing == "sacroplasty" or (FOLDER / f"{missing}.py").exists():
            raise
        pytest.skip(f"{missing} is not installed")
