"""The loop: learner, update, loading, optimizer."""
