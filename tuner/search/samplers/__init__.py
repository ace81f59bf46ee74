"""One file per strategy; ``tuner.search.sampler_names`` lists their names."""
