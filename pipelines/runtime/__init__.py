"""Running work on a cluster, showing how far it is, and noting it in MLflow."""
