"""CodePipeline's inside: what a declaration must be (structure), what actions do (actions), how executions run (engine)."""
