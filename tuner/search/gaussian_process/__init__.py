"""The Gaussian process behind the `auto` sampler, and the features it sees of a config."""
