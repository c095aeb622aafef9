"""A search for the best values of settings: trials, each a training, led by Optuna."""
