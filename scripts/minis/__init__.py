"""Training recipes of the bundled miniatures, one file a family; `train_minis.py NAME` runs them."""
