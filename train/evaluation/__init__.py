"""How good a model is: the same questions to it, to its untrained self and to baselines.

`protocol.evaluate` is the whole of it; `run` is a worker's entry; `results` is what it writes, and
loads no model. Metrics are in `metrics`, intervals in `bootstrap`, opponents in `baselines/`.
"""
