"""Studio: a VpcOnly domain, profiles, spaces and apps, and the order in which they can be deleted."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from botocore.exceptions import ClientError


class Studio:
    """A domain made by a stack, and what tests do with it."""

    def __init__(self, cloud: Any) -> None:
        self.cloud, self.api = cloud, cloud.client("sagemaker")
        self.name = cloud.name("mlops")
        self.script = cloud.name("start")
        self.role = cloud.role("sagemaker")
        self.stack = cloud.stack(self.resources(), self.outputs)
        self.made = cloud.outputs(self.stack)
        self.domain = self.made["Domain"]

    outputs = {
        "Domain": {"Value": {"Ref": "Domain"}},
        "Url": {"Value": {"Fn::GetAtt": ["Domain", "Url"]}},
        "DomainArn": {"Value": {"Fn::GetAtt": ["Domain", "DomainArn"]}},
        "Profile": {"Value": {"Ref": "Profile"}},
        "ProfileArn": {"Value": {"Fn::GetAtt": ["Profile", "UserProfileArn"]}},
        "Script": {"Value": {"Fn::GetAtt": ["Script", "StudioLifecycleConfigArn"]}},
        "Vpc": {"Value": {"Ref": "Vpc"}},
        "Subnet": {"Value": {"Ref": "Subnet"}},
        "Group": {"Value": {"Ref": "Group"}},
    }

    def resources(self, **settings: Any) -> dict[str, Any]:
        script = {"Fn::GetAtt": ["Script", "StudioLifecycleConfigArn"]}
        lab = {"LifecycleConfigArns": [script], "DefaultResourceSpec": {"LifecycleConfigArn": script}}
        return {
            "Vpc": {"Type": "AWS::EC2::VPC", "Properties": {"CidrBlock": "10.7.0.0/16"}},
            "Subnet": {
                "Type": "AWS::EC2::Subnet",
                "Properties": {"CidrBlock": "10.7.1.0/24", "VpcId": {"Ref": "Vpc"}},
            },
            "Group": {
                "Type": "AWS::EC2::SecurityGroup",
                "Properties": {"GroupDescription": "x", "VpcId": {"Ref": "Vpc"}},
            },
            "Script": {
                "Type": "AWS::SageMaker::StudioLifecycleConfig",
                "Properties": {
                    "StudioLifecycleConfigName": self.script,
                    "StudioLifecycleConfigAppType": "JupyterLab",
                    "StudioLifecycleConfigContent": base64.b64encode(b"echo hello").decode(),
                },
            },
            "Domain": {
                "Type": "AWS::SageMaker::Domain",
                "Properties": {
                    "DomainName": self.name,
                    "AuthMode": "IAM",
                    "AppNetworkAccessType": "VpcOnly",
                    "HomeEfsFileSystemCreation": "Disabled",
                    "VpcId": {"Ref": "Vpc"},
                    "SubnetIds": [{"Ref": "Subnet"}],
                    "DefaultUserSettings": {
                        "ExecutionRole": self.role,
                        "SecurityGroups": [{"Ref": "Group"}],
                        **settings,
                    },
                    "DomainSettings": {"DockerSettings": {"EnableDockerAccess": "DISABLED"}},
                },
            },
            "Profile": {
                "Type": "AWS::SageMaker::UserProfile",
                "Properties": {
                    "DomainId": {"Ref": "Domain"},
                    "UserProfileName": "jane",
                    "UserSettings": {"ExecutionRole": self.role, "JupyterLabAppSettings": lab},
                },
            },
        }

    def ready(self, kind: str, **ids: str) -> dict:
        def look() -> dict | None:
            found = getattr(self.api, f"describe_{kind}")(DomainId=self.domain, **ids)
            return found if found["Status"] == "InService" else None

        return self.cloud.wait(look, 20, kind)

    def space(self) -> str:
        name = self.cloud.name("space")
        self.api.create_space(
            DomainId=self.domain,
            SpaceName=name,
            OwnershipSettings={"OwnerUserProfileName": "jane"},
            SpaceSharingSettings={"SharingType": "Private"},
            SpaceSettings={"AppType": "JupyterLab"},
        )
        self.ready("space", SpaceName=name)
        return name

    def app(self, space: str) -> dict[str, str]:
        ids = {"SpaceName": space, "AppType": "JupyterLab", "AppName": "default"}
        self.api.create_app(DomainId=self.domain, **ids)
        return ids

    def refused(self, call: str, match: str, **arguments: Any) -> None:
        with pytest.raises(ClientError, match=match):
            getattr(self.api, call)(**arguments)


@pytest.fixture(scope="module")
def studio(cloud: Any) -> Studio:
    return Studio(cloud)


def test_a_stack_makes_a_domain_a_profile_and_a_script(studio: Studio) -> None:
    domain = studio.api.describe_domain(DomainId=studio.domain)
    assert (domain["Status"], domain["AppNetworkAccessType"]) == ("InService", "VpcOnly")
    assert (domain["Url"], domain["DomainArn"]) == (studio.made["Url"], studio.made["DomainArn"])
    assert "HomeEfsFileSystemId" not in domain
    assert studio.made["Profile"] == f"jane|{studio.domain}"
    profile = studio.api.describe_user_profile(DomainId=studio.domain, UserProfileName="jane")
    lab = profile["UserSettings"]["JupyterLabAppSettings"]
    assert lab["DefaultResourceSpec"]["LifecycleConfigArn"] == studio.made["Script"]
    config = studio.api.describe_studio_lifecycle_config(StudioLifecycleConfigName=studio.script)
    assert base64.b64decode(config["StudioLifecycleConfigContent"]) == b"echo hello"
    assert studio.domain in [d["DomainId"] for d in studio.api.list_domains()["Domains"]]
    profiles = studio.api.list_user_profiles(DomainIdEquals=studio.domain)["UserProfiles"]
    assert [p["UserProfileName"] for p in profiles] == ["jane"]


def test_an_update_changes_the_domain_in_place(studio: Studio) -> None:
    studio.cloud.stack(studio.resources(StudioWebPortal="ENABLED"), studio.outputs, studio.stack)
    assert studio.cloud.outputs(studio.stack) == studio.made
    settings = studio.api.describe_domain(DomainId=studio.domain)["DefaultUserSettings"]
    assert settings["StudioWebPortal"] == "ENABLED"


def test_a_changed_script_needs_a_new_name(studio: Studio) -> None:
    changed = studio.resources(StudioWebPortal="ENABLED")
    changed["Script"]["Properties"]["StudioLifecycleConfigContent"] = base64.b64encode(b"echo you").decode()
    with pytest.raises(AssertionError, match=f"Rename {studio.script}"):
        studio.cloud.stack(changed, studio.outputs, studio.stack)


def test_an_app_starts_with_the_script_of_its_owner(studio: Studio) -> None:
    space = studio.space()
    ids = studio.app(space)
    app = studio.ready("app", **ids)
    assert app["ResourceSpec"]["LifecycleConfigArn"] == studio.made["Script"]
    listed = studio.api.list_apps(DomainIdEquals=studio.domain, SpaceNameEquals=space)["Apps"]
    assert [a["AppName"] for a in listed] == ["default"]
    studio.refused("delete_space", "apps are associated", DomainId=studio.domain, SpaceName=space)
    studio.refused("create_app", "already exists", DomainId=studio.domain, **ids)
    studio.api.delete_app(DomainId=studio.domain, **ids)
    look = lambda: studio.api.describe_app(DomainId=studio.domain, **ids)["Status"] == "Deleted"  # noqa: E731
    studio.cloud.wait(look, 20, "deleted app")
    studio.api.delete_space(DomainId=studio.domain, SpaceName=space)


def test_nothing_in_use_is_deleted(studio: Studio) -> None:
    space = studio.space()
    profile = {"DomainId": studio.domain, "UserProfileName": "jane"}
    studio.refused("delete_domain", "UserProfiles are associated", DomainId=studio.domain)
    studio.refused("delete_user_profile", f"spaces are associated with it: {space}", **profile)
    studio.refused("delete_studio_lifecycle_config", "in use by", StudioLifecycleConfigName=studio.script)
    studio.api.delete_space(DomainId=studio.domain, SpaceName=space)


def test_a_url_opens_studio_for_a_profile(studio: Studio) -> None:
    made = studio.api.create_presigned_domain_url(DomainId=studio.domain, UserProfileName="jane")
    assert made["AuthorizedUrl"].startswith(f"{studio.made['Url']}/auth?token=")
    studio.refused(
        "create_presigned_domain_url", "does not exist", DomainId=studio.domain, UserProfileName="joe"
    )


@pytest.mark.parametrize("principal", ["lambda", None], ids=["other service", "no such role"])
def test_an_execution_role_must_trust_sagemaker(studio: Studio, principal: str | None) -> None:
    role = studio.cloud.role(principal) if principal else "arn:aws:iam::123456789012:role/nobody"
    settings = {"ExecutionRole": role}
    studio.refused(
        "create_user_profile",
        "Could not assume role",
        DomainId=studio.domain,
        UserProfileName="joe",
        UserSettings=settings,
    )


def test_a_script_must_exist_and_fit(studio: Studio) -> None:
    def settings(arn: str, key: str) -> dict:
        return {key: {"LifecycleConfigArns": [arn]}}

    profile = {"DomainId": studio.domain, "UserProfileName": "joe"}
    for arn, key, reason in (
        (f"{studio.made['Script']}-none", "JupyterLabAppSettings", "does not exist"),
        (studio.made["Script"], "CodeEditorAppSettings", "is for JupyterLab"),
    ):
        studio.refused("create_user_profile", reason, **profile, UserSettings=settings(arn, key))


def domain_request(studio: Studio, **more: Any) -> dict[str, Any]:
    settings = {"ExecutionRole": studio.role, "SecurityGroups": [studio.made["Group"]]}
    return {
        "DomainName": studio.cloud.name("other"),
        "AuthMode": "IAM",
        "AppNetworkAccessType": "VpcOnly",
        "VpcId": studio.made["Vpc"],
        "SubnetIds": [studio.made["Subnet"]],
        "DefaultUserSettings": settings,
        **more,
    }


def test_a_domain_needs_its_network(studio: Studio) -> None:
    for more, reason in (
        ({"SubnetIds": ["subnet-00000000000000000"]}, "subnet-00000000000000000"),
        ({"VpcId": "vpc-00000000000000000"}, "do not belong to VPC"),
        ({"DefaultUserSettings": {"ExecutionRole": studio.role}}, "SecurityGroups is required"),
        ({"DomainName": studio.name}, "already exists"),
    ):
        studio.refused("create_domain", reason, **domain_request(studio, **more))


def test_a_home_file_system_and_its_security_groups_outlive_their_domain(studio: Studio) -> None:
    made = studio.api.create_domain(**domain_request(studio))
    domain = {"DomainId": made["DomainArn"].rpartition("/")[2]}
    look = lambda: studio.api.describe_domain(**domain)  # noqa: E731
    found = studio.cloud.wait(lambda: look()["Status"] == "InService" and look(), 20, "domain")
    studio.api.delete_domain(**domain)

    def ended() -> bool:
        try:
            return look() is None
        except studio.api.exceptions.ResourceNotFound:
            return True

    studio.cloud.wait(ended, 20, "deleted domain")
    system = found["HomeEfsFileSystemId"]
    systems = studio.cloud.client("efs").describe_file_systems(FileSystemId=system)["FileSystems"]
    assert [s["FileSystemId"] for s in systems] == [system]
    ec2, vpc = studio.cloud.client("ec2"), {"Name": "vpc-id", "Values": [studio.made["Vpc"]]}
    groups = ec2.describe_security_groups(Filters=[vpc])["SecurityGroups"]
    left = [g for g in groups if g["GroupName"].endswith(domain["DomainId"])]
    assert len(left) == 2  # they keep the VPC from being deleted
    for group in left:
        ec2.delete_security_group(GroupId=group["GroupId"])


def test_a_stack_makes_a_code_repository_a_space_and_an_app(studio: Studio) -> None:
    space = studio.cloud.name("space")
    resources = {
        "Repository": {
            "Type": "AWS::SageMaker::CodeRepository",
            "Properties": {
                "GitConfig": {"RepositoryUrl": f"{studio.cloud.endpoint}/v1/repos/mlops", "Branch": "main"}
            },
        },
        "Space": {
            "Type": "AWS::SageMaker::Space",
            "Properties": {
                "DomainId": studio.domain,
                "SpaceName": space,
                "OwnershipSettings": {"OwnerUserProfileName": "jane"},
                "SpaceSharingSettings": {"SharingType": "Private"},
                "SpaceSettings": {"AppType": "JupyterLab"},
            },
        },
        "App": {
            "Type": "AWS::SageMaker::App",
            "Properties": {
                "DomainId": studio.domain,
                "UserProfileName": "jane",
                "AppType": "JupyterServer",
                "AppName": "default",
            },
        },
    }
    outputs = {
        "Repository": {"Value": {"Fn::GetAtt": ["Repository", "CodeRepositoryName"]}},
        "Space": {"Value": {"Ref": "Space"}},
        "App": {"Value": {"Fn::GetAtt": ["App", "AppArn"]}},
    }
    stack = studio.cloud.stack(resources, outputs)
    made = studio.cloud.outputs(stack)
    assert made["Space"] == f"{studio.domain}|{space}"
    repository = studio.api.describe_code_repository(CodeRepositoryName=made["Repository"])
    assert repository["GitConfig"]["Branch"] == "main"
    assert studio.cloud.delete_stack(stack) == ""
    studio.refused("describe_space", "does not exist", DomainId=studio.domain, SpaceName=space)


def test_a_stack_cannot_delete_a_profile_whose_space_someone_made(studio: Studio) -> None:
    """Runs last: it deletes the stack."""
    space = studio.space()
    assert studio.cloud.delete_stack(studio.stack) == "DELETE_FAILED"
    reasons = " ".join(studio.cloud.stack_reasons(studio.stack))
    assert f"spaces are associated with it: {space}" in reasons
    assert "UserProfiles are associated" in reasons
    studio.api.delete_space(DomainId=studio.domain, SpaceName=space)
    studio.cloud.wait(lambda: not studio.api.list_spaces(DomainIdEquals=studio.domain)["Spaces"], 10)
    assert studio.cloud.delete_stack(studio.stack) == "", studio.cloud.stack_reasons(studio.stack)
