"""What all training stages share: loop, losses, augmentation, optimiser."""
