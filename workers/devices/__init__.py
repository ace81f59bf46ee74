"""What differs between CPU and CUDA, and what a measurement says of the machine it was made on."""
