#!/bin/sh
# Compiles the program for the package, so that no start of an instance has to: azd's hook before it packages. By the
# source's hash, since unpacking may set other times, and bytecode that is out of date is then not taken. It needs the
# Python of .python-version; where that is missing the package has source only, and starts more slowly.
set -eu

cd "$(dirname "$0")/.."
version=$(cat .python-version)

for python in "python$version" python3 python; do
    if "$python" -c "import sys; sys.exit('$version' != '%d.%d' % sys.version_info[:2])" 2>/dev/null; then
        rm -rf __pycache__
        find rotators -name __pycache__ -prune -exec rm -rf {} +
        "$python" -m compileall -q --invalidation-mode checked-hash function_app.py rotators
        exit 0
    fi
done
echo "bytecode.sh: there is no Python $version on the PATH, so each start of an instance compiles the program" >&2
