"""Scoring any video."""
