"""Where an artifact runs, and the single-file agent that runs it there."""
