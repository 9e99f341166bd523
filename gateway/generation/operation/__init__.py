"""What operators do to this gateway, noted in the audit trail."""
