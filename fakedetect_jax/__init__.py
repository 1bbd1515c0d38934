"""Train and evaluate video deepfake detectors with JAX and Flax."""
