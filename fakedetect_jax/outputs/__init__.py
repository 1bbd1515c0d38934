"""What predict writes of a video besides its row and page."""
