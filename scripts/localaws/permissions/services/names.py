"""Parameters that fill the placeholders of ARNs, where their names differ, and actions with other names."""

NAMES = {
    "actions": {
        "lambda:Invoke": "lambda:InvokeFunction",
        "lambda:ListVersionsByFunction": "lambda:ListVersionsByFunction",
        "cloudformation:ListStackResources": "cloudformation:ListStackResources",
        "sagemaker-metrics:BatchPutMetrics": "sagemaker:BatchPutMetrics",
        "sagemaker-runtime:InvokeEndpointWithResponseStream": "sagemaker:InvokeEndpointWithResponseStream",
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
    "cloudwatch": {"AlarmName": "AlarmName"},
    "events": {
        "rule-on-default-event-bus/RuleName": "Rule|Name",
        "rule-on-custom-event-bus/RuleName": "-",
        "EventBusName": "EventBusName|Name",
    },
    "ec2": {"security-group/SecurityGroupId": "GroupId"},
    "iam": {"PolicyNameWithPath": "-", "RoleNameWithPath": "-"},
    "lambda": {"function alias/Alias": "-", "function version/Version": "-"},
    "logs": {"LogStreamName": "logStreamName"},
    "scheduler": {"ScheduleName": "Name"},
    "secretsmanager": {"SecretId": "SecretId|Name"},
    "servicecatalog": {
        "Product/ProductId": "ProductId|Id",
        "Portfolio/PortfolioId": "PortfolioId|Id",
        "product/ProductId": "ProductId|Id",
        "portfolio/PortfolioId": "PortfolioId|Id",
    },
    "sns": {"TopicName": "Name"},
    "sqs": {"QueueName": "QueueName"},
    "ssm": {"ParameterNameWithoutLeadingSlash": "-"},
    "states": {"StateMachineName": "name"},
    "sagemaker": {"project/ProjectName": "ProjectName"},
}
