"""A synthetic patient: CT and its exact truth, by seed."""

from .make import Phantom, make_phantom
from .patient import FRACTURES, Fracture

__all__ = ["FRACTURES", "Fracture", "Phantom", "make_phantom"]
