"""Who answers the requests of a contest, each a long-lived process that loads its model once."""
