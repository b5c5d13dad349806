"""``descant bench``: this machine, measured: ours, plain transformers, the forwards, the floor."""
