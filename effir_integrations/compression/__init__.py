"""Stages that make a model smaller: one verb, one module, one function."""
