"""Order, reading and feeding of clips; in numpy, without jax."""
