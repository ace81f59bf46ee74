"""Who won a regime, and how sure that is."""
