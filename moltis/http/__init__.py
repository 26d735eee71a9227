"""The one HTTP stack, for MCP servers and for authorization servers.

Pure:

    addresses     what an IP address belongs to, and what may be reached on behalf of whom
    origins       the one reading of a URL: its origin, whether it is secure, how it is named in a message
    cookies       the cookies of one connection
    heads         what the head of an answer asks for: to be left alone, or to be asked elsewhere

and over the network:

    authorized    requests to one server as it lets us in: credentials, Retry-After, redirects, cookies
    clients       the client of one MCP server
    carrier       what carries its requests, and the connections they travel on
    proxied       both by way of a proxy
    fetch         one bounded exchange with a party that is not trusted
    pinned        connections to addresses that were checked
    dialing       names to addresses, on threads that nobody waits for, and the first of them that answers
    bodies        bodies read up to a limit, unpacked
    tls           whom to trust
    words         what went wrong, in our words
"""
