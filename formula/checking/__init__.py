"""Checks of a tree: names, operators, arguments, conditions, each mistake marked."""
