"""What a sweep begins with: its plan, its head start, the trials of an earlier process."""
