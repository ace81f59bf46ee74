"""How fast the service answers with a million measurements in the database.

``python -m benchmarks.service_load`` fills PostgreSQL (started here) and SQLite with synthetic rows, serves the first
with ``tuner serve`` and measures the lookup with wrk, the pages one by one, and the same lookup from Python on SQLite.
"""
