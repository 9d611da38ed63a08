"""What the notebooks and the command line do, step by step, without any user interface."""
