"""What holds several templates together: SSM paths, release mapping, nested stacks, names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from house_rules import CFN, TEMPLATES, Template, load, plain, walk

FIXTURES = Path(__file__).parent / "fixtures"

# Every SSM parameter of the platform, by the template that people launch to get it. One writer a path;
# nothing else is read or written.
SSM_CONTRACT = {
    "1-infra.yaml": """
        /mlops/infra/vpc-id
        /mlops/infra/private-subnet-ids
        /mlops/infra/compute-security-group-id
        /mlops/infra/execute-api-endpoint-id
        /mlops/infra/endpoint-security-group-id
        /mlops/infra/stage-account-ids
        /mlops/infra/platform-key-arn
        /mlops/infra/artifact-bucket-name
        /mlops/infra/access-log-bucket-name
        /mlops/infra/codeartifact-domain
        /mlops/infra/codeartifact-repository
        /mlops/infra/codeartifact-repository-arn
        /mlops/infra/studio-domain-id
        /mlops/infra/permissions-boundary-arn
        /mlops/infra/allowed-instance-types
        /mlops/infra/portfolio-id
        /mlops/infra/project-product-id
        /mlops/infra/project-launch-role-arn
        /mlops/infra/user-launch-role-arn
        /mlops/infra/user-template-url
        /mlops/infra/data-science-admin-role-arn
        /mlops/infra/full-stack-developer-role-arn
        /mlops/infra/ml-engineer-role-arn
        /mlops/infra/seed-archive-prefix
        /mlops/infra/release-bucket-name
        /mlops/infra/release-version
        /mlops/infra/studio-cleanup-function-arn
        /mlops/infra/job-tagger-function-arn
        /mlops/infra/project-cleanup-function-arn
    """,
    "2-smproject.yaml": """
        /mlops/projects/<id>/project-name
        /mlops/projects/<id>/cost-center
        /mlops/projects/<id>/owner-email
        /mlops/projects/<id>/framework
        /mlops/projects/<id>/inference-mode
        /mlops/projects/<id>/data-scientist-role-arn
        /mlops/projects/<id>/execution-role-arn
        /mlops/projects/<id>/build-role-arn
        /mlops/projects/<id>/deploy-role-arn
        /mlops/projects/<id>/events-role-arn
        /mlops/projects/<id>/pipeline-role-arn
        /mlops/projects/<id>/release-role-arn
        /mlops/projects/<id>/staging-account-id
        /mlops/projects/<id>/production-account-id
        /mlops/projects/<id>/bucket-key-arn
        /mlops/projects/<id>/bucket-name
        /mlops/projects/<id>/key-arn
        /mlops/projects/<id>/repository-name
        /mlops/projects/<id>/repository-clone-url
        /mlops/projects/<id>/ecr-preprocessing-uri
        /mlops/projects/<id>/ecr-training-uri
        /mlops/projects/<id>/ecr-inference-uri
        /mlops/projects/<id>/lifecycle-config-arn
        /mlops/projects/<id>/model-package-group-name
        /mlops/projects/<id>/notification-topic-arn
        /mlops/projects/<id>/quicksight-role-arn
        /mlops/projects/<id>/user-product-id
        /mlops/projects/<id>/build-pipeline-name
        /mlops/projects/<id>/deploy-pipeline-name
        /mlops/projects/<id>/api-role-arn
        /mlops/projects/<id>/api-release-role-arn
        /mlops/projects/<id>/api-check-function-arn
        /mlops/projects/<id>/batch-function-arn
        /mlops/projects/<id>/traffic-function-arn
        /mlops/projects/<id>/retraining-state-machine-arn
        /mlops/projects/<id>/state-table-name
    """,
    # made with the stack so that it goes with it; the association script fills it in
    "3-user.yaml": """
        /mlops/projects/<id>/users/<user>/profile-name
        /mlops/projects/<id>/users/<user>/association
    """,
}
# Likewise in a stage's account, which is another one: deploy/realtime.yaml finds there what it reads here.
SSM_OF_STAGES = {
    "accounts/account.yaml": """
        /mlops/infra/tooling-account-id
        /mlops/infra/vpc-id
        /mlops/infra/private-subnet-ids
        /mlops/infra/compute-security-group-id
        /mlops/infra/permissions-boundary-arn
        /mlops/infra/allowed-instance-types
    """,
    "accounts/project.yaml": """
        /mlops/projects/<id>/project-name
        /mlops/projects/<id>/execution-role-arn
        /mlops/projects/<id>/bucket-name
        /mlops/projects/<id>/bucket-key-arn
        /mlops/projects/<id>/key-arn
        /mlops/projects/<id>/notification-topic-arn
    """,
}
# Longest values of what names are composed of. A project id is p- and 12 characters.
LONGEST = {
    "SageMakerProjectId": 14,
    "ProjectId": 14,
    "SageMakerProjectName": 32,
    "ProjectName": 32,
    "Stage": 10,
    "AWS::AccountId": 12,
    "AWS::Region": 14,
    "AWS::StackName": 128,
}
# Service limits of names that templates set.
NAME_LIMITS = {
    ("AWS::S3::Bucket", "BucketName"): 63,
    ("AWS::ECR::Repository", "RepositoryName"): 256,
    ("AWS::CodeCommit::Repository", "RepositoryName"): 100,
    ("AWS::CodePipeline::Pipeline", "Name"): 100,
    ("AWS::CodeBuild::Project", "Name"): 150,
    ("AWS::SageMaker::Pipeline", "PipelineName"): 256,
    ("AWS::SageMaker::ModelPackageGroup", "ModelPackageGroupName"): 63,
    ("AWS::SageMaker::Endpoint", "EndpointName"): 63,
    ("AWS::SageMaker::StudioLifecycleConfig", "StudioLifecycleConfigName"): 63,
    ("AWS::SageMaker::UserProfile", "UserProfileName"): 63,
    ("AWS::SageMaker::Domain", "DomainName"): 63,
    ("AWS::SageMaker::CodeRepository", "CodeRepositoryName"): 63,
    ("AWS::KMS::Alias", "AliasName"): 256,
    ("AWS::Logs::LogGroup", "LogGroupName"): 512,
    ("AWS::SSM::Parameter", "Name"): 1011,
    ("AWS::Scheduler::Schedule", "Name"): 64,
    ("AWS::Events::Rule", "Name"): 64,
    ("AWS::SNS::Topic", "TopicName"): 256,
    ("AWS::CodeArtifact::Domain", "DomainName"): 50,
    ("AWS::CodeArtifact::Repository", "RepositoryName"): 100,
    ("AWS::CloudWatch::Alarm", "AlarmName"): 255,
    ("AWS::ServiceCatalog::CloudFormationProduct", "Name"): 8191,
    ("AWS::ServiceCatalog::Portfolio", "DisplayName"): 100,
    ("AWS::Lambda::Function", "FunctionName"): 64,
    ("AWS::IAM::Role", "RoleName"): 64,
}


def contract(paths_of: dict[str, str]) -> dict[str, set[str]]:
    return {entry: set(paths.split()) for entry, paths in paths_of.items()}


def entry_of(template: Template, root: Path) -> str:
    """The template that a person launches and that this one is part of."""
    path = template.path.relative_to(root)
    entry = path.as_posix() if path.parts[0] == "accounts" else path.parts[0]
    return {"infra": "1-infra.yaml", "project": "2-smproject.yaml"}.get(entry, entry)


def ssm_path(text: str) -> str:
    text = re.sub(r"\$\{(SageMaker)?ProjectId\}", "<id>", text)
    return re.sub(r"\$\{User\w*\}", "<user>", text)


def ssm_faults(templates: Iterable[Template], root: Path, wanted: dict[str, set[str]]) -> Iterator[str]:
    """Paths that are written twice, by the wrong template, not at all, or read and not in the contract."""
    templates = list(templates)
    writers: dict[str, list[str]] = {}
    for template in templates:
        for _, parameter in template.of_type("AWS::SSM::Parameter"):
            name = parameter["Name"]
            path = ssm_path(name if isinstance(name, str) else str(name.get("Fn::Sub", name)))
            writers.setdefault(path, []).append(entry_of(template, root))
    by_path = {path: entry for entry, paths in wanted.items() for path in paths}
    present = {entry_of(template, root) for template in templates}
    for path, entries in sorted(writers.items()):
        if len(entries) > 1:
            yield f"{path} is written {len(entries)} times"
        if by_path.get(path) != entries[0]:
            yield f"{path} is written by {entries[0]}; the contract says {by_path.get(path, 'nobody')}"
    for path, entry in sorted(by_path.items()):
        if entry in present and path not in writers:
            yield f"{path} is not written by {entry}"
    for template in templates:
        for name, parameter in template.data.get("Parameters", {}).items():
            default = parameter.get("Default", "")
            if (
                parameter["Type"].startswith("AWS::SSM::Parameter::Value")
                and default
                and default not in by_path
            ):
                yield f"{template.path.name}: {name} reads {default}, which nobody writes"


def test_every_ssm_path_has_one_writer() -> None:
    of_stages = [path for path in TEMPLATES if path.parent.name == "accounts"]
    of_tooling = [path for path in TEMPLATES if path not in of_stages]
    assert list(ssm_faults(map(load, of_tooling), CFN, contract(SSM_CONTRACT))) == []
    assert list(ssm_faults(map(load, of_stages), CFN, contract(SSM_OF_STAGES))) == []


def test_ssm_faults_are_found() -> None:
    root = FIXTURES / "ssm_contract"
    wanted = {
        "1-infra.yaml": {"/mlops/infra/a", "/mlops/infra/b"},
        "2-smproject.yaml": {"/mlops/projects/<id>/c"},
    }
    assert list(ssm_faults(map(load, sorted(root.rglob("*.yaml"))), root, wanted)) == [
        "/mlops/infra/a is written 2 times",
        "/mlops/infra/x is written by 1-infra.yaml; the contract says nobody",
        "/mlops/infra/b is not written by 1-infra.yaml",
        "2-smproject.yaml: Wrong reads /mlops/infra/typo, which nobody writes",
    ]


def mapping_faults(root: Path) -> Iterator[str]:
    """Keys of the release mappings that no file stands behind, files without a key, keys nobody uses.

    A function is declared once: by 1-infra, or by the product when each project has it for itself.
    """
    entries = [load(path) for path in (root / "1-infra.yaml", root / "2-smproject.yaml") if path.exists()]
    mappings = [one.data.get("Mappings", {}).get("Release", {}) for one in entries]
    keys = [name for one in mappings for name in one.get("Keys", {})]
    declared = set(keys)

    def pascal(name: str) -> str:
        return "".join(part.capitalize() for part in re.split(r"[-_]", name))

    wanted = {f"{pascal(path.stem)}Template" for path in (root / "infra").glob("*.yaml")}
    wanted |= {f"{pascal(path.parent.name)}Function" for path in (root / "lambda").glob("*/index.py")}
    wanted |= {"Bucket", "Version", "ProjectTemplate", "UserTemplate", "SeedPrefix"}
    wanted |= {"PlatformArchive", "CfnArchive", "CicdArchive", "SeedcodeArchive", "ProjectTemplatePrefix"}
    used = {
        str(node["Fn::FindInMap"][2])
        for entry in entries
        for node in walk(entry.data)
        if isinstance(node, dict) and "Fn::FindInMap" in node
    }
    for name in sorted(name for name in declared if keys.count(name) > 1):
        yield f"{name} is declared twice"
    for name in sorted(declared - wanted):
        yield f"{name} is in the release mapping, but there is no such file"
    for name in sorted(wanted - declared):
        yield f"{name} is not in the release mapping"
    for name in sorted(declared - used):
        yield f"{name} is in the release mapping, but nothing uses it"


def test_release_mapping_matches_the_folders() -> None:
    assert list(mapping_faults(CFN)) == []


def test_mapping_faults_are_found() -> None:
    found = list(mapping_faults(FIXTURES / "release_mapping"))
    assert "OldTemplate is in the release mapping, but there is no such file" in found
    assert "NetworkTemplate is not in the release mapping" in found
    assert "TagFunction is not in the release mapping" in found
    assert "OldTemplate is in the release mapping, but nothing uses it" in found


def nested_faults(entry: Template) -> Iterator[str]:
    """Parameters that a nested stack lacks or does not know, outputs that it does not have."""
    children: dict[str, Template] = {}
    for name, stack in entry.of_type("AWS::CloudFormation::Stack"):
        text = str(stack["TemplateURL"])
        folder = "infra" if entry.path.name == "1-infra.yaml" else "project"
        key = re.search(r"'(\w+)Template'", text) or re.search(r"/([a-z-]+)\.yaml", text)
        child = load(entry.path.parent / folder / f"{key[1].lower() if key else name}.yaml")
        children[name] = child
        declared = child.data.get("Parameters", {})
        given = set(stack.get("Parameters", {}))
        for parameter in sorted(given - set(declared)):
            yield f"{name} is given {parameter}, which {child.path.name} does not declare"
        for parameter, facts in sorted(declared.items()):
            if parameter not in given and "Default" not in facts:
                yield f"{name} is not given {parameter}"
    for node in walk(entry.data):
        attribute = node.get("Fn::GetAtt") if isinstance(node, dict) else None
        logical, _, output = (
            attribute if isinstance(attribute, str) else ".".join(attribute or [])
        ).partition(".Outputs.")
        if output and logical in children and output not in children[logical].data.get("Outputs", {}):
            yield f"{logical} has no output {output}"


@pytest.mark.parametrize("entry", ["1-infra.yaml", "2-smproject.yaml"])
def test_nested_stacks_get_what_they_declare(entry: str) -> None:
    assert list(nested_faults(load(CFN / entry))) == []


def test_nested_faults_are_found() -> None:
    assert list(nested_faults(load(FIXTURES / "nested" / "1-infra.yaml"))) == [
        "Network is given Typo, which network.yaml does not declare",
        "Network is not given VpcCidr",
        "Network has no output SubnetIds",
    ]


def name_faults(template: Template) -> Iterator[str]:
    """Names that can become longer than the service allows."""
    for logical, resource in template.resources.items():
        for (kind, key), limit in NAME_LIMITS.items():
            name = resource.get("Properties", {}).get(key)
            if resource["Type"] != kind or name is None:
                continue
            if (length := longest(name, template)) > limit:
                yield f"{logical}: {key} can be {length} characters long; {kind} takes {limit}"


def longest(name: Any, template: Template) -> int:
    """Characters of a name when every part of it is as long as it may be."""
    if isinstance(name, str):
        return len(name)
    if "Ref" in name:
        return part_length(name["Ref"], template)
    if "Fn::Sub" in name:
        sub = name["Fn::Sub"]
        text, values = (sub, {}) if isinstance(sub, str) else sub
        fixed = re.sub(r"\$\{[^}]*\}", "", text)
        parts = re.findall(r"\$\{([^!}][^}]*)\}", text)
        return len(fixed) + sum(
            longest(values[p], template) if p in values else part_length(p, template) for p in parts
        )
    if "Fn::Join" in name and isinstance(name["Fn::Join"][1], list):
        separator, parts = name["Fn::Join"]
        return sum(longest(part, template) for part in parts) + len(separator) * (len(parts) - 1)
    if "Fn::Join" in name and isinstance(name["Fn::Join"][1], dict) and "Fn::Split" in name["Fn::Join"][1]:
        return longest(name["Fn::Join"][1]["Fn::Split"][1], template)
    return len(plain(name))


def part_length(name: str, template: Template) -> int:
    if name in LONGEST:
        return LONGEST[name]
    if name in template.resources:  # a name that CloudFormation makes, or one from this template
        kind, properties = template.resources[name]["Type"], template.resources[name].get("Properties", {})
        own = next((properties[key] for (t, key) in NAME_LIMITS if t == kind and key in properties), None)
        return longest(own, template) if own is not None else 64
    parameter = template.data.get("Parameters", {}).get(name, {})
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    if "MaxLength" in parameter:
        return int(parameter["MaxLength"])
    bounds = [int(high) for high in re.findall(r"\{\d*,(\d+)\}", parameter.get("AllowedPattern", ""))]
    return max(bounds) + 1 if bounds else 20


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.relative_to(CFN).as_posix())
def test_longest_names_fit(path: Path) -> None:
    assert list(name_faults(load(path))) == []


def test_name_faults_are_found() -> None:
    assert list(name_faults(load(FIXTURES / "names_too_long.yaml"))) == [
        "Bucket: BucketName can be 73 characters long; AWS::S3::Bucket takes 63",
        "Endpoint: EndpointName can be 69 characters long; AWS::SageMaker::Endpoint takes 63",
    ]


def test_deployed_stacks_use_names_that_the_cleanup_knows() -> None:
    """The project cleanup deletes mlops-<id>-<stage>; the deploy pipeline must make them under that name."""
    source = (CFN / "lambda" / "project_cleanup" / "index.py").read_text()
    known = set(re.findall(r'"(\w+)"', re.search(r"^STACKS = \((.*?)\)", source, re.M | re.S)[1]))
    made = set()
    for path in TEMPLATES:
        for _, pipeline in load(path).of_type("AWS::CodePipeline::Pipeline"):
            for node in walk(pipeline):
                name = node.get("StackName") if isinstance(node, dict) else None
                if isinstance(name, dict) and (
                    match := re.fullmatch(
                        r"mlops-\$\{(?:SageMaker)?ProjectId\}-(\w+)", str(name.get("Fn::Sub"))
                    )
                ):
                    made.add(match[1])
    assert made <= known
