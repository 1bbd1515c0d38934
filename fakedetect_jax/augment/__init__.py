"""What is done to clips before the network sees them; under jit."""
