"""Which videos there are, and who is seen in them."""
