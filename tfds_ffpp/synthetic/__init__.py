"""Made people and forgeries, for tests and the demo."""
