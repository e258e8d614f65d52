"""From anatomy to ranked trocar trajectories whose whole shaft keeps its distance, or a refusal that says why."""
