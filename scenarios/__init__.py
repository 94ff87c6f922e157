"""The streams of tasks."""
