metadata description = 'Brings what the sweep, or a request for many, hands out over the topic back to the function.'

@description('Topic for outcomes, in this resource group.')
param topicName string

@description('A part of the subscription\'s name.')
param functionAppName string

@description('Resource id of the function.')
param functionId string

@description('Resource id of the storage account with the dead letters.')
param storageAccountId string

@description('Container of the dead letters.')
param deadLetterContainer string

resource topic 'Microsoft.EventGrid/topics@2025-02-15' existing = {
  name: topicName
}

resource subscription 'Microsoft.EventGrid/topics/eventSubscriptions@2025-02-15' = {
  parent: topic
  name: 'evgs-${functionAppName}'
  properties: {
    eventDeliverySchema: 'EventGridSchema'
    destination: {
      endpointType: 'AzureFunction'
      properties: { resourceId: functionId, maxEventsPerBatch: 1 }
    }
    filter: { includedEventTypes: ['SecretRotation.Requested'] }
    retryPolicy: { maxDeliveryAttempts: 30, eventTimeToLiveInMinutes: 1440 }
    deadLetterWithResourceIdentity: {
      identity: { type: 'SystemAssigned' }
      deadLetterDestination: {
        endpointType: 'StorageBlob'
        properties: { resourceId: storageAccountId, blobContainerName: deadLetterContainer }
      }
    }
  }
}
