"""Buckets: addresses as paths, copies of what lies there, the lock of a folder."""
