"""What answers requests, and the page."""
