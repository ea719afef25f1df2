"""What makes and keeps corpus versions."""
