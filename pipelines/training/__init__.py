"""Training runs: named, launched on Ray, followed and traced."""
