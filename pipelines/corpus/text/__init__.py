"""What is done to a column of texts: cleaning, measuring, finding what must go, tokens."""
