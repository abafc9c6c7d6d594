"""Thin classes that put an encoder into other libraries; each imports its own only when used."""
