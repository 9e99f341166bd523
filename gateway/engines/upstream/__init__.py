"""The client of an OpenAI-compatible server: vLLM, llama.cpp's server, or a hosted API."""
