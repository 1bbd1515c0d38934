"""What makes features of single frames."""
