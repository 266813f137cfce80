"""What a caller inside a VPC reaches, and through which VPC endpoint.

A VPC endpoint serves one service: an interface endpoint by the service's private name, a gateway endpoint by
the route tables of the caller's subnets. Security groups must let the connection out and in. Where nothing
serves the service, AWS's client waits until it times out; here the answer comes at once and says why.
https://docs.aws.amazon.com/vpc/latest/privatelink/privatelink-access-aws-services.html
"""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_network
from typing import TYPE_CHECKING, Any

from localaws.errors import AwsError
from localaws.hooks.network import Vpcs

if TYPE_CHECKING:
    from localaws.cloud import Cloud

Record = Mapping[str, Any]
_HTTPS = 443
#: endpoints whose private name resolves only in a zone that has the endpoint
#: https://docs.aws.amazon.com/sagemaker/latest/dg/interface-vpc-endpoint.html
_ZONAL = {"sagemaker.runtime"}
#: services whose endpoint is not named after their address
_NAMES = {"codeartifact": "codeartifact.api", "s3control": "s3"}


@dataclass(frozen=True)
class Network:
    """Where a caller sits: its connections leave from one of the subnets, under all of the groups."""

    vpc: str
    subnets: tuple[str, ...]
    security_groups: tuple[str, ...]
    kind: str = ""  # build, job, function, studio
    account: str = ""


@dataclass(frozen=True)
class Endpoint:
    """The way that a request takes: the VPC endpoint, its policy, and what it adds to a request's context.

    ``id`` is "" and ``policy`` None for a request that leaves the VPC by a NAT or transit gateway.
    """

    id: str
    policy: Mapping[str, Any] | None
    context: Mapping[str, str]


class NoRoute(AwsError):
    """A connection that cannot be made."""

    def __init__(self, service: str, network: Network, why: str) -> None:
        super().__init__(
            "NoRouteToService", f"no route: VPC {network.vpc} {why}; a connection times out on AWS"
        )
        self.service = service


def network_of(cloud: Cloud, config: Mapping[str, Any] | None, kind: str = "") -> Network | None:
    """The network in a VpcConfig of SageMaker, CodeBuild or Lambda; None for no VPC."""
    read = {k.lower(): v for k, v in (config or {}).items() if v}
    subnets = tuple(read.get("subnets") or read.get("subnetids") or ())
    if not subnets:
        return None
    vpc = read.get("vpcid") or (Vpcs(cloud.account, cloud.region).subnet(subnets[0]) or {}).get("VpcId", "")
    groups = tuple(read.get("securitygroupids") or read.get("securitygroups") or ())
    return Network(vpc, subnets, groups, kind, cloud.account)


@functools.cache
def endpoint_name(service: str) -> str:
    """The name of a service's VPC endpoint, without the region: ``sagemaker.api`` for sagemaker.

    ``service`` is botocore's name, or already the endpoint's (git-codecommit, ecr.dkr).
    """
    from botocore.exceptions import UnknownServiceError
    from botocore.session import get_session

    if service in _NAMES:
        return _NAMES[service]
    try:
        prefix = get_session().get_service_model(service).metadata["endpointPrefix"]
    except UnknownServiceError:
        return service
    return ".".join(reversed(prefix.split(".")))


def service_name(service: str, region: str) -> str:
    """The ServiceName that a VPC endpoint of the service has."""
    name = endpoint_name(service)
    return f"aws.sagemaker.{region}.studio" if name == "studio" else f"com.amazonaws.{region}.{name}"


def route(cloud: Cloud, network: Network, service: str) -> Endpoint:
    """The way from a network to a service (botocore's name or the endpoint's). Raises NoRoute."""
    found = _Search(cloud, network, service).find()
    cloud.routes.setdefault(endpoint_name(service), set()).add(network.kind)
    return found


class _Search:
    def __init__(self, cloud: Cloud, network: Network, service: str) -> None:
        self.vpcs = Vpcs(network.account or cloud.account, cloud.region)
        self.network = network
        self.name = endpoint_name(service)
        self.service_name = service_name(service, cloud.region)
        self.subnets = [s for s in map(self.vpcs.subnet, network.subnets) if s]
        self.groups = [g for g in map(self.vpcs.security_group, network.security_groups) if g]

    def find(self) -> Endpoint:
        here = [
            e
            for e in self.vpcs.endpoints()
            if e["VpcId"] == self.network.vpc and e["ServiceName"] == self.service_name
        ]
        # a gateway's route is more specific than what else a route table may hold
        for endpoint in sorted(here, key=lambda e: e["VpcEndpointType"] != "Gateway"):
            reason = (
                self._gateway_fault(endpoint)
                if endpoint["VpcEndpointType"] == "Gateway"
                else self._interface_fault(endpoint)
            )
            if not reason:
                return Endpoint(endpoint["VpcEndpointId"], _policy(endpoint), self._context(endpoint))
        if all(self._leaves(s) for s in self.subnets) and self.subnets:
            return Endpoint("", None, {})
        raise NoRoute(
            self.name,
            self.network,
            reason if here else f"has no endpoint for {self.name} ({self.service_name})",
        )

    def _context(self, endpoint: Record) -> dict[str, str]:
        return {
            "aws:SourceVpc": self.network.vpc,
            "aws:SourceVpce": endpoint["VpcEndpointId"],
            "aws:VpcSourceIp": _address(self.subnets[0]["CidrBlock"], self.network),
        }

    # -- gateway endpoints: by the subnets' routes -------------------------------------------------------
    def _gateway_fault(self, endpoint: Record) -> str:
        routed = set(endpoint.get("RouteTableIds") or ())
        for subnet in self.subnets:
            if (self.vpcs.route_table_of(subnet) or {}).get("RouteTableId") not in routed:
                return (
                    f"has an endpoint for {self.name} ({endpoint['VpcEndpointId']}), but it is not in the "
                    f"route table of subnet {subnet['SubnetId']}"
                )
        prefix_list = self.vpcs.prefix_list_of(self.service_name)
        if not any(self._lets(p, prefix_lists={prefix_list}) for p in self._egress()):
            return (
                f"lets nothing of security groups {self._named()} out to {self.name}: no egress rule for "
                f"port {_HTTPS} names prefix list {prefix_list}"
            )
        return ""

    # -- interface endpoints: by the service's private name ----------------------------------------------
    def _interface_fault(self, endpoint: Record) -> str:
        said = f"has an endpoint for {self.name} ({endpoint['VpcEndpointId']}), but"
        vpc = self.vpcs.vpc(self.network.vpc) or {}
        names = [_true(endpoint.get("PrivateDnsEnabled", True)), _true(vpc.get("EnableDnsSupport", True))]
        if not all([*names, _true(vpc.get("EnableDnsHostnames", False))]):
            return (
                f"{said} {self.service_name} has no private name there (PrivateDnsEnabled of the endpoint, "
                "EnableDnsSupport and EnableDnsHostnames of the VPC)"
            )
        places = [s for s in map(self.vpcs.subnet, endpoint.get("SubnetIds") or ()) if s]
        if not places:
            return f"{said} it is in no subnet"
        zones = {s["AvailabilityZone"] for s in places}
        if self.name in _ZONAL and (lost := [s for s in self.subnets if s["AvailabilityZone"] not in zones]):
            return f"{said} its name resolves in {', '.join(sorted(zones))} only, not in {_zones(lost)}"
        groups = [
            *(endpoint.get("SecurityGroupIds") or ()),
            *([] if endpoint.get("SecurityGroupIds") else [vpc.get("DefaultSecurityGroupId", "")]),
        ]
        return self._closed(said, groups, places)

    def _closed(self, said: str, groups: list[str], places: list[Record]) -> str:
        theirs = {*groups}
        cidrs = [s["CidrBlock"] for s in places]
        if not any(self._lets(p, groups=theirs, cidrs=cidrs) for p in self._egress()):
            return f"{said} security groups {self._named()} let nothing out to it at port {_HTTPS}"
        ours, from_ = set(self.network.security_groups), [s["CidrBlock"] for s in self.subnets]
        ingress = (
            p for g in map(self.vpcs.security_group, groups) if g for p in g.get("IpPermissions") or ()
        )
        if not any(self._lets(p, groups=ours, cidrs=from_) for p in ingress):
            return f"{said} its security groups {', '.join(groups)} let nothing of {self._named()} in"
        return ""

    def _egress(self) -> Iterator[Record]:
        for group in self.groups:
            yield from group.get("IpPermissionsEgress") or ()

    def _named(self) -> str:
        return ", ".join(self.network.security_groups)

    @staticmethod
    def _lets(
        rule: Record,
        groups: Iterable[str] = (),
        cidrs: Iterable[str] = (),
        prefix_lists: Iterable[str] = (),
    ) -> bool:
        """Whether a rule lets HTTPS through, to one of the groups or prefix lists or to all of the blocks."""
        protocol = str(rule.get("IpProtocol"))
        if protocol not in ("-1", "tcp", "6"):
            return False
        if protocol != "-1" and not int(rule.get("FromPort", 0)) <= _HTTPS <= int(rule.get("ToPort", 65535)):
            return False
        open_to = [ip_network(r["CidrIp"]) for r in rule.get("IpRanges") or ()]
        blocks = [ip_network(c) for c in cidrs]
        return (
            any(p.get("GroupId") in set(groups) for p in rule.get("UserIdGroupPairs") or ())
            or any(p.get("PrefixListId") in set(prefix_lists) for p in rule.get("PrefixListIds") or ())
            or any(str(n) == "0.0.0.0/0" for n in open_to)
            or (bool(blocks) and all(any(_inside(b, n) for n in open_to) for b in blocks))
        )

    def _leaves(self, subnet: Record) -> bool:
        """Whether a subnet's connections reach the internet.

        Through an internet gateway they do not: the network interfaces of jobs, builds and functions have no
        public addresses.
        """
        routes = (self.vpcs.route_table_of(subnet) or {}).get("Routes") or ()
        return any(
            r.get("DestinationCidrBlock") == "0.0.0.0/0"
            and (r.get("NatGatewayId") or r.get("TransitGatewayId"))
            and any(self._lets(p, cidrs=["0.0.0.0/0"]) for p in self._egress())
            for r in routes
        )


def _inside(block: Any, outer: Any) -> bool:
    return isinstance(block, IPv4Network) and isinstance(outer, IPv4Network) and block.subnet_of(outer)


def _zones(subnets: Iterable[Record]) -> str:
    return ", ".join(sorted({s["AvailabilityZone"] for s in subnets}))


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


def _policy(endpoint: Record) -> Mapping[str, Any] | None:
    """The endpoint's policy; without one AWS gives full access, which is None here."""
    found = endpoint.get("PolicyDocument")
    return json.loads(found) if isinstance(found, str) and found else found or None


def _address(block: str, network: Network) -> str:
    """An address of the subnet, the same for the same network; AWS keeps the first four."""
    hosts = ip_network(block)
    return str(hosts[4 + zlib.crc32(repr(network).encode()) % max(1, hosts.num_addresses - 5)])
