"""A run file's formulas behind OpenAI's HTTP interface: ``descant serve RUN.yaml``.

One process decodes (loop.py), and nothing else touches the models; another talks to clients
(app.py), and holds none. Between them go messages (messages.py). Importing this imports neither
FastAPI nor torch.
"""
