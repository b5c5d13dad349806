"""The published rules in plain code: loops, full recompute, no cache, one prompt at a time.

Written from the papers and importing nothing of descant, so that both cannot be wrong alike.
"""
