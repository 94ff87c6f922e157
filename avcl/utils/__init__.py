"""What every part may use: atomic files, console, processes, seeds."""
