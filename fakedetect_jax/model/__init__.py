"""The network and its steps: pure functions under jit."""
