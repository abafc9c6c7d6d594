"""Commands of `pyserini.eval`."""
