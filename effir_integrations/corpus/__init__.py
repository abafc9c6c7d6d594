"""Encode a corpus of any size, in one process or on many machines."""
