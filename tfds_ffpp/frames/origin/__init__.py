"""What a file says of where it comes from: its container, its C2PA manifest."""
