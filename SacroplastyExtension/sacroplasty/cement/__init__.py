"""Bone cement: how it ages, flows and spreads, how its spread is watched, and when the pump may run."""
