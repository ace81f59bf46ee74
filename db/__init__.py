"""What is remembered: records, schema, store, migrations. Of the other packages it imports ``workers.records`` alone.

``db.store.Store`` holds all queries, ``db.records`` what goes in and comes out, ``db.errors`` what can go wrong.
Importing this package alone loads no SQLAlchemy.
"""
