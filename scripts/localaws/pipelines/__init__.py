"""CodePipeline's inside: what a declaration must be, what actions do, how executions run."""
