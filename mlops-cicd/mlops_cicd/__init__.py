"""The scripts that CodeBuild runs: one module a task, each with a `main(argv) -> int`."""
