"""Code that all training stages share: training loop, losses, augmentation, optimiser."""
