"""Online adaptation of predictions between training runs, from each outcome."""
