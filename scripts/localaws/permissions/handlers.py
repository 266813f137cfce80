"""Which IAM actions on which resources CloudFormation's handler of a resource type asks for.

What a handler calls is in the registry's schemas (``handlers.<verb>.permissions``), which cfn-lint ships.
They list every call that a type can ever need: NOT_NEEDED names those that depend on a property, ADDED what
the registry leaves out. Which resource a call is about stands in the tables below where neither the type's
own properties nor the service authorization reference say it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cfnlint.schema import ResourceNotFoundError
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from localaws.permissions.access import Access
from localaws.permissions.mapping import action_details, resource_details
from localaws.permissions.services import apis, studio

Properties = Mapping[str, Any]
#: ARNs that a call is about, each with the condition keys that go with it
Targets = Iterator[tuple[str, dict[str, Any]]]
#: regular expression of "<type> <action>" → the property that brings the call, reads excepted; "" = never
NOT_NEEDED = {
    r"S3::Bucket s3tables:": "MetadataTableConfiguration",
    r"S3::Bucket s3:.*Metadata.*Configuration": "MetadataConfiguration",
    r"S3::Bucket s3:.*Analytics": "AnalyticsConfigurations",
    r"S3::Bucket s3:.*Inventory": "InventoryConfigurations",
    r"S3::Bucket s3:.*Metrics": "MetricsConfigurations",
    r"S3::Bucket s3:.*Accelerate": "AccelerateConfiguration",
    r"S3::Bucket s3:.*Replication": "ReplicationConfiguration",
    r"S3::Bucket s3:.*ObjectLock": "ObjectLockConfiguration",
    r"S3::Bucket s3:.*IntelligentTiering": "IntelligentTieringConfigurations",
    r"S3::Bucket s3:.*Website": "WebsiteConfiguration",
    r"S3::Bucket s3:.*C(ors|ORS)": "CorsConfiguration",
    r"S3::Bucket s3:.*Abac": "AbacStatus",
    r"S3::Bucket s3:.*Acl": "AccessControl",
    r"S3::Bucket s3:DeleteObject": "",  # a bucket is never emptied by CloudFormation
    r"S3::Bucket s3:DeleteBucket(Encryption|Lifecycle)": "",  # no IAM actions: Put…Configuration covers them
    r"Logs::LogGroup .*(DataProtectionPolicy|IndexPolicy|ResourcePolicy)$": "DataProtectionPolicy",
    r"Logs::LogGroup .*(BearerToken|DeletionProtection|TagDeliveryStream)": "DataProtectionPolicy",
    r"Logs::LogGroup (s3:REST.PUT.OBJECT|logs:CreateLogDelivery)": "DataProtectionPolicy",
    r"SNS::Topic sns:PutDataProtectionPolicy": "DataProtectionPolicy",
    r"SNS::Topic sns:(Subscribe|Unsubscribe)": "Subscription",
    r"CodePipeline::Pipeline codepipeline:(Disable|Enable)StageTransition": "DisableInboundStageTransitions",
    r"CodePipeline::Pipeline codepipeline:StartPipelineExecution": "RestartExecutionOnUpdate",
    r"CodePipeline::Pipeline codestar-connections:": "Triggers",
    r"ServiceCatalog::CloudFormationProduct codestar-connections:": "SourceConnection",
    r"ServiceCatalog::CloudFormationProduct .*ServiceAction": "",  # we associate none
    r"IAM::(ManagedPolicy|Policy) iam:\w+UserPolicy": "Users",
    r"IAM::(ManagedPolicy|Policy) iam:\w*Group\w*": "Groups",
    r"IAM::Role iam:DeleteRolePermissionsBoundary": "",  # every role has one, and keeps it
    # nested stacks have neither
    r"CloudFormation::Stack cloudformation:(UpdateTerminationProtection|[GS]etStackPolicy)": "",
    r"CloudFormation::Stack cloudformation:GetTemplate$": "",  # reads of drift detection
    r"SageMaker::(Domain|UserProfile) sagemaker:DescribeImage": "",  # we name no images of our own
    r"SageMaker::Domain sagemaker:\w+App": "",
    r"SageMaker::Domain efs:": "",
    r"SageMaker::Domain sagemaker:DescribeUserProfile": "",
    r"SageMaker::\w+ (sso|identitystore):": "SingleSignOnUserValue",
    r"SageMaker::Domain iam:CreateServiceLinkedRole": "",  # an administrator makes it at launch
    r"CodeCommit::Repository codecommit:UpdateRepositoryName": "",  # names are fixed by contract
    r"CodeCommit::Repository codecommit:PutRepositoryTriggers": "Triggers",
    r"CodeCommit::Repository (s3:|codecommit:(CreateCommit|CreateBranch))": "Code",
    r"ServiceCatalog::PortfolioPrincipalAssociation iam:Get(User|Group)": "",  # our principals are roles
    r"Lambda::Function lambda:\w*Concurrency": "ReservedConcurrentExecutions",
    r"Lambda::Function \w+:\w*MountTargets": "FileSystemConfigs",
    r"Lambda::Function lambda:\w*CodeSigning\w*": "CodeSigningConfigArn",
    r"Lambda::Function lambda:GetLayerVersion": "Layers",
    r"Lambda::Function lambda:(\w*RuntimeManagement|AssociateRuntimeAlias)": "RuntimeManagementConfig",
    r"Lambda::Function lambda:PutFunctionRecursionConfig": "RecursiveLoop",
    r"Lambda::Function lambda:(Put|Get)FunctionScaling": "FunctionScalingConfig",
    r"Lambda::Function lambda:PassCapacityProvider": "CapacityProviderConfig",
    r"Lambda::Function lambda:PublishVersion": "",
    r"Lambda::Function ec2:": "VpcConfig",
    r"Lambda::Function lambda:GetFunctionScalingConfig": "FunctionScalingConfig",
    r"Lambda::(Version|Alias) lambda:\w*ProvisionedConcurrency\w*": "ProvisionedConcurrencyConfig",
    r"Lambda::Version lambda:\w*RuntimeManagement\w*": "RuntimePolicy",
    r"Lambda::Version lambda:\w*FunctionScaling\w*": "FunctionScalingConfig",
    r"CodeDeploy::DeploymentGroup codedeploy:(CreateDeployment|StopDeployment)$": "Deployment",
    r"CodeDeploy::DeploymentGroup codedeploy:\w*ApplicationRevision$": "Deployment",
    r"CodeDeploy::DeploymentGroup codedeploy:RegisterOnPremisesInstance": "OnPremisesTagSet",
    r"ApiGatewayV2::Api s3:": "",  # we describe none in a file
    r"ApiGateway::RestApi s3:": "BodyS3Location",
    r"ApiGateway(V2)?::(RestApi|Method|Authorizer|Integration) iam:PassRole": "",  # none has credentials
    r"ApiGateway::RestApi apigateway:UpdateRestApiPolicy": "Policy",
    r"EC2::VPCEndpoint (vpc-lattice|vpce):": "ServiceNetworkArn",
    r"EC2::VPC ec2:\w*VpcEncryptionControl": "VpcEncryptionControl",
    r"EC2::VPC ec2:ModifyVpcTenancy": "InstanceTenancy",
    r"EC2::FlowLog s3:": "DestinationOptions",
    r"EC2::FlowLog (iam:CreateServiceLinkedRole|autoscaling:)": "",  # delivery to a log group needs neither
    r"EC2::Subnet ec2:\w*SubnetCidrBlock": "Ipv6CidrBlock",
    r"EC2::SubnetRouteTableAssociation ec2:ReplaceRouteTableAssociation": "",  # a change makes a new one
    r"ApplicationAutoScaling::ScalableTarget lambda:": "",  # of functions' concurrency
    r"ApplicationAutoScaling::ScalableTarget iam:PassRole": "RoleARN",
    r"ApplicationAutoScaling::ScalableTarget .*ScheduledActions?$": "ScheduledActions",
    r"SageMaker::ModelPackageGroup sagemaker:\w+ModelPackageGroupPolicy": "ModelPackageGroupPolicy",
    r"ECR::Repository ecr:(Set|Delete)RepositoryPolicy": "RepositoryPolicyText",
    r"CodeArtifact::\w+ codeartifact:\w+PermissionsPolicy": "PermissionsPolicyDocument",
    r"KMS::Key kms:(Disable|Enable)Key$": "Enabled",
    r"SSM::Parameter ssm:\w*Tags\w*": "Tags",
    r"DynamoDB::Table (kinesis:|dynamodb:(Enable|Disable|Update)Kinesis)": "KinesisStreamSpecification",
    r"DynamoDB::Table (s3:|logs:|dynamodb:(ImportTable|DescribeImport))": "ImportSourceSpecification",
    r"DynamoDB::Table dynamodb:(Put|Delete)ResourcePolicy": "ResourcePolicy",
    r"DynamoDB::Table dynamodb:UpdateContributorInsights": "ContributorInsightsSpecification",
    # of replicas, which are another type's: https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/V2gt_IAM.html
    r"DynamoDB::Table (iam:|dynamodb:(\w*TableReplica|Scan|Query|\w+Item)$)": "",
    r"DynamoDB::Table kms:(ListAliases|RevokeGrant)": "",  # of aliases, and of a key that is changed
    r"StepFunctions::StateMachine s3:": "DefinitionS3Location",
    r"StepFunctions::StateMachine kms:": "EncryptionConfiguration",
    # Lake Formation, federated databases and open table formats are other ways to keep a catalog
    r"Glue::\w+ (lakeformation:|glue:\w*(Connection|SchemaVersion)|iam:|s3:)": "",
    r"Glue::Table glue:UpdateDatabase$": "",  # an update changes the table only
    r"Athena::WorkGroup (iam|s3|kms):": "",  # of workgroups for Spark, which work under a role
    r"QuickSight::\w+ quicksight:\w*Folder\w*": "FolderArns",
    r"QuickSight::DataSet quicksight:\w*Ingestions?$": "",  # of data sets that are copied
    r"QuickSight::DataSet quicksight:\w*RefreshProperties": "DataSetRefreshProperties",
    r"QuickSight::DataSet quicksight:PassDataSet": "LogicalTableMap",
    r"QuickSight::Dashboard quicksight:DescribeTemplate": "SourceEntity",
    r"QuickSight::Dashboard quicksight:DescribeTheme": "ThemeArn",
    r"QuickSight::Dashboard quicksight:(PassTopic|UpdateDashboardLinks)": "LinkEntities",
}
#: verbs of "<type>" → actions which the registry leaves out, each from the service's own documentation
ADDED: dict[str, dict[str, tuple[str, ...]]] = {
    # a type without handlers; https://docs.aws.amazon.com/codebuild/latest/userguide/auth-and-access-control.html
    "AWS::CodeBuild::Project": {
        "create": ("codebuild:CreateProject", "iam:PassRole"),
        "read": ("codebuild:BatchGetProjects",),
        "update": ("codebuild:UpdateProject", "codebuild:BatchGetProjects", "iam:PassRole"),
        "delete": ("codebuild:DeleteProject",),
    },
    # the template is read with the credentials of the parent's stack
    "AWS::CloudFormation::Stack": {
        "create": ("s3:GetObject", "cloudformation:TagResource"),
        "update": ("s3:GetObject", "cloudformation:TagResource", "cloudformation:UntagResource"),
    },
    # https://docs.aws.amazon.com/codecommit/latest/userguide/encryption.html
    "AWS::CodeCommit::Repository": {
        "create": (
            "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey",
            "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncryptFrom", "kms:ReEncryptTo",
        ),
        "update": ("kms:DescribeKey", "kms:ReEncryptFrom", "kms:ReEncryptTo"),
    },
    # https://docs.aws.amazon.com/codedeploy/latest/userguide/auth-and-access-control-permissions-reference.html
    "AWS::Lambda::Alias": {
        "update": ("codedeploy:GetApplicationRevision", "codedeploy:RegisterApplicationRevision"),
    },
    # tags in the call: https://docs.aws.amazon.com/sagemaker/latest/dg/security_iam_id-based-policy-examples.html
    "AWS::SageMaker::MonitoringSchedule": {"create": ("sagemaker:AddTags",)},
    # https://docs.aws.amazon.com/autoscaling/application/userguide/security_iam_id-based-policy-examples.html
    "AWS::ApplicationAutoScaling::ScalableTarget": {
        verb: (
            "sagemaker:DescribeEndpoint", "sagemaker:DescribeEndpointConfig",
            "sagemaker:UpdateEndpointWeightsAndCapacities",
        )
        for verb in ("create", "update")
    },
    "AWS::ApplicationAutoScaling::ScalingPolicy": {
        "create": ("cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms"),
        "update": ("cloudwatch:PutMetricAlarm", "cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms"),
        "delete": ("cloudwatch:DescribeAlarms", "cloudwatch:DeleteAlarms"),
    },
    # https://docs.aws.amazon.com/quicksight/latest/user/security-create-iam-role.html
    "AWS::QuickSight::DataSource": {"create": ("iam:PassRole",), "update": ("iam:PassRole",)},
    # https://docs.aws.amazon.com/codeartifact/latest/ug/domain-create.html (the key of a domain)
    "AWS::CodeArtifact::Domain": {"create": ("kms:CreateGrant", "kms:DescribeKey")},
}  # fmt: skip
#: type → (resource type of IAM, placeholder → property); "" is the name or, when there is one, the id
OWN: dict[str, tuple[str, dict[str, str]]] = {
    "AWS::ApiGateway::Account": ("Account", {}),
    "AWS::ApiGateway::Deployment": ("Deployment", {"RestApiId": "RestApiId"}),
    "AWS::ApiGateway::Method": (
        "Method",
        {"RestApiId": "RestApiId", "ResourceId": "ResourceId", "HttpMethodType": "HttpMethod"},
    ),
    "AWS::ApiGateway::Resource": ("Resource", {"RestApiId": "RestApiId"}),
    "AWS::ApiGateway::RestApi": ("RestApi", {}),
    "AWS::ApiGateway::Stage": ("Stage", {"RestApiId": "RestApiId", "StageName": "StageName"}),
    "AWS::ApiGatewayV2::Api": ("Api", {}),
    "AWS::ApiGatewayV2::Authorizer": ("Authorizer", {"ApiId": "ApiId"}),
    "AWS::ApiGatewayV2::Integration": ("Integration", {"ApiId": "ApiId"}),
    "AWS::ApiGatewayV2::Route": ("Route", {"ApiId": "ApiId"}),
    "AWS::ApiGatewayV2::Stage": ("Stage", {"ApiId": "ApiId", "StageName": "StageName"}),
    # a target's id is known only once it is registered
    "AWS::ApplicationAutoScaling::ScalableTarget": ("ScalableTarget", {"ResourceId": "*"}),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ("ScalableTarget", {"ResourceId": "*"}),
    "AWS::Athena::NamedQuery": ("workgroup", {"WorkGroupName": "WorkGroup"}),
    "AWS::Athena::WorkGroup": ("workgroup", {"WorkGroupName": "Name"}),
    "AWS::Budgets::Budget": ("budget", {"BudgetName": "Budget.BudgetName"}),
    "AWS::CloudFormation::Stack": ("stack", {"StackName": "", "Id": "*"}),
    "AWS::CloudWatch::Alarm": ("alarm", {"AlarmName": "AlarmName"}),
    "AWS::CloudWatch::Dashboard": ("dashboard", {"DashboardName": "DashboardName"}),
    "AWS::CodeArtifact::Domain": ("domain", {"DomainName": "DomainName"}),
    "AWS::CodeArtifact::PackageGroup": (
        "package-group",
        {"DomainName": "DomainName", "EncodedPackageGroupPattern": "Pattern"},
    ),
    "AWS::CodeArtifact::Repository": (
        "repository",
        {"DomainName": "DomainName", "RepositoryName": "RepositoryName"},
    ),
    "AWS::CodeBuild::Project": ("project", {"ProjectName": "Name"}),
    "AWS::CodeCommit::Repository": ("repository", {"RepositoryName": "RepositoryName"}),
    "AWS::CodePipeline::Pipeline": ("pipeline", {"PipelineName": "Name"}),
    "AWS::EC2::FlowLog": ("vpc-flow-log", {}),
    "AWS::EC2::RouteTable": ("route-table", {}),
    "AWS::EC2::SecurityGroup": ("security-group", {}),
    "AWS::EC2::SecurityGroupEgress": ("security-group", {"SecurityGroupId": "GroupId"}),
    "AWS::EC2::SecurityGroupIngress": ("security-group", {"SecurityGroupId": "GroupId"}),
    "AWS::EC2::Subnet": ("subnet", {}),
    "AWS::EC2::SubnetRouteTableAssociation": ("route-table", {"RouteTableId": "RouteTableId"}),
    "AWS::EC2::VPC": ("vpc", {}),
    "AWS::EC2::VPCEndpoint": ("vpc-endpoint", {}),
    "AWS::DynamoDB::Table": ("table", {"TableName": "TableName"}),
    "AWS::ECR::Repository": ("repository", {"RepositoryName": "RepositoryName"}),
    "AWS::Events::Rule": ("rule-on-default-event-bus", {"RuleName": "Name"}),
    "AWS::Glue::Database": ("database", {"DatabaseName": "DatabaseInput.Name"}),
    "AWS::Glue::Table": ("table", {"DatabaseName": "DatabaseName", "TableName": "TableInput.Name"}),
    "AWS::IAM::ManagedPolicy": ("policy", {"PolicyNameWithPath": "ManagedPolicyName"}),
    "AWS::IAM::Role": ("role", {"RoleNameWithPath": "RoleName"}),
    "AWS::KMS::Alias": ("alias", {"Alias": "AliasName"}),
    "AWS::KMS::Key": ("key", {}),
    "AWS::Lambda::Function": ("function", {"FunctionName": "FunctionName"}),
    "AWS::Lambda::Permission": ("function", {"FunctionName": "FunctionName"}),
    "AWS::Lambda::Alias": ("function", {"FunctionName": "FunctionName"}),
    "AWS::Lambda::Version": ("function", {"FunctionName": "FunctionName"}),
    "AWS::CodeDeploy::Application": ("application", {"ApplicationName": "ApplicationName"}),
    "AWS::CodeDeploy::DeploymentGroup": (
        "deploymentgroup",
        {"ApplicationName": "ApplicationName", "DeploymentGroupName": "DeploymentGroupName"},
    ),
    "AWS::Logs::LogGroup": ("log-group", {"LogGroupName": "LogGroupName"}),
    "AWS::QuickSight::DataSet": ("dataset", {"ResourceId": "DataSetId"}),
    "AWS::QuickSight::DataSource": ("datasource", {"ResourceId": "DataSourceId"}),
    "AWS::QuickSight::Dashboard": ("dashboard", {"ResourceId": "DashboardId"}),
    "AWS::S3::Bucket": ("bucket", {"BucketName": "BucketName"}),
    "AWS::S3::BucketPolicy": ("bucket", {"BucketName": "Bucket"}),
    "AWS::SNS::Subscription": ("topic", {"TopicName": "TopicArn"}),
    "AWS::SNS::Topic": ("topic", {"TopicName": "TopicName"}),
    "AWS::SSM::Parameter": ("parameter", {"ParameterNameWithoutLeadingSlash": "Name"}),
    "AWS::SageMaker::CodeRepository": ("code-repository", {"CodeRepositoryName": "CodeRepositoryName"}),
    "AWS::SageMaker::Domain": ("domain", {}),
    "AWS::SageMaker::Endpoint": ("endpoint", {"EndpointName": "EndpointName"}),
    "AWS::SageMaker::EndpointConfig": ("endpoint-config", {"EndpointConfigName": "EndpointConfigName"}),
    "AWS::SageMaker::Model": ("model", {"ModelName": "ModelName"}),
    "AWS::SageMaker::ModelPackageGroup": (
        "model-package-group",
        {"ModelPackageGroupName": "ModelPackageGroupName"},
    ),
    "AWS::SageMaker::DataQualityJobDefinition": (
        "data-quality-job-definition",
        {"DataQualityJobDefinitionName": "JobDefinitionName"},
    ),
    "AWS::SageMaker::ModelQualityJobDefinition": (
        "model-quality-job-definition",
        {"ModelQualityJobDefinitionName": "JobDefinitionName"},
    ),
    "AWS::SageMaker::ModelBiasJobDefinition": (
        "model-bias-job-definition",
        {"ModelBiasJobDefinitionName": "JobDefinitionName"},
    ),
    "AWS::SageMaker::ModelExplainabilityJobDefinition": (
        "model-explainability-job-definition",
        {"ModelExplainabilityJobDefinitionName": "JobDefinitionName"},
    ),
    "AWS::SageMaker::MonitoringSchedule": (
        "monitoring-schedule",
        {"MonitoringScheduleName": "MonitoringScheduleName"},
    ),
    "AWS::SageMaker::StudioLifecycleConfig": (
        "studio-lifecycle-config",
        {"StudioLifecycleConfigName": "StudioLifecycleConfigName"},
    ),
    "AWS::SageMaker::UserProfile": (
        "user-profile",
        {"DomainId": "DomainId", "UserProfileName": "UserProfileName"},
    ),
    "AWS::Scheduler::Schedule": ("schedule", {"GroupName": "GroupName", "ScheduleName": "Name"}),
    "AWS::ServiceCatalog::CloudFormationProduct": ("Product", {}),
    "AWS::ServiceCatalog::LaunchRoleConstraint": ("Product", {"ProductId": "ProductId"}),
    "AWS::ServiceCatalog::LaunchTemplateConstraint": ("Product", {"ProductId": "ProductId"}),
    "AWS::ServiceCatalog::Portfolio": ("Portfolio", {}),
    "AWS::ServiceCatalog::PortfolioPrincipalAssociation": ("Portfolio", {"PortfolioId": "PortfolioId"}),
    "AWS::ServiceCatalog::PortfolioProductAssociation": ("Product", {"ProductId": "ProductId"}),
    "AWS::StepFunctions::StateMachine": ("statemachine", {"StateMachineName": "StateMachineName"}),
}
#: types whose ARN is known only when the service has given them an id
NAMED_BY_SERVICE = {kind for kind, (_, places) in OWN.items() if not places}
#: types that CloudFormation names after the logical id alone, not the stack
NAMED_WITHOUT_STACK = {
    "AWS::CodeBuild::Project",
    "AWS::SageMaker::CodeRepository",
    "AWS::SageMaker::EndpointConfig",
    "AWS::SageMaker::Model",
    # no page says how these are named: what does without the stack's name suffices for both
    "AWS::SageMaker::DataQualityJobDefinition",
    "AWS::SageMaker::ModelBiasJobDefinition",
    "AWS::SageMaker::ModelExplainabilityJobDefinition",
    "AWS::SageMaker::ModelQualityJobDefinition",
}
#: type → (path of a property that holds a role's ARN, the service that the role is handed to)
ROLES: dict[str, tuple[tuple[str, str], ...]] = {
    "AWS::CloudFormation::Stack": (),  # a nested stack has its parent's role
    "AWS::CodeBuild::Project": (("ServiceRole", "codebuild"),),
    "AWS::ApiGateway::Account": (("CloudWatchRoleArn", "apigateway"),),
    "AWS::CodeDeploy::DeploymentGroup": (("ServiceRoleArn", "codedeploy"),),
    "AWS::CodePipeline::Pipeline": (
        ("RoleArn", "codepipeline"),
        ("Stages.*.Actions.*.RoleArn", "codepipeline"),
    ),
    "AWS::EC2::FlowLog": (("DeliverLogsPermissionArn", "vpc-flow-logs"),),
    "AWS::Events::Rule": (("RoleArn", "events"), ("Targets.*.RoleArn", "events")),
    "AWS::Lambda::Function": (("Role", "lambda"),),
    "AWS::QuickSight::DataSource": (("DataSourceParameters.AthenaParameters.RoleArn", "quicksight"),),
    "AWS::S3::Bucket": (("ReplicationConfiguration.Role", "s3"),),
    "AWS::SNS::Subscription": (("SubscriptionRoleArn", "sns"),),
    "AWS::SNS::Topic": (
        ("DeliveryStatusLogging.*.SuccessFeedbackRoleArn", "sns"),
        ("DeliveryStatusLogging.*.FailureFeedbackRoleArn", "sns"),
    ),
    "AWS::SageMaker::Domain": (
        ("DefaultUserSettings.ExecutionRole", "sagemaker"),
        ("DefaultSpaceSettings.ExecutionRole", "sagemaker"),
    ),
    "AWS::SageMaker::EndpointConfig": (("ExecutionRoleArn", "sagemaker"),),
    "AWS::SageMaker::Model": (("ExecutionRoleArn", "sagemaker"),),
    "AWS::SageMaker::DataQualityJobDefinition": (("RoleArn", "sagemaker"),),
    "AWS::SageMaker::ModelBiasJobDefinition": (("RoleArn", "sagemaker"),),
    "AWS::SageMaker::ModelExplainabilityJobDefinition": (("RoleArn", "sagemaker"),),
    "AWS::SageMaker::ModelQualityJobDefinition": (("RoleArn", "sagemaker"),),
    "AWS::SageMaker::Pipeline": (("RoleArn", "sagemaker"),),
    "AWS::SageMaker::UserProfile": (("UserSettings.ExecutionRole", "sagemaker"),),
    "AWS::Scheduler::Schedule": (("Target.RoleArn", "scheduler"),),
    "AWS::ServiceCatalog::LaunchRoleConstraint": (("RoleArn", "servicecatalog"),),
    "AWS::ServiceCatalog::PortfolioPrincipalAssociation": (("PrincipalARN", "servicecatalog"),),
    "AWS::StepFunctions::StateMachine": (("RoleArn", "states"),),
}
#: type → path of the property that holds its key
KEYS = {
    "AWS::CodeArtifact::Domain": "EncryptionKey",
    "AWS::CodeCommit::Repository": "KmsKeyId",
    "AWS::DynamoDB::Table": "SSESpecification.KMSMasterKeyId",
    "AWS::ECR::Repository": "EncryptionConfiguration.KmsKey",
    "AWS::Lambda::Function": "KmsKeyArn",
    "AWS::SageMaker::Domain": "KmsKeyId",
    "AWS::SageMaker::EndpointConfig": "KmsKeyId",
    "AWS::StepFunctions::StateMachine": "EncryptionConfiguration.KmsKeyId",
}
#: types of a service that KMS knows by another name (kms:ViaService)
_VIA = {"StepFunctions": "states"}  # the others are known by the type's service in small letters
_TEMPLATE_URL = re.compile(
    r"https://(?:s3[\w.-]*\.amazonaws\.com[\w.]*/)?([a-z0-9.-]+?)(?:\.s3[\w.-]*\.amazonaws\.com[\w.]*)?/(.+)"
)
_TAGGING = re.compile(
    r":(TagResource|AddTags|AddTagsToResource|TagRole|TagPolicy|CreateTags|PutBucketTagging)$"
)
_UNTAGGING = re.compile(r":(UntagResource|DeleteTags|RemoveTagsFromResource|UntagRole|UntagPolicy)$")
_MAKING = re.compile(r":(Create|Put|Subscribe|Authorize|Associate|Add|Set|Run|Register|Schedule)\w*$")


@dataclass(frozen=True)
class Place:
    """Where the stack is; ``role_of(name)`` and ``boundary_of(arn)`` tell of roles that exist already."""

    stack: str
    region: str
    account: str
    partition: str = "aws"
    role_of: Callable[[str], str] = lambda name: ""
    boundary_of: Callable[[str], str] = lambda arn: ""

    def arn(self, form: str) -> str:
        """An ARN of the reference's form with partition, region and account filled in."""
        for name, value in (
            ("Partition", self.partition),
            ("Region", self.region),
            ("Account", self.account),
        ):
            form = form.replace(f"${{{name}}}", value)
        return form


@dataclass(frozen=True)
class Resource:
    """One resource of a template; ``old`` are its properties before an update."""

    type: str
    logical_id: str
    properties: Properties
    physical_id: str = ""
    old: Properties | None = None
    update_policy: Properties = field(default_factory=dict)


def permissions(type_name: str, verb: str) -> list[str]:
    """All actions that the type's handler of a verb can ever need."""
    return [*_registry(type_name).get(verb, ()), *ADDED.get(type_name, {}).get(verb, ())]


@functools.cache
def _schema(type_name: str) -> dict[str, Any]:
    try:
        return PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", type_name).schema
    except ResourceNotFoundError:
        return {}


@functools.cache
def _registry(type_name: str) -> dict[str, tuple[str, ...]]:
    handlers = _schema(type_name).get("handlers", {})
    return {verb: tuple(dict.fromkeys(found.get("permissions", []))) for verb, found in handlers.items()}


@functools.cache
def brought_by(type_name: str, action: str) -> str | None:
    """The property that brings a call; None if it is always made, "" if never."""
    text = f"{type_name.removeprefix('AWS::')} {action}"
    return next((prop for rule, prop in NOT_NEEDED.items() if re.search(rule, text)), None)


def making(resource: Resource, place: Place) -> list[Access]:
    """What is asked before a resource is made: the calls that make it and what they hand over."""
    return [a for a in _asked(resource, "create", place) if not _afterwards(resource, a, place)]


def made(resource: Resource, place: Place) -> list[Access]:
    """What is asked when a resource has been made: what is then done to it, and how it is read."""
    done = [a for a in _asked(resource, "create", place) if _afterwards(resource, a, place)]
    return _unique([*done, *_asked(resource, "read", place)])


def updating(resource: Resource, place: Place) -> list[Access]:
    """What is asked for an update in place."""
    return _unique([*_asked(resource, "update", place), *_asked(resource, "read", place)])


def deleting(resource: Resource, place: Place) -> list[Access]:
    """What is asked for a deletion."""
    return _asked(resource, "delete", place)


def replaces(type_name: str, old: Properties, new: Properties) -> bool:
    """Whether a change of properties makes a new resource."""
    paths = [
        p.removeprefix("/properties/").split("/") for p in _schema(type_name).get("createOnlyProperties", [])
    ]

    def at(value: Any, path: list[str]) -> Any:
        for part in path:
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    return any(at(old, path) != at(new, path) for path in paths)


def _afterwards(resource: Resource, access: Access, place: Place) -> bool:
    """Whether a call of the create handler is about the resource once it exists, and not what makes it."""
    own = own_arn(resource, place)
    return bool(own) and access.resource == own and not _makes(resource.type, access.action)


@functools.cache
def _makes(type_name: str, action: str) -> bool:
    """Whether an action makes a resource of the type, or tags it while it is made."""
    first = next((a for a in permissions(type_name, "create") if _MAKING.search(a)), "")
    return action == first or bool(_TAGGING.search(action))


def _asked(resource: Resource, verb: str, place: Place) -> list[Access]:
    if resource.type.startswith("Custom::") or resource.type == "AWS::CloudFormation::CustomResource":
        if verb == "read":
            return []
        token = str(resource.properties.get("ServiceToken", ""))
        action = "sns:Publish" if token.split(":")[2:3] == ["sns"] else "lambda:InvokeFunction"
        return [Access(action, token)]
    asked = []
    for action in permissions(resource.type, verb):
        brought = brought_by(resource.type, action)
        # a read looks at all settings of the resource itself, whatever the template sets
        all_settings = verb == "read" and action.startswith(f"{_service(resource.type)}:")
        if brought == "" or (brought and not all_settings and brought not in resource.properties):
            continue
        if _is_tagging(action) and not _tags_change(resource, verb, action):
            continue
        asked += _of_action(resource, verb, action, place)
    return _unique(asked)


def _is_tagging(action: str) -> bool:
    return bool(_TAGGING.search(action) or _UNTAGGING.search(action))


def _tags_change(resource: Resource, verb: str, action: str) -> bool:
    tags, old = tags_of(resource.type, resource.properties), tags_of(resource.type, resource.old or {})
    if verb == "create":
        return bool(tags) and not _UNTAGGING.search(action)
    if verb == "update":
        return (
            bool(old.keys() - tags.keys())
            if _UNTAGGING.search(action)
            else tags.items() - old.items() != set()
        )
    return False


def _unique(asked: Iterable[Access]) -> list[Access]:
    found: list[Access] = []
    for access in asked:
        if access not in found:
            found.append(access)
    return found


def _of_action(resource: Resource, verb: str, action: str, place: Place) -> list[Access]:
    return [
        Access(action, arn, {**_context(resource, verb, action, arn, place), **more})
        for arn, more in _targets(resource, action, place)
    ]


def _targets(resource: Resource, action: str, place: Place) -> Targets:
    """(ARN, context of its own) of each resource that a call is about."""
    kind, props = resource.type, resource.properties
    service = action.partition(":")[0]
    if action in ("iam:PassRole", "iam:GetRole") and kind != "AWS::IAM::Role":
        for path, principal in ROLES.get(kind, ()):
            for value in _reach(props, path):
                # The role of a pipeline's action in another account is neither read nor handed over from this
                # one: the pipeline's role assumes it. Any other role of another account is refused.
                # https://docs.aws.amazon.com/codepipeline/latest/userguide/pipelines-create-cross-account.html
                found = re.fullmatch(r"arn:[\w-]+:iam::(\d{12}):role/[^*]+", value)
                taken = path.startswith("Stages.") or action == "iam:GetRole"
                if found and (found[1] == place.account or not taken):
                    passed = {"iam:PassedToService": f"{principal}.amazonaws.com"}
                    yield value, passed if action == "iam:PassRole" else {}
        return
    if service == "kms" and not kind.startswith("AWS::KMS::"):
        for value in _reach(props, KEYS.get(kind, "")):
            yield _key_arn(value, place), {}
        return
    if service == "s3" and not kind.startswith("AWS::S3::"):
        yield from ((arn, {}) for arn in _objects(kind, props, place))
        return
    special = _SPECIAL.get(f"{kind} {action}") or _SPECIAL.get(f"* {action}")
    if special is not None:
        yield from special(resource, place)
        return
    if service == "apigateway":
        own, collection = apis.paths(kind, own_arn(resource, place), props, place.arn)
        old = None if resource.old is None else tags_of(kind, resource.old)
        yield from apis.targets(action, own, collection, tags_of(kind, props), old)
        return
    details = action_details(action)
    if details is not None and not details["resourceTypes"]:
        yield "*", {}
        return
    yield own_arn(resource, place) or "*", {}


def own_arn(resource: Resource, place: Place) -> str:
    """The ARN of the resource that a type's own calls are about; with * for an id that is not known yet."""
    kind, props, physical_id = resource.type, resource.properties, resource.physical_id
    if kind not in OWN:
        return _guessed_arn(resource, place)
    name, places = OWN[kind]
    form = place.arn(_form(_service(kind), name, kind.split("::")[1]))
    if physical_id.startswith("arn:") and kind not in _ABOUT_ANOTHER and _same_kind(physical_id, form):
        return physical_id
    generated = generated_name(kind, place.stack, resource.logical_id)
    for placeholder in re.findall(r"\$\{(\w+)\}", form):
        prop = places.get(placeholder, "")
        value = "*" if prop == "*" else next(_reach(props, prop), "")
        if value.startswith("arn:"):  # a property that takes a name or an ARN
            if _same_kind(value, form):
                return value
            value = value.rpartition(":")[2].rpartition("/")[2]
        if not value and placeholder == "GroupName":
            value = "default"
        value = value or physical_id or ("*" if kind in NAMED_BY_SERVICE else generated)
        if placeholder in ("RoleNameWithPath", "PolicyNameWithPath"):
            value = str(props.get("Path") or "/").lstrip("/") + value.rpartition("/")[2]
        if placeholder == "ParameterNameWithoutLeadingSlash":
            value = value.lstrip("/")
        if placeholder == "Alias":
            value = value if value.startswith("alias/") else f"alias/{value}"
            form = form.replace("alias/${Alias}", "${Alias}")
        form = form.replace(f"${{{placeholder}}}", value)
    return form


def generated_name(type_name: str, stack: str, logical_id: str) -> str:
    """A name as CloudFormation makes it; the end is random."""
    name = f"{logical_id}-XXXXXXXXXXXX"
    name = name if type_name in NAMED_WITHOUT_STACK else f"{stack}-{name}"
    return name.lower() if type_name == "AWS::S3::Bucket" else name


#: types whose physical id is not the resource that their calls are about
_ABOUT_ANOTHER = {"AWS::SNS::Subscription", "AWS::Lambda::Permission"}


def _same_kind(arn: str, form: str) -> bool:
    head = re.split(r"\$\{", form)[0]
    return arn.startswith(head)


def _service(kind: str) -> str:
    """IAM's prefix of a type's service."""
    found = [a for verb in ("create", "update", "read") for a in permissions(kind, verb)]
    last = kind.split("::")[1].lower()
    known = [a.partition(":")[0] for a in found]
    return last if last in known or not known else known[0]


@functools.cache
def _form(service: str, name: str, family: str = "") -> str:
    details = resource_details(service, name)
    if details is None:
        raise LookupError(f"{service} has no resource type {name}")
    forms = details["arn"] if isinstance(details["arn"], list) else details["arn"].split(", ")
    above = {"ApiGateway": "/restapis/", "ApiGatewayV2": "/apis/"}.get(family, "")  # one name, two kinds
    return next((form for form in forms if above in form), forms[0])


def _guessed_arn(resource: Resource, place: Place) -> str:
    """The ARN of a type without a line in OWN: the one resource that its create call needs."""
    if resource.physical_id.startswith("arn:"):
        return resource.physical_id
    creates = [a for a in permissions(resource.type, "create") if re.search(r":(Create|Put)", a)]
    details = action_details(creates[0]) if creates else None
    needed = [r["name"] for r in (details or {"resourceTypes": []})["resourceTypes"] if r["required"]]
    if len(needed) != 1:
        return ""
    form = place.arn(_form(creates[0].partition(":")[0], needed[0]))
    wanted = (_schema(resource.type).get("primaryIdentifier") or [""])[-1].rpartition("/")[2]
    generated = generated_name(resource.type, place.stack, resource.logical_id)

    def fill(match: re.Match[str]) -> str:
        named = resource.properties.get(match[1]) or resource.properties.get(wanted)
        return str(named or resource.physical_id or generated)

    return re.sub(r"\$\{(\w+)\}", fill, form)


def _reach(value: Any, path: str) -> Iterator[str]:
    """The strings at a dotted path; ``*`` goes through a list."""
    if not path:
        return
    head, _, rest = path.partition(".")
    if head == "*":
        found = value if isinstance(value, list) else []
    else:
        found = [value[head]] if isinstance(value, Mapping) and value.get(head) else []
    for item in found:
        if rest:
            yield from _reach(item, rest)
        elif isinstance(item, str):
            yield item


def _key_arn(value: str, place: Place) -> str:
    if value.startswith("arn:"):
        return value
    kind = "" if value.startswith("alias/") else "key/"
    return place.arn(f"arn:${{Partition}}:kms:${{Region}}:${{Account}}:{kind}{value}")


def _objects(kind: str, props: Properties, place: Place) -> Iterator[str]:
    """ARNs of the objects that a type reads: code, or a template by its address."""
    urls = [
        *_reach(props, "TemplateURL"),
        *_reach(props, "ProvisioningArtifactParameters.*.Info.LoadTemplateFromURL"),
    ]
    for url in urls:
        if match := _TEMPLATE_URL.fullmatch(url):
            yield f"arn:{place.partition}:s3:::{match[1]}/{match[2]}"
    definition = props.get("DefinitionS3Location")
    if isinstance(definition, Mapping):
        yield f"arn:{place.partition}:s3:::{definition['Bucket']}/{definition['Key']}"
    code = props.get("Code")
    if isinstance(code, Mapping):
        code = code.get("S3") if kind == "AWS::CodeCommit::Repository" else code
        prefix = "S3" if kind == "AWS::Lambda::Function" else ""
        bucket, key = (code or {}).get(f"{prefix}Bucket"), (code or {}).get(f"{prefix}Key")
        if bucket and key:
            yield f"arn:{place.partition}:s3:::{bucket}/{key}"


# -- calls that are about more than the resource itself --------------------------------------------------


def _ec2(**paths: str) -> Callable[[Resource, Place], Targets]:
    """The resource itself and those that properties name; ``kind=path``, _ for - in the kind."""

    def found(resource: Resource, place: Place) -> Targets:
        yield own_arn(resource, place), {}
        for kind, path in paths.items():
            for value in _reach(resource.properties, path):
                yield (
                    place.arn(
                        f"arn:${{Partition}}:ec2:${{Region}}:${{Account}}:{kind.replace('_', '-')}/{value}"
                    ),
                    {},
                )

    return found


def _role_policies(resource: Resource, place: Place) -> Targets:
    """Policies that a role itself names."""
    for arn in resource.properties.get("ManagedPolicyArns") or ():
        yield own_arn(resource, place), {"iam:PolicyARN": arn}


def _inline_policies(resource: Resource, place: Place) -> Targets:
    if resource.properties.get("Policies"):
        yield own_arn(resource, place), {}


def _old_role_policies(resource: Resource, place: Place) -> Targets:
    """Policies that an update or a deletion takes from a role."""
    old = resource.properties if resource.old is None else resource.old
    kept = set(() if resource.old is None else resource.properties.get("ManagedPolicyArns") or ())
    for arn in old.get("ManagedPolicyArns") or ():
        if arn not in kept:
            yield own_arn(resource, place), {"iam:PolicyARN": arn}


def _old_inline_policies(resource: Resource, place: Place) -> Targets:
    old = resource.properties if resource.old is None else resource.old
    kept = {
        p.get("PolicyName")
        for p in (() if resource.old is None else resource.properties.get("Policies") or ())
    }
    if any(p.get("PolicyName") not in kept for p in old.get("Policies") or ()):
        yield own_arn(resource, place), {}


def _attached_roles(resource: Resource, place: Place) -> Targets:
    """Roles that a policy is attached to."""
    for role in resource.properties.get("Roles") or ():
        more = (
            {"iam:PolicyARN": own_arn(resource, place)} if resource.type == "AWS::IAM::ManagedPolicy" else {}
        )
        yield _role_arn(role, place), more


def _role_arn(role: str, place: Place) -> str:
    if role.startswith("arn:"):
        return role
    return place.role_of(role) or place.arn(f"arn:${{Partition}}:iam::${{Account}}:role/{role}")


def _alias_and_key(resource: Resource, place: Place) -> Targets:
    yield own_arn(resource, place), {}
    yield _key_arn(str(resource.properties.get("TargetKeyId", "")), place), {}


def _endpoint_and_configuration(resource: Resource, place: Place) -> Targets:
    yield own_arn(resource, place), {}
    name = str(resource.properties.get("EndpointConfigName", ""))
    yield (
        name if name.startswith("arn:") else
        place.arn(f"arn:${{Partition}}:sagemaker:${{Region}}:${{Account}}:endpoint-config/{name}")
    ), {}  # fmt: skip


def _model_and_foreign_package(resource: Resource, place: Place) -> Targets:
    """A model of another account's version is asked of its group's policy too."""
    yield own_arn(resource, place), {}
    yield from ((arn, {}) for arn in studio.foreign_packages(resource.properties, place.account))


def scaled_id(resource: Resource) -> str:
    """endpoint/NAME/variant/NAME of a target or policy."""
    props = resource.properties
    return str(props.get("ResourceId") or str(props.get("ScalingTargetId", "")).partition("|")[0])


def _scaled_endpoint(resource: Resource, place: Place) -> Targets:
    """The endpoint of a variant that is scaled."""
    name = [*scaled_id(resource).split("/"), ""][1] or "*"
    yield place.arn(f"arn:${{Partition}}:sagemaker:${{Region}}:${{Account}}:endpoint/{name.lower()}"), {}


def _any_configuration(resource: Resource, place: Place) -> Targets:
    """The configuration that the endpoint has: the properties do not name it, and it has their tags."""
    tags = {f"aws:ResourceTag/{one['Key']}": one["Value"] for one in resource.properties.get("Tags", [])}
    yield place.arn("arn:${Partition}:sagemaker:${Region}:${Account}:endpoint-config/*"), tags


def _release(kind: str) -> Callable[[Resource, Place], Targets]:
    """CodeDeploy's part of this kind in moving an alias, for one whose UpdatePolicy asks for CodeDeploy."""

    def found(resource: Resource, place: Place) -> Targets:
        policy = resource.update_policy.get("CodeDeployLambdaAliasUpdate") or {}
        application, group = policy.get("ApplicationName"), policy.get("DeploymentGroupName")
        if not policy:
            return
        name = {
            "application": f":{application}",
            "deploymentgroup": f":{application}/{group}",
            # the group names it, the alias does not: all that move a function begin so
            "deploymentconfig": ":CodeDeployDefault.LambdaAllAtOnce",
        }.get(kind)
        prefix = f"arn:${{Partition}}:codedeploy:${{Region}}:${{Account}}:{kind}"
        yield (place.arn(f"{prefix}{name}") if name else "*"), {}

    return found


def _everything(resource: Resource, place: Place) -> Targets:
    yield "*", {}


def _tracking_alarms(resource: Resource, place: Place) -> Targets:
    """The alarms that are made for a policy; the end of their names is random."""
    prefix = place.arn("arn:${Partition}:cloudwatch:${Region}:${Account}:alarm:TargetTracking-")
    yield f"{prefix}{scaled_id(resource)}-AlarmHigh-00000000-0000-0000-0000-000000000000", {}


def _scaling_role(resource: Resource, place: Place) -> Targets:
    """The service-linked role that the first target of an account brings."""
    service = "sagemaker.application-autoscaling.amazonaws.com"
    role = f"aws-service-role/{service}/AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
    arn = place.arn(f"arn:${{Partition}}:iam::${{Account}}:role/{role}")
    yield arn, {"iam:AWSServiceName": service}


def _billing_view(resource: Resource, place: Place) -> Targets:
    """A budget without a view of its own counts what the account's own view shows."""
    own = resource.properties.get("Budget", {}).get("BillingViewArn")
    yield own or place.arn("arn:${Partition}:billing::${Account}:billingview/primary"), {}


def _topics(resource: Resource, place: Place) -> Targets:
    for topic in resource.properties.get("Topics") or ():
        yield str(topic), {}


def _catalog(resource: Resource, place: Place) -> Targets:
    """A call about a database or a table needs the right on all that is above it."""
    props, prefix = resource.properties, place.arn("arn:${Partition}:glue:${Region}:${Account}:")
    database = str(props.get("DatabaseName") or props.get("DatabaseInput", {}).get("Name") or "*")
    yield f"{prefix}catalog", {}
    yield f"{prefix}database/{database}", {}
    if resource.type == "AWS::Glue::Table":
        yield own_arn(resource, place), {}


def _whole_database(resource: Resource, place: Place) -> Targets:
    """Deleting a database needs the right on all that is in it, too."""
    yield from _catalog(resource, place)
    database = own_arn(resource, place).rpartition("/")[2]
    for kind in ("table", "userDefinedFunction"):
        yield place.arn(f"arn:${{Partition}}:glue:${{Region}}:${{Account}}:{kind}/{database}/*"), {}


def _sources_of_data(resource: Resource, place: Place) -> Targets:
    """The data sources that the tables of a data set name."""
    for table in (resource.properties.get("PhysicalTableMap") or {}).values():
        for one in table.values():
            yield str(one.get("DataSourceArn", "")), {}


def _data_sets(resource: Resource, place: Place) -> Targets:
    """The data sets that a dashboard shows."""
    for arn in _reach(resource.properties, "Definition.DataSetIdentifierDeclarations.*.DataSetArn"):
        yield arn, {}


def _nothing(resource: Resource, place: Place) -> Targets:
    yield from ()


#: "<type> <action>" ("*" for any type) → what the call is about
_SPECIAL: dict[str, Callable[[Resource, Place], Targets]] = {
    "AWS::Budgets::Budget billing:GetBillingViewData": _billing_view,
    "AWS::EC2::FlowLog ec2:CreateFlowLogs": _ec2(vpc="ResourceId"),
    "AWS::EC2::RouteTable ec2:CreateRouteTable": _ec2(vpc="VpcId"),
    "AWS::EC2::SecurityGroup ec2:CreateSecurityGroup": _ec2(vpc="VpcId"),
    "AWS::EC2::Subnet ec2:CreateSubnet": _ec2(vpc="VpcId"),
    "AWS::EC2::SubnetRouteTableAssociation ec2:AssociateRouteTable": _ec2(subnet="SubnetId"),
    "AWS::EC2::SubnetRouteTableAssociation ec2:DisassociateRouteTable": _ec2(subnet="SubnetId"),
    "AWS::EC2::VPCEndpoint ec2:CreateVpcEndpoint": _ec2(
        vpc="VpcId", subnet="SubnetIds.*", security_group="SecurityGroupIds.*", route_table="RouteTableIds.*"
    ),
    "AWS::ApplicationAutoScaling::ScalableTarget sagemaker:DescribeEndpoint": _scaled_endpoint,
    "AWS::ApplicationAutoScaling::ScalableTarget sagemaker:DescribeEndpointConfig": _any_configuration,
    "AWS::ApplicationAutoScaling::ScalableTarget sagemaker:UpdateEndpointWeightsAndCapacities": (
        _scaled_endpoint
    ),
    "AWS::ApplicationAutoScaling::ScalableTarget iam:CreateServiceLinkedRole": _scaling_role,
    "AWS::ApplicationAutoScaling::ScalableTarget cloudwatch:PutMetricAlarm": _tracking_alarms,
    "AWS::ApplicationAutoScaling::ScalableTarget cloudwatch:DeleteAlarms": _tracking_alarms,
    "AWS::ApplicationAutoScaling::ScalableTarget cloudwatch:DescribeAlarms": _tracking_alarms,
    "AWS::ApplicationAutoScaling::ScalingPolicy cloudwatch:PutMetricAlarm": _tracking_alarms,
    "AWS::ApplicationAutoScaling::ScalingPolicy cloudwatch:DeleteAlarms": _tracking_alarms,
    "AWS::ApplicationAutoScaling::ScalingPolicy cloudwatch:DescribeAlarms": _tracking_alarms,
    "AWS::ApplicationAutoScaling::ScalingPolicy cloudwatch:GetMetricData": _everything,
    "AWS::EC2::VPCEndpoint ec2:ModifyVpcEndpoint": _ec2(
        subnet="SubnetIds.*", security_group="SecurityGroupIds.*", route_table="RouteTableIds.*"
    ),
    "AWS::Glue::Database glue:CreateDatabase": _catalog,
    "AWS::Glue::Database glue:DeleteDatabase": _whole_database,
    "AWS::Glue::Database glue:GetDatabase": _catalog,
    "AWS::Glue::Database glue:UpdateDatabase": _catalog,
    "AWS::Glue::Table glue:CreateTable": _catalog,
    "AWS::Glue::Table glue:DeleteTable": _catalog,
    "AWS::Glue::Table glue:GetTable": _catalog,
    "AWS::Glue::Table glue:UpdateTable": _catalog,
    "AWS::IAM::ManagedPolicy iam:AttachRolePolicy": _attached_roles,
    "AWS::IAM::ManagedPolicy iam:DetachRolePolicy": _attached_roles,
    "AWS::IAM::Policy iam:DeleteRolePolicy": _attached_roles,
    "AWS::IAM::Policy iam:GetRolePolicy": _attached_roles,
    "AWS::IAM::Policy iam:PutRolePolicy": _attached_roles,
    "AWS::IAM::Role iam:AttachRolePolicy": _role_policies,
    "AWS::IAM::Role iam:DeleteRolePolicy": _old_inline_policies,
    "AWS::IAM::Role iam:DetachRolePolicy": _old_role_policies,
    "AWS::IAM::Role iam:GetRolePolicy": _inline_policies,
    "AWS::IAM::Role iam:PutRolePolicy": _inline_policies,
    "AWS::KMS::Alias kms:CreateAlias": _alias_and_key,
    "AWS::KMS::Alias kms:DeleteAlias": _alias_and_key,
    "AWS::KMS::Alias kms:UpdateAlias": _alias_and_key,
    "AWS::Lambda::Alias codedeploy:CreateDeployment": _release("deploymentgroup"),
    "AWS::Lambda::Alias codedeploy:GetApplicationRevision": _release("application"),
    "AWS::Lambda::Alias codedeploy:GetDeployment": _release("deploymentgroup"),
    "AWS::Lambda::Alias codedeploy:GetDeploymentConfig": _release("deploymentconfig"),
    "AWS::Lambda::Alias codedeploy:GetDeploymentGroup": _release("deploymentgroup"),
    "AWS::Lambda::Alias codedeploy:RegisterApplicationRevision": _release("application"),
    "AWS::Lambda::Alias codedeploy:StopDeployment": _release(""),
    "AWS::QuickSight::DataSet quicksight:CreateDataSet": _sources_of_data,
    "AWS::QuickSight::DataSet quicksight:PassDataSource": _sources_of_data,
    "AWS::QuickSight::Dashboard quicksight:PassDataSet": _data_sets,
    "AWS::SNS::TopicPolicy sns:SetTopicAttributes": _topics,
    "AWS::SageMaker::Model sagemaker:CreateModel": _model_and_foreign_package,
    "AWS::SageMaker::Endpoint sagemaker:CreateEndpoint": _endpoint_and_configuration,
    "AWS::SageMaker::Endpoint sagemaker:UpdateEndpoint": _endpoint_and_configuration,
    # templates of a product are read from a stack only when it is imported from one
    "AWS::ServiceCatalog::CloudFormationProduct cloudformation:GetTemplate": _nothing,
}


# -- condition keys ----------------------------------------------------------------------------------------
def tags_of(type_name: str, props: Properties) -> dict[str, str]:
    """The tags in a resource's properties; CloudFormation's own (``aws:…``) are no request's tags."""
    tagging = _schema(type_name).get("tagging") or {}
    prop = str(tagging.get("tagProperty") or "/properties/Tags").rpartition("/")[2]
    tags = props.get(prop) or []
    found = dict(tags) if isinstance(tags, Mapping) else {t["Key"]: t["Value"] for t in tags if "Key" in t}
    return {str(k): str(v) for k, v in found.items() if not str(k).startswith("aws:")}


def stack_tags(type_name: str, props: Properties, tags: Mapping[str, str]) -> dict[str, Any]:
    """Properties with the tags of the stack, for a type that takes tags."""
    tagging = _schema(type_name).get("tagging") or {}
    prop = str(tagging.get("tagProperty") or "/properties/Tags").rpartition("/")[2]
    known = _schema(type_name).get("properties", {}).get(prop)
    if not tags or known is None or tagging.get("taggable") is False:
        return dict(props)
    merged = {**tags, **tags_of(type_name, props)}
    is_map = isinstance(props.get(prop), Mapping) or known.get("type") == "object"
    return {**props, prop: merged if is_map else [{"Key": k, "Value": v} for k, v in merged.items()]}


def _context(resource: Resource, verb: str, action: str, arn: str, place: Place) -> dict[str, Any]:
    service, _, name = action.partition(":")
    scaled = resource.type.startswith("AWS::ApplicationAutoScaling::")
    # a target's tags are no tags of its alarms
    tagged = not scaled or service == "application-autoscaling"
    context = _tags_context(resource, verb, action) if tagged else {}
    if service == "kms":
        context["kms:CallerAccount"] = place.account
        if not resource.type.startswith("AWS::KMS::"):
            via = _VIA.get(resource.type.split("::")[1], resource.type.split("::")[1].lower())
            context["kms:ViaService"] = f"{via}.{place.region}.amazonaws.com"
        if name in ("CreateGrant", "RetireGrant"):
            context["kms:GrantIsForAWSResource"] = "true"
    if service == "iam" and ":role/" in arn and name != "PassRole":
        boundary = (
            resource.properties.get("PermissionsBoundary") if resource.type == "AWS::IAM::Role" else None
        )
        if (
            resource.type == "AWS::IAM::Role"
            and verb in ("update", "delete")
            and name != "PutRolePermissionsBoundary"
        ):
            boundary = place.boundary_of(arn) or boundary
        boundary = boundary or place.boundary_of(arn)
        if boundary:
            context["iam:PermissionsBoundary"] = boundary
    if action == "ec2:CreateTags" and verb == "create":
        made = next(
            (a for a in permissions(resource.type, "create") if a.startswith("ec2:Create") and a != action),
            "",
        )
        context["ec2:CreateAction"] = made.removeprefix("ec2:")
    if action == "sagemaker:AddTags" and verb == "create":
        made = next((a for a in permissions(resource.type, "create") if a.startswith("sagemaker:Create")), "")
        context["sagemaker:TaggingAction"] = made.removeprefix("sagemaker:")
    props = resource.properties
    if service == "sagemaker":  # the properties are the call's parameters
        prefix = place.arn("arn:${Partition}:sagemaker:${Region}:${Account}:")
        context |= studio.request_keys(name, props, prefix, lambda key: _key_arn(key, place))
    if service == "application-autoscaling" and scaled:
        context["application-autoscaling:service-namespace"] = "sagemaker"
        context["application-autoscaling:scalable-dimension"] = "sagemaker:variant:DesiredInstanceCount"
    if action == "sns:Subscribe":
        context |= {f"sns:{key}": str(props.get(key, "")) for key in ("Protocol", "Endpoint")}
    if action in ("lambda:AddPermission", "lambda:RemovePermission") and props.get("Principal"):
        context["lambda:Principal"] = str(props["Principal"])
    if action == "events:PutTargets":
        context["events:TargetArn"] = list(_reach(props, "Targets.*.Arn"))
    return context


def _maker(type_name: str, prefix: str, but: str) -> str:
    found = (a for a in permissions(type_name, "create") if a.startswith(prefix) and a != but)
    return next(found, "").partition(":")[2]


def _tags_context(resource: Resource, verb: str, action: str) -> dict[str, Any]:
    details = action_details(action) or {"conditionKeys": [], "resourceTypes": []}
    keys = [*details["conditionKeys"], *(k for r in details["resourceTypes"] for k in r["conditionKeys"])]
    if action == "ec2:CreateTags":  # the reference names them at the resource types only
        keys.append("aws:RequestTag/${TagKey}")
    tags, old = tags_of(resource.type, resource.properties), tags_of(resource.type, resource.old or {})
    if _UNTAGGING.search(action):
        return {"aws:TagKeys": sorted(old.keys() - tags.keys())}
    sends = verb == "create" or bool(_TAGGING.search(action))
    if not sends or not tags or not any(k.startswith("aws:RequestTag/") for k in keys):
        return {}
    return {**{f"aws:RequestTag/{k}": v for k, v in tags.items()}, "aws:TagKeys": sorted(tags)}
