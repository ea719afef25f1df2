"""Trained models at work: evaluation and batch generation."""
