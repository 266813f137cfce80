"""Who may do what: every call that reaches the cloud is decided by the caller's and the resource's policies.

``requests`` reads what was called, ``mapping`` and ``services`` say which IAM actions on which resources that
is, ``callers`` who asks, and ``engine`` decides as IAM does. ``gate`` puts these together for the gateway.
"""
