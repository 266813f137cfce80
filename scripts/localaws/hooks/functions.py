"""Lambda: a function runs under its role, not under the account's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "function_roles": (
        "ministack.core.lambda_runtime:execution_credentials",
        "ministack.services.lambda_svc:execution_credentials",
        "ministack.services.sts:register_session",
    ),
}


def run_under_roles(cloud: Cloud) -> None:
    """Give a function's process credentials of a session of its role, named after the function as on AWS."""
    import secrets

    from ministack.core import lambda_runtime
    from ministack.services import lambda_svc, sts

    from localaws.permissions.network import network_of

    def credentials(config: dict[str, Any]) -> dict[str, str]:
        role, name = config["Role"].rpartition("/")[2], config["FunctionName"][:64]
        account = config["Role"].split(":")[4]  # a function's role is of its own account
        key = f"ASIA{secrets.token_hex(8).upper()}"
        keys = {"SecretAccessKey": secrets.token_hex(20), "SessionToken": secrets.token_hex(64)}
        arn = f"arn:{cloud.partition}:sts::{account}:assumed-role/{role}/{name}"
        sts.register_session(key, {"Arn": arn, "UserId": f"{role}:{name}", **keys})
        cloud.session_keys[key] = {"lambda:SourceFunctionArn": config["FunctionArn"]}
        cloud.networks.pop(key, None)  # it is not where its caller is
        if network := network_of(cloud.at(account), config.get("VpcConfig"), "function"):
            cloud.networks[key] = network
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": keys["SecretAccessKey"],
            "AWS_SESSION_TOKEN": keys["SessionToken"],
        }

    lambda_runtime.execution_credentials = lambda_svc.execution_credentials = credentials
