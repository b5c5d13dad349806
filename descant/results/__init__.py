"""A run's folder and its results: lines, tables, fronts, and other tools' formats."""
