"""The Gaussian process behind the `auto` sampler, and what it sees of a config."""
