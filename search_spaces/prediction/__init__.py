"""What a family expects of a config ahead of any measurement."""
