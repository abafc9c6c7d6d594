"""One verb, one module: analyze, drop, reconstruct, slim, export, compress."""
