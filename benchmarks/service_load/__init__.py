"""How fast the service answers with a million measurements in the database.

``python -m benchmarks.service_load`` fills PostgreSQL (started here) and SQLite with synthetic rows, serves each with
``tuner serve`` and measures the lookup with wrk, as fast as it goes and at a steady rate, in short turns with a control
that shows what the machine does meanwhile; the pages one by one; and the same lookup from Python. Client, server and
database share the machine's cores.
"""
