"""What runs found, as tables."""
