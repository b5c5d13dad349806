"""A finished folder as tables: completions, scores, fronts, and other tools' formats."""
