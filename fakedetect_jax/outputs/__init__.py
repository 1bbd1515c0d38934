"""Where results of scoring go: rows, tables, marked videos, a Beam pipeline."""
