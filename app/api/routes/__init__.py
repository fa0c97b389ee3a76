"""HTTP routes: each module translates one resource of the API to calls of the service."""
