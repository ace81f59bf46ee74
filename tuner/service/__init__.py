"""The HTTP service: API, pages for people and what guards both. Loaded only by ``tuner serve``."""
