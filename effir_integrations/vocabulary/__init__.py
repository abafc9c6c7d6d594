"""Vocabularies: which tokens texts need, and an encoder without the others."""
