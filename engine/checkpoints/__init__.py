"""Model folders: which there are, fetching and converting them, and what LMAAS_MODEL names."""
