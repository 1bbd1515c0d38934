"""From one video to the frames that are stored."""
