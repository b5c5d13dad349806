<<<<<<< HEAD
"""Constraints on what an answer may be: given, compiled, followed token by token."""
=======
"""Constraints: what may follow an answer so far, as masks over the vocabulary."""
>>>>>>> constraints
