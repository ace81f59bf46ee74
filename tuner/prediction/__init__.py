"""What models of kernels say: to a search, and to people."""
