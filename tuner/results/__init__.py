"""What came out of a sweep: best configs, export, reports."""
