"""HTTP only: parse a request, call one service, format the response."""
