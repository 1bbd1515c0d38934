"""What an evaluation or a video's scores amount to, as records and files."""
