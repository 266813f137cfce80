"""The CI/CD scripts of the platform: what CodeBuild runs, one module a task, each with a `main(argv) -> int`."""
