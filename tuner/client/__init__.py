"""For inference servers: best configs from a running service, over HTTP."""
