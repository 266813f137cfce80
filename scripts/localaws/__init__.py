"""The local cloud: AWS's services as the platform uses them, on this machine, in one process.

Two maintained emulators (ministack as gateway and core, moto behind it) and, beside them, one module a
service for what they lack. Everything is reached as AWS is reached: boto3, the AWS CLI, git and HTTP on one
port of 127.0.0.1. Nothing outside this package knows that it exists.
"""
