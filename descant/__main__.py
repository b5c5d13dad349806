"""``python -m descant`` is the command line."""

from .cli import main

main()
