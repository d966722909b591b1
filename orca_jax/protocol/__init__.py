"""OpenAI's protocol as plain functions: a body becomes requests, outputs become an answer. No sockets, no files.

The server and the batch runner both speak it, so it lives in neither.
"""
