"""Studio: domains, user profiles, spaces, apps, lifecycle configurations, code repositories."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Any

from botocore.exceptions import ClientError

from localaws.cloud import Cloud
from localaws.errors import AwsError
from localaws.permissions.network import network_of
from localaws.resource import Context
from localaws.services.sagemaker.records import Base, Collection, Record
from localaws.services.sagemaker.resources import Props, SageMakerResource

#: what AWS takes for these, in seconds
_DOMAIN, _PROFILE, _SPACE, _APP, _UPDATE = 120, 10, 5, 60, 10
_PORTFOLIO = "Amazon SageMaker Solutions and ML Ops products"


class StudioMixin(Base):
    """Studio: domains, user profiles, spaces, apps, lifecycle configurations, code repositories."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.domains = Collection(
            self,
            "Domain",
            "domain",
            name_key="DomainId",
            status_key="Status",
            missing=("ResourceNotFound", "Domain [{name}] does not exist."),
        )
        self.profiles = Collection(
            self,
            "UserProfile",
            "user-profile",
            status_key="Status",
            duplicate=("ResourceInUse", "UserProfile [{name}] already exists."),
            missing=("ResourceNotFound", "UserProfile [{name}] does not exist."),
        )
        self.spaces = Collection(
            self,
            "Space",
            "space",
            status_key="Status",
            duplicate=("ResourceInUse", "Space [{name}] already exists."),
            missing=("ResourceNotFound", "Space [{name}] does not exist."),
        )
        self.apps = Collection(
            self,
            "App",
            "app",
            status_key="Status",
            duplicate=("ResourceInUse", "App [{name}] already exists."),
            missing=("ResourceNotFound", "App [{name}] does not exist."),
        )
        self.lifecycle_configs = Collection(
            self,
            "StudioLifecycleConfig",
            "studio-lifecycle-config",
            duplicate=("ResourceInUse", "StudioLifecycleConfig [{name}] already exists."),
            missing=("ResourceNotFound", "StudioLifecycleConfig [{name}] does not exist."),
        )
        self.code_repositories = Collection(
            self,
            "CodeRepository",
            "code-repository",
            duplicate=("ValidationException", 'Cannot create already existing code repository "{arn}".'),
            missing=("ValidationException", 'Could not find code repository "{arn}".'),
        )
        self.catalog_status = "Disabled"

    # -- domains -----------------------------------------------------------------------------------
    def create_domain(self, params: Record) -> Record:
        if any(d["DomainName"] == params["DomainName"] for d in self.domains.all()):
            raise AwsError("ResourceInUse", f"Domain with name {params['DomainName']} already exists.")
        settings = params["DefaultUserSettings"]
        if not settings.get("ExecutionRole"):
            raise AwsError("ValidationException", "DefaultUserSettings.ExecutionRole is required")
        self._check_settings(settings)
        self._check_settings(params.get("DefaultSpaceSettings") or {})
        if params.get("AppNetworkAccessType") == "VpcOnly" and not settings.get("SecurityGroups"):
            raise AwsError(
                "ValidationException",
                "DefaultUserSettings.SecurityGroups is required when AppNetworkAccessType is VpcOnly",
            )
        self._check_network(params)
        identity = "d-" + "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(12))
        data = {
            "AppNetworkAccessType": "PublicInternetOnly",
            **params,
            "Status": "Pending",
            "Url": f"https://{identity}.studio.{self.cloud.region}.sagemaker.aws",
        }
        domain = self.domains.add(identity, data)
        if params.get("HomeEfsFileSystemCreation") != "Disabled":
            self._make_home(domain)
        self._settle(self.domains, domain, _DOMAIN)
        return {k: domain[k] for k in ("DomainArn", "DomainId", "Url")}

    def _make_home(self, domain: Record) -> None:
        """The file system and its two security groups, which outlive the domain as on AWS (they keep the
        VPC from being deleted)."""
        tag = {"Key": "ManagedByAmazonSageMakerResource", "Value": domain["DomainArn"]}
        made = self.cloud.client("efs").create_file_system(
            CreationToken=domain["DomainId"], Encrypted=True, Tags=[tag]
        )
        domain["HomeEfsFileSystemId"] = made["FileSystemId"]
        for way in ("inbound", "outbound"):
            self.cloud.client("ec2").create_security_group(
                GroupName=f"security-group-for-{way}-nfs-{domain['DomainId']}",
                Description="For SageMaker Studio's NFS traffic",
                VpcId=domain["VpcId"],
                TagSpecifications=[{"ResourceType": "security-group", "Tags": [tag]}],
            )

    def describe_domain(self, params: Record) -> Record:
        return self.domains.get(params["DomainId"])

    def list_domains(self, params: Record) -> Record:
        return self.domains.listing(params, "Domains")

    def update_domain(self, params: Record) -> Record:
        domain = self.domains.get(params["DomainId"])
        self._check_settings(params.get("DefaultUserSettings") or {})
        self._check_settings(params.get("DefaultSpaceSettings") or {})
        self._check_network({**domain, **params})
        changes = {k: v for k, v in params.items() if k not in ("DomainId", "DomainSettingsForUpdate")}
        for key in ("DefaultUserSettings", "DefaultSpaceSettings"):
            if key in changes:
                changes[key] = {**domain.get(key, {}), **changes[key]}
        if params.get("DomainSettingsForUpdate"):
            if "ExecutionRoleIdentityConfig" in params["DomainSettingsForUpdate"] and self._running(
                domain["DomainId"]
            ):
                changed = params["DomainSettingsForUpdate"]["ExecutionRoleIdentityConfig"]
                if changed != domain.get("DomainSettings", {}).get("ExecutionRoleIdentityConfig", changed):
                    raise AwsError(
                        "ResourceInUse",
                        f"Unable to update Domain [{domain['DomainId']}]: ExecutionRoleIdentityConfig can "
                        "change only "
                        "while no app runs",
                    )
            changes["DomainSettings"] = {
                **domain.get("DomainSettings", {}),
                **params["DomainSettingsForUpdate"],
            }
        self.domains.change(domain, **changes, Status="Updating")
        self._settle(self.domains, domain, _UPDATE)
        return {"DomainArn": domain["DomainArn"]}

    def delete_domain(self, params: Record) -> None:
        domain = self.domains.get(params["DomainId"])
        for collection, noun in ((self.profiles, "UserProfiles"), (self.spaces, "Spaces")):
            if any(r["DomainId"] == domain["DomainId"] for r in collection.all()):
                raise AwsError(
                    "ResourceInUse",
                    f"Unable to delete Domain [{domain['DomainId']}] because {noun} are associated with it. "
                    f"Delete all {noun} under Domain to continue.",
                )
        if (params.get("RetentionPolicy") or {}).get("HomeEfsFileSystem") == "Delete" and domain.get(
            "HomeEfsFileSystemId"
        ):
            self.cloud.client("efs").delete_file_system(FileSystemId=domain["HomeEfsFileSystemId"])
        self._vanish(self.domains, domain, _UPDATE)

    def space_environment(self, domain: str, role: str, session: str) -> dict[str, str]:
        """What a program in a space finds in its environment; in a VpcOnly domain it sits in the VPC."""
        found = self.domains.get(domain)
        groups = (found.get("DefaultUserSettings") or {}).get("SecurityGroups")
        place = {"VpcId": found.get("VpcId"), "Subnets": found.get("SubnetIds"), "SecurityGroups": groups}
        inside = found["AppNetworkAccessType"] == "VpcOnly"
        network = network_of(self.cloud, place, "studio") if inside else None
        return self.cloud.role_environment(role, "sagemaker.amazonaws.com", session, network)

    def _check_network(self, params: Record) -> None:
        """Refuse a VPC, subnets or security groups that do not exist or do not belong together."""
        ec2 = self.cloud.client("ec2")
        vpc, subnets = params.get("VpcId"), params.get("SubnetIds") or []
        if not vpc or not subnets:
            if (
                not vpc
                and not subnets
                and params.get("AppNetworkAccessType") != "VpcOnly"
                and params.get("HomeEfsFileSystemCreation") == "Disabled"
            ):
                return
            raise AwsError("ValidationException", "VpcId and SubnetIds are required")
        groups = (params.get("DefaultUserSettings") or {}).get("SecurityGroups") or []
        try:
            found = ec2.describe_subnets(SubnetIds=subnets)["Subnets"]
            found_groups = ec2.describe_security_groups(GroupIds=groups)["SecurityGroups"] if groups else []
        except ClientError as error:
            raise AwsError("ValidationException", error.response["Error"]["Message"]) from None
        strange = [s["SubnetId"] for s in found if s["VpcId"] != vpc] + [
            g["GroupId"] for g in found_groups if g["VpcId"] != vpc
        ]
        if strange:
            raise AwsError("ValidationException", f"{', '.join(strange)} do not belong to VPC {vpc}")

    def _check_settings(self, settings: Record) -> None:
        """Refuse an execution role that SageMaker cannot assume and lifecycle configurations that do not
        exist or do not fit."""
        if settings.get("ExecutionRole"):
            self.check_execution_role(settings["ExecutionRole"], "ExecutionRole")
        for key, kind in (
            ("JupyterLabAppSettings", "JupyterLab"),
            ("CodeEditorAppSettings", "CodeEditor"),
            ("JupyterServerAppSettings", "JupyterServer"),
            ("KernelGatewayAppSettings", "KernelGateway"),
        ):
            for arn in _configs_of(settings.get(key) or {}):
                config = self.lifecycle_configs.find(arn)
                if not config:
                    raise AwsError("ValidationException", f"StudioLifecycleConfig {arn} does not exist.")
                if config["StudioLifecycleConfigAppType"] != kind:
                    raise AwsError(
                        "ValidationException",
                        f"StudioLifecycleConfig {arn} is for {config['StudioLifecycleConfigAppType']}, "
                        f"not for {kind}",
                    )

    # -- user profiles -----------------------------------------------------------------------------
    def create_user_profile(self, params: Record) -> Record:
        domain = self._ready(params["DomainId"])
        self._check_settings(params.get("UserSettings") or {})
        data = {**params, "Status": "Pending", "HomeEfsFileSystemUid": str(200000 + len(self.profiles))}
        profile = self.profiles.add(f"{domain['DomainId']}/{params['UserProfileName']}", data)
        self._settle(self.profiles, profile, _PROFILE)
        return {"UserProfileArn": profile["UserProfileArn"]}

    def describe_user_profile(self, params: Record) -> Record:
        return self._profile(params)

    def list_user_profiles(self, params: Record) -> Record:
        return self.profiles.listing(
            params,
            "UserProfiles",
            lambda p: (
                _inside(p, params)
                and params.get("UserProfileNameContains", "").lower() in p["UserProfileName"].lower()
            ),
            order="Ascending",
        )

    def update_user_profile(self, params: Record) -> Record:
        profile = self._profile(params)
        self._check_settings(params.get("UserSettings") or {})
        settings = {**profile.get("UserSettings", {}), **params.get("UserSettings", {})}
        self.profiles.change(profile, UserSettings=settings, Status="Updating")
        self._settle(self.profiles, profile, _UPDATE)
        return {"UserProfileArn": profile["UserProfileArn"]}

    def delete_user_profile(self, params: Record) -> None:
        profile = self._profile(params)
        name, domain = profile["UserProfileName"], profile["DomainId"]
        apps = [a["AppName"] for a in self._running(domain) if a.get("UserProfileName") == name]
        spaces = [
            s["SpaceName"]
            for s in self.spaces.all()
            if s["DomainId"] == domain
            and (s.get("OwnershipSettings") or {}).get("OwnerUserProfileName") == name
        ]
        for noun, held in (("apps", apps), ("spaces", spaces)):
            if held:
                raise AwsError(
                    "ResourceInUse",
                    f"Unable to delete UserProfile [{name}] because {noun} are associated with it: "
                    f"{', '.join(held)}.",
                )
        self._vanish(self.profiles, profile, _PROFILE)

    def _profile(self, params: Record) -> Record:
        domain = self.domains.get(params["DomainId"])
        return self.profiles.get(f"{domain['DomainId']}/{params['UserProfileName']}")

    def create_presigned_domain_url(self, params: Record) -> Record:
        profile = self._profile(params)
        if params.get("SpaceName"):
            self._space(params)
        landing = f"&landingUri={params['LandingUri']}" if params.get("LandingUri") else ""
        url = self.domains.get(profile["DomainId"])["Url"]
        return {"AuthorizedUrl": f"{url}/auth?token={secrets.token_urlsafe(48)}{landing}"}

    def space_settings(self, domain: str | None, name: str) -> Record:
        """Owner and sharing of a space, for conditions of policies; empty for one that is not there."""
        for space in self.spaces.all():
            if (space.get("DomainId"), space.get("SpaceName")) == (domain, name):
                return {**(space.get("OwnershipSettings") or {}), **(space.get("SpaceSharingSettings") or {})}
        return {}

    # -- spaces ------------------------------------------------------------------------------------
    def create_space(self, params: Record) -> Record:
        domain = self._ready(params["DomainId"])
        owner, sharing = params.get("OwnershipSettings"), params.get("SpaceSharingSettings")
        if bool(owner) != bool(sharing):
            raise AwsError(
                "ValidationException", "OwnershipSettings and SpaceSharingSettings must be given together"
            )
        if owner:
            self._profile({"DomainId": domain["DomainId"], "UserProfileName": owner["OwnerUserProfileName"]})
        settings = params.get("SpaceSettings") or {}
        self._check_settings(settings)
        data = {
            **params,
            "Status": "Pending",
            "Url": f"{domain['Url']}/jupyterlab/default",
            "SpaceSettingsSummary": {
                "AppType": settings.get("AppType"),
                "SpaceStorageSettings": settings.get("SpaceStorageSettings"),
            },
            "OwnershipSettingsSummary": owner,
            "SpaceSharingSettingsSummary": sharing,
        }
        space = self.spaces.add(f"{domain['DomainId']}/{params['SpaceName']}", data)
        self._settle(self.spaces, space, _SPACE)
        return {"SpaceArn": space["SpaceArn"]}

    def describe_space(self, params: Record) -> Record:
        return self._space(params)

    def list_spaces(self, params: Record) -> Record:
        return self.spaces.listing(
            params,
            "Spaces",
            lambda s: (
                _inside(s, params) and params.get("SpaceNameContains", "").lower() in s["SpaceName"].lower()
            ),
            order="Ascending",
        )

    def update_space(self, params: Record) -> Record:
        space = self._space(params)
        settings = {**space.get("SpaceSettings", {}), **params.get("SpaceSettings", {})}
        self._check_settings(settings)
        self.spaces.change(
            space,
            SpaceSettings=settings,
            Status="Updating",
            SpaceDisplayName=params.get("SpaceDisplayName", space.get("SpaceDisplayName")),
        )
        self._settle(self.spaces, space, _SPACE)
        return {"SpaceArn": space["SpaceArn"]}

    def delete_space(self, params: Record) -> None:
        space = self._space(params)
        apps = [
            a["AppName"] for a in self._running(space["DomainId"]) if a.get("SpaceName") == space["SpaceName"]
        ]
        if apps:
            raise AwsError(
                "ResourceInUse",
                f"Unable to delete Space [{space['SpaceName']}] because apps are associated with it: "
                f"{', '.join(apps)}.",
            )
        self._vanish(self.spaces, space, _SPACE)

    def _space(self, params: Record) -> Record:
        domain = self.domains.get(params["DomainId"])
        return self.spaces.get(f"{domain['DomainId']}/{params['SpaceName']}")

    # -- apps --------------------------------------------------------------------------------------
    def create_app(self, params: Record) -> Record:
        domain = self._ready(params["DomainId"])
        if bool(params.get("UserProfileName")) == bool(params.get("SpaceName")):
            raise AwsError(
                "ValidationException", "Either UserProfileName or SpaceName must be given, not both"
            )
        kind = params["AppType"]
        if params.get("SpaceName"):
            space = self._space(params)
            owner = (space.get("OwnershipSettings") or {}).get("OwnerUserProfileName")
            wanted = (space.get("SpaceSettings") or {}).get("AppType")
            if wanted and wanted != kind:
                raise AwsError(
                    "ValidationException",
                    f"Space [{space['SpaceName']}] is for {wanted} apps, not for {kind}",
                )
        else:
            owner = self._profile(params)["UserProfileName"]
            if kind in ("JupyterLab", "CodeEditor"):
                raise AwsError("ValidationException", f"An app of type {kind} needs a SpaceName")
        settings = self.effective_settings(domain["DomainId"], owner).get(f"{kind}AppSettings") or {}
        spec = {
            "InstanceType": "system",
            **(settings.get("DefaultResourceSpec") or {}),
            **(params.get("ResourceSpec") or {}),
        }
        config = spec.get("LifecycleConfigArn")
        if config and config not in (settings.get("LifecycleConfigArns") or []):
            raise AwsError(
                "ValidationException",
                f"LifecycleConfigArn {config} is not among the LifecycleConfigArns of the user profile or "
                "domain",
            )
        path = self._app_path(domain, params)
        old = self.apps.find(path)
        if old and old["Status"] in ("Deleted", "Failed"):
            self.apps.remove(path)
        data = {
            **params,
            "Status": "Pending",
            "ResourceSpec": spec,
            "BuiltInLifecycleConfigArn": settings.get("BuiltInLifecycleConfigArn"),
        }
        app = self.apps.add(path, data)
        self._settle(self.apps, app, _APP)
        return {"AppArn": app["AppArn"]}

    def effective_settings(self, domain: str, profile: str | None) -> Record:
        """The settings that hold for a user: the domain's, with those of the profile over them, one level
        deep."""
        found = self.domains.get(domain)
        if profile is None:
            return found.get("DefaultSpaceSettings") or found["DefaultUserSettings"]
        own = self.profiles.get(f"{domain}/{profile}").get("UserSettings") or {}
        base = found["DefaultUserSettings"]
        return {
            **base,
            **{
                k: {**base[k], **v} if isinstance(v, dict) and isinstance(base.get(k), dict) else v
                for k, v in own.items()
            },
        }

    def describe_app(self, params: Record) -> Record:
        return self._app(params)

    def list_apps(self, params: Record) -> Record:
        wanted = {
            k: params[f"{k}Equals"] for k in ("UserProfileName", "SpaceName") if params.get(f"{k}Equals")
        }
        return self.apps.listing(
            params,
            "Apps",
            lambda a: _inside(a, params) and all(a.get(k) == v for k, v in wanted.items()),
            order="Ascending",
        )

    def delete_app(self, params: Record) -> None:
        app = self._app(params)
        if app["Status"] in ("Deleted", "Deleting"):
            return
        self.apps.change(app, Status="Deleting")

        def work() -> None:
            self.cloud.pause(_APP)
            self.apps.change(app, Status="Deleted")

        self.cloud.spawn(work, name="delete-app")

    def _app(self, params: Record) -> Record:
        domain = self.domains.get(params["DomainId"])
        return self.apps.get(self._app_path(domain, params))

    @staticmethod
    def _app_path(domain: Record, params: Record) -> str:
        owner = params.get("SpaceName") or params.get("UserProfileName")
        return f"{domain['DomainId']}/{owner}/{params['AppType']}/{params['AppName']}"

    def _running(self, domain: str) -> list[Record]:
        return [
            a for a in self.apps.all() if a["DomainId"] == domain and a["Status"] not in ("Deleted", "Failed")
        ]

    # -- lifecycle configurations ------------------------------------------------------------------
    def create_studio_lifecycle_config(self, params: Record) -> Record:
        try:
            base64.b64decode(params["StudioLifecycleConfigContent"], validate=True)
        except binascii.Error:
            raise AwsError(
                "ValidationException", "StudioLifecycleConfigContent must be base64 encoded"
            ) from None
        config = self.lifecycle_configs.add(params["StudioLifecycleConfigName"], params)
        return {"StudioLifecycleConfigArn": config["StudioLifecycleConfigArn"]}

    def describe_studio_lifecycle_config(self, params: Record) -> Record:
        return self.lifecycle_configs.get(params["StudioLifecycleConfigName"])

    def list_studio_lifecycle_configs(self, params: Record) -> Record:
        wanted = params.get("AppTypeEquals")
        return self.lifecycle_configs.listing(
            params,
            "StudioLifecycleConfigs",
            lambda c: not wanted or c["StudioLifecycleConfigAppType"] == wanted,
        )

    def delete_studio_lifecycle_config(self, params: Record) -> None:
        config = self.lifecycle_configs.get(params["StudioLifecycleConfigName"])
        arn = config["StudioLifecycleConfigArn"]
        holders = [
            (d["DomainArn"], s)
            for d in self.domains.all()
            for s in (d["DefaultUserSettings"], d.get("DefaultSpaceSettings") or {})
        ]
        holders += [(p["UserProfileArn"], p.get("UserSettings") or {}) for p in self.profiles.all()]
        used = sorted(
            {
                who
                for who, settings in holders
                for key in settings
                if key.endswith("AppSettings") and arn in _configs_of(settings[key])
            }
        )
        if used:
            raise AwsError(
                "ResourceInUse",
                f"StudioLifecycleConfig [{config['StudioLifecycleConfigName']}] is in use by "
                f"{', '.join(used)}",
            )
        self.lifecycle_configs.remove(arn)

    # -- code repositories -------------------------------------------------------------------------
    def create_code_repository(self, params: Record) -> Record:
        repository = self.code_repositories.add(params["CodeRepositoryName"], params)
        return {"CodeRepositoryArn": repository["CodeRepositoryArn"]}

    def describe_code_repository(self, params: Record) -> Record:
        return self.code_repositories.get(params["CodeRepositoryName"])

    def list_code_repositories(self, params: Record) -> Record:
        return self.code_repositories.listing(
            params, "CodeRepositorySummaryList", sort_by="Name", order="Ascending"
        )

    def update_code_repository(self, params: Record) -> Record:
        repository = self.code_repositories.get(params["CodeRepositoryName"])
        self.code_repositories.change(
            repository, GitConfig={**repository["GitConfig"], **params.get("GitConfig", {})}
        )
        return {"CodeRepositoryArn": repository["CodeRepositoryArn"]}

    def delete_code_repository(self, params: Record) -> None:
        self.code_repositories.remove(params["CodeRepositoryName"])

    # -- SageMaker's own project templates ---------------------------------------------------------
    def enable_sagemaker_servicecatalog_portfolio(self, params: Record) -> Record:
        self.catalog_status = "Enabled"
        self.cloud.services["servicecatalog"].import_portfolio(_PORTFOLIO, "Amazon SageMaker")
        return {}

    def disable_sagemaker_servicecatalog_portfolio(self, params: Record) -> Record:
        self.catalog_status = "Disabled"
        return {}

    def get_sagemaker_servicecatalog_portfolio_status(self, params: Record) -> Record:
        return {"Status": self.catalog_status}

    # -- small parts -------------------------------------------------------------------------------
    def _ready(self, identity: str) -> Record:
        domain = self.domains.get(identity)
        if domain["Status"] not in ("InService", "Updating"):
            raise AwsError(
                "ValidationException",
                f"Domain [{identity}] is not in a valid state: it is {domain['Status']}, not InService",
            )
        return domain

    def _settle(self, collection: Collection, record: Record, seconds: float) -> None:
        def work() -> None:
            self.cloud.pause(seconds)
            if record["Status"] in ("Pending", "Updating"):
                collection.change(record, Status="InService")

        self.cloud.spawn(work, name="studio")

    def _vanish(self, collection: Collection, record: Record, seconds: float) -> None:
        record["Status"] = "Deleting"

        def work() -> None:
            self.cloud.pause(seconds)
            if collection.find(record["_key"]) is record:
                collection.remove(record["_key"])

        self.cloud.spawn(work, name="studio")


def _configs_of(settings: Record) -> list[str]:
    """The lifecycle configurations that an app's settings name."""
    if not isinstance(settings, dict):
        return []
    found = [
        *(settings.get("LifecycleConfigArns") or []),
        (settings.get("DefaultResourceSpec") or {}).get("LifecycleConfigArn"),
        settings.get("BuiltInLifecycleConfigArn"),
    ]
    return [arn for arn in dict.fromkeys(found) if arn]


def _inside(record: Record, params: Record) -> bool:
    return params.get("DomainIdEquals") in (None, record["DomainId"])


# -- CloudFormation --------------------------------------------------------------------------------
class Domain(SageMakerResource):
    """AWS::SageMaker::Domain."""

    type_name = "AWS::SageMaker::Domain"
    create_call, update_call, delete_call, describe_call = (
        "create_domain",
        "update_domain",
        "delete_domain",
        "describe_domain",
    )
    id_parameter = physical_id = "DomainId"
    name_property = "DomainName"
    arn_path = "domain/{id}"
    attributes = {
        k: k
        for k in ("DomainArn", "Url", "DomainId", "HomeEfsFileSystemId", "SecurityGroupIdForDomainBoundary")
    }

    def create(self, context: Context, props: Props) -> tuple[str, Any]:
        created, attributes = super().create(context, props)
        return created, {"DomainArn": self.arn_of(context, created, props), "DomainId": created, **attributes}

    def change(self, context: Context, physical_id: str, old: Props, new: Props) -> None:
        settings = {"DomainSettingsForUpdate": new["DomainSettings"]} if new.get("DomainSettings") else {}
        super().change(context, physical_id, old, {**new, **settings})


class UserProfile(SageMakerResource):
    """AWS::SageMaker::UserProfile; its id is ``<profile>|<domain>`` as in the registry."""

    type_name = "AWS::SageMaker::UserProfile"
    create_call, update_call, delete_call = (
        "create_user_profile",
        "update_user_profile",
        "delete_user_profile",
    )
    describe_call = "describe_user_profile"
    name_property = "UserProfileName"
    arn_path = "user-profile/{DomainId}/{UserProfileName}"
    attributes = {"UserProfileArn": "UserProfileArn"}

    def create(self, context: Context, props: Props) -> tuple[str, Any]:
        _, attributes = super().create(context, props)
        return f"{props['UserProfileName']}|{props['DomainId']}", attributes

    def ids(self, physical_id: str, props: Props) -> Props:
        return {"DomainId": props["DomainId"], "UserProfileName": props["UserProfileName"]}


class Space(SageMakerResource):
    """AWS::SageMaker::Space; its id is ``<domain>|<space>`` as in the registry."""

    type_name = "AWS::SageMaker::Space"
    create_call, update_call, delete_call, describe_call = (
        "create_space",
        "update_space",
        "delete_space",
        "describe_space",
    )
    name_property = "SpaceName"
    arn_path = "space/{DomainId}/{SpaceName}"
    attributes = {"SpaceArn": "SpaceArn", "Url": "Url"}

    def create(self, context: Context, props: Props) -> tuple[str, Any]:
        _, attributes = super().create(context, props)
        return f"{props['DomainId']}|{props['SpaceName']}", attributes

    def ids(self, physical_id: str, props: Props) -> Props:
        return {"DomainId": props["DomainId"], "SpaceName": props["SpaceName"]}


class App(SageMakerResource):
    """AWS::SageMaker::App; its id is ``<app>|<type>|<domain>|<profile>`` as in the registry."""

    type_name = "AWS::SageMaker::App"
    create_call, delete_call, describe_call = "create_app", "delete_app", "describe_app"
    name_property = "AppName"
    arn_path = "app/{DomainId}/{UserProfileName}/{AppType}/{AppName}"
    attributes = {"AppArn": "AppArn", "BuiltInLifecycleConfigArn": "BuiltInLifecycleConfigArn"}

    def create(self, context: Context, props: Props) -> tuple[str, Any]:
        _, attributes = super().create(context, props)
        return "|".join(props[k] for k in ("AppName", "AppType", "DomainId", "UserProfileName")), attributes

    def ids(self, physical_id: str, props: Props) -> Props:
        return {k: props[k] for k in ("AppName", "AppType", "DomainId", "UserProfileName")}


class StudioLifecycleConfig(SageMakerResource):
    """AWS::SageMaker::StudioLifecycleConfig: any change replaces it, so a kept name is refused."""

    type_name = "AWS::SageMaker::StudioLifecycleConfig"
    create_call, delete_call = "create_studio_lifecycle_config", "delete_studio_lifecycle_config"
    id_parameter = physical_id = name_property = "StudioLifecycleConfigName"
    arn_path = "studio-lifecycle-config/{id}"
    attributes = {"StudioLifecycleConfigArn": "StudioLifecycleConfigArn"}


class CodeRepository(SageMakerResource):
    """AWS::SageMaker::CodeRepository."""

    type_name = "AWS::SageMaker::CodeRepository"
    create_call, update_call, delete_call = (
        "create_code_repository",
        "update_code_repository",
        "delete_code_repository",
    )
    id_parameter = name_property = generated_name = "CodeRepositoryName"
    physical_id = "CodeRepositoryArn"
    attributes = {k: k for k in ("CodeRepositoryArn", "CodeRepositoryName")}

    def ids(self, physical_id: str, props: Props) -> Props:
        return {"CodeRepositoryName": physical_id.rpartition("/")[2]}

    def change(self, context: Context, physical_id: str, old: Props, new: Props) -> None:
        secret = {k: v for k, v in new["GitConfig"].items() if k == "SecretArn"}
        context.client("sagemaker").update_code_repository(**self.ids(physical_id, new), GitConfig=secret)


TYPES = [Domain, UserProfile, Space, App, StudioLifecycleConfig, CodeRepository]
