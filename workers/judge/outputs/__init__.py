"""What makes an output right."""
