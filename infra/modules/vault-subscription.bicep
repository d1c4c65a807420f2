metadata description = 'Brings the vault\'s events to the function.'

@description('System topic of the vault, in this resource group.')
param systemTopicName string

@description('Makes the name unique among the subscriptions of the topic.')
param functionAppName string

@description('Resource id of the function.')
param functionId string

@description('What the subject, the name of a secret, begins with. Blank takes all.')
param subjectBeginsWith string

@description('Resource id of the storage account with the dead letters.')
param storageAccountId string

@description('Container of the dead letters.')
param deadLetterContainer string

resource topic 'Microsoft.EventGrid/systemTopics@2025-02-15' existing = {
  name: systemTopicName
}

resource subscription 'Microsoft.EventGrid/systemTopics/eventSubscriptions@2025-02-15' = {
  parent: topic
  name: 'evgs-${functionAppName}'
  properties: {
    eventDeliverySchema: 'EventGridSchema'
    destination: {
      endpointType: 'AzureFunction'
      // The function can only fail or succeed for all of a batch.
      properties: { resourceId: functionId, maxEventsPerBatch: 1 }
    }
    filter: {
      subjectBeginsWith: subjectBeginsWith
      includedEventTypes: [
        'Microsoft.KeyVault.SecretNearExpiry'
        'Microsoft.KeyVault.SecretExpired'
        'Microsoft.KeyVault.SecretNewVersionCreated'
      ]
    }
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
