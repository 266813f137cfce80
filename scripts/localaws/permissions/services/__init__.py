"""What the service authorization reference leaves open, one module a service.

A module offers NAMES (IAM prefix → placeholder of an ARN, or ``type/placeholder`` → parameters that fill it,
``|`` between alternatives; under ``actions`` the API calls whose action has another name) and ACCESSES
(botocore's service → function that answers all questions of a call, or None to leave it to the rules).
"""
