# make setup    the virtual environment, locked, and the pinned Envoys
# make demo     a mesh on loopback that shows and checks its main job (KEEP=1 leaves it running)
# make test     linters, types, import contracts and all tests
# make lint     the first three of these
# make bench    the figures that docs/performance.md speaks of
# make bundle   what hosts are installed from, in build/bundle: they need neither compiler nor internet (docs/install.md)
# make deploy-setup    pyinfra in an environment of its own, .venv-deploy, for roles/ and inventories/
# make lock     resolves the dependencies again (after a change in pyproject.toml)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ENVOYS := .cache/envoys
ENVOY_VERSIONS := 1.40.0 1.39.3

.PHONY: setup demo test lint bench bundle deploy-setup lock protocol clean
.DELETE_ON_ERROR:

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("meshagent needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV) || { echo "make setup: the venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "setup: installing the locked packages into $(VENV)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@for version in $(ENVOY_VERSIONS); do $(BIN)/meshagent envoy install $$version --directory $(ENVOYS) || exit 1; done
	@touch $@

demo: setup
	@$(BIN)/python -m meshagent.demo --envoys $(ENVOYS) $(if $(KEEP),--keep)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# As root, the tests of tests/lab and tests/hosts run too, on real systemd hosts; the programs for these are installed if they are missing.
test: lint
	@if [ "$$(id -u)" = 0 ]; then $(BIN)/meshagent lab check --install && $(MAKE) --no-print-directory bundle deploy-setup; fi
	$(BIN)/pytest $(PYTEST_ARGS)

bench: setup
	$(BIN)/python -m bench $(BENCH_ARGS)

# systemd-python is published as sources only. Nothing is built when nothing has changed.
bundle: setup
	@pkg-config --exists libsystemd 2>/dev/null || [ "$$(id -u)" != 0 ] || { echo "bundle: installing libsystemd's headers and a compiler"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libsystemd-dev pkg-config gcc python3-dev >/dev/null; }
	@$(BIN)/python -m roles.bundle build/bundle

deploy-setup: .venv-deploy/.ready

.venv-deploy/.ready: requirements-deploy.lock
	@$(PYTHON) -m venv .venv-deploy
	@echo "deploy-setup: installing pyinfra into .venv-deploy"
	@.venv-deploy/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-deploy.lock
	@touch $@

# The locks are made for Python 3.11 and newer and name no index; `uv` is needed only here. What hosts get is what was tested.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock:
	$(LOCK) --upgrade --extra agent --extra server --extra aws --extra demo --extra dev pyproject.toml -o requirements.lock
	$(LOCK) -c requirements.lock --extra agent --extra host pyproject.toml -o requirements-agent.lock
	$(LOCK) -c requirements.lock --extra server --extra host pyproject.toml -o requirements-server.lock
	$(LOCK) --upgrade --extra deploy pyproject.toml -o requirements-deploy.lock

protocol: setup
	$(BIN)/python -m grpc_tools.protoc -I meshagent/protocol --python_out=meshagent/protocol --pyi_out=meshagent/protocol meshagent/protocol/host.proto

clean:
	rm -rf $(VENV) .venv-deploy .cache build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
