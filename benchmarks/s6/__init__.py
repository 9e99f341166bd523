"""S6: admission priced in seconds, against rules that are not."""
