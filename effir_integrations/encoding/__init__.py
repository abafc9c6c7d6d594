"""Encoding at full speed: batches, precision, corpora larger than memory, several machines."""
