"""How far the sweep process goes: the product's own loop, store and search, with workers whose timings are modelled."""
