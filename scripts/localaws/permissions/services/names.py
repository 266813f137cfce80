"""Parameters that fill the placeholders of ARNs, where their names differ, and actions with other names."""

NAMES = {
    "actions": {
        "lambda:Invoke": "lambda:InvokeFunction",
    },
    "codeartifact": {
        "DomainName": "domain|domainName",
        "RepositoryName": "repository|repositoryName",
        "EncodedPackageGroupPattern": "packageGroup",
    },
    "codecommit": {"RepositoryName": "repositoryName|oldName"},
    "codebuild": {
        "project/ProjectName": "projectName|name",
        "report-group/ReportGroupName": "reportGroupName|name",
    },
    "codepipeline": {"pipeline/PipelineName": "pipelineName|name"},
    "events": {
        "rule-on-default-event-bus/RuleName": "Rule|Name",
        "rule-on-custom-event-bus/RuleName": "-",
        "EventBusName": "EventBusName|Name",
    },
    "ec2": {"security-group/SecurityGroupId": "GroupId"},
    "iam": {"PolicyNameWithPath": "-", "RoleNameWithPath": "-"},
    "lambda": {"function alias/Alias": "-", "function version/Version": "-"},
    "logs": {"LogStreamName": "logStreamName"},
    "sagemaker": {
        "DataQualityJobDefinitionName": "JobDefinitionName",
        "ModelQualityJobDefinitionName": "JobDefinitionName",
        "ModelBiasJobDefinitionName": "JobDefinitionName",
        "ModelExplainabilityJobDefinitionName": "JobDefinitionName",
    },
    "scheduler": {"ScheduleName": "Name"},
    "secretsmanager": {"SecretId": "SecretId|Name"},
    "servicecatalog": {
        "Product/ProductId": "ProductId|Id",
        "Portfolio/PortfolioId": "PortfolioId|Id",
        "product/ProductId": "ProductId|Id",
        "portfolio/PortfolioId": "PortfolioId|Id",
    },
    "sns": {"TopicName": "Name"},
    "ssm": {"ParameterNameWithoutLeadingSlash": "-"},
    "states": {"StateMachineName": "name"},
}
