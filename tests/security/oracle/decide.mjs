// Decides IAM requests: reads {policies, cases} as JSON from stdin, writes one decision a case to stdout.
// One process for all cases: loading the knowledge of IAM costs more than a thousand decisions.
import {
  createValidatedPolicy,
  validateEndpointPolicy,
  validateIdentityPolicy,
  validateResourcePolicy,
  validateServiceControlPolicy,
} from '@cloud-copilot/iam-policy'
import { runSimulation } from '@cloud-copilot/iam-simulate'

const chunks = []
for await (const chunk of process.stdin) chunks.push(chunk)
const { policies, cases } = JSON.parse(Buffer.concat(chunks).toString('utf8'))
// a policy is checked once for each use, not for each question
const checked = new Map()
const policy = (name, check) => {
  const key = `${name} ${check.name}`
  if (!checked.has(key)) checked.set(key, createValidatedPolicy(policies[name], check))
  return checked.get(key)
}
const named = (names, check) => names.map((name) => ({ name, policy: policy(name, check) }))
// what an account without service control policies has
policies.everything = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: '*', Resource: '*' }] }

const decisions = []
for (const one of cases) {
  const simulation = {
    request: {
      principal: one.principal,
      action: one.action,
      resource: { resource: one.resource, accountId: one.owner },
      contextVariables: one.context,
    },
    identityPolicies: named(one.identity, validateIdentityPolicy),
    serviceControlPolicies: [['everything'], ...one.organization].map((names, level) => ({
      orgIdentifier: `level-${level}`,
      policies: named(names, validateServiceControlPolicy),
    })),
    resourceControlPolicies: [],
  }
  if (one.boundary) simulation.permissionBoundaryPolicies = named(one.boundary, validateIdentityPolicy)
  if (one.session) simulation.sessionPolicy = policy(one.session, validateIdentityPolicy)
  if (one.resourcePolicy) simulation.resourcePolicy = policy(one.resourcePolicy, validateResourcePolicy)
  if (one.endpoint) simulation.vpcEndpointPolicies = named(one.endpoint, validateEndpointPolicy)
  const answer = await runSimulation(simulation, { simulationMode: 'Strict' })
  if (answer.resultType === 'error') {
    decisions.push({ error: answer.errors })
    continue
  }
  const results = answer.resultType === 'single' ? [answer.result] : answer.results
  decisions.push({
    decision: answer.overallResult,
    blockedBy: [...new Set(results.flatMap((result) => result.analysis.blockedBy ?? []))],
    // keys that AWS never sends with this action: a policy that rests on them does not work
    ignored: [...new Set(results.flatMap((result) => result.ignoredContextKeys ?? []))],
  })
}
process.stdout.write(JSON.stringify(decisions))
