"""Eight apps in plain English, for served models that bring no examples of their own."""
