"""Formulas in training loops: as a teacher, as what draws rollouts, and as a reference."""
