# `make serve` and `make test` set up all they need; nothing but Python 3.11 or 3.12 and make has to be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
GOOGLEAPIS = $(shell $(BIN)/python -c "import google.rpc, pathlib; print(pathlib.Path(google.rpc.__path__[0]).parents[1])")

# A shell that forbids bytecode would make each start of the service compile all it imports: 6 s instead of 3.
export PYTHONDONTWRITEBYTECODE :=

# The maintainers' photos, outside the repository: kodak/, and shards in train/ and val/.
DATA ?= ../shared/data

.PHONY: serve test test-full check format proto dashboard bench bench-engines bench-datasets bench-families bench-peers bench-serving capacity capacity-report cost soak perf-analyzer flame-graph loadtest chaos engines-check images images-check gpu-acceptance gpu-pack gpu-rehearsal train ship card demo-graphs clean

define install
	@$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info < (3, 13), f'Python 3.11 or 3.12 is needed, not {sys.version}'"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[$(1)]'
	@touch $@
endef

$(VENV)/serve.stamp: pyproject.toml
	$(call install,serve)

$(VENV)/dev.stamp: pyproject.toml
	$(call install,dev)

$(VENV)/loadtest.stamp: pyproject.toml
	$(call install,loadtest)

# MODEL=all serves every trained tokenizer, the demo by default; MODEL=full that size with random weights: what it costs, before anyone
# trained it.
serve: $(VENV)/serve.stamp $(if $(MODEL),build/serve-$(MODEL))  ## start the service with its embedded Triton
	@exec $(if $(MODEL),env CHANNELTOK_MODEL_REPOSITORY=build/serve-$(MODEL)) \
		$(if $(filter all,$(MODEL)),CHANNELTOK_DEFAULT_TOKENIZER=$${CHANNELTOK_DEFAULT_TOKENIZER:-demo}) $(BIN)/python -m service

# The demo's graphs are those that are committed; nobody else's are.
GENERATORS = $(wildcard generator/weights/*.safetensors)

build/serve-all: $(wildcard tokenizer/weights/*.safetensors model_repository/demo_*/config.pbtxt) $(GENERATORS) | $(VENV)/dev.stamp
	rm -rf $@ $@.new
	mkdir -p build && cp -r model_repository $@.new
	for weights in $(filter-out $(DEMO) $(GENERATORS),$(filter %.safetensors,$^)); do \
		$(BIN)/python -m export tokenizer $$weights --repository $@.new --data 'docs/images/*.jpg' --photos 3 || exit 1; done
	for weights in $(GENERATORS); do $(BIN)/python -m export generator $$weights --repository $@.new || exit 1; done
	mv $@.new $@

build/serve-%: | $(VENV)/dev.stamp
	$(BIN)/python -m export tokenizer --random $* --repository $@ --data 'docs/images/*.jpg' --photos 2

# Without Debian's packages the tests that need Prometheus or strace are skipped, and say so; .ci/run insists on both.
test: $(VENV)/dev.stamp  ## all tests but the minutes-long ones
	-@$(MAKE) --no-print-directory build/prometheus
	-@$(MAKE) --no-print-directory build/strace
	$(BIN)/python -m pytest

test-full: $(VENV)/dev.stamp  ## all tests, those of benchmarks and the 159 M model included; not those of images
	$(BIN)/python -m pytest -m "not containers" --timeout=1200

# Both install podman and runc from Debian where they are missing, which takes root. Layers that were built before are kept.
images: $(VENV)/dev.stamp build/prometheus  ## build our images, and stand-ins for those of others
	$(BIN)/python -m tests.containers.images

images-check: $(VENV)/dev.stamp build/prometheus  ## build our images and run them in real containers, as compose does
	$(BIN)/python -m pytest tests/containers -m containers --timeout=1200

check: $(VENV)/dev.stamp  ## lint, types, schemas, dependency audit, generated code, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	$(BIN)/python .ci/audit.py
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.gpu.yml
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	rm -rf build/proto && mkdir -p build/proto
	$(BIN)/python -m grpc_tools.protoc -I proto -I $(GOOGLEAPIS) --python_out=build/proto --pyi_out=build/proto --grpc_python_out=build/proto proto/channeltok/v1/*.proto
	@for file in build/proto/channeltok/v1/*; do \
		diff -q $$file client/channeltok/v1/ || { echo "generated code drifted from the proto: run make proto"; exit 1; }; \
	done

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

proto: $(VENV)/dev.stamp  ## generate client/channeltok/v1 from the contract
	$(BIN)/python -m grpc_tools.protoc -I proto -I $(GOOGLEAPIS) --python_out=client --pyi_out=client --grpc_python_out=client proto/channeltok/v1/*.proto

dashboard: $(VENV)/dev.stamp  ## generate Grafana's dashboard from deploy/grafana/dashboard.py
	$(BIN)/python -m deploy.grafana.dashboard

bench: $(VENV)/dev.stamp  ## served against bare throughput, one run
	$(BIN)/python -m loadtest.bench.throughput

bench-engines: $(VENV)/dev.stamp  ## every engine that runs on this processor, one run
	$(BIN)/python -m export.bench.engines --data $(DATA)/val

bench-datasets: $(VENV)/dev.stamp  ## a whole dataset to tokens against the bare graph, one run
	$(BIN)/python -m loadtest.bench.datasets

bench-families: $(VENV)/dev.stamp  ## ChannelTok, CVQ and FlexTok side by side; a table for docs/families.md. FAMILIES="--legs cost --rounds 3"
	$(BIN)/python -m export.bench.families --data $(DATA)/kodak $(FAMILIES)

bench-peers: $(VENV)/dev.stamp  ## the service beside FastAPI, LitServe, Ray Serve, BentoML and MLServer with the same graph, one run
	$(BIN)/python -m loadtest.peers

bench-serving: $(VENV)/dev.stamp build/serve-full  ## what serving costs, against bare graphs, Triton alone and peers: 20 minutes, one run
	$(BIN)/python -m loadtest.bench.serving

capacity: $(VENV)/dev.stamp  ## the rate that holds a p99 of 250 ms, and what becomes of more
	$(BIN)/python -m loadtest.bench.capacity

cost: $(VENV)/dev.stamp  ## what an image costs, over clients, k, sizes and batches, beside a model of it
	$(BIN)/python -m loadtest.bench.cost

soak: $(VENV)/dev.stamp  ## 80 % of the capacity for 15 minutes: no error, flat memory, the same p99
	$(BIN)/python -m loadtest.bench.soak $(SOAK)

capacity-report: $(VENV)/dev.stamp  ## images for docs/capacity.md of what capacity, cost, bench-peers and soak left in build
	$(BIN)/python -m loadtest.bench.capacity_report

perf-analyzer: $(VENV)/dev.stamp | build/perf-analyzer  ## Triton's own load generator beside ours, without and with the gateway
	$(BIN)/python -m loadtest.bench.perf_analyzer

flame-graph: $(VENV)/dev.stamp  ## where the gateway's time goes under load, and what Triton counted
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m loadtest.bench.flame_graph

# LOCUST_HOST=http://HOST:8080 LOCUST_GRPC=HOST:50051 for a service elsewhere. SHAPE=ramp, spike or soak decides on users and time, and its options go
# into LOAD ("--peak-users 100"). WORKERS=2: a master and two workers, for one process takes one core. Several machines: docs/capacity.md.
comma := ,
loadtest: $(VENV)/loadtest.stamp  ## 2 minutes of gRPC and REST users on a service that runs, a report in build/loadtest
	mkdir -p build/loadtest
	$(BIN)/python -m locust -f loadtest/load/locustfile.py$(if $(SHAPE),$(comma)loadtest/load/shapes/$(SHAPE).py) --headless \
		$(if $(SHAPE),,--users 16 --spawn-rate 4 --run-time 2m) $(if $(WORKERS),--processes $(WORKERS)) --stop-timeout 30 \
		--only-summary --csv build/loadtest/report --html build/loadtest/report.html $(LOAD)

# Debian's own, unpacked and not installed: needs no root, starts no service. Its package lists are our own too, for the machine's may be empty.
APT = apt-get -qq -o Dir::State::lists=$(CURDIR)/build/apt/lists -o Dir::Cache=$(CURDIR)/build/apt -o Dir::Log=$(CURDIR)/build/apt \
	-o Debug::NoLocking=true -o APT::Sandbox::User=
build/prometheus:  ## Debian's prometheus and promtool, for the tests of deploy/prometheus
	mkdir -p build/apt/lists/partial build/apt/archives/partial
	$(APT) update
	cd build/apt && $(APT) download prometheus
	dpkg-deb --extract build/apt/prometheus_*.deb build/apt/prometheus
	mv build/apt/prometheus/usr/bin $@
	rm -rf build/apt

# It keeps its library to itself: what it starts must find its own.
build/strace:  ## Debian's strace, for the tests of what the processes connect to
	mkdir -p build/apt/lists/partial build/apt/archives/partial
	$(APT) update
	cd build/apt && $(APT) download strace libunwind8
	for package in build/apt/*.deb; do dpkg-deb --extract $$package build/apt/strace || exit 1; done
	rm -rf $@.tmp && mkdir $@.tmp
	cp build/apt/strace/usr/bin/strace $@.tmp/strace.bin
	cp build/apt/strace/usr/lib/*/libunwind*.so.* $@.tmp
	printf '#!/bin/sh\nLD_LIBRARY_PATH="$${0%%/*}" exec "$${0%%/*}/strace.bin" -E LD_LIBRARY_PATH "$$@"\n' > $@.tmp/strace
	chmod +x $@.tmp/strace
	mv $@.tmp $@
	rm -rf build/apt

# The last of tritonclient's wheels that holds perf_analyzer and runs on Debian 12, and the libraries that its binary is linked to.
build/perf-analyzer: | $(VENV)/dev.stamp
	mkdir -p build/apt/lists/partial build/apt/archives/partial $@.tmp/lib
	$(APT) update
	cd build/apt && $(APT) download libb64-0d
	dpkg-deb --extract build/apt/libb64-0d_*.deb build/apt/libb64
	$(BIN)/python -m pip install --quiet --no-deps --target build/apt/wheels tritonclient==2.46.0 nvidia-cuda-runtime-cu12==12.9.79
	install -D build/apt/wheels/bin/perf_analyzer $@.tmp/bin/perf_analyzer
	cp build/apt/libb64/usr/lib/*/libb64.so.0d build/apt/wheels/nvidia/cuda_runtime/lib/libcudart.so.12 $@.tmp/lib
	mv $@.tmp $@
	rm -rf build/apt

# gRPC's own log is silenced: a line for every connection that is refused. CHAOS="--only overload", "--short", or "--write" for the page.
chaos: $(VENV)/dev.stamp  ## attack a real service for 10 minutes at most; a table, build/chaos.json
	GRPC_VERBOSITY=NONE $(BIN)/python -m loadtest.chaos $(CHAOS)

engines-check: $(VENV)/dev.stamp  ## NVIDIA's compiler takes every graph that a GPU would serve
	$(BIN)/python -m export gpu --data 'docs/images/*.jpg'
	$(BIN)/python -m export.acceptance.engines_check

# All in containers, so it needs no $(VENV). The report is written by whoever runs make.
gpu-acceptance:  ## on a GPU host: build all, start Triton, compare every engine with fp32 on the CPU, time it; a report in build/gpu-acceptance
	mkdir -p build/gpu-acceptance
	CHANNELTOK_PHOTOS=$(or $(CHANNELTOK_PHOTOS),$(wildcard $(DATA)/val),./docs/images) docker compose -f docker-compose.yml -f docker-compose.gpu.yml --profile acceptance run --build --rm --user "$$(id -u):$$(id -g)" acceptance

gpu-pack:  ## for a GPU host without Docker and network: what it lacks, in parts below 64 MiB; docs/gpu.md
	$(PYTHON) -m deploy.gpu.pack

# REHEARSAL_PYTHON=python3.12 REHEARSAL_TORCH=torch==2.11.0: exactly what that host has, and 5 GB to download.
REHEARSAL_PYTHON ?= $(PYTHON)
gpu-rehearsal:  ## run what such a host would run, on the CPU, with tiny sizes and numpy 2
	REHEARSAL_TORCH=$(REHEARSAL_TORCH) deploy/gpu/rehearse.sh $(REHEARSAL_PYTHON)

train: $(VENV)/dev.stamp  ## train the demo tokenizer, or go on where it stopped, and put all that is made of it in place
	$(BIN)/python -m tokenizer.train --train $(DATA)/train --validation $(DATA)/val
	$(MAKE) ship

# Everything that shows or serves a tokenizer is made from one file, so that nothing of two trainings lies side by side. NAME=cvq, or
# flextok: that one. The demo's images and reports lie where README shows them, the others' in folders of their names.
NAME ?= demo
RUN ?= runs/$(NAME)
DEMO = tokenizer/weights/demo.safetensors
WEIGHTS = tokenizer/weights/$(NAME).safetensors
IMAGES = docs/images$(if $(filter-out demo,$(NAME)),/$(NAME))
QUALITY = docs/quality$(if $(filter-out demo,$(NAME)),/$(NAME))
PHOTOS = docs/images/cat.jpg docs/images/coffee.jpg docs/images/rocket.jpg
ship: $(VENV)/dev.stamp  ## put the weights of a training run in place, NAME=demo, RUN=runs/NAME, and all that is made of them
	mkdir -p $(IMAGES)
	install -m 644 $(RUN)/weights.safetensors $(WEIGHTS)
	install -m 644 $(RUN)/log.jsonl tokenizer/weights/$(NAME).jsonl
	install -m 644 $(RUN)/curve.png $(IMAGES)/learning-curve.png
	$(MAKE) card

card: $(if $(filter demo,$(NAME)),demo-graphs) $(VENV)/dev.stamp  ## images, judge's reports and model card of tokenizer/weights/NAME.safetensors
	mkdir -p $(IMAGES)
	$(BIN)/python -m tokenizer.evaluation.coarse_to_fine $(WEIGHTS) $(PHOTOS) -o $(IMAGES)/coarse-to-fine.png
	$(BIN)/python -m tokenizer.evaluate $(WEIGHTS) --data $(DATA)/kodak $(call codecs,kodak) -o $(QUALITY)/kodak
	$(BIN)/python -m tokenizer.evaluate $(WEIGHTS) --data $(DATA)/val --photos 100 $(call codecs,validation-100) -o $(QUALITY)/validation-100
	$(BIN)/python -m tokenizer.evaluate $(WEIGHTS) --data $(DATA)/val -o $(QUALITY)/validation
	$(BIN)/python -m tokenizer.evaluation.card $(WEIGHTS) --reports $(QUALITY)/kodak $(QUALITY)/validation-100 $(QUALITY)/validation -o $(WEIGHTS:.safetensors=.md)

# Codecs do not depend on the tokenizer: they are measured once, with the demo's.
codecs = $(if $(filter demo,$(NAME)),--codecs,--codecs-from docs/quality/$(1))

demo-graphs: $(VENV)/dev.stamp
	rm -rf model_repository/demo_*  # version 1 again: what is committed is served from its start
	$(BIN)/python -m export tokenizer $(DEMO) --data $(DATA)/val --report build/parity.json
	$(BIN)/python -m tokenizer.evaluation.channel_swap $(DEMO) $(PHOTOS) -o docs/images/channel-swap.png
	$(BIN)/python -m tokenizer.evaluation.bit_use $(DEMO) --data $(DATA)/val -o docs/images/bit-use.png
	$(BIN)/python -m tokenizer.evaluation.adaptive_length $(DEMO) --data $(DATA)/val -o docs/images/by-quality.png

clean:
	rm -rf $(VENV) build dist
