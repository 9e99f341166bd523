"""How long each answer will be: features, model, training, versions."""
