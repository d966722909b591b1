"""The HTTP door: OpenAI's API over the engine, on FastAPI and uvicorn."""
