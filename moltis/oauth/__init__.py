"""Logging in by OAuth 2.1, apart from any connection: a server's 401 becomes a URL, a person's visit becomes tokens.

    401 -> login -> decisions: what follows? keeper: is there something newer, can it be renewed?
                 -> flow: discovery, registration, URL, browser, callback, code -> keeper -> store

Pure steps, which can be played without a network:

    model          what a login is about, as values
    resource       WWW-Authenticate (RFC 9110, RFC 6750), and protected resource metadata (RFC 9728): where it is,
                   whether it can be believed
    authserver     authorization server metadata (RFC 8414, OpenID Connect Discovery): likewise
    registration   who we are to it: configured, client ID metadata document, dynamic registration (RFC 7591)
    authorize      the authorization request: PKCE, resource, state (RFC 7636, RFC 8707); may its URL be opened; what is
                   said of one that came to nothing
    callback       what the browser came back with, and from whom (RFC 6749 section 4.1.2, RFC 9207)
    grants         token responses and their errors, expiry (RFC 6749)
    decisions      what follows from what is known: send, renew, ask a person, give up
    urls, documents    what may be believed of a URL and of a JSON document that others wrote

and those that act:

    login          one login, for requests and for people: its standing, what is under way, when it is tried again
    flow           one try of a person to log in
    keeper         what is held, in memory and on disk, and how it is renewed
    jobs           work on threads, work that goes on when those who wait for it leave, the pace of who tries again
    discovery      whom to ask, over the network, each address checked
    endpoint       what is posted there, through authlib: for tokens (RFC 6749, 7009, 7523), to register (RFC 7591)
    store          tokens and registrations on disk, shared with other processes; folder, cipher below it
    loopback       the redirect URI on 127.0.0.1 (RFC 8252); pages: what a person sees there
    browser        opening the URL
"""
