"""U2: several engines behind one queue, against routers in front of engines with their own."""
