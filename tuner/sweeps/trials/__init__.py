"""The trials of a sweep: what is kept of them while it runs, and in which mode they are timed."""
