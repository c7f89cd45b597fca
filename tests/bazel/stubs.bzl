"""Stand-ins for the repositories that Bazel's own tools name: its built-in rules by other names."""

def _stub_repository(repository_ctx):
    repository_ctx.file("WORKSPACE", "")
    repository_ctx.file("BUILD", "".join([
        "filegroup(name = %r, visibility = ['//visibility:public'])\n" % name
        for name in repository_ctx.attr.empty_targets
    ]))
    for path, rules in repository_ctx.attr.rules.items():
        repository_ctx.file(path.rpartition("/")[0] + "/BUILD", "")
        repository_ctx.file(path, "".join([
            "%s = native.%s\n" % (rule, rule)
            for rule in rules
        ]))

stub_repository = repository_rule(
    implementation = _stub_repository,
    attrs = {
        "empty_targets": attr.string_list(doc = "Targets that are asked for and hold nothing."),
        "rules": attr.string_list_dict(doc = "Built-in rules by the file that hands them on."),
    },
)
