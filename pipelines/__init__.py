"""What runs on Ray: the corpus build, training launch, evaluation, batch inference, refresh."""
