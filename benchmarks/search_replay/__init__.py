"""How many evaluations a search strategy needs, measured by the true sweep loop on recorded spaces."""
