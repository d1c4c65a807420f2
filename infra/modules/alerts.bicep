metadata description = 'The alerts of severity 1 and 2 in docs/alerts.md. Their queries are the files in alerts/, which that page shows.'

@description('Makes names unique.')
param token string

@description('Region.')
param location string

@description('Tags of every resource.')
param tags object

@description('Log Analytics workspace with the log lines.')
param workspaceId string

@description('Event Grid topics whose dead letters ring.')
param topics {
  @description('A part of the alert\'s name.')
  name: string
  @description('Resource id.')
  id: string
  @description('Resource type.')
  type: string
}[]

@description('Address that alerts are mailed to. Blank: they are only shown in the portal.')
param email string

// One alert for each secret, and not one for all.
var bySecret = [{ name: 'secret', operator: 'Include', values: ['*'] }]
// What stays wrong is told at each sweep, so that a rule stays up while it lasts: 30 minutes are two sweeps.
var rules = [
  {
    name: 'Rotation failed'
    query: loadTextContent('../alerts/rotation-failed.kql')
    severity: 2
    window: 'PT30M'
    dimensions: bySecret
  }
  {
    name: 'Fault of the program'
    query: loadTextContent('../alerts/fault-of-the-program.kql')
    severity: 2
    window: 'PT30M'
    dimensions: bySecret
  }
  {
    name: 'Settings unusable'
    query: loadTextContent('../alerts/settings-unusable.kql')
    severity: 1
    window: 'PT30M'
    dimensions: []
  }
  {
    name: 'Secret overdue'
    query: loadTextContent('../alerts/secret-overdue.kql')
    severity: 2
    // Two sweeps, though lines arrive some minutes late.
    window: 'PT45M'
    dimensions: bySecret
  }
  {
    name: 'Outside system down'
    query: loadTextContent('../alerts/outside-system-down.kql')
    severity: 2
    window: 'PT30M'
    dimensions: []
  }
  {
    name: 'Sweep did not run'
    query: loadTextContent('../alerts/sweep-did-not-run.kql')
    severity: 1
    window: 'PT1H'
    dimensions: []
  }
]
var actionGroups = empty(email) ? [] : [people.id]

resource people 'Microsoft.Insights/actionGroups@2023-01-01' = if (!empty(email)) {
  name: 'ag-${token}'
  // Action groups belong to no region.
  #disable-next-line no-hardcoded-location
  location: 'global'
  tags: tags
  properties: {
    groupShortName: 'rotation'
    enabled: true
    emailReceivers: [{ name: 'mail', emailAddress: email, useCommonAlertSchema: true }]
  }
}

resource logAlerts 'Microsoft.Insights/scheduledQueryRules@2023-12-01' = [
  for rule in rules: {
    name: '${rule.name} (${token})'
    location: location
    tags: tags
    kind: 'LogAlert'
    properties: {
      displayName: rule.name
      description: 'What to do: docs/alerts.md'
      severity: rule.severity
      enabled: true
      autoMitigate: true
      scopes: [workspaceId]
      evaluationFrequency: 'PT15M'
      windowSize: rule.window
      criteria: {
        allOf: [
          {
            query: rule.query
            timeAggregation: 'Count'
            operator: 'GreaterThan'
            threshold: 0
            dimensions: rule.dimensions
            failingPeriods: { numberOfEvaluationPeriods: 1, minFailingPeriodsToAlert: 1 }
          }
        ]
      }
      actions: { actionGroups: actionGroups }
    }
  }
]

module deadLetters 'topic-alert.bicep' = [
  for topic in topics: {
    params: {
      name: 'Dead letter, ${topic.name} (${token})'
      tags: tags
      summary: 'Events could not be delivered and were put into the dead-letter container.'
      topicId: topic.id
      topicType: topic.type
      metric: 'DeadLetteredCount'
      actionGroups: actionGroups
    }
  }
]

module dropped 'topic-alert.bicep' = [
  for topic in topics: {
    params: {
      name: 'Event dropped, ${topic.name} (${token})'
      tags: tags
      summary: 'Events could neither be delivered nor put into the dead-letter container.'
      topicId: topic.id
      topicType: topic.type
      metric: 'DroppedEventCount'
      actionGroups: actionGroups
    }
  }
]
