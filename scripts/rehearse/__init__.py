"""The rehearsal: named scenarios that use the platform as people do, on a local cloud (use cases A to G).

It speaks to the cloud only with boto3, the AWS CLI, git and HTTP. A scenario is one file in `scenarios/`:
its docstring is its description, its `run(rehearsal)` tells the story with the chapters of `story.py`.
`python -m rehearse --list` shows them.
"""
