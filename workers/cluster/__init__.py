"""Workers on a Ray cluster: the runner, placement on machines, actors, and transfer of blobs."""
