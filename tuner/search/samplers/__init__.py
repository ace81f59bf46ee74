"""One file per sampler; ``tuner.search.sampler_names`` lists their names."""
