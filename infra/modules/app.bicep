metadata description = 'The function app, on Flex Consumption with Python 3.13; no key or password in its settings.'

@description('Makes names unique.')
param token string

@description('Region.')
param location string

@description('Tags; azd finds the app by azd-service-name.')
param tags object

@description('Resource id of the app\'s identity.')
param identityId string

@description('Client id of the app\'s identity.')
param identityClientId string

@description('Storage account of the Functions host.')
param storageAccountName string

@description('Container that the package is deployed to.')
param packageContainer string

@description('Application Insights component.')
param applicationInsightsName string

@description('Subnet for what the app calls. Blank: the Internet.')
param subnetId string

@description('App registration that App Service authentication takes tokens for. Blank: it is off.')
param signInClientId string

@description('Send OpenTelemetry traces and metrics too.')
param openTelemetry bool

@description('App settings of the program that are known outside of this module.')
param settings object

var trustsSignIn = !empty(signInClientId)

resource storage 'Microsoft.Storage/storageAccounts@2024-01-01' existing = {
  name: storageAccountName
}

resource component 'Microsoft.Insights/components@2020-02-02' existing = {
  name: applicationInsightsName
}

resource plan 'Microsoft.Web/serverfarms@2024-11-01' = {
  name: 'asp-${token}'
  location: location
  tags: tags
  kind: 'functionapp'
  sku: { name: 'FC1', tier: 'FlexConsumption' }
  properties: { reserved: true }
}

resource app 'Microsoft.Web/sites@2024-11-01' = {
  name: 'func-${token}'
  location: location
  tags: tags
  kind: 'functionapp,linux'
  identity: { type: 'UserAssigned', userAssignedIdentities: { '${identityId}': {} } }
  properties: {
    serverFarmId: plan.id
    httpsOnly: true
    // Event Grid delivers to no private endpoint: the app is called over the Internet, with keys.
    publicNetworkAccess: 'Enabled'
    virtualNetworkSubnetId: empty(subnetId) ? null : subnetId
    siteConfig: { minTlsVersion: '1.2' }
    functionAppConfig: {
      deployment: {
        storage: {
          type: 'blobContainer'
          value: '${storage.properties.primaryEndpoints.blob}${packageContainer}'
          authentication: { type: 'UserAssignedIdentity', userAssignedIdentityResourceId: identityId }
        }
      }
      runtime: { name: 'python', version: '3.13' }
      scaleAndConcurrency: { instanceMemoryMB: 2048, maximumInstanceCount: 40 }
    }
  }

  resource ftp 'basicPublishingCredentialsPolicies' = {
    name: 'ftp'
    properties: { allow: false }
  }

  resource scm 'basicPublishingCredentialsPolicies' = {
    name: 'scm'
    properties: { allow: false }
  }

  resource signIn 'config' = if (trustsSignIn) {
    name: 'authsettingsV2'
    properties: {
      platform: { enabled: true }
      // Event Grid, health and callers with a key alone go on; who signs in is named in what they did.
      globalValidation: { requireAuthentication: false, unauthenticatedClientAction: 'AllowAnonymous' }
      identityProviders: {
        azureActiveDirectory: {
          enabled: true
          registration: {
            clientId: signInClientId
            openIdIssuer: '${environment().authentication.loginEndpoint}${tenant().tenantId}/v2.0'
          }
          validation: { allowedAudiences: [signInClientId, 'api://${signInClientId}'] }
        }
      }
    }
  }

  resource appSettings 'config' = {
    name: 'appsettings'
    properties: union(
      settings,
      {
        AZURE_CLIENT_ID: identityClientId
        ROTATION_TRUST_PRINCIPAL: trustsSignIn ? 'true' : 'false'
        AzureWebJobsStorage__accountName: storage.name
        AzureWebJobsStorage__credential: 'managedidentity'
        AzureWebJobsStorage__clientId: identityClientId
        APPLICATIONINSIGHTS_CONNECTION_STRING: component.properties.ConnectionString
        APPLICATIONINSIGHTS_AUTHENTICATION_STRING: 'ClientId=${identityClientId};Authorization=AAD'
      },
      openTelemetry
        ? {
            PYTHON_APPLICATIONINSIGHTS_ENABLE_TELEMETRY: 'true'
            AzureFunctionsJobHost__telemetryMode: 'OpenTelemetry'
            OTEL_TRACES_SAMPLER: 'always_on'
          }
        : {}
    )
    // While it is off, anybody can send the headers that ROTATION_TRUST_PRINCIPAL believes.
    dependsOn: [signIn]
  }
}

@description('Name.')
output name string = app.name

@description('Where the HTTP API and the dashboard are.')
output url string = 'https://${app.properties.defaultHostName}'
