"""Airflow with people from Microsoft Entra, whose roles follow from their groups; see docs/airflow.md.

For `[fab] config_file`, or as `webserver_config.py` in AIRFLOW_HOME. It needs the package `authlib`.
"""

import os

from flask_appbuilder.const import AUTH_OAUTH

TENANT = os.environ["ENTRA_TENANT_ID"]

AUTH_TYPE = AUTH_OAUTH
OAUTH_PROVIDERS = [
    {
        "name": "azure",
        "icon": "fa-windows",
        "token_key": "access_token",
        "remote_app": {
            "client_id": os.environ["ENTRA_CLIENT_ID"],
            "client_secret": os.environ["ENTRA_CLIENT_SECRET"],
            "server_metadata_url": f"https://login.microsoftonline.com/{TENANT}/v2.0/.well-known/openid-configuration",
            # Tokens of other tenants are refused.
            "client_kwargs": {"scope": "openid profile email", "tenant_id": TENANT},
        },
    }
]

# Who signs in is made a user, and gets at each login the roles of today's groups: those in the token's claim `roles`.
AUTH_USER_REGISTRATION = True
AUTH_USER_REGISTRATION_ROLE = "Public"
AUTH_ROLES_SYNC_AT_LOGIN = True
AUTH_ROLES_MAPPING = {
    "Airflow.Admin": ["Admin"],
    "Airflow.Op": ["Op"],
    "Airflow.User": ["User"],
    "Airflow.Viewer": ["Viewer"],
}
