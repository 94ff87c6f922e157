"""Third-party checkpoints as weights of avcl."""
