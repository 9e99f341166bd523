"""`lmaas replay`: replays requests under several policies."""
