"""EC2: prefix lists in the rules of security groups, VPC endpoints, and where the emulator keeps networks."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from localaws.cloud import caller_key

if TYPE_CHECKING:
    from localaws.cloud import Cloud

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "prefix_lists": ("ministack.services.ec2:_parse_ip_permissions",),
    "vpc_endpoints": (
        "ministack.services.ec2:_ACTION_MAP",
        "ministack.services.ec2:_create_vpc_endpoint",
        "ministack.services.ec2:_vpce_fields_xml",
        "ministack.services.ec2:_parse_member_list",
        "ministack.services.ec2:_xml",
    ),
    "session_networks": ("ministack.services.sts:register_session",),
    "networks": (
        "ministack.services.ec2:_vpc_endpoints",
        "ministack.services.ec2:_vpcs",
        "ministack.services.ec2:_subnets",
        "ministack.services.ec2:_route_tables",
        "ministack.services.ec2:_security_groups",
        "ministack.services.ec2:_resolve_aws_pl",
    ),
}


def read_prefix_lists() -> None:
    """Keep the prefix lists of a security group's rule; ministack reads only its addresses and groups."""
    from ministack.services import ec2

    original = ec2._parse_ip_permissions

    def parse(params: dict, prefix: str) -> list[dict]:
        rules = original(params, prefix)
        for number, rule in enumerate(rules, 1):
            entries: dict[str, dict] = {}
            for key, value in params.items():
                match = re.fullmatch(
                    rf"{prefix}\.{number}\.PrefixListIds\.(\d+)\.(PrefixListId|Description)", key
                )
                if match:
                    entries.setdefault(match[1], {})[match[2]] = (
                        value[0] if isinstance(value, list) else value
                    )
            rule["PrefixListIds"] = list(entries.values()) or rule.get("PrefixListIds", [])
        return rules

    ec2._parse_ip_permissions = parse


def keep_vpc_endpoints() -> None:
    """Keep a VPC endpoint's policy, groups and private name in CreateVpcEndpoint, and tell them."""
    from xml.sax.saxutils import escape

    from ministack.core.responses import get_account_id, get_region
    from ministack.services import ec2

    create, fields = ec2._create_vpc_endpoint, ec2._vpce_fields_xml

    def created(params: dict) -> Any:
        before = set(ec2._vpc_endpoints)
        answer = create(params)
        for identity in set(ec2._vpc_endpoints) - before:
            endpoint = ec2._vpc_endpoints.get_scoped(get_account_id(), get_region(), identity)
            first = {k: (v[0] if isinstance(v, list) else v) for k, v in params.items()}
            endpoint["SecurityGroupIds"] = ec2._parse_member_list(params, "SecurityGroupId")
            endpoint["PrivateDnsEnabled"] = str(first.get("PrivateDnsEnabled", "true")).lower() == "true"
            if first.get("PolicyDocument"):
                endpoint["PolicyDocument"] = first["PolicyDocument"]
            return ec2._xml(200, "CreateVpcEndpointResponse", told(endpoint, "vpcEndpoint"))
        return answer

    def told(endpoint: dict, tag: str = "item") -> str:
        groups = "".join(
            f"<item><groupId>{g}</groupId></item>" for g in endpoint.get("SecurityGroupIds") or ()
        )
        policy = endpoint.get("PolicyDocument")
        text = escape(policy if isinstance(policy, str) else json.dumps(policy)) if policy else ""
        more = (
            f"<privateDnsEnabled>{str(endpoint.get('PrivateDnsEnabled', False)).lower()}</privateDnsEnabled>"
            f"<groupSet>{groups}</groupSet><policyDocument>{text}</policyDocument>"
        )
        return fields(endpoint, tag).replace(f"</{tag}>", "") + f"{more}</{tag}>"

    ec2._create_vpc_endpoint = ec2._ACTION_MAP["CreateVpcEndpoint"] = created
    ec2._vpce_fields_xml = told


def session_networks(cloud: Cloud) -> None:
    """Leave who assumes a further role where it is: its new credentials are used from the same VPC."""
    from ministack.services import sts

    register = sts.register_session

    def registered(access_key: str, session: dict) -> None:
        register(access_key, session)
        if network := cloud.networks.get(caller_key.get()):
            cloud.networks[access_key] = network

    sts.register_session = registered


class Vpcs:
    """The networks of one account and region, as the emulator keeps them."""

    def __init__(self, account: str, region: str) -> None:
        self.scope = (account, region)

    def _one(self, kind: str, identity: str) -> dict[str, Any] | None:
        from ministack.services import ec2

        return getattr(ec2, kind).get_scoped(*self.scope, identity)

    def vpc(self, identity: str) -> dict[str, Any] | None:
        """A VPC."""
        return self._one("_vpcs", identity)

    def subnet(self, identity: str) -> dict[str, Any] | None:
        """A subnet."""
        return self._one("_subnets", identity)

    def security_group(self, identity: str) -> dict[str, Any] | None:
        """A security group with its rules."""
        return self._one("_security_groups", identity)

    def endpoints(self) -> list[dict[str, Any]]:
        """All VPC endpoints."""
        from ministack.services import ec2

        return ec2._vpc_endpoints.values_scoped(*self.scope)

    def route_table_of(self, subnet: dict[str, Any]) -> dict[str, Any] | None:
        """The route table that a subnet was given, else its VPC's main one."""
        from ministack.services import ec2

        tables = [t for t in ec2._route_tables.values_scoped(*self.scope) if t["VpcId"] == subnet["VpcId"]]
        own = [
            t
            for t in tables
            if any(a.get("SubnetId") == subnet["SubnetId"] for a in t.get("Associations") or ())
        ]
        main = [t for t in tables if any(a.get("Main") for a in t.get("Associations") or ())]
        return next(iter([*own, *main]), None)

    @staticmethod
    def prefix_list_of(service_name: str) -> str:
        """The id of AWS's prefix list of a service, "" for none."""
        from ministack.services import ec2

        return (ec2._resolve_aws_pl(service_name) or {}).get("PrefixListId", "")
