"""The HTTP service: API, pages, tokens and limits. Only ``tuner serve`` loads it."""
