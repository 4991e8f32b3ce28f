"""The steps of a build, one verb a file: each takes a `Model` and returns a new one."""
