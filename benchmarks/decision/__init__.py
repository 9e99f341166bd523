"""What a scheduling decision costs."""
