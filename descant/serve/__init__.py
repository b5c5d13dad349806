"""A run file's formulas behind OpenAI's HTTP interface: ``descant serve RUN.yaml``.

One process decodes and holds the models (worker/), another talks to clients and holds none (http/,
frontend/). They exchange messages (protocol/messages.py). Importing this package imports neither
FastAPI nor torch.
"""
