"""Where workers run: Ray, its machines and actors, and how blobs reach them."""
