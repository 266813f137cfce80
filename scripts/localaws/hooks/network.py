"""EC2: prefix lists in the rules of security groups."""

from __future__ import annotations

import re

#: hook → the emulator's private names it uses ("module:attribute")
HOOKS: dict[str, tuple[str, ...]] = {
    "prefix_lists": ("ministack.services.ec2:_parse_ip_permissions",),
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
