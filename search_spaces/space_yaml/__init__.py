"""What a ``space.yaml`` may say: its keys, groups of parameters, and lists of configs."""
