"""One file per strategy; :func:`tuner.search.samplers` names them."""
