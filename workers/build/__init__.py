"""Builds variants into artifacts, keeps them in a content-addressed cache, and loads them into a process."""
