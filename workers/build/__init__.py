"""From a variant's sources to an artifact in the content-addressed cache, and back into a process."""
