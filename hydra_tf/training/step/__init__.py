"""One optimizer step: what it trains, its gradients, its batch and its optimizer."""
