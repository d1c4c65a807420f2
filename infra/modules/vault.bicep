metadata description = 'The vault: a new one, or what there is to know about an existing one, which is left as it is.'

@description('Make it. False: it exists.')
param create bool

@description('Name.')
param name string

@description('Region of a new vault.')
param location string

@description('Tags of a new vault.')
param tags object

@description('Close a new vault to the Internet.')
param closed bool

resource created 'Microsoft.KeyVault/vaults@2024-11-01' = if (create) {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: { family: 'A', name: 'standard' }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: 90
    // Cannot be taken back: a vault with this is there for 90 days after it was deleted, and its name is taken.
    enablePurgeProtection: true
    publicNetworkAccess: closed ? 'Disabled' : 'Enabled'
    networkAcls: { defaultAction: closed ? 'Deny' : 'Allow', bypass: 'None' }
  }
}

resource found 'Microsoft.KeyVault/vaults@2024-11-01' existing = if (!create) {
  name: name
}

@description('Resource id.')
output id string = create ? created.id : found.id

@description('Name.')
output name string = create ? created.name : found.name

@description('Where the secrets are read and written.')
output url string = create ? created!.properties.vaultUri : found!.properties.vaultUri

@description('Region: that of the system topic too.')
output location string = create ? created!.location : found!.location
