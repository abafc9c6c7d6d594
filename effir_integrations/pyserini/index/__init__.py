"""Commands of `pyserini.index`."""
