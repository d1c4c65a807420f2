metadata description = 'An alert on what Event Grid counts of a topic.'

@description('Name of the alert.')
param name string

@description('Tags of the alert.')
param tags object

@description('What has happened.')
param summary string

@description('Resource id of the topic.')
param topicId string

@description('Resource type of the topic.')
param topicType string

@description('Metric that is to stay 0.')
param metric string

@description('Resource ids of the action groups that are told.')
param actionGroups string[]

resource alert 'Microsoft.Insights/metricAlerts@2018-03-01' = {
  name: name
  // Metric alerts belong to no region.
  #disable-next-line no-hardcoded-location
  location: 'global'
  tags: tags
  properties: {
    description: '${summary} What to do: docs/alerts.md'
    severity: 2
    enabled: true
    autoMitigate: true
    scopes: [topicId]
    targetResourceType: topicType
    evaluationFrequency: 'PT15M'
    windowSize: 'PT30M'
    criteria: {
      'odata.type': 'Microsoft.Azure.Monitor.SingleResourceMultipleMetricCriteria'
      allOf: [
        {
          criterionType: 'StaticThresholdCriterion'
          name: 'count'
          metricNamespace: topicType
          metricName: metric
          timeAggregation: 'Total'
          operator: 'GreaterThan'
          threshold: 0
        }
      ]
    }
    actions: [for group in actionGroups: { actionGroupId: group }]
  }
}
