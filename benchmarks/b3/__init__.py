"""B3: what a batch job costs interactive requests, and what protecting these costs the job."""
