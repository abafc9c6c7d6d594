"""From texts to vectors: loading, tokenising, batching, precision."""
