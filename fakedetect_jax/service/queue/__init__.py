"""Jobs, where they are kept, and their files."""
