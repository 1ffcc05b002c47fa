"""From interaction logs to micro-batches: corpora, token stores, tasks, mixtures, packing.

Numpy, Arrow and tokenizers only; this package knows no model class and imports no other package
of the project.
"""
