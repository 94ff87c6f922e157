"""Prepared stores: every clip pre-decoded once, in Arrow files."""
