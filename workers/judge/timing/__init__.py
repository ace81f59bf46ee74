"""How a run is timed."""
