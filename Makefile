# Two commands for a newcomer: `make demo` and `make test`. Everything that they need they set up themselves.
.DEFAULT_GOAL := help
.PHONY: help demo test soak thorough versions check docs mutants readers bench browser sandbox start lock requirements clean

UV_VERSION := 0.13.9
export UV := $(or $(shell command -v uv 2>/dev/null),$(CURDIR)/.tools/bin/uv)
# A rule cannot name a path with a space, so it names ours by a relative one; recipes say "$$UV".
OWN_UV := $(if $(shell command -v uv 2>/dev/null),,.tools/bin/uv)
PYTHON := .venv/bin/python
SOURCES := function_app.py rotators sandbox tests benchmarks

help: ## say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

demo: .venv/.ready ## rotate for real, end to end, on a Key Vault stand-in, PostgreSQL and Airflow
	@$(PYTHON) -m sandbox.demo

sandbox: .venv/.ready ## start all of that and keep it up, to try things by hand
	@$(PYTHON) -m sandbox

# A variable that is set wins over local.settings.json, and this one would hide the sandbox's own authority.
start: .venv/.ready ## run the app on the sandbox (with func, if it is installed)
	@[ -e local.settings.json ] || \
	{ echo 'There is no local.settings.json: start `make sandbox` in another terminal first' >&2; exit 1; }
	@unset REQUESTS_CA_BUNDLE; if command -v func >/dev/null 2>&1; then . .venv/bin/activate && func start; \
	else $(PYTHON) -m sandbox.functions_host; fi

test: .venv/.ready browser ## every test, on real PostgreSQL and real Airflow
	@$(PYTHON) -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(PYTEST_ARGS)

soak: .venv/.ready ## play the model of what may happen, with fresh seeds, for SOAK_MINUTES (30)
	@$(PYTHON) -m tests.soak

thorough: .venv/.ready ## every kill and every lie, for every kind of secret: an hour or more
	@THOROUGH=1 $(PYTHON) -m pytest tests/faults

versions: .venv/.ready ## what is about the database, on PostgreSQL 13, 14, 15, 16, 17 and 18
	@THOROUGH=1 $(PYTHON) -m pytest tests/rights/test_database_rights.py tests/integration/test_postgresql.py

check: .venv/.ready ## ruff, strict types, and the tests that need no server: run it before each commit
	@.venv/bin/ruff format --check --quiet $(SOURCES)
	@.venv/bin/ruff check --quiet $(SOURCES)
	@.venv/bin/mypy
	@$(PYTHON) -m pytest -q tests/unit tests/infra

# In an environment of its own, so that .venv stays what the tests need.
docs: .venv/.ready ## the pages as a site with a search, in site/: dead links are errors, and what it would load from elsewhere
	@"$$UV" run --quiet --frozen --isolated --only-group docs zensical build --strict --clean
	@$(PYTHON) -m tests.built_site

readers: .venv/.ready ## eight readers without pause over 500 rotations (READERS="--help" says how else)
	@$(PYTHON) -m tests.endurance.readers $(READERS)

# In an environment of its own, too, and not in that of the demo: what AWS's side needs is much.
bench: .venv/.ready ## how fast it is, beside AWS's rotation function and a naive one: ratios, in benchmarks/results.md
	@"$$UV" run --quiet --frozen --isolated --group bench python -m benchmarks $(BENCH)

# Each hash the same in every run, so that each run ends the same.
mutants: .venv/.ready ## how strong the tests of the pure modules are: mutation testing, 5 minutes or more
	@PYTHONHASHSEED=0 $(PYTHON) -m tests.mutants

# The tests of the dashboard click through it in a real browser. Who is not root is told by the tests what is missing.
browser: .venv/.ready ## install Debian's Chromium, if there is no browser yet and we are root
	@if ! $(PYTHON) -m tests.browser.chromium && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium \
	>/dev/null; fi || echo 'Chromium could not be installed: the tests of the dashboard will say so' >&2

lock: $(OWN_UV) ## take newer versions of what we depend on
	"$$UV" lock --upgrade
	"$$UV" pip compile -q --upgrade --python-version 3.13 --no-emit-index-url --custom-compile-command 'make lock' \
		sandbox/airflow/requirements.in -o sandbox/airflow/requirements.txt
	$(MAKE) requirements

requirements: $(OWN_UV) ## write requirements.txt, what is deployed, from uv.lock (EXTRAS=telemetry: see docs/telemetry.md)
	@{ echo '# What is deployed: made from uv.lock by `make requirements`.'; \
	   "$$UV" export --quiet --frozen --no-dev --no-emit-project --no-header --format requirements-txt \
	   $(foreach extra,$(EXTRAS),--extra $(extra)); } > $@.tmp
	@mv $@.tmp requirements.txt

clean: ## remove what the other commands made
	rm -rf .venv .sandbox .tools .mypy_cache .pytest_cache .ruff_cache .hypothesis mutants site local.settings.json

.venv/.ready: uv.lock pyproject.toml .python-version | $(OWN_UV)
	@"$$UV" sync --quiet --frozen
	@touch $@

.tools/bin/uv:
	@python3 -m venv .tools
	@.tools/bin/python -m pip install --quiet uv==$(UV_VERSION)
