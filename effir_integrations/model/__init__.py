"""What a model is, full or pruned, in memory and on disk: no texts, no training."""
