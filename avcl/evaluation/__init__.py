"""What trained weights are good for: protocols that score them, and embeddings of one's own files."""
