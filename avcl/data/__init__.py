"""From media files to tensors: decoding, log-mel, windows, transforms, datasets of files."""
