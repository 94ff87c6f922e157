"""Benchmarks of avcl's own parts."""
