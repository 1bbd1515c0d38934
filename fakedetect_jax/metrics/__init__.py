"""From scores to numbers; in numpy, without jax."""
