"""Files of tenants: uploads, the output of batch jobs, their retention."""
