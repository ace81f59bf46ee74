"""The queries, grouped by subject. :class:`db.store.Store` holds one of each group."""
