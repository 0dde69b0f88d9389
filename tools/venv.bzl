"""Repository rules that make a virtual environment from a hashed lock file.

The toolchain of python_venv runs every py_binary and py_test with that
environment's Python, so the first `bazel run` or `bazel test` installs it. A
target that has @NAME//:python in its data gets the side_venv of that name too.
"""

_CHECK = """
import sys, ensurepip, venv
version = sys.version_info[:2]
print('%d.%d' % version)
sys.exit(not (MIN <= version <= MAX))
"""

_TOOLCHAIN = """\
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

package(default_visibility = ["//visibility:public"])

py_runtime(
    name = "py3",
    interpreter_path = "{python}",
    # Bazel 4 would name `python`, which Debian lacks.
    stub_shebang = "#!/usr/bin/env python3",
    python_version = "PY3",
)

py_runtime_pair(
    name = "runtimes",
    py2_runtime = None,
    py3_runtime = ":py3",
)

toolchain(
    name = "toolchain",
    toolchain = ":runtimes",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _tuple(version):
    return "(%s)" % version.replace(".", ", ")

def _find_python(rctx):
    check = _CHECK.replace("MIN", _tuple(rctx.attr.python_min))
    check = check.replace("MAX", _tuple(rctx.attr.python_max))
    chosen = rctx.os.environ.get("KD_PYTHON", "")
    tried = []
    for name in [chosen] if chosen else ["python3.11", "python3.12", "python3"]:
        path = rctx.path(name) if name.startswith("/") else rctx.which(name)
        if not path:
            continue

        # Run, not only found: a version manager's shim can exist and not work.
        result = rctx.execute([path, "-c", check])
        tried.append("%s (%s)" % (path, result.stdout.strip() or
                                        "does not run, or lacks venv: " +
                                        "Debian has it in python3-venv"))
        if result.return_code == 0:
            return path
    return fail("No Python from %s to %s with venv; tried: %s. Set KD_PYTHON." % (
        rctx.attr.python_min,
        rctx.attr.python_max,
        ", ".join(tried) or "nothing on PATH",
    ))

def _make_venv(rctx, options):
    """Makes the environment where it is missing, and returns its Python."""

    # Both are watched: a change to either runs this rule again.
    lock = rctx.path(rctx.attr.lock)
    script = rctx.path(rctx.attr._script)
    folder = rctx.os.environ.get("KD_VENVS", "") or "~/.cache/kd/venvs"
    rctx.report_progress("Making the environment of %s" % lock.basename)
    command = [_find_python(rctx), script, lock, folder] + options

    # Its progress is shown as it goes; where the environment is, only asked.
    result = rctx.execute(
        ["sh", "-c", '"$@" >/dev/null', "sh"] + command,
        quiet = False,
        timeout = 3600,
    )
    if result.return_code != 0:
        fail("no environment from %s (%d):\n%s" % (
            lock.basename,
            result.return_code,
            result.stderr[-4000:],
        ))

    # The digest of the lock is part of this path, and the path is part of every
    # test's key: with a new lock, no test result stays cached.
    return rctx.execute(command).stdout.strip()

def _python_venv_impl(rctx):
    options = ["--source_only=" + name for name in rctx.attr.source_only]
    python = _make_venv(rctx, options)
    rctx.file("BUILD", _TOOLCHAIN.format(python = python), executable = False)

def _side_venv_impl(rctx):
    options = ["--source_only=" + name for name in rctx.attr.source_only]
    if rctx.attr.unhashed:
        options.append("--unhashed=%s" % rctx.path(rctx.attr.unhashed))
    python = _make_venv(rctx, options)
    rctx.file("python", python + "\n", executable = False)
    rctx.file("BUILD", 'exports_files(["python"])\n', executable = False)

_ATTRS = {
    "lock": attr.label(mandatory = True, allow_single_file = True),
    "python_max": attr.string(default = "3.12"),
    "python_min": attr.string(default = "3.11"),
    "source_only": attr.string_list(
        doc = "Packages of the lock that have no wheel, built after the rest.",
    ),
    "_script": attr.label(
        allow_single_file = True,
        default = "//tools:make_venv.py",
    ),
}

# local: looked at again by each new server, since the environments lie outside
# Bazel's folders and someone may have deleted them.
python_venv = repository_rule(
    implementation = _python_venv_impl,
    attrs = _ATTRS,
    environ = ["KD_PYTHON", "KD_VENVS"],
    local = True,
)

side_venv = repository_rule(
    implementation = _side_venv_impl,
    attrs = dict(_ATTRS, unhashed = attr.label(
        allow_single_file = True,
        doc = "Requirements that are installed last, without hashes.",
    )),
    environ = ["KD_PYTHON", "KD_VENVS", "KD_TORCH_INDEX"],
    local = True,
)
