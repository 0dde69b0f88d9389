"""The project's Python rules: the only place that names Bazel's own."""

def kd_library(name, srcs, **kwargs):
    native.py_library(name = name, srcs = srcs, **kwargs)

def kd_binary(name, srcs, **kwargs):
    # Without PYTHONSAFEPATH the main script's real folder comes first on the
    # path, and every file beside it shadows a top-level module.
    native.py_binary(
        name = name,
        srcs = srcs,
        env = {"PYTHONSAFEPATH": "1"},
        python_version = "PY3",
        **kwargs
    )

def kd_test(name, srcs, deps = [], data = [], oracles = False, tags = [], **kwargs):
    """One process in which pytest runs every test of srcs.

    Args:
      name: the target's name.
      srcs: the test files; other files that they import go to deps.
      deps: the libraries that srcs import.
      data: files that the tests read.
      oracles: whether the tests talk to the oracles' environment. They find its
        Python in KD_ORACLES_PYTHON and the scripts in tests/oracles.
      tags: Bazel's tags, with "oracles" added where it is due.
      **kwargs: handed on to py_test.
    """
    package = native.package_name()
    native.py_test(
        name = name,
        srcs = srcs + ["//:conftest.py", "//tools:pytest_main.py"],
        main = "//tools:pytest_main.py",
        deps = deps + (["//tests/oracles"] if oracles else []),
        data = data + ["//:pyproject.toml"] +
               (["@oracles//:python"] if oracles else []),
        args = ["%s/%s" % (package, s) for s in srcs],
        tags = tags + (["oracles"] if oracles else []),
        python_version = "PY3",
        **kwargs
    )

def _files(kind, recursive):
    deeper = ["**/*_%stest.py" % kind] if recursive else []
    return native.glob(["*_%stest.py" % kind] + deeper, allow_empty = True)

def kd_tests(deps, data = [], recursive = False, shards = 1):
    """The tests of a package, by the names of their files.

    foo_test.py goes to :test, foo_devices_test.py to :devices_test (one process
    with 8 host devices) and foo_oracle_test.py to :oracle_test. One target
    holds many files because starting JAX and TensorFlow costs more than most
    tests do. foo_slow_test.py, where it is the other way round, is a target of
    its own. :all_tests is all of them.

    Args:
      deps: the libraries that the tests import.
      data: files that the tests read.
      recursive: whether folders below that have no BUILD belong to the package.
      shards: the processes that :test is divided over, by files, where one would
        be running alone at the end.
    """
    slow = _files("slow_", recursive)
    devices = _files("devices_", recursive)
    oracle = _files("oracle_", recursive)
    plain = [f for f in _files("", recursive) if f not in slow + devices + oracle]
    if plain:
        kd_test(
            "test",
            plain,
            deps,
            data,
            size = "medium",
            timeout = "eternal",
            shard_count = shards if shards > 1 else None,
        )
    for file in slow:
        kd_test(
            file[:-len(".py")].replace("/", "_"),
            [file],
            deps,
            data,
            size = "large",
            timeout = "eternal",
            tags = ["slow"],
        )
    if devices:
        kd_test(
            "devices_test",
            devices,
            deps,
            data,
            size = "large",
            timeout = "eternal",
            env = {
                "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            },
        )
    if oracle:
        kd_test("oracle_test", oracle, deps, data, oracles = True, size = "large")
    native.test_suite(name = "all_tests")

def kd_package(name, deps = [], test_deps = [], data = [], test_data = [], recursive = False, shards = 1):
    """A package: one library of its files, and its tests by kd_tests.

    Args:
      name: the library's name, the package's last part.
      deps: the packages that the library imports (//kd comes by itself).
      test_deps: what only the tests import.
      data: files that the library reads when it runs.
      test_data: files that only the tests read.
      recursive: whether folders below that have no BUILD belong to the package.
      shards: the processes that :test is divided over.
    """
    deeper = ["**/*.py"] if recursive else []
    deps = (["//kd"] if native.package_name().startswith("kd/") else []) + deps
    kd_library(
        name = name,
        srcs = native.glob(
            ["*.py"] + deeper,
            exclude = ["*_test.py"] + (["**/*_test.py"] if recursive else []),
        ),
        data = data,
        deps = deps,
        visibility = ["//visibility:public"],
    )
    kd_tests([":" + name] + deps + test_deps, test_data, recursive, shards)
