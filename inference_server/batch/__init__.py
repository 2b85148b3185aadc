"""Many images at a time, from files to files, without a server.

The same segmenter as behind HTTP, so that masks are the same. Knows files and formats, and nothing
of terminals: what happens is told to a callback.
"""
