"""One experiment and its folder: run, checkpoint, loggers, signals."""
