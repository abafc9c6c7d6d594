"""Rows in and rows out: texts, corpora, judgements, training data, files of vectors."""
