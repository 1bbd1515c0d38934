"""Scoring a split, and all that judges a detector by it."""
