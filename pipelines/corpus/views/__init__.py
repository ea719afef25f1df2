"""What a person may want to see of a corpus version, or take out of it."""
