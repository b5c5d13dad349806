"""A run file's formulas behind OpenAI's HTTP interface: ``descant serve RUN.yaml``.

One thread decodes (loop.py) and one event loop talks to clients (app.py); nothing else touches the
models. Importing this imports neither FastAPI nor torch.
"""
