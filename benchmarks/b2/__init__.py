"""B2: a batch job of many prefix groups, in our gateway, in our engine alone and in vLLM."""
