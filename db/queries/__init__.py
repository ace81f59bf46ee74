"""The queries, by what they are about. :class:`db.store.Store` holds one of each."""
