"""Commands of `pyserini.search`."""
