"""Jobs: asynchronous requests, as in Segmind's queue."""
