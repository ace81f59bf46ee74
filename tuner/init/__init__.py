"""``tuner init``: makes a space of a stranger's kernel. Its code is read, never run."""
