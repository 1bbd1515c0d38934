"""A trained model, from a workdir or an export."""
