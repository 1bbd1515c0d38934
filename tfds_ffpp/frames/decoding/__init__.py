"""Files of pictures -> decoded frames; all that knows PyAV."""
