# The software driver asks for a runtime folder; any will do.
export XDG_RUNTIME_DIR ?= /tmp

LOWBIT = $${CARGO_TARGET_DIR:-target}/release/lowbit

.PHONY: help demo test verify bench isa peers candle msrv setup model adapters everywhere mesa web web-test tools fuzz

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile

demo: setup model ## a real model in eleven recipes: sizes, what is lost, time
	cargo run --release -p lowbit-demo

test: setup model adapters tools ## the whole suite, then parts of the case table on every adapter and vector width
	@mkdir -p target
	LOWBIT_REQUIRE_GPU=1 cargo test --release --all-features --no-fail-fast --lib --bins --tests --examples
	cargo test --release --all-features --doc
	$(LOWBIT) adapters
	$(LOWBIT) verify --every 5 --json target/verify.json
	scripts/verify-others.sh $(LOWBIT)
	@if command -v chromium >/dev/null && command -v npm >/dev/null && scripts/setup-web.sh; then \
		scripts/build-web.sh && scripts/web-test.sh; \
	else \
		echo "SKIPPED: the browser's page: no wasm toolchain, Node.js or Chromium; make web-test says more" >&2; \
	fi

verify: setup ## the whole case table on the best adapter; 31,000 cases
	@cargo build --release
	$(LOWBIT) verify

bench: setup ## criterion benches
	cargo bench

fuzz: ## every reader, spec, plan and bind on a million inputs each; RUNS=, JOBS=, TARGETS=
	@scripts/fuzz.sh

isa: mesa ## what AMD's compiler makes of the kernels, without a GPU
	@cargo build --release
	$(LOWBIT) isa --family navi31,navi21 --rows 1,8,128
	$(LOWBIT) isa --family navi31,navi21 --rows 1,8 --roofline

# One driver and one vector width for all. Dawn refuses lavapipe of Mesa 22.
PEERS = $${CARGO_TARGET_DIR:-target}/peers/build/release/lowbit-peers
peers: export LP_NATIVE_VECTOR_WIDTH ?= 256
peers: setup ## lowbit beside ONNX Runtime, ggml, web-rwkv and others; ARGS=--quick for a look
	@scripts/setup-mesa25.sh
	@scripts/setup-peers.sh
	. target/mesa25/env.sh && $(PEERS) $(ARGS)

web: ## the table and a bench as a page for browsers, into target/web
	@scripts/setup-web.sh
	@scripts/build-web.sh

web-test: web ## that page in headless Chromium, compared with a native run; SHOTS=FOLDER for pictures
	cargo build --release
	@scripts/web-test.sh $(SHOTS)

# A workspace of its own: candle is no dependency of the crate.
CANDLE = --release --locked --manifest-path tools/candle/Cargo.toml --target-dir target/candle
candle: setup ## lowbit's layers in candle, beside candle's own: tests, then a table
	cargo test $(CANDLE)
	cargo run $(CANDLE)

msrv: ## the rust-version of Cargo.toml, as well as this machine can check it
	@scripts/check-msrv.sh

setup: ## a Vulkan driver, if there is none
	@scripts/setup-vulkan.sh

model: ## MiniLM into data/minilm, and as int8 ONNX into data/minilm-int8, verified
	@scripts/fetch-model.sh minilm
	@scripts/fetch-model.sh minilm-int8 || echo "SKIPPED: no minilm-int8: the import of a real ONNX file is not tested" >&2

adapters: ## Mesa 25 and SwiftShader into target/, and libEGL: four software adapters
	@scripts/setup-adapters.sh

everywhere: setup adapters ## the quick table on every adapter there is, as a page: target/everywhere.html
	@cargo build --release
	scripts/every-adapter.sh $(LOWBIT) verify --quick --adapter all --report target/everywhere.html

mesa: ## Mesa 25 into target/mesa25, which compiles for AMD GPUs
	@scripts/setup-mesa25.sh || echo "SKIPPED: no Mesa 25: nothing is compiled for navi and gfx12" >&2

tools: ## spirv-val, glslangValidator and Tint into target/tools, which check translated shaders
	@scripts/setup-tools.sh || echo "SKIPPED: without all checkers not every translated shader is checked" >&2
