# GateSvr. `make help` lists the targets; ARGS="..." is handed to the command behind one.

VENV ?= .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.runtime
STAMP := $(VENV)/.installed
PYTHONS := $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11
PAGE_CLIENT := gatesvr/demo/page/client.js
BUILD_INPUTS := pyproject.toml setup.py $(wildcard gatesvr/_core/*.pyx gatesvr/_core/*.pxd)
PIP := $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check
BASE ?= HEAD
# Tests wait for time-outs, too, so there may be more of them at a time than cores.
TEST_PROCESSES := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 5 / 2 )))
# Without compiled files each command under test would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE
# Not among them: one builds a core of its own, two race with time-outs, which a slow core loses.
SANITIZED := tests/core tests/fuzz tests/e2e \
  --deselect tests/core/test_no_batch.py \
  --deselect tests/e2e/test_limits.py::test_client_that_never_acks_is_bounded_and_closed_4413 \
  --deselect tests/e2e/test_one_address.py::test_who_is_told_to_come_back_does
PYTHON_CODE := gatesvr tests bench docs examples setup.py
JS_CODE := $(addprefix clients/js/,src test examples conformance.mjs README.md package.json)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install serve test test-long browser foreign js sanitize fuzz bench bench-compare soak attack lint format \
  types docs pb wheel clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) \
	  | while IFS='|' read -r target text; do printf '%-21s %s\n' "$$target" "$$text"; done

install: $(STAMP) ## Build .venv with the package, its extras and its compiled core

serve: $(RUNTIME) $(PAGE_CLIENT) ## Run a gateway with demo services behind it, and a page to see it
	@exec $(BIN)/gatesvr serve --demo $(ARGS)

test: install ## Run the tests
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal $(ARGS)

test-long: install ## Run the tests that take long by nature: soak, histories, churn, long property runs
	$(BIN)/python -m pytest -m long --numprocesses $(TEST_PROCESSES) --dist load --maxschedchunk 1 --timeout 900 $(ARGS)

browser: install ## Test the console and pages of clients in Chromium; installs it and Node where there are none
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; }
	@command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm; }
	@$(MAKE) --no-print-directory $(PAGE_CLIENT)
	$(PIP) 'gatesvr[admin,browser]'
	$(BIN)/python -m pytest -m long tests/web tests/console --numprocesses auto --dist worksteal $(ARGS)

foreign: install ## Test upstreams on grpc-js and grpc-go; installs Node, Go and grpc-go where there are none
	@command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm; }
	@{ command -v go && test -d /usr/share/gocode/src/google.golang.org/grpc; } >/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends golang-go golang-google-grpc-dev; }
	GATESVR_FOREIGN=required $(BIN)/python -m pytest -m long tests/upstream/test_foreign.py $(ARGS)

js: install ## Build and test the JavaScript client (Node 20 or later), also against this gateway
	cd clients/js && npm ci --no-audit --no-fund && npm run build && npm run types && \
	  GATESVR="$(abspath $(BIN))/python -m gatesvr" npm test

sanitize: install ## Run the tests of the core and the whole path on a core that checks itself (gcc)
	$(call build_core,sanitize,-O1 -g -fno-omit-frame-pointer -fno-wrapv \
	  -fsanitize=address$(,)undefined$(,)float-cast-overflow)
	cd build/sanitize && \
	  LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" \
	  PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0:log_path=$(abspath build/sanitize)/report \
	  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1:log_path=$(abspath build/sanitize)/report \
	  $(abspath $(BIN))/python -m pytest $(SANITIZED) --numprocesses 2 --dist worksteal $(ARGS); \
	  status=$$?; if cat report.* 2>/dev/null; then exit 1; fi; exit $$status

fuzz: install ## Fuzz each target for a minute; ARGS="codec --seconds 600" for one, for longer (gcc)
	$(PIP) 'gatesvr[fuzz]'
	$(call build_core,fuzz,-O1 -g -fsanitize-coverage=trace-pc$(,)trace-cmp -fsanitize=undefined \
	  -fsanitize-undefined-trap-on-error)
	cd build/fuzz && gcc -shared -fPIC -O2 tests/fuzz/coverage.c -o tests/fuzz/coverage.so
	cd build/fuzz && $(abspath $(BIN))/python -m tests.fuzz --build . $(ARGS)

bench: install ## Measure; prints ratios to a yardstick taken in the same run
	$(BIN)/python -m bench $(ARGS)

bench-compare: install ## Measure beside BASE=<rev>; fails where the working tree is slower
	$(BIN)/python -m bench.compare "$(BASE)" $(ARGS)

soak: install ## Run both QUIC backends, and clients of every kind, through a bad network, a minute each
	$(BIN)/python -m tests.soak --min-requests 20000 --min-pushes 20000 --min-resumes 300 $(ARGS)
	$(BIN)/python -m tests.soak --processes 4 --rebind-s 1 --min-requests 20000 --min-pushes 20000 --min-moves 300 $(ARGS)
	$(BIN)/python -m tests.soak --processes 2 --upgrade-s 0.2 --calm --clients 200 --workers 2 --pause-s 2 \
	  --min-resumes 300 --min-upgrades 10 --min-moves 300 $(ARGS)
	@command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends nodejs npm; }
	@test -d clients/js/dist || { cd clients/js && npm ci --no-audit --no-fund && npm run build; }
	$(BIN)/python -m tests.soak --backend qh3 --web 15 --js 15 --min-requests 20000 --min-pushes 20000 \
	  --min-each-requests 5000 --min-each-pushes 5000 --min-each-resumes 50 $(ARGS)

attack: install ## Attack a gateway, with healthy clients beside it; prints attack, limit, measured
	$(BIN)/python -m tests.attack $(ARGS)

lint: install ## Check style: Python, Cython, spelling, workflows
	$(BIN)/ruff check $(PYTHON_CODE)
	$(BIN)/ruff format --check $(PYTHON_CODE)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cython-lint gatesvr/_core
	$(BIN)/codespell $(PYTHON_CODE) protos .ci .github Makefile *.md $(JS_CODE)
	$(BIN)/actionlint

format: install ## Rewrite the Python code in the house style
	$(BIN)/ruff check --fix $(PYTHON_CODE)
	$(BIN)/ruff format $(PYTHON_CODE)

types: install ## Check types, and the compiled modules against their stubs
	$(BIN)/mypy --strict gatesvr
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml \
	  --allowlist gatesvr/_core/stubtest-allow.txt gatesvr._core.queue gatesvr._core.codec \
	  gatesvr._core.udp gatesvr._core.limits gatesvr._core.histogram gatesvr._core.hpack \
	  gatesvr._core.request gatesvr._core.http2 gatesvr._core.speck

docs: install ## Write what the docs take from the code, and build their site into build/docs
	$(PIP) 'gatesvr[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -d build/docs-cache docs build/docs
	@echo "the site: $(abspath build/docs/index.html)"

pb: install ## Generate gatesvr/_pb again from protos/
	$(BIN)/python -m grpc_tools.protoc -Igatesvr/_pb=protos --python_out=. --pyi_out=. protos/*.proto
	$(BIN)/python -m grpc_tools.protoc -Igatesvr/_pb=protos --grpc_python_out=. \
	  protos/upstream.proto protos/auth.proto

wheel: install $(PAGE_CLIENT) ## Build the sdist and the wheel into dist/
	$(BIN)/python -m build --outdir dist .

clean: ## Remove everything that was built
	rm -rf $(VENV) build dist clients/js/dist clients/js/node_modules *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .benchmarks
	rm -f $(PAGE_CLIENT) gatesvr/_core/*.c gatesvr/_core/*.so gatesvr/_core/*.html

# The client that the demo's page loads. Without npm, or a network at the first time, there is none,
# and the page says so; the next call tries again. A source distribution brings it along.
$(PAGE_CLIENT): $(wildcard $(addprefix clients/js/,src/*.ts package.json package-lock.json))
	@if command -v npm >/dev/null && test -d clients/js; then \
	  echo "building the JavaScript client of the demo's page (once)"; \
	  { cd clients/js && npm ci --silent --no-audit --no-fund --fetch-retries=1 --fetch-timeout=20000 && \
	    npm run --silent build && cp dist/bundle.js ../../$@; } || \
	  echo "make: it could not be built; the page does without" >&2; \
	fi

# A copy of the tree in build/$(1) whose core is compiled with the flags $(2).
, := ,
define build_core
rm -rf build/$(1)/gatesvr build/$(1)/tests build/$(1)/report.*
mkdir -p build/$(1)
cp -R gatesvr tests pyproject.toml setup.py README.md LICENSE build/$(1)/
rm -f build/$(1)/gatesvr/_core/*.so
cd build/$(1) && CC=gcc GATESVR_CORE_FLAGS="$(2)" \
  $(abspath $(BIN))/python setup.py -q build_ext --inplace
endef

# What it takes to run: the package, compiled, and what it depends on.
$(RUNTIME): $(BUILD_INPUTS)
	@for python in $(PYTHONS); do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	  then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: no Python 3.11 or later with venv found; name one: make install PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	echo "$$found -m venv $(VENV)"; "$$found" -m venv $(VENV)
	@echo "installing GateSvr into $(VENV): its dependencies, then its core is compiled (under a minute)"
	$(PIP) --editable '.[admin,fast]'
	@touch $@

# And to work on it. The package is installed already: of its own name only the extras are left.
$(STAMP): $(RUNTIME)
	@echo "installing what tests, benchmarks and linters need into $(VENV)"
	$(PIP) 'gatesvr[bench,dev]'
	@touch $@
