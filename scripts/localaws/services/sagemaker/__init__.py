"""SageMaker's control plane: one service of botocore, made of one mixin a subject (see service.py)."""
