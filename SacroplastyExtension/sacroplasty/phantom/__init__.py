"""A synthetic patient: CT and its exact truth, by seed."""
