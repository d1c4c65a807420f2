metadata description = 'The subscriptions, to be deployed after the code: Event Grid refuses one whose function it cannot find. events.sh does it.'

@description('Function app, in this resource group.')
param functionAppName string

@description('System topic of the vault.')
param systemTopicName string

@description('Resource group of the system topic.')
param systemTopicResourceGroup string = resourceGroup().name

@description('Topic for outcomes, in this resource group.')
param outcomeTopicName string

@description('What the subject of a Key Vault event begins with. Blank takes all.')
param subjectBeginsWith string = ''

@description('Storage account with the dead letters, in this resource group.')
param storageAccountName string

@description('Container of the dead letters.')
param deadLetterContainer string

var functionId = resourceId('Microsoft.Web/sites/functions', functionAppName, 'rotation_event')
var storageAccountId = resourceId('Microsoft.Storage/storageAccounts', storageAccountName)

module ofVault 'modules/vault-subscription.bicep' = {
  scope: resourceGroup(systemTopicResourceGroup)
  params: {
    systemTopicName: systemTopicName
    functionAppName: functionAppName
    functionId: functionId
    subjectBeginsWith: subjectBeginsWith
    storageAccountId: storageAccountId
    deadLetterContainer: deadLetterContainer
  }
}

module ofTopic 'modules/topic-subscription.bicep' = {
  params: {
    topicName: outcomeTopicName
    functionAppName: functionAppName
    functionId: functionId
    storageAccountId: storageAccountId
    deadLetterContainer: deadLetterContainer
  }
}
