"""How a variant is judged: build, check against the reference, time; in processes that can be killed."""
