"""Backbones: clips in, per-clip loss terms and embeddings out."""
