"""Logging in by OAuth 2.1, apart from any connection: a server's 401 becomes a URL, a person's visit becomes tokens.

Pure steps, which can be played without a network:

    challenge      WWW-Authenticate (RFC 9110, RFC 6750)
    resource       protected resource metadata (RFC 9728): where it is, whether it can be believed
    authserver     authorization server metadata (RFC 8414, OpenID Connect Discovery): likewise
    registration   who we are to it: configured, client ID metadata document, dynamic registration (RFC 7591)
    authorize      the authorization request: PKCE, resource, state (RFC 7636, RFC 8707), and whether its URL may be opened
    callback       what the browser came back with, and from whom (RFC 6749 section 4.1.2, RFC 9207)
    grants         token responses and their errors, expiry, scopes (RFC 6749)

and those that act:

    endpoint       the token endpoint, spoken to through authlib (RFC 6749, 7009, 7523)
    discovery      the steps above over the network, each address checked
    loopback       the redirect URI on 127.0.0.1, and the page a person sees (RFC 8252)
    browser        opening the URL
    store          tokens and registrations on disk, shared with other processes
    broker         one login: what is known, what is under way, who waits for it
"""
