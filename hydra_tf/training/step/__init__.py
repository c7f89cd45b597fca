"""One optimizer step: the trained variables, the checks of a batch, gradients and optimizer."""
