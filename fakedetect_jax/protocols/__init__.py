"""Ways to judge a detector beyond one evaluation of one set."""
