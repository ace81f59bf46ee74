"""What can be known of the Blackwell kernels without a B200: compile a sample, read resources and SASS."""
