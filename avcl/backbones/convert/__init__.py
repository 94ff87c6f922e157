"""Third-party checkpoints (MAE and other plain ViTs, CAV-MAE, STELLA) as weights of avcl."""
