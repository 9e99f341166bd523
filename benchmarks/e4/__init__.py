"""E4: a real model, served by our engine, vLLM's CPU build and llama.cpp's server."""
