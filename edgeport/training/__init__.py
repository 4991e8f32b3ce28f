"""Training a traced network: losses, augmentation, schedule, checkpoints and the loop itself."""
