"""Encoders for Pyserini and commands that bring it to run; importing this starts no JVM."""
