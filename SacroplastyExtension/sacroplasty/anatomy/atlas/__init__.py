"""Bones without a network: the average pelvis is found in the CT, bent onto its bones, and drawn."""

from .find import segment_bones

__all__ = ["segment_bones"]
