"""Scoring over HTTP: a queue that outlives its processes, a page and a JSON service."""
